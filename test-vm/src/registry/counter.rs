//! The counter: a reverse proxy that counts what passes, and misbehaves as told.
//!
//! Two ports for clients (the registry's own, and a storage port for redirects), one for the
//! testbed: `GET /tally`, `DELETE /tally`, `PUT /faults`, `PUT /revoked` (accounts whose credentials
//! are refused from now on), `PUT /open` (whether clients are let in).

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header, uri::Authority};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::sync::watch;

use super::{Action, Fault, Tally, credential::Credential, tally::Asked};
use crate::server::{self, Body, Port, full, json, nothing, serve, text};

/// What tokens start with; the account's name follows.
const TOKEN: &str = "token-of-the-testbed-for";

/// How the program is told what it is.
#[derive(Debug, Clone, clap::Args)]
pub struct Counter {
    #[arg(long)]
    upstream: Authority,
    #[arg(long)]
    control: SocketAddr,
    /// Of the registry.
    #[arg(long)]
    port: u16,
    /// Where redirects lead to.
    #[arg(long)]
    storage_port: u16,
    /// Whether the registry behind verifies credentials itself.
    #[arg(long)]
    passes_credentials: bool,
    /// A directory with what `server::acceptor` wants, for the registry's port.
    #[arg(long)]
    tls: Option<PathBuf>,
}

struct Proxy {
    settings: Counter,
    client: Client<HttpConnector, Full<Bytes>>,
    open: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tally: Tally,
    faults: Vec<Fault>,
    /// Accounts whose credentials are refused.
    revoked: BTreeSet<String>,
}

/// Which port a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Registry,
    Storage,
    Control,
}

impl Counter {
    /// Serves until it is killed.
    ///
    /// # Errors
    /// When a port cannot be bound.
    pub fn run(&self) -> Result<()> {
        let tls = self.tls.as_deref().map(server::acceptor).transpose()?;
        server::run(async {
            let (open, is_open) = watch::channel(true);
            let proxy = Arc::new(Proxy {
                settings: self.clone(),
                client: Client::builder(TokioExecutor::new()).build_http(),
                open,
                state: Mutex::default(),
            });
            let at = |door| {
                let proxy = Arc::clone(&proxy);
                move |request| Arc::clone(&proxy).answer(door, request)
            };
            let registry = Port::anywhere(self.port, is_open.clone()).with_tls(tls);
            let registry = serve(registry, at(Door::Registry)).await?;
            let storage = Port::anywhere(self.storage_port, is_open);
            let storage = serve(storage, at(Door::Storage)).await?;
            let control = Port {
                address: self.control,
                tls: None,
                is_open: server::always(),
            };
            serve(control, at(Door::Control)).await?.await?;
            drop((registry, storage));
            Ok(())
        })
    }
}

