//! TCP to an origin: straight, or by a proxy; every address checked between resolving and
//! connecting, so that a name that changes its address between two look-ups gains nothing.
//!
//! Behind a proxy the proxy resolves names. Then what can be refused by its name is refused here
//! (literal addresses, localhost), and the rest is the proxy's to refuse.

use std::{collections::HashMap, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

use super::{
    Proxy, UsualProxies,
    address::AddressRule,
    error::innermost,
    link::{Leads, Link},
    proxy::{self, ProxyFailure},
    resolver::Names,
};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Longest head of a proxy's answer to CONNECT, in bytes.
const LONGEST_HEAD: usize = 8 * 1024;

/// By which proxy a lane goes.
#[derive(Clone, Debug)]
pub(super) enum Proxies {
    Usual(Arc<UsualProxies>),
    None,
    One(Arc<Proxy>),
}

impl Proxies {
    pub(super) fn of(&self, scheme: &str, host: &str, port: u16) -> Option<&Proxy> {
        match self {
            Self::Usual(usual) => usual.of(scheme, host, port),
            Self::None => None,
            Self::One(proxy) => Some(proxy),
        }
    }
}

/// Hosts whose addresses an operator wrote, in small letters.
pub(super) type Hosts = Arc<HashMap<String, Vec<IpAddr>>>;

/// Connects where the rule permits.
#[derive(Clone)]
pub(super) struct Dialer {
    rule: Arc<AddressRule>,
    checked: HttpConnector<Names>,
    /// For hosts that an operator named.
    unchecked: HttpConnector<Names>,
    proxies: Proxies,
    hosts: Hosts,
    /// TLS to proxies.
    proxy_tls: Arc<rustls::ClientConfig>,
}

impl Dialer {
    pub(super) fn new(
        rule: Arc<AddressRule>,
        timeout: Duration,
        proxies: Proxies,
        hosts: Hosts,
        proxy_tls: Arc<rustls::ClientConfig>,
    ) -> Self {
        let names = |rule| Names::new(rule, Arc::clone(&hosts));
        Self {
            checked: tuned(names(Some(Arc::clone(&rule))), timeout),
            unchecked: tuned(names(None), timeout),
            rule,
            proxies,
            hosts,
            proxy_tls,
        }
    }
}

fn tuned(names: Names, timeout: Duration) -> HttpConnector<Names> {
    let mut connector = HttpConnector::new_with_resolver(names);
    // Divided among the addresses of a name, so that a dead one leaves time for the others.
    connector.set_connect_timeout(Some(timeout));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(30)));
    connector
}

impl Service<Uri> for Dialer {
    type Response = Link;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = uri.host().unwrap_or_default().to_owned();
        let scheme = uri.scheme_str().unwrap_or("https").to_owned();
        let port = uri.port_u16().unwrap_or(match scheme.as_str() {
            "http" => 80,
            _ => 443,
        });
        let named = self.hosts.get(&host.to_ascii_lowercase()).cloned();
        let exempt = self.rule.exempts(&host, Some(port)) || named.is_some();
        // Literal addresses are not resolved, and names behind a proxy not here.
        if !exempt && let Err(refused) = self.rule.check_host(&host, Some(port)) {
            return Box::pin(async move { Err(refused.into()) });
        }
        if let Some(proxy) = self.proxies.of(&scheme, &host, port).cloned() {
            let target = named.as_deref().and_then(<[IpAddr]>::first);
            let target = match target {
                Some(ip) => std::net::SocketAddr::new(*ip, port).to_string(),
                None => format!("{host}:{port}"),
            };
            let (connector, tls) = (self.unchecked.clone(), Arc::clone(&self.proxy_tls));
            return Box::pin(async move {
                let dialed = Dialed { connector, tls };
                match scheme.as_str() {
                    "http" => dialed.forward(&proxy).await,
                    _ => dialed.tunnel(&proxy, &target).await,
                }
            });
        }
        let connecting = match exempt {
            true => self.unchecked.call(uri),
            false => self.checked.call(uri),
        };
        Box::pin(async move { Ok(Link::plain(connecting.await?, Leads::ToOrigin)) })
    }
}

/// The way to a proxy.
struct Dialed {
    connector: HttpConnector<Names>,
    tls: Arc<rustls::ClientConfig>,
}

impl Dialed {
    /// A connection for whole requests.
    async fn forward(self, proxy: &Proxy) -> Result<Link, BoxError> {
        let (connector, tls) = (self.connector, self.tls);
        let stream = reach(connector, proxy).await?;
        match proxy.url.scheme() {
            "https" => Ok(Link::tls(
                secured(stream, proxy, tls).await?,
                Leads::ToProxy,
            )),
            _ => Ok(Link::plain(TokioIo::new(stream), Leads::ToProxy)),
        }
    }

    /// A connection through which bytes go to `target` as they are.
    async fn tunnel(self, proxy: &Proxy, target: &str) -> Result<Link, BoxError> {
        let (connector, tls) = (self.connector, self.tls);
        let mut stream = reach(connector, proxy).await?;
        match proxy.url.scheme() {
            "https" => {
                let mut stream = secured(stream, proxy, tls).await?;
                open(&mut stream, proxy, target).await?;
                Ok(Link::tls(stream, Leads::ToOrigin))
            }
            _ => {
                open(&mut stream, proxy, target).await?;
                Ok(Link::plain(TokioIo::new(stream), Leads::ToOrigin))
            }
        }
    }
}

async fn reach(mut connector: HttpConnector<Names>, proxy: &Proxy) -> Result<TcpStream, BoxError> {
    let unreachable = |reason: String| ProxyFailure::unreachable(proxy, &reason);
    let uri: Uri = format!("http://{}:{}/", proxy.host(), proxy.port())
        .parse()
        .map_err(|error: http::uri::InvalidUri| unreachable(error.to_string()))?;
    let connected = connector.call(uri).await;
    let stream = connected.map_err(|error| unreachable(innermost(&error)))?;
    Ok(stream.into_inner())
}

async fn secured(
    stream: TcpStream,
    proxy: &Proxy,
    tls: Arc<rustls::ClientConfig>,
) -> Result<TlsStream<TcpStream>, BoxError> {
    let bare = proxy.host().trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned())
        .map_err(|error| ProxyFailure::unreachable(proxy, &error.to_string()))?;
    let connected = TlsConnector::from(tls).connect(name, stream).await;
    Ok(connected.map_err(|error| {
        let reason = innermost(&error);
        match super::error::cause::<rustls::Error>(&error) {
            Some(rustls::Error::InvalidCertificate(_)) => ProxyFailure::certificate(proxy, &reason),
            _ => ProxyFailure::unreachable(proxy, &reason),
        }
    })?)
}

/// Has the proxy connect to `target`.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &Proxy,
    target: &str,
) -> Result<(), BoxError> {
    let broken = |error: std::io::Error| ProxyFailure::unreachable(proxy, &error.to_string());
    let request = proxy::connect_request(target, proxy.authorization().as_ref());
    stream.write_all(&request).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head is the origin's. It is short, and once per connection.
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    match proxy::connect_status(&head) {
        Some(200..=299) if head.ends_with(b"\r\n\r\n") => Ok(()),
        status => Err(ProxyFailure::refused(proxy, target, status).into()),
    }
}
