//! A connection to a scheduler: TCP, TLS, HTTP/2.

use std::{error::Error as _, fmt::Write as _, io, net::SocketAddr, sync::Mutex, time::Duration};

use hawker_identity::{
    CertificateId, PeerCertificate, PeerCertificateError, explain_io, server_name,
};
use hawker_model::Role;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::{error::Elapsed, timeout},
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::transport::Security;

/// For finding the address, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(5);
/// For one of several addresses.
const CONNECT_ONE: Duration = Duration::from_secs(2);
/// A scheduler is gone when it does not answer a ping of this interval in this time.
const PING: Duration = Duration::from_secs(2);
const PONG: Duration = Duration::from_secs(3);

/// A scheduler that answers.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) channel: Channel,
    /// Our address on the way to it.
    pub(super) local: SocketAddr,
    /// What proves that it is a scheduler; `None` on a plain transport.
    pub(super) certificate: Option<CertificateId>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("cannot find its address: {0}")]
    Resolve(io::Error),
    #[error("cannot connect to {address}: {source}")]
    Tcp {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("no answer within {} s", CONNECT.as_secs())]
    Timeout(#[from] Elapsed),
    #[error("TLS with {address} failed: {reason}")]
    Tls { address: SocketAddr, reason: String },
    #[error("its certificate is of no use: {0}")]
    Certificate(#[from] PeerCertificateError),
    #[error(
        "it is no scheduler: its certificate says role {role}, host {host}; correct p2p.schedulers, or issue that host a certificate with `hawker ca`"
    )]
    Role { role: Role, host: String },
    #[error("{}", explain(.0))]
    Http(tonic::transport::Error),
}

/// Connects to `host:port`.
pub(super) async fn connect(address: &str, security: &Security) -> Result<Connected, ConnectError> {
    let (stream, remote) = timeout(CONNECT, dial(address)).await??;
    let local = stream.local_addr().map_err(|source| ConnectError::Tcp {
        address: remote,
        source,
    })?;
    let (channel, certificate) = match security {
        Security::Plain { .. } => (upgrade(stream).await?, None),
        Security::Tls(identity) => {
            let connector = TlsConnector::from(identity.client_config(&[b"h2"]));
            let stream = timeout(CONNECT, connector.connect(server_name(), stream)).await?;
            let stream = stream.map_err(|error| ConnectError::Tls {
                address: remote,
                reason: explain_io(&error),
            })?;
            let certificate = PeerCertificate::from_tls(stream.get_ref().1)?;
            check_role(&certificate)?;
            (upgrade(stream).await?, Some(certificate.id))
        }
    };
    Ok(Connected {
        channel,
        local,
        certificate,
    })
}

fn check_role(certificate: &PeerCertificate) -> Result<(), ConnectError> {
    match certificate.role {
        Role::Scheduler => Ok(()),
        role @ (Role::Node | Role::Seed) => Err(ConnectError::Role {
            role,
            host: certificate.host.to_string(),
        }),
    }
}

/// Tries all addresses of a name in order.
async fn dial(address: &str) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let found = lookup_host(address).await.map_err(ConnectError::Resolve)?;
    let none = io::Error::other("the name has no address");
    let mut last = ConnectError::Resolve(none);
    for address in found {
        let stream = timeout(CONNECT_ONE, TcpStream::connect(address)).await;
        match stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                // Messages are small and awaited.
                let _ = stream.set_nodelay(true);
                return Ok((stream, address));
            }
            Err(source) => last = ConnectError::Tcp { address, source },
        }
    }
    Err(last)
}

/// HTTP/2 over a connection that stands. When it breaks, calls fail: there is no second one.
async fn upgrade<S>(stream: S) -> Result<Channel, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let once = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_| {
        let stream = once.lock().map(|mut once| once.take());
        let stream = stream.ok().flatten();
        std::future::ready(stream.ok_or_else(|| io::Error::other("the connection is lost")))
    });
    // The name is of no use: who is at the other end is known already.
    Endpoint::from_static("http://scheduler")
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(ConnectError::Http)
}

/// A tonic error hides what happened in its sources.
fn explain(error: &tonic::transport::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = match error.downcast_ref::<io::Error>() {
            Some(error) => explain_io(error),
            None => error.to_string(),
        };
        if !text.contains(&part) {
            let _ = write!(text, ": {part}");
        }
        source = error.source();
    }
    text
}

/// Why a call failed, with what hides in its sources.
pub(super) fn explain_status(status: &tonic::Status) -> String {
    let mut text = match status.code() {
        tonic::Code::Unknown | tonic::Code::Unavailable => status.message().to_owned(),
        code => format!("{} ({code:?})", status.message()),
    };
    let mut source = status.source();
    while let Some(error) = source {
        let io = error.downcast_ref::<io::Error>().map(explain_io);
        if let Some(part) = io.filter(|part| !text.contains(part)) {
            let _ = write!(text, ": {part}");
        }
        source = error.source();
    }
    text
}