impl Proxy {
    async fn answer(self: Arc<Self>, door: Door, request: Request<Incoming>) -> Response<Body> {
        let answered = match door {
            Door::Control => self.control(request).await,
            Door::Registry if request.uri().path() == "/_token" => Ok(self.token(&request)),
            _ => self.pass(door, request).await,
        };
        answered.unwrap_or_else(|error| {
            eprintln!("{error:#}");
            refusal(StatusCode::BAD_GATEWAY, "UNKNOWN", &format!("{error:#}"))
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn control(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        match (request.method().as_str(), request.uri().path()) {
            ("GET", "/tally") => {
                let body = serde_json::to_vec(&self.state().tally)?;
                return Ok(Response::new(full(body)));
            }
            ("DELETE", "/tally") => self.state().tally = Tally::default(),
            ("PUT", "/faults") => self.state().faults = read(request).await?,
            ("PUT", "/revoked") => self.state().revoked = read(request).await?,
            ("PUT", "/open") => {
                self.open.send_replace(read(request).await?);
            }
            _ => return Ok(nothing(StatusCode::NOT_FOUND)),
        }
        Ok(nothing(StatusCode::OK))
    }

    /// A token service as registries have them.
    fn token(&self, request: &Request<Incoming>) -> Response<Body> {
        let account = self
            .state()
            .faults
            .iter()
            .find_map(|fault| match &fault.action {
                Action::Bearer {
                    user: Some(user),
                    password: Some(password),
                } => Some((user.clone(), basic(user, password))),
                _ => None,
            });
        let (user, account) = account.unzip();
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|it| it.to_str().ok());
        if account.is_some() && account.as_deref() != given {
            return refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "wrong account");
        }
        let token = token_of(user.as_deref());
        let token = serde_json::json!({"token": token, "access_token": token, "expires_in": 300});
        Response::new(full(token.to_string()))
    }

    async fn pass(
        self: Arc<Self>,
        door: Door,
        request: Request<Incoming>,
    ) -> Result<Response<Body>> {
        let authorization = text(request.headers(), header::AUTHORIZATION);
        let credential = Credential::parse(&authorization);
        let asked = Asked {
            path: request.uri().path().to_owned(),
            agent: text(request.headers(), header::USER_AGENT),
            account: credential.account.clone(),
        };
        let action = self.note(door, &asked, &request);
        if door == Door::Storage && !authorization.is_empty() {
            let message = "only one way to authenticate";
            return Ok(refusal(StatusCode::BAD_REQUEST, "DENIED", message));
        }
        if let Some(refused) = action
            .as_ref()
            .and_then(|action| refuse(action, self.settings.storage_port, &request))
        {
            return Ok(self.counted_refusal(&asked, refused));
        }
        if let Some(Action::Delay { millis }) = action {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        let is_whole = action == Some(Action::IgnoreRange);
        let response = self.forward(request, &credential, is_whole).await?;
        let response = self.counted_refusal(&asked, response);
        Ok(response.map(|body| self.count(asked, body, action)))
    }

    /// Counts a request. Returns what is to be done to it.
    fn note(&self, door: Door, asked: &Asked, request: &Request<Incoming>) -> Option<Action> {
        let mut state = self.state();
        let is_head = request.method() == http::Method::HEAD;
        state.tally.count_request(asked, is_head);
        if door == Door::Storage && request.headers().contains_key(header::AUTHORIZATION) {
            state.tally.leaked_credentials += 1;
        }
        let fits = |fault: &Fault| door == Door::Registry || !fault.action.is_at_the_door();
        let mut faults = state.faults.iter_mut().filter(|fault| fits(fault));
        faults.find_map(|fault| fault.applies(&asked.path).then(|| fault.action.clone()))
    }

    fn counted_refusal<B>(&self, asked: &Asked, response: Response<B>) -> Response<B> {
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            self.state().tally.count_refusal(asked);
        }
        response
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        credential: &Credential,
        is_whole: bool,
    ) -> Result<Response<Incoming>> {
        let (mut head, body) = request.into_parts();
        let mut parts = head.uri.into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(self.settings.upstream.clone());
        head.uri = Uri::from_parts(parts)?;
        if !self.settings.passes_credentials {
            head.headers.remove(header::AUTHORIZATION);
        } else if credential.is_void(&self.state().revoked) {
            // The registry refuses it with words of its own.
            let void = HeaderValue::from_static("Bearer void");
            head.headers.insert(header::AUTHORIZATION, void);
        }
        if is_whole {
            head.headers.remove(header::RANGE);
        }
        let body = body.collect().await?.to_bytes();
        Ok(self
            .client
            .request(Request::from_parts(head, Full::new(body)))
            .await?)
    }

    /// The body with its bytes counted as they leave, and with what the fault does to it.
    fn count(self: &Arc<Self>, asked: Asked, body: Incoming, action: Option<Action>) -> Body {
        let this = Arc::clone(self);
        let mut spoil = Spoil::new(action);
        let frames = body.into_data_stream().map(move |data| {
            let data = spoil.apply(data.map_err(std::io::Error::other)?)?;
            this.state().tally.count_bytes(&asked, data.len() as u64);
            Ok(data)
        });
        let frames = frames.then(async |data: std::io::Result<Bytes>| {
            if matches!(&data, Err(error) if error.kind() == std::io::ErrorKind::TimedOut) {
                std::future::pending::<()>().await;
            }
            data.map(Frame::data)
        });
        // An error ends the connection: what came before it must have left.
        StreamBody::new(frames.chain(stream::empty())).boxed_unsync()
    }
}

/// What a fault does to a body.
struct Spoil {
    action: Option<Action>,
    position: u64,
}

impl Spoil {
    fn new(action: Option<Action>) -> Self {
        Self {
            action,
            position: 0,
        }
    }

