//! A small HTTP proxy: CONNECT and whole requests, with or without a login, over TCP or TLS. It
//! resolves every name to one place.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::super::{Login, Proxy};

/// Runs until it is dropped.
pub(super) struct TestProxy {
    pub(super) address: SocketAddr,
    scheme: &'static str,
    asked: Arc<Mutex<Vec<String>>>,
    listening: AbortHandle,
}

/// How it behaves.
#[derive(Clone)]
pub(super) struct Rules {
    /// Where all names are.
    pub(super) to: SocketAddr,
    /// `Proxy-Authorization`, if it wants one.
    pub(super) wants: Option<&'static str>,
    /// What it answers to CONNECT.
    pub(super) answer: &'static str,
}

impl Rules {
    pub(super) fn to(to: SocketAddr) -> Self {
        Self {
            to,
            wants: None,
            answer: "HTTP/1.1 200 OK",
        }
    }
}

impl TestProxy {
    pub(super) async fn start(rules: Rules) -> Self {
        Self::listen(rules, None).await
    }

    pub(super) async fn start_tls(rules: Rules, config: ServerConfig) -> Self {
        Self::listen(rules, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(rules: Rules, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (rules, all, tls) = (rules.clone(), Arc::clone(&all), tls.clone());
                connections.spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &rules, &all).await;
                            }
                        }
                        None => {
                            serve(stream, &rules, &all).await;
                        }
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

    /// It as a setting.
    pub(super) fn setting(&self, login: Option<(&str, &str)>) -> Proxy {
        Proxy {
            url: format!("{}://{}", self.scheme, self.address)
                .parse()
                .unwrap(),
            login: login.map(|(username, password)| Login {
                username: username.to_owned(),
                password: hawker_swarm::Secret::new(password),
            }),
            setting: "origin.proxy".to_owned(),
        }
    }

    /// The first lines of what it was asked.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    rules: &Rules,
    all: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let (first, rest) = head.split_once("\r\n")?;
    all.lock().unwrap().push(first.to_owned());
    let shown = rest.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("proxy-authorization")
            .then_some(value)
    });
    if rules.wants.is_some() && rules.wants != shown {
        let refusal = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
        return stream.write_all(refusal).await.ok();
    }
    let (method, target) = first.split_once(' ')?;
    if method == "CONNECT" {
        let answer = format!("{}\r\nVia: test\r\n\r\n", rules.answer);
        stream.write_all(answer.as_bytes()).await.ok()?;
        if !rules.answer.contains(" 200 ") {
            return None;
        }
        let mut origin = TcpStream::connect(rules.to).await.ok()?;
        let _ = copy_bidirectional(&mut stream, &mut origin).await;
        return None;
    }
    // A whole request: its target has scheme and host.
    let path = target.strip_prefix("http://")?.split_once('/')?.1;
    let mut origin = TcpStream::connect(rules.to).await.ok()?;
    let request = format!("{method} /{path}\r\n{rest}");
    origin.write_all(request.as_bytes()).await.ok()?;
    let _ = copy_bidirectional(&mut stream, &mut origin).await;
    None
}
