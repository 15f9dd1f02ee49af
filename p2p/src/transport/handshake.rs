//! From a TCP connection to a peer: TLS, then a hello either way.
//!
//! The dialer says hello first; the acceptor answers once it is content. Whoever is not content
//! sends an `Error` frame, in place of its hello or after it, and reads on for a moment, so that no
//! reset destroys the frame before it is read.

use std::{io, net::SocketAddr, time::Duration};

use hawker_identity::{PeerCertificate, explain_io, server_name};
use hawker_model::{HostId, Role};
use hawker_swarm::Abilities;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsStream, rustls::CommonState};

use super::{
    Connection, FrameReader, FrameWriter, HandshakeError, Peer, Security, WireError,
    connection::{Timing, halves},
    frame::{Hello, MIN_VERSION, VERSION},
    socket, stream,
};

/// From TCP connection to peer, at most.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the other side gets to read why it is refused.
const LINGER: Duration = Duration::from_millis(500);

/// Makes a peer of a connection that came in.
pub(super) async fn accept(
    (security, zone): (&Security, &str),
    tcp: TcpStream,
    address: SocketAddr,
) -> Result<Connection, HandshakeError> {
    let deadline = Instant::now() + HANDSHAKE;
    let mut link = in_time(deadline, Link::accept((security, zone), tcp, address)).await?;
    let met = in_time(deadline, link.meet_dialer()).await;
    link.conclude(met).await
}

/// Makes a peer of a connection to where `wanted` should be.
pub(super) async fn dial(
    (security, zone): (&Security, &str),
    tcp: TcpStream,
    address: SocketAddr,
    wanted: &HostId,
) -> Result<Connection, HandshakeError> {
    let deadline = Instant::now() + HANDSHAKE;
    let mut link = in_time(deadline, Link::connect((security, zone), tcp, address)).await?;
    let met = in_time(deadline, link.meet_acceptor(wanted)).await;
    link.conclude(met).await
}

async fn in_time<T>(
    deadline: Instant,
    step: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    let late = |_| Err(HandshakeError::Timeout(HANDSHAKE));
    timeout_at(deadline, step).await.unwrap_or_else(late)
}

/// A connection whose other side is not a peer yet.
struct Link<'a> {
    security: &'a Security,
    /// Where we are.
    zone: &'a str,
    address: SocketAddr,
    /// Who the other side proved to be, under TLS.
    certified: Option<PeerCertificate>,
    reader: FrameReader,
    writer: FrameWriter,
}

impl<'a> Link<'a> {
    async fn accept(
        own: (&'a Security, &'a str),
        tcp: TcpStream,
        address: SocketAddr,
    ) -> Result<Self, HandshakeError> {
        socket::tune(&tcp);
        let Some(acceptor) = own.0.acceptor() else {
            return Ok(Self::plain(own, tcp, address));
        };
        match acceptor.accept(tcp).into_fallible().await {
            Ok(tls) => Self::tls(own, tls.into(), address),
            Err((error, tcp)) => Err(tls_failed(&error, tcp).await),
        }
    }

    async fn connect(
        own: (&'a Security, &'a str),
        tcp: TcpStream,
        address: SocketAddr,
    ) -> Result<Self, HandshakeError> {
        socket::tune(&tcp);
        let Some(connector) = own.0.connector() else {
            return Ok(Self::plain(own, tcp, address));
        };
        match connector.connect(server_name(), tcp).into_fallible().await {
            Ok(tls) => Self::tls(own, tls.into(), address),
            Err((error, tcp)) => Err(tls_failed(&error, tcp).await),
        }
    }

    fn plain(
        (security, zone): (&'a Security, &'a str),
        tcp: TcpStream,
        address: SocketAddr,
    ) -> Self {
        let (reader, writer) = halves(
            stream::plain(tcp),
            security.credentials(),
            Timing::default(),
        );
        Self {
            security,
            zone,
            address,
            certified: None,
            reader,
            writer,
        }
    }

    fn tls(
        (security, zone): (&'a Security, &'a str),
        tls: TlsStream<TcpStream>,
        address: SocketAddr,
    ) -> Result<Self, HandshakeError> {
        let session: &CommonState = tls.get_ref().1;
        // TLS has refused certificates without an owner already.
        let certified = PeerCertificate::from_tls(session)
            .map_err(|error| HandshakeError::Tls(error.to_string()))?;
        let (reader, writer) = halves(stream::tls(tls), security.credentials(), Timing::default());
        Ok(Self {
            security,
            zone,
            address,
            certified: Some(certified),
            reader,
            writer,
        })
    }