    /// An error of kind `TimedOut` means: nothing more, ever.
    fn apply(&mut self, data: Bytes) -> std::io::Result<Bytes> {
        let start = self.position;
        self.position += data.len() as u64;
        match self.action {
            Some(Action::Cut { after_len }) if start >= after_len => {
                Err(std::io::Error::other("cut as told"))
            }
            Some(Action::Stall { after_len }) if start >= after_len => {
                Err(std::io::ErrorKind::TimedOut.into())
            }
            Some(Action::Cut { after_len } | Action::Stall { after_len }) => {
                let left = usize::try_from(after_len - start).unwrap_or(usize::MAX);
                Ok(data.slice(..data.len().min(left)))
            }
            Some(Action::Corrupt { at }) if (start..self.position).contains(&at) => {
                let mut bytes = data.to_vec();
                if let Some(byte) = usize::try_from(at - start)
                    .ok()
                    .and_then(|at| bytes.get_mut(at))
                {
                    *byte ^= 0x20;
                }
                Ok(Bytes::from(bytes))
            }
            _ => Ok(data),
        }
    }
}

impl Action {
    /// Whether it is a matter of the registry's port alone.
    fn is_at_the_door(&self) -> bool {
        matches!(
            self,
            Self::Redirect
                | Self::RedirectWith { .. }
                | Self::RedirectTo { .. }
                | Self::Realm { .. }
                | Self::Basic { .. }
                | Self::Bearer { .. }
        )
    }
}

/// The answer of a fault that needs no registry behind it.
fn refuse(
    action: &Action,
    storage_port: u16,
    request: &Request<Incoming>,
) -> Option<Response<Body>> {
    let given = text(request.headers(), header::AUTHORIZATION);
    let authority = text(request.headers(), header::HOST);
    match action {
        Action::Status {
            status,
            retry_after_seconds,
        } => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut refused = refusal(status, "DENIED", "as told");
            if let Some(seconds) = retry_after_seconds {
                refused
                    .headers_mut()
                    .insert(header::RETRY_AFTER, (*seconds).into());
            }
            Some(refused)
        }
        Action::Basic { user, password } if given != basic(user, password) => {
            Some(challenge("Basic realm=\"testbed\""))
        }
        Action::Bearer { user, .. } if given != format!("Bearer {}", token_of(user.as_deref())) => {
            let repository = request
                .uri()
                .path()
                .split('/')
                .skip(2)
                .collect::<Vec<_>>()
                .join("/");
            let repository = repository.split("/manifests/").next().unwrap_or_default();
            let repository = repository.split("/blobs/").next().unwrap_or_default();
            Some(challenge(&format!(
                "Bearer realm=\"http://{authority}/_token\",service=\"testbed\",\
                 scope=\"repository:{repository}:pull\""
            )))
        }
        Action::RedirectWith { first } => refuse(first, storage_port, request)
            .or_else(|| refuse(&Action::Redirect, storage_port, request)),
        Action::Redirect => {
            let host = authority
                .rsplit_once(':')
                .map_or(authority.as_str(), |(host, _)| host);
            let path = request.uri().path();
            redirect(&format!(
                "http://{host}:{storage_port}{path}?signature=of-the-testbed"
            ))
        }
        Action::RedirectTo { base } => redirect(&format!("{base}{}", request.uri().path())),
        Action::Realm { realm } => Some(challenge(&format!(
            "Bearer realm=\"{realm}\",service=\"testbed\",scope=\"repository:a:pull\""
        ))),
        _ => None,
    }
}

fn redirect(location: &str) -> Option<Response<Body>> {
    let mut redirect = nothing(StatusCode::TEMPORARY_REDIRECT);
    redirect
        .headers_mut()
        .insert(header::LOCATION, location.parse().ok()?);
    Some(redirect)
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn token_of(user: Option<&str>) -> String {
    format!("{TOKEN}-{}", user.unwrap_or("everybody"))
}

fn challenge(challenge: &str) -> Response<Body> {
    let mut refused = refusal(
        StatusCode::UNAUTHORIZED,
        "UNAUTHORIZED",
        "authentication required",
    );
    if let Ok(value) = challenge.parse() {
        refused
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, value);
    }
    refused
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let error = serde_json::json!({"code": code, "message": message});
    json(status, &serde_json::json!({"errors": [error]}))
}

async fn read<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T> {
    let body = request.into_body().collect().await?.to_bytes();
    serde_json::from_slice(&body).context("unreadable order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_body_is_short_by_what_was_told() {
        let mut spoil = Spoil::new(Some(Action::Cut { after_len: 5 }));
        assert_eq!(
            spoil.apply(Bytes::from_static(b"abcd")).ok().as_deref(),
            Some(&b"abcd"[..])
        );
        assert_eq!(
            spoil.apply(Bytes::from_static(b"efgh")).ok().as_deref(),
            Some(&b"e"[..])
        );
        assert!(spoil.apply(Bytes::from_static(b"ijkl")).is_err());
    }

    #[test]
    fn corrupt_body_differs_in_one_byte() {
        let mut spoil = Spoil::new(Some(Action::Corrupt { at: 5 }));
        assert_eq!(
            spoil.apply(Bytes::from_static(b"abcd")).ok().as_deref(),
            Some(&b"abcd"[..])
        );
        assert_eq!(
            spoil.apply(Bytes::from_static(b"efgh")).ok().as_deref(),
            Some(&b"eFgh"[..])
        );
    }
}
