//! One HTTP/1 listener: accepts, limits, and drains.
//!
//! Mirror, control socket and metrics are each one call of [`serve`]. All connections of a
//! listener live in its `JoinSet`: when [`serve`] returns or is dropped, none is left.

mod slots;
mod stall;

use std::{future::Future, io, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::{
    slots::{Slot, Slots},
    stall::StallLimit,
};
use crate::body::Body;

/// Wait after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one listener bears.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once. For another one the one is cut that has waited longest for a request;
    /// where none does, it waits.
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
    let slots = Slots::new(limits.connections);
    let mut connections = JoinSet::new();
    while let Some(io) = next(&listener, &stop, &mut connections).await {
        let slot = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            slot = slots.take() => slot,
        };
        let Some(slot) = slot else { break };
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

/// The next connection; `None` at the stop.
async fn next<L: Listen>(
    listener: &L,
    stop: &CancellationToken,
    connections: &mut JoinSet<()>,
) -> Option<L::Io> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok(io) => return Some(io),
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
    slot: Arc<Slot>,
    limits: Limits,
    stop: CancellationToken,
    handler: H,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let answering = Arc::clone(&slot);
    let service = service_fn(move |request| {
        answering.work();
        let response = handler(request);
        let slot = Arc::clone(&answering);
        async move {
            let response = response.await.map(|body| slot.held_by(body));
            Ok::<_, std::convert::Infallible>(response)
        }
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
        () = slot.cut() => return debug!("a connection that waited has made room"),
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::body;

    async fn start(limits: Limits) -> (std::net::SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handler = |_| std::future::ready(Response::new(body::full("hello")));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, limits, CancellationToken::new(), handler));
        (address, server)
    }

    async fn said(address: std::net::SocketAddr, request: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1000];
        let read = stream.read(&mut answer).await.unwrap_or(0);
        answer.truncate(read);
        (stream, String::from_utf8(answer).unwrap())
    }

    #[tokio::test]
    async fn request_that_never_ends_is_cut() {
        let limits = Limits {
            header_timeout: Duration::from_millis(50),
            ..Limits::default()
        };
        let (address, _server) = start(limits).await;
        let (_, answer) = said(address, "GET / HTTP/1.1\r\nhost: a\r\nx: ").await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn clients_that_say_nothing_keep_nobody_out() {
        let limits = Limits {
            connections: 4,
            ..Limits::default()
        };
        let (address, _server) = start(limits).await;
        let mut held = Vec::new();
        for _ in 0..10 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            held.push(stream);
            let (stream, answer) = said(address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            held.push(stream);
        }
    }
}
