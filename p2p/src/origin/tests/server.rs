//! An HTTP/1.1 server that answers as a test says, down to where it breaks off.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// Runs until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    scheme: &'static str,
    asked: Arc<Mutex<Vec<Asked>>>,
    listening: AbortHandle,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(&found.1)
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    framing: Framing,
    ending: Ending,
    delay: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunked,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Whole,
    /// Closes the connection after so many bytes of the body.
    Cut(usize),
    /// Sends nothing after so many bytes of the body.
    Stall(usize),
    /// Never answers.
    Silence,
}

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        let (headers, body) = (Vec::new(), Vec::new());
        Self {
            status,
            headers,
            body,
            framing: Framing::Length,
            ending: Ending::Whole,
            delay: Duration::ZERO,
        }
    }

    pub(super) fn body(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::status(200)
        }
    }

    /// Answers as a static file server does.
    pub(super) fn file(asked: &Asked, content: &[u8]) -> Self {
        let Some(range) = asked.header("range") else {
            return Self::body(content);
        };
        let (first, last) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let first: usize = first.parse().unwrap();
        let end = last
            .parse()
            .map_or(content.len(), |last: usize| content.len().min(last + 1));
        if first >= content.len() {
            return Self::status(416).with("Content-Range", format!("bytes */{}", content.len()));
        }
        let range = format!("bytes {first}-{}/{}", end - 1, content.len());
        Self {
            status: 206,
            ..Self::body(&content[first..end])
        }
        .with("Content-Range", range)
    }

    pub(super) fn redirect(status: u16, to: impl Into<String>) -> Self {
        Self::status(status).with("Location", to)
    }

    pub(super) fn silence() -> Self {
        Self {
            ending: Ending::Silence,
            ..Self::status(200)
        }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Answers only after a while.
    pub(super) fn late(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    pub(super) fn cut_after(self, bytes: usize) -> Self {
        Self {
            ending: Ending::Cut(bytes),
            ..self
        }
    }

    pub(super) fn stalled_after(self, bytes: usize) -> Self {
        Self {
            ending: Ending::Stall(bytes),
            ..self
        }
    }

    pub(super) fn status_is(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Without `Content-Length`.
    pub(super) fn chunked(self) -> Self {
        Self {
            framing: Framing::Chunked,
            ..self
        }
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Said\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let has_length = self
            .headers
            .iter()
            .any(|(name, _)| name == "Content-Length");
        match self.framing {
            Framing::Length if has_length => {}
            Framing::Length => head += &format!("Content-Length: {}\r\n", self.body.len()),
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
        }
        head + "\r\n"
    }
}

impl Server {
    pub(super) async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1", None, answer).await
    }

    /// At another address of this machine.
    pub(super) async fn start_at(
        ip: &str,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(ip, None, answer).await
    }

    pub(super) async fn start_tls(
        config: ServerConfig,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(
            "127.0.0.1",
            Some(TlsAcceptor::from(Arc::new(config))),
            answer,
        )
        .await
    }

    /// A server of one file, at every path.
    pub(super) async fn of_file(content: &[u8]) -> Self {
        let content = content.to_vec();
        Self::start(move |asked| Reply::file(asked, &content)).await
    }

    async fn listen(
        ip: &str,
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let script = Arc::new((answer, Arc::clone(&asked)));
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, tls) = (Arc::clone(&script), tls.clone());
                connections.spawn(async move {
                    let (answer, asked) = &*script;
                    match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, answer, asked).await,
                            Err(_refused) => {}
                        },
                        None => serve(stream, answer, asked).await,
                    }
                });
            }
        })
        .abort_handle();
        Self {
            address,
            scheme,
            asked,
            listening,
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Takes no more connections.
    pub(super) fn stop(&self) {
        self.listening.abort();
    }

    /// What was asked so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    answer: &impl Fn(&Asked) -> Reply,
    all: &Mutex<Vec<Asked>>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = request(&mut stream).await {
        all.lock().unwrap().push(asked.clone());
        let reply = answer(&asked);
        if send(&mut stream, &asked, &reply).await.is_none() {
            return;
        }
    }
}

async fn request<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let (method, rest) = line.split_once(' ')?;
    let (target, _) = rest.split_once(' ')?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut asked = Asked {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body: String::new(),
    };
    let length = asked.header("content-length").map(str::parse);
    if let Some(Ok(length)) = length {
        let mut body = stream.take(length);
        body.read_to_string(&mut asked.body).await.ok()?;
    }
    Some(asked)
}

/// Sends a reply. `None` when the connection ends with it.
async fn send<S: AsyncWrite + Unpin>(stream: &mut S, asked: &Asked, reply: &Reply) -> Option<()> {
    if let Ending::Silence = reply.ending {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(reply.delay).await;
    stream.write_all(reply.head().as_bytes()).await.ok()?;
    if asked.method == "HEAD" {
        return stream.flush().await.ok();
    }
    let sent = match reply.ending {
        Ending::Cut(bytes) | Ending::Stall(bytes) => &reply.body[..bytes.min(reply.body.len())],
        Ending::Whole | Ending::Silence => &reply.body,
    };
    match reply.framing {
        Framing::Length => stream.write_all(sent).await.ok()?,
        Framing::Chunked if sent.is_empty() => {}
        Framing::Chunked => {
            stream
                .write_all(format!("{:x}\r\n", sent.len()).as_bytes())
                .await
                .ok()?;
            stream.write_all(sent).await.ok()?;
            stream.write_all(b"\r\n").await.ok()?;
        }
    }
    stream.flush().await.ok()?;
    match reply.ending {
        Ending::Cut(_) => {
            let _ = stream.shutdown().await;
            None
        }
        Ending::Stall(_) | Ending::Silence => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            None
        }
        Ending::Whole => {
            if let Framing::Chunked = reply.framing {
                stream.write_all(b"0\r\n\r\n").await.ok()?;
            }
            stream.flush().await.ok()
        }
    }
}
