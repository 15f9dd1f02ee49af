//! Connections that come in.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};

use super::{AcceptError, Connection, Security, handshake};

/// Handshakes at once. Each ends within 5 s, so strangers cannot hold more sockets than this;
/// beyond it connections wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 256;
/// The kernel's queue.
const BACKLOG: u32 = 1024;
/// A socket that fails (no descriptor left) is not asked again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts peers. Dropping it ends the handshakes that are under way.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    security: Arc<Security>,
    zone: Arc<str>,
    handshakes: JoinSet<Result<Connection, AcceptError>>,
}

impl Listener {
    /// Listens on `address` (port 0: one that is free). `[::]` takes IPv4 too, and becomes
    /// `0.0.0.0` on a host without IPv6. To be called within a tokio runtime.
    pub fn bind(address: SocketAddr, security: Security) -> io::Result<Self> {
        let tcp = match listen(address) {
            Err(error) if is_without_ipv6(address, &error) => {
                listen(SocketAddr::from(([0, 0, 0, 0], address.port())))
            }
            bound => bound,
        }?;
        Ok(Self {
            tcp,
            security: Arc::new(security),
            zone: Arc::from(""),
            handshakes: JoinSet::new(),
        })
    }

    /// Says to peers that we are in this zone.
    pub fn in_zone(self, zone: &str) -> Self {
        let zone = Arc::from(zone);
        Self { zone, ..self }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection whose handshake is done, or has failed. Handshakes run side by side, so
    /// that a slow one holds up nobody. After an error the next call goes on.
    ///
    /// Cancel-safe: handshakes under way stay here.
    pub async fn accept(&mut self) -> Result<Connection, AcceptError> {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    // A handshake that panicked has said so; the peer will come again.
                    if let Ok(result) = done {
                        return result;
                    }
                }
                incoming = self.tcp.accept(), if self.handshakes.len() < MAX_HANDSHAKES => {
                    match incoming {
                        Ok((tcp, address)) => self.begin(tcp, address),
                        Err(error) => {
                            sleep(PAUSE).await;
                            return Err(AcceptError::Socket(error));
                        }
                    }
                }
            }
        }
    }

    fn begin(&mut self, tcp: TcpStream, address: SocketAddr) {
        let (security, zone) = (self.security.clone(), self.zone.clone());
        // An IPv4 peer at an IPv6 socket is shown as IPv4.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.handshakes.spawn(async move {
            handshake::accept((&security, &zone), tcp, address)
                .await
                .map_err(|reason| AcceptError::Handshake { address, reason })
        });
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restarted daemon finds connections of its predecessor still closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_without_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    let refused = [nix::libc::EAFNOSUPPORT, nix::libc::EADDRNOTAVAIL];
    address.is_ipv6()
        && address.ip().is_unspecified()
        && error
            .raw_os_error()
            .is_some_and(|code| refused.contains(&code))
}
