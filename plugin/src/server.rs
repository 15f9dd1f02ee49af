//! One HTTP/1 listener: accepts, limits, and drains.
//!
//! Mirror, control socket and metrics are each one call of [`serve`]. All connections of a
//! listener live in its `JoinSet`: when [`serve`] returns or is dropped, none is left.

mod stall;

use std::{future::Future, io, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::stall::StallLimit;
use crate::body::Body;

/// Wait after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one listener bears.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once; others wait in the kernel's backlog.
    pub connections: usize,
    /// Bytes of a request's line and headers together.
    pub header_bytes: usize,
    /// How long a client may take to send a request's headers, or be idle.
    pub header_timeout: Duration,
    /// How long a client may take no byte of a response that waits for it.
    pub write_stall: Duration,
    /// How long responses may go on after the stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            header_bytes: 64 << 10,
            // Longer than the 30 s after which Go's clients close an idle connection themselves.
            header_timeout: Duration::from_secs(75),
            // A container runtime that unpacks on a busy disk pauses its reading for a while.
            write_stall: Duration::from_secs(300),
            grace: Duration::from_secs(20),
        }
    }
}

/// Something that gives connections.
pub(crate) trait Listen {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Listen for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Listen for UnixListener {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Answers requests with `handler` until `stop`; then takes no more, lets running responses end
/// within the grace period, and cuts what is left.
pub(crate) async fn serve<L, H, F>(listener: L, limits: Limits, stop: CancellationToken, handler: H)
where
    L: Listen,
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    while let Some((io, slot)) = next(&listener, &slots, &stop, &mut connections).await {
        connections.spawn(converse(io, slot, limits, stop.clone(), handler.clone()));
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.grace, ended).await.is_err() {
        warn!(
            responses = connections.len(),
            grace = ?limits.grace,
            "cut responses that did not end within the grace period"
        );
    }
}

/// The next connection with its slot; `None` at the stop.
async fn next<L: Listen>(
    listener: &L,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
    connections: &mut JoinSet<()>,
) -> Option<(L::Io, OwnedSemaphorePermit)> {
    loop {
        let accepted = async {
            let slot = Arc::clone(slots).acquire_owned().await;
            let slot = slot.map_err(io::Error::other)?;
            listener.accept().await.map(|io| (io, slot))
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = accepted => match accepted {
                Ok(connection) => return Some(connection),
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn converse<I, H, F>(
    io: I,
    _slot: OwnedSemaphorePermit,
    limits: Limits,
    stop: CancellationToken,
    handler: H,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let response = handler(request);
        async move { Ok::<_, std::convert::Infallible>(response.await) }
    });
    let io = StallLimit::new(io, limits.write_stall);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .max_header_size(limits.header_bytes)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients that go away are no news.
        debug!(%error, "a connection ended early");
    }
}
