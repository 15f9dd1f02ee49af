//! The counter: a reverse proxy that counts what passes, and misbehaves as told.
//!
//! Two ports for clients (the registry's own, and a storage port for redirects), one for the
//! testbed: `GET /tally`, `DELETE /tally`, `PUT /faults`.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header, uri::Authority};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::TcpListener;

use super::{Action, Fault, Tally};

const REGISTRY_PORT: u16 = 5000;
const STORAGE_PORT: u16 = 5003;
/// What tokens start with; the account's name follows.
const TOKEN: &str = "token-of-the-testbed-for";

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

struct Counter {
    upstream: Authority,
    client: Client<HttpConnector, Full<Bytes>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tally: Tally,
    faults: Vec<Fault>,
}

/// Which port a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Registry,
    Storage,
    Control,
}

/// The life of the counter (`hawker-test-vm counter`).
///
/// # Errors
/// When a port cannot be bound.
pub fn run(upstream: &str, control: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let upstream = upstream.parse().context("unreadable upstream")?;
        let counter = Arc::new(Counter {
            upstream,
            client,
            state: Mutex::default(),
        });
        let any = |port| SocketAddr::from(([0_u16; 8], port));
        let registry = serve(any(REGISTRY_PORT), Door::Registry, Arc::clone(&counter)).await?;
        let storage = serve(any(STORAGE_PORT), Door::Storage, Arc::clone(&counter)).await?;
        serve(control, Door::Control, counter).await?.await?;
        drop((registry, storage));
        Ok(())
    })
}

async fn serve(
    address: SocketAddr,
    door: Door,
    counter: Arc<Counter>,
) -> Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot bind {address}"))?;
    Ok(tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            stream.set_nodelay(true).ok();
            let counter = Arc::clone(&counter);
            let service = service_fn(move |request| {
                let counter = Arc::clone(&counter);
                async move { Ok::<_, Infallible>(counter.answer(door, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A client that hangs up is part of the game.
            tokio::spawn(async move { connection.await.ok() });
        }
    }))
}

impl Counter {
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
            ("PUT", "/faults") => {
                let body = request.into_body().collect().await?.to_bytes();
                self.state().faults = serde_json::from_slice(&body)?;
            }
            _ => return Ok(refusal(StatusCode::NOT_FOUND, "UNKNOWN", "no such control")),
        }
        Ok(Response::new(full("")))
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
        let path = request.uri().path().to_owned();
        let is_head = request.method() == http::Method::HEAD;
        let agent = text(request.headers(), header::USER_AGENT);
        let has_credentials = request.headers().contains_key(header::AUTHORIZATION);
        let action = {
            let mut state = self.state();
            state.tally.count_request(&path, &agent, is_head);
            if door == Door::Storage && has_credentials {
                state.tally.leaked_credentials += 1;
            }
            let fits = |fault: &Fault| door == Door::Registry || !fault.action.is_at_the_door();
            let mut faults = state.faults.iter_mut().filter(|fault| fits(fault));
            faults.find_map(|fault| fault.applies(&path).then(|| fault.action.clone()))
        };
        if door == Door::Storage && has_credentials {
            return Ok(refusal(
                StatusCode::BAD_REQUEST,
                "DENIED",
                "only one way to authenticate",
            ));
        }
        if let Some(refused) = action.as_ref().and_then(|action| refuse(action, &request)) {
            return Ok(refused);
        }
        if let Some(Action::Delay { millis }) = action {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        let response = self
            .forward(request, action == Some(Action::IgnoreRange))
            .await?;
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(
            head,
            self.count(path, agent, body, action),
        ))
    }

    async fn forward(&self, request: Request<Incoming>, whole: bool) -> Result<Response<Incoming>> {
        let (mut head, body) = request.into_parts();
        let mut parts = head.uri.into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(self.upstream.clone());
        head.uri = Uri::from_parts(parts)?;
        head.headers.remove(header::AUTHORIZATION);
        if whole {
            head.headers.remove(header::RANGE);
        }
        let body = body.collect().await?.to_bytes();
        Ok(self
            .client
            .request(Request::from_parts(head, Full::new(body)))
            .await?)
    }

    /// The body with its bytes counted as they leave, and with what the fault does to it.
    fn count(
        self: Arc<Self>,
        path: String,
        agent: String,
        body: Incoming,
        action: Option<Action>,
    ) -> Body {
        let mut spoil = Spoil::new(action);
        let frames = body.into_data_stream().map(move |data| {
            let data = spoil.apply(data.map_err(std::io::Error::other)?)?;
            self.state()
                .tally
                .count_bytes(&path, &agent, data.len() as u64);
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
            Self::Redirect | Self::RedirectWith { .. } | Self::Basic { .. } | Self::Bearer { .. }
        )
    }
}

/// The answer of a fault that needs no registry behind it.
fn refuse(action: &Action, request: &Request<Incoming>) -> Option<Response<Body>> {
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
        Action::RedirectWith { first } => {
            refuse(first, request).or_else(|| refuse(&Action::Redirect, request))
        }
        Action::Redirect => {
            let host = authority
                .rsplit_once(':')
                .map_or(authority.as_str(), |(host, _)| host);
            let path = request.uri().path();
            let location = format!("http://{host}:{STORAGE_PORT}{path}?signature=of-the-testbed");
            let mut redirect = Response::new(full(""));
            *redirect.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            redirect
                .headers_mut()
                .insert(header::LOCATION, location.parse().ok()?);
            Some(redirect)
        }
        _ => None,
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers
        .get(name)
        .and_then(|it| it.to_str().ok())
        .unwrap_or_default()
        .to_owned()
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
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
    let mut refused = Response::new(full(body.to_string()));
    *refused.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    refused.headers_mut().insert(header::CONTENT_TYPE, json);
    refused
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into())
        .map_err(|never| match never {})
        .boxed_unsync()
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
