//! A plain HTTP/1.1 client for the testbed's own requests: blocking, one connection each, whole
//! bodies in memory or handed on piece by piece. Sockets are opened on the calling thread, so
//! inside [`crate::bed::Host::enter`] they are the host's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// # Errors
    /// When the status is not 2xx: names it and the body.
    pub fn success(self) -> Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        bail!("answer {}: {}", self.status, self.text())
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty when it is missing or not text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// # Errors
/// When nobody answers at the address of the URL within the limit.
pub fn get(url: &str, limit: Duration) -> Result<Answer> {
    send(Request::get(url).body(Bytes::new())?, limit)
}

/// # Errors
/// When nobody answers at the address of the URL within the limit.
pub fn send(request: Request<Bytes>, limit: Duration) -> Result<Answer> {
    let url = request.uri().to_string();
    block_on(limit, async {
        let response = exchange(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.context("the body was cut")?.to_bytes();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    })
    .with_context(|| format!("request of {url} failed"))
}

/// One of many requests.
#[derive(Debug, Clone, Copy)]
pub struct Timed {
    pub status: StatusCode,
    /// From the first byte of the request to the last of the answer.
    pub elapsed: Duration,
}

/// The same request so many times on one connection.
///
/// # Errors
/// When the connection fails.
pub fn repeat(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    count: usize,
) -> Result<Vec<Timed>> {
    let request = || -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(())?.into_parts();
        relative(head).map(|head| Request::from_parts(head, Full::default()))
    };
    let limit = Duration::from_secs(600);
    block_on(limit, async {
        let url: http::Uri = url.parse()?;
        let mut sender = connect(url.authority().context("the URL has no host")?.as_str()).await?;
        let mut timed = Vec::with_capacity(count);
        for _ in 0..count {
            let request = request()?;
            let began = Instant::now();
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            body.collect().await.context("the body was cut")?;
            timed.push(Timed {
                status: head.status,
                elapsed: began.elapsed(),
            });
        }
        Ok(timed)
    })
}

/// Gets one after the other on one connection, and drops their bodies.
///
/// # Errors
/// When the connection fails, an answer is no success, or the limit of one of them passes.
pub fn get_each(urls: &[String], limit: Duration) -> Result<()> {
    let Some(first) = urls.first() else {
        return Ok(());
    };
    let most = limit.saturating_mul(u32::try_from(urls.len())?);
    block_on(most, async {
        let first: http::Uri = first.parse()?;
        let authority = first.authority().context("the URL has no host")?;
        let mut sender = connect(authority.as_str()).await?;
        for url in urls {
            let got = tokio::time::timeout(limit, get_on(&mut sender, url)).await;
            got.with_context(|| format!("no answer of {url} within {limit:?}"))??;
        }
        Ok(())
    })
}

async fn get_on(sender: &mut SendRequest<Full<Bytes>>, url: &str) -> Result<()> {
    let (head, ()) = Request::get(url).body(())?.into_parts();
    let request = Request::from_parts(relative(head)?, Full::default());
    sender.ready().await?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await.context("the body was cut")?.to_bytes();
    let (headers, status) = (head.headers, head.status);
    let answer = Answer {
        status,
        headers,
        body,
    };
    answer.success().map(drop)
}

/// Reads a body piece by piece; returns the head when all of it has come.
///
/// # Errors
/// When the connection fails, the body is cut, or the limit passes.
pub fn stream(url: &str, limit: Duration, mut sink: impl FnMut(&[u8])) -> Result<Answer> {
    block_on(limit, async {
        let response = exchange(Request::get(url).body(Bytes::new())?).await?;
        let (head, mut body) = response.into_parts();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.context("the body was cut")?.into_data() {
                sink(&data);
            }
        }
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: Bytes::new(),
        })
    })
    .with_context(|| format!("request of {url} failed"))
}

fn block_on<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let limited = runtime.block_on(async { tokio::time::timeout(limit, work).await });
    limited.unwrap_or_else(|_| bail!("nothing within {limit:?}"))
}

async fn exchange(request: Request<Bytes>) -> Result<http::Response<Incoming>> {
    let authority = request.uri().authority().context("the URL has no host")?;
    let mut sender = connect(authority.as_str()).await?;
    let (head, body) = request.into_parts();
    let request = Request::from_parts(relative(head)?, Full::new(body));
    Ok(sender.send_request(request).await?)
}

async fn connect(authority: &str) -> Result<SendRequest<Full<Bytes>>> {
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = match has_port {
        true => authority.to_owned(),
        false => format!("{authority}:80"),
    };
    let stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// With the host in its header, as servers want it.
fn relative(mut head: http::request::Parts) -> Result<http::request::Parts> {
    let authority = head.uri.authority().context("the URL has no host")?;
    let authority = authority.as_str().parse()?;
    head.headers.insert(http::header::HOST, authority);
    let path = head.uri.path_and_query().map_or("/", |it| it.as_str());
    head.uri = path.parse()?;
    Ok(head)
}
