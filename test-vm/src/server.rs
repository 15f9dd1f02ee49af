//! What the testbed's own small HTTP servers share: ports that can be closed and opened again,
//! TLS with or without client certificates, answers.
//!
//! Who calls it: the registry's counter, the token service, the proxy.

mod answer;
mod tls;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

pub(crate) use answer::{Body, full, json, nothing, text};
pub(crate) use tls::acceptor;

/// Where a server listens.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<TlsAcceptor>>,
    /// While it holds `false`, connections are refused, and those that were open are cut.
    pub(crate) is_open: watch::Receiver<bool>,
}

impl Port {
    /// On all addresses of the host.
    pub(crate) fn anywhere(port: u16, is_open: watch::Receiver<bool>) -> Self {
        Self {
            address: SocketAddr::from(([0_u16; 8], port)),
            tls: None,
            is_open,
        }
    }

    pub(crate) fn with_tls(mut self, tls: Option<TlsAcceptor>) -> Self {
        self.tls = tls.map(Arc::new);
        self
    }
}

/// A port that nobody closes.
pub(crate) fn always() -> watch::Receiver<bool> {
    watch::channel(true).1
}

/// Answers requests at a port until the task is dropped with its runtime.
///
/// # Errors
/// When the port cannot be bound.
pub(crate) async fn serve<A, F>(port: Port, answer: A) -> Result<JoinHandle<()>>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut listener = Some(bind(port.address).await?);
    let mut is_open = port.is_open.clone();
    Ok(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                stream = accept(listener.as_ref()) => {
                    connections.spawn(connection(stream, port.tls.clone(), answer.clone()));
                }
                Some(_) = connections.join_next() => {}
                () = changed(&mut is_open) => {
                    if *is_open.borrow_and_update() {
                        listener = bind(port.address).await.ok();
                    } else {
                        listener = None;
                        connections.shutdown().await;
                    }
                }
            }
        }
    }))
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot bind {address}"))
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    loop {
        match listener {
            Some(listener) => match listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(_) => tokio::task::yield_now().await,
            },
            None => std::future::pending().await,
        }
    }
}

async fn changed(is_open: &mut watch::Receiver<bool>) {
    if is_open.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A client that hangs up, or has no certificate, is part of the game.
async fn connection<A, F>(stream: TcpStream, tls: Option<Arc<TlsAcceptor>>, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    stream.set_nodelay(true).ok();
    match tls {
        None => speak(stream, answer).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => speak(stream, answer).await,
            Err(error) => eprintln!("no TLS: {error}"),
        },
    }
}

async fn speak<S, A, F>(stream: S, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    connection.await.ok();
}

/// Runs a server's life on a runtime of its own.
///
/// # Errors
/// Those of `life`.
pub(crate) fn run(life: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(life)
}
