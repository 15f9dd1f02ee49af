//! A forward proxy, as companies have one before the internet: `CONNECT` for TLS, absolute URLs for
//! the rest, with an account when it is told so. Counts where it was asked to go.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::{
    bed::{Host, Process},
    http as client,
    server::{self, Body, Port, full, nothing, serve, text},
};

const PORT: u16 = 3128;
const CONTROL: &str = "127.0.0.1:3129";
const LIMIT: Duration = Duration::from_secs(30);

/// Requests by `host:port`, and those that were refused for want of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyTally {
    pub connects: BTreeMap<String, u64>,
    pub requests: BTreeMap<String, u64>,
    pub refused: u64,
    /// Requests that were not meant for a proxy.
    pub strays: u64,
}

/// How the program is told what it is.
#[derive(Debug, Clone, clap::Args)]
pub struct ProxyServer {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    control: SocketAddr,
    /// `USER:PASSWORD`.
    #[arg(long)]
    account: Option<String>,
    /// A directory with what `server::acceptor` wants.
    #[arg(long)]
    tls: Option<PathBuf>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    host: Arc<Host>,
    process: Arc<Process>,
}

impl Proxy {
    /// Starts one at port 3128 of a host; with TLS where the directory of the host is given.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(host: &Arc<Host>, account: Option<&str>, tls_dir: Option<&str>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let port = PORT.to_string();
        command.args(["proxy", "--port", &port, "--control", CONTROL]);
        let options = [("--account", account), ("--tls", tls_dir)];
        for (option, value) in options {
            command.args(value.into_iter().flat_map(|value| [option, value]));
        }
        let process = host.spawn("proxy", &mut command)?;
        let this = Self {
            host: Arc::clone(host),
            process,
        };
        this.process.wait_until(LIMIT, || this.tally().is_ok())?;
        Ok(this)
    }

    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// # Errors
    /// When it has ended.
    pub fn tally(&self) -> Result<ProxyTally> {
        let url = format!("http://{CONTROL}/tally");
        let answer = self.host.enter(|| client::get(&url, LIMIT))??.success()?;
        Ok(serde_json::from_slice(&answer.body)?)
    }
}

struct Forwarder {
    /// What `Proxy-Authorization` has to be.
    wanted: Option<String>,
    client: Client<HttpConnector, Incoming>,
    tally: Mutex<ProxyTally>,
}

impl ProxyServer {
    /// Serves until it is killed.
    ///
    /// # Errors
    /// When a port cannot be bound.
    pub fn run(&self) -> Result<()> {
        let tls = self.tls.as_deref().map(server::acceptor).transpose()?;
        let encode = |account: &String| format!("Basic {}", STANDARD.encode(account));
        server::run(async {
            let forwarder = Arc::new(Forwarder {
                wanted: self.account.as_ref().map(encode),
                client: Client::builder(TokioExecutor::new()).build_http(),
                tally: Mutex::default(),
            });
            let answering = Arc::clone(&forwarder);
            let public = Port::anywhere(self.port, server::always()).with_tls(tls);
            let public = serve(public, move |request| {
                Arc::clone(&answering).answer(request)
            });
            let public = public.await?;
            let control = Port {
                address: self.control,
                tls: None,
                is_open: server::always(),
            };
            serve(control, move |_| std::future::ready(forwarder.report()))
                .await?
                .await?;
            drop(public);
            Ok(())
        })
    }
}

impl Forwarder {
    fn tally(&self) -> MutexGuard<'_, ProxyTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> Response<Body> {
        let body = serde_json::to_vec(&*self.tally());
        body.map_or_else(
            |_| nothing(StatusCode::INTERNAL_SERVER_ERROR),
            |body| Response::new(full(body)),
        )
    }

    async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Body> {
        let shown = text(request.headers(), header::PROXY_AUTHORIZATION);
        let Some(place) = request.uri().authority().map(ToString::to_string) else {
            self.tally().strays += 1;
            return nothing(StatusCode::BAD_REQUEST);
        };
        if self.wanted.as_ref().is_some_and(|wanted| *wanted != shown) {
            self.tally().refused += 1;
            let mut refused = nothing(StatusCode::PROXY_AUTHENTICATION_REQUIRED);
            let challenge = header::HeaderValue::from_static("Basic realm=\"testbed\"");
            refused
                .headers_mut()
                .insert(header::PROXY_AUTHENTICATE, challenge);
            return refused;
        }
        request.headers_mut().remove(header::PROXY_AUTHORIZATION);
        if request.method() == Method::CONNECT {
            *self.tally().connects.entry(place.clone()).or_default() += 1;
            return tunnel(&place, request).await;
        }
        *self.tally().requests.entry(place).or_default() += 1;
        let answered = self.client.request(request).await;
        answered.map_or_else(
            |error| {
                eprintln!("{error}");
                nothing(StatusCode::BAD_GATEWAY)
            },
            |response| response.map(|body| body.map_err(std::io::Error::other).boxed_unsync()),
        )
    }
}

async fn tunnel(place: &str, request: Request<Incoming>) -> Response<Body> {
    match TcpStream::connect(place).await {
        Ok(stream) => {
            tokio::spawn(relay(hyper::upgrade::on(request), stream));
            nothing(StatusCode::OK)
        }
        Err(error) => {
            eprintln!("{place}: {error}");
            nothing(StatusCode::BAD_GATEWAY)
        }
    }
}

/// An end that hangs up ends the other.
async fn relay(upgrade: OnUpgrade, mut stream: TcpStream) {
    if let Ok(upgraded) = upgrade.await {
        let mut client = TokioIo::new(upgraded);
        tokio::io::copy_bidirectional(&mut client, &mut stream)
            .await
            .ok();
    }
}
