//! Accepts connections and shakes hands, many at a time, so that a slow or silent client delays
//! nobody.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hawker_identity::{PeerCertificate, explain_io};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Security,
    connection::{Connection, Stream},
};

const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at once; more clients wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// After a failed accept (out of descriptors): not to spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds `address`; the unspecified IPv4 one instead where the machine has no IPv6.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && !in_use(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

fn in_use(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    )
}

/// Accepts until nobody takes the connections any more.
pub(crate) async fn accept(
    listener: TcpListener,
    security: Security,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.closed() => return,
        };
        while handshakes.try_join_next().is_some() {}
        match accepted {
            Ok((stream, remote)) => {
                // Each connection with the newest certificate.
                let acceptor = match &security {
                    Security::Plain => None,
                    Security::Tls(identity) => Some(identity.server_config(&[b"h2"]).into()),
                };
                let handshake = shake(stream, canonical(remote), acceptor);
                let connections = connections.clone();
                handshakes.spawn(async move {
                    if let Some(connection) = handshake.await {
                        let _ = connections.send(Ok(connection)).await;
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

/// An IPv4 client of an IPv6 listener shows up as `::ffff:a.b.c.d`.
fn canonical(remote: SocketAddr) -> SocketAddr {
    SocketAddr::new(remote.ip().to_canonical(), remote.port())
}

async fn shake(
    stream: TcpStream,
    remote: SocketAddr,
    acceptor: Option<TlsAcceptor>,
) -> Option<Connection> {
    // Messages are small and awaited.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return Some(Connection::new(Stream::Plain(stream), remote, None));
    };
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%remote, "closed before the TLS handshake was done");
            return None;
        }
        Ok(Err(error)) => {
            let reason = explain_io(&error);
            tracing::warn!(%remote, reason, "refused a connection: TLS failed");
            return None;
        }
        Err(_) => {
            tracing::warn!(%remote, "refused a connection: the TLS handshake takes too long");
            return None;
        }
    };
    match PeerCertificate::from_tls(stream.get_ref().1) {
        Ok(certificate) => {
            let stream = Stream::Tls(Box::new(stream));
            Some(Connection::new(stream, remote, Some(certificate)))
        }
        Err(error) => {
            tracing::warn!(%remote, %error, "refused a connection: its certificate is of no use");
            None
        }
    }
}