    async fn meet_dialer(&mut self) -> Result<Peer, HandshakeError> {
        self.check_certificate(None)?;
        let theirs = self.reader.hello().await?;
        let peer = self.check_hello(theirs, None)?;
        self.writer.hello(&self.own_hello(None)).await?;
        Ok(peer)
    }

    async fn meet_acceptor(&mut self, wanted: &HostId) -> Result<Peer, HandshakeError> {
        self.check_certificate(Some(wanted))?;
        let said = self.writer.hello(&self.own_hello(Some(wanted))).await;
        // If we are refused, reading tells why, and the write may only tell that.
        let theirs = self.reader.hello().await?;
        said?;
        self.check_hello(theirs, Some(wanted))
    }

    fn own_hello(&self, wanted: Option<&HostId>) -> Hello {
        Hello {
            min_version: MIN_VERSION,
            max_version: VERSION,
            capabilities: Abilities::OURS.bits(),
            role: self.security.role(),
            host: self.security.host().clone(),
            wanted: wanted.cloned(),
            zone: self.zone.to_owned(),
        }
    }

    fn check_certificate(&self, wanted: Option<&HostId>) -> Result<(), HandshakeError> {
        match &self.certified {
            Some(owner) => self.check_owner(&owner.host, owner.role, wanted),
            None => Ok(()),
        }
    }

    fn check_hello(&self, theirs: Hello, wanted: Option<&HostId>) -> Result<Peer, HandshakeError> {
        let own = self.own_hello(wanted);
        let version = own.common_version(&theirs).ok_or(HandshakeError::Version {
            own: own.min_version,
            own_max: own.max_version,
            peer: theirs.min_version,
            peer_max: theirs.max_version,
        })?;
        match &self.certified {
            Some(owner) => check_claim(owner, &theirs)?,
            None => self.check_owner(&theirs.host, theirs.role, wanted)?,
        }
        if let Some(wanted) = theirs.wanted.filter(|wanted| *wanted != own.host) {
            let own = own.host;
            return Err(HandshakeError::NotWanted { wanted, own });
        }
        Ok(Peer {
            host: theirs.host,
            role: theirs.role,
            abilities: Abilities::from_bits(theirs.capabilities),
            zone: theirs.zone,
            address: self.address,
            version,
            certificate: self.certified.as_ref().map(|owner| owner.id.clone()),
        })
    }

    fn check_owner(
        &self,
        host: &HostId,
        role: Role,
        wanted: Option<&HostId>,
    ) -> Result<(), HandshakeError> {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != host) {
            return Err(HandshakeError::WrongHost {
                wanted: wanted.clone(),
                found: host.clone(),
            });
        }
        if host == self.security.host() {
            return Err(HandshakeError::SameName(host.clone()));
        }
        match role {
            Role::Node | Role::Seed => Ok(()),
            Role::Scheduler => Err(HandshakeError::WrongRole {
                host: host.clone(),
                role,
            }),
        }
    }

    /// A connection to the peer that was met; otherwise the other side is told why not.
    async fn conclude(
        mut self,
        met: Result<Peer, HandshakeError>,
    ) -> Result<Connection, HandshakeError> {
        match met {
            Ok(peer) => {
                if peer.abilities.numbers_signers() {
                    self.writer.number_signers();
                }
                Ok(Connection {
                    peer,
                    reader: self.reader,
                    writer: self.writer,
                })
            }
            Err(reason) => {
                self.refuse(&reason).await;
                Err(reason)
            }
        }
    }

    async fn refuse(self, reason: &HandshakeError) {
        let Some((code, text)) = reason.for_the_peer() else {
            return;
        };
        // The reason is reported on this side; that the other did not hear it adds nothing.
        if self.writer.refuse(code, &text).await.is_ok() {
            self.reader.linger(LINGER).await;
        }
    }
}

fn check_claim(owner: &PeerCertificate, theirs: &Hello) -> Result<(), HandshakeError> {
    match owner.host == theirs.host && owner.role == theirs.role {
        true => Ok(()),
        false => Err(HandshakeError::FalseHello {
            claimed: format!("{} {}", theirs.role, theirs.host),
            certified: format!("{} {}", owner.role, owner.host),
        }),
    }
}

/// Lets the alert that was sent arrive before the socket closes, and puts the error in words.
async fn tls_failed(error: &io::Error, mut tcp: TcpStream) -> HandshakeError {
    let drained = async {
        let mut sink = [0; 4096];
        tcp.shutdown().await?;
        while tcp.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // However that ends, the reason is the TLS error.
    let _ = timeout(LINGER, drained).await;
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => WireError::Closed.into(),
        _ => HandshakeError::Tls(explain_io(error)),
    }
}
