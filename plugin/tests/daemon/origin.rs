//! A registry that does what a test says.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

/// One request as the origin saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A part of a scripted body.
#[derive(Clone)]
pub(crate) enum Part {
    Bytes(Bytes),
    /// Waits until the test adds a permit.
    Wait(Arc<Semaphore>),
    /// Breaks the connection.
    Cut,
}

/// A scripted answer.
#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    parts: Vec<Part>,
    length: Option<usize>,
    /// Before the headers.
    wait: Option<Arc<Semaphore>>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            parts: Vec::new(),
            length: Some(0),
            wait: None,
        }
    }

    pub(crate) fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            length: Some(bytes.len()),
            parts: vec![Part::Bytes(bytes)],
            ..Self::status(200)
        }
    }

    /// `bytes`, or the part of them that the request asks for.
    pub(crate) fn file(seen: &Seen, bytes: &Bytes) -> Self {
        let range = seen.header("range").and_then(|range| {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            let first: usize = first.parse().ok()?;
            let last = last.parse().map_or(bytes.len(), |last: usize| last + 1);
            (first < last && last <= bytes.len()).then_some(first..last)
        });
        let Some(range) = range else {
            return Self::bytes(bytes.clone()).with("etag", "\"1\"");
        };
        let told = format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len());
        Self {
            status: 206,
            ..Self::bytes(bytes.slice(range))
        }
        .with("content-range", &told)
        .with("etag", "\"1\"")
    }

    /// A body in parts whose length is told.
    pub(crate) fn parts(length: usize, parts: Vec<Part>) -> Self {
        Self {
            parts,
            length: Some(length),
            ..Self::status(200)
        }
    }

    pub(crate) fn without_length(mut self) -> Self {
        self.length = None;
        self
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn after(mut self, wait: &Arc<Semaphore>) -> Self {
        self.wait = Some(Arc::clone(wait));
        self
    }

    pub(crate) fn challenge() -> Self {
        Self::status(401).with(
            "www-authenticate",
            "Bearer realm=\"https://auth.example/token\",service=\"r\"",
        )
    }
}

/// Listens until dropped.
pub(crate) struct Origin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _server: JoinSet<()>,
}

impl Origin {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::clone(&seen), Arc::new(script)));
        Self {
            address,
            seen,
            _server: server,
        }
    }

    /// What was asked for, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How often a path was asked for with a method.
    pub(crate) fn count(&self, method: Method, path: &str) -> usize {
        let seen = self.seen();
        let matching = seen.iter().filter(|s| s.method == method && s.path == path);
        matching.count()
    }
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

async fn serve(listener: TcpListener, log: Arc<Mutex<Vec<Seen>>>, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (log, script) = (Arc::clone(&log), Arc::clone(&script));
        let service = service_fn(move |request: Request<Incoming>| {
            let seen = Seen {
                method: request.method().clone(),
                path: request.uri().to_string(),
                headers: request.headers().clone(),
            };
            log.lock().unwrap().push(seen.clone());
            let reply = script(&seen);
            async move { Ok::<_, Infallible>(answer(seen, reply).await) }
        });
        connections.spawn(async move {
            let conversation =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // Cut bodies and clients that leave end it with an error.
            let _ = conversation.await;
        });
    }
}

async fn answer(seen: Seen, reply: Reply) -> Response<UnsyncBoxBody<Bytes, std::io::Error>> {
    if let Some(wait) = &reply.wait {
        wait.acquire().await.unwrap().forget();
    }
    let parts = match seen.method == Method::HEAD {
        true => Vec::new(),
        false => reply.parts,
    };
    let frames = stream::iter(parts).filter_map(|part| async move {
        match part {
            Part::Bytes(bytes) => Some(Ok(Frame::data(bytes))),
            Part::Wait(wait) => {
                wait.acquire().await.unwrap().forget();
                None
            }
            Part::Cut => Some(Err(std::io::Error::other("cut"))),
        }
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap();
    let headers = response.headers_mut();
    if let Some(length) = reply.length {
        headers.insert("content-length", length.into());
    }
    for (name, value) in reply.headers {
        let name = http::HeaderName::try_from(name).unwrap();
        headers.append(name, value.parse().unwrap());
    }
    response
}

/// Bytes that compress badly and differ everywhere.
pub(crate) fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}
