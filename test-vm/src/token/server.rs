//! The token service's program (`hawker-test-vm token-server`).
//!
//! One port for clients, `/token`: `GET` with Basic as Docker asks, `POST` with a form as containerd
//! does (`grant_type` `password` or `refresh_token`). One port for the testbed: `PUT /rules`,
//! `PUT /open`, `POST /mint`, `GET /issued`, `GET /tally`, `DELETE /tally`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use url::form_urlencoded;

use super::{
    Claims, Grant, Mode, Rules,
    account::{Account, now},
    jwt::Signer,
};
use crate::server::{self, Body, Port, full, json, nothing, serve, text};

/// How often the service was asked, by account ("" is nobody).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenTally {
    pub issued: BTreeMap<String, u64>,
    pub refused: BTreeMap<String, u64>,
}

/// A token that the testbed itself wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) account: String,
    pub(super) access: Vec<Grant>,
    /// Negative: it has expired already.
    pub(super) life_seconds: i64,
}

/// How the program is told what it is.
#[derive(Debug, Clone, clap::Args)]
pub struct TokenServer {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    control: SocketAddr,
    /// Holds `token.pem` and `token-key.pem`.
    #[arg(long)]
    dir: std::path::PathBuf,
    /// What tokens call their registry.
    #[arg(long)]
    service: String,
    /// A directory as `server::acceptor` wants it.
    #[arg(long)]
    tls: Option<std::path::PathBuf>,
}

pub(super) const ISSUER: &str = "testbed";
pub(super) const CERTIFICATE: &str = "token.pem";
pub(super) const KEY: &str = "token-key.pem";

struct Service {
    name: String,
    signer: Signer,
    open: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Rules,
    tally: TokenTally,
    /// Accounts by the refresh tokens that they were given.
    refresh: BTreeMap<String, String>,
    /// All tokens that were given to clients.
    issued: Vec<String>,
}

/// What a client asks for and with what.
#[derive(Default)]
struct Wish {
    login: Login,
    scopes: Vec<Grant>,
    wants_refresh: bool,
}

#[derive(Default)]
enum Login {
    #[default]
    Nobody,
    Password(String, String),
    Refresh(String),
}

impl TokenServer {
    /// Serves until it is killed.
    ///
    /// # Errors
    /// When a port cannot be bound or a file is missing.
    pub fn run(&self) -> Result<()> {
        let signer = Signer::new(
            &read(&self.dir.join(CERTIFICATE))?,
            &read(&self.dir.join(KEY))?,
        )?;
        let tls = self.tls.as_deref().map(server::acceptor).transpose()?;
        server::run(async {
            let (open, is_open) = watch::channel(true);
            let service = Arc::new(Service {
                name: self.service.clone(),
                signer,
                open,
                state: Mutex::default(),
            });
            let answering = Arc::clone(&service);
            let public = Port::anywhere(self.port, is_open).with_tls(tls);
            let public = serve(public, move |request| {
                Arc::clone(&answering).answer(request)
            });
            let public = public.await?;
            let control = Port {
                address: self.control,
                tls: None,
                is_open: server::always(),
            };
            serve(control, move |request| {
                Arc::clone(&service).control(request)
            })
            .await?
            .await?;
            drop(public);
            Ok(())
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() != "/token" {
            return nothing(StatusCode::NOT_FOUND);
        }
        let mode = self.state().rules.mode;
        match mode {
            Mode::Serves => {}
            Mode::Fails => return nothing(StatusCode::INTERNAL_SERVER_ERROR),
            Mode::Hangs => std::future::pending().await,
        }
        match Wish::read(request).await {
            Some(wish) => self.grant(&wish),
            None => nothing(StatusCode::BAD_REQUEST),
        }
    }

    fn grant(&self, wish: &Wish) -> Response<Body> {
        let mut state = self.state();
        let Some((name, account)) = state.login(&wish.login) else {
            let name = wish.login.name(&state);
            *state.tally.refused.entry(name).or_default() += 1;
            return refused();
        };
        let access = state.rules.granted(account.as_ref(), &wish.scopes);
        let life = state.rules.token_seconds;
        *state.tally.issued.entry(name.clone()).or_default() += 1;
        let Ok(token) = self.sign(&name, access, now(), now() + life) else {
            return nothing(StatusCode::INTERNAL_SERVER_ERROR);
        };
        state.issued.push(token.clone());
        let mut answer = json!({"token": token, "access_token": token, "expires_in": life});
        if wish.wants_refresh && account.is_some() {
            let refresh = format!("refresh-{:032x}", rand::random::<u128>());
            state.issued.push(refresh.clone());
            state.refresh.insert(refresh.clone(), name);
            answer["refresh_token"] = refresh.into();
        }
        json(StatusCode::OK, &answer)
    }

    fn sign(&self, account: &str, access: Vec<Grant>, from: u64, until: u64) -> Result<String> {
        self.signer.sign(&Claims {
            iss: ISSUER.to_owned(),
            sub: account.to_owned(),
            aud: self.name.clone(),
            exp: until,
            nbf: from,
            iat: from,
            jti: format!("{:032x}", rand::random::<u128>()),
            access,
        })
    }

    async fn control(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let controlled = self.obey(request).await;
        controlled.unwrap_or_else(|error| {
            let mut refused = Response::new(full(format!("{error:#}")));
            *refused.status_mut() = StatusCode::BAD_REQUEST;
            refused
        })
    }

    async fn obey(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        match (head.method.as_str(), head.uri.path()) {
            ("GET", "/tally") => {
                let body = serde_json::to_vec(&self.state().tally)?;
                return Ok(Response::new(full(body)));
            }
            ("GET", "/issued") => {
                let body = serde_json::to_vec(&self.state().issued)?;
                return Ok(Response::new(full(body)));
            }
            ("DELETE", "/tally") => self.state().tally = TokenTally::default(),
            ("PUT", "/rules") => self.set_rules(serde_json::from_slice(&body)?),
            ("PUT", "/open") => {
                self.open.send_replace(serde_json::from_slice(&body)?);
            }
            ("POST", "/mint") => return self.mint(&serde_json::from_slice(&body)?),
            _ => return Ok(nothing(StatusCode::NOT_FOUND)),
        }
        Ok(nothing(StatusCode::OK))
    }

    /// Refresh tokens end with their accounts.
    fn set_rules(&self, rules: Rules) {
        let mut state = self.state();
        state.rules = rules;
        let State { rules, refresh, .. } = &mut *state;
        refresh.retain(|_, name| rules.accounts.get(name).is_some_and(|it| !it.is_revoked));
    }

    fn mint(&self, order: &Order) -> Result<Response<Body>> {
        let now = now();
        let until = now.saturating_add_signed(order.life_seconds);
        // One that has expired was issued before it did.
        let from = now.min(until.saturating_sub(60));
        let token = self.sign(&order.account, order.access.clone(), from, until)?;
        Ok(Response::new(full(token)))
    }
}

impl State {
    /// Name and account of who is let in; nobody has no account.
    fn login(&self, login: &Login) -> Option<(String, Option<Account>)> {
        match login {
            Login::Nobody => Some((String::new(), None)),
            Login::Password(name, password) => {
                let account = self.rules.login(name, password)?;
                Some((name.clone(), Some(account.clone())))
            }
            Login::Refresh(token) => {
                let name = self.refresh.get(token)?;
                let account = self.rules.accounts.get(name)?;
                let account = self.rules.login(name, &account.password)?;
                Some((name.clone(), Some(account.clone())))
            }
        }
    }
}

impl Login {
    fn name(&self, state: &State) -> String {
        match self {
            Self::Nobody => String::new(),
            Self::Password(name, _) => name.clone(),
            Self::Refresh(token) => state.refresh.get(token).cloned().unwrap_or_default(),
        }
    }
}

impl Wish {
    async fn read(request: Request<Incoming>) -> Option<Self> {
        let (head, body) = request.into_parts();
        match head.method {
            Method::GET => {
                let authorization = text(&head.headers, header::AUTHORIZATION);
                Self::of_query(head.uri.query().unwrap_or_default(), &authorization)
            }
            Method::POST => Self::of_form(&body.collect().await.ok()?.to_bytes()),
            _ => None,
        }
    }

    fn of_query(query: &str, authorization: &str) -> Option<Self> {
        let mut wish = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "scope" => wish.add_scopes(&value),
                "offline_token" => wish.wants_refresh = value == "true",
                _ => {}
            }
        }
        if !authorization.is_empty() {
            let (name, password) = basic(authorization)?;
            wish.login = Login::Password(name, password);
        }
        Some(wish)
    }

    fn of_form(form: &[u8]) -> Option<Self> {
        let mut wish = Self::default();
        let fields: BTreeMap<_, _> = form_urlencoded::parse(form).into_owned().collect();
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        wish.add_scopes(&field("scope"));
        wish.wants_refresh = field("access_type") == "offline";
        wish.login = match field("grant_type").as_str() {
            "password" => Login::Password(field("username"), field("password")),
            "refresh_token" => Login::Refresh(field("refresh_token")),
            _ => return None,
        };
        Some(wish)
    }

    fn add_scopes(&mut self, scopes: &str) {
        let scopes = scopes.split(' ').filter_map(Grant::parse);
        self.scopes.extend(scopes);
    }
}

/// Name and password of an `Authorization` of that scheme.
fn basic(authorization: &str) -> Option<(String, String)> {
    let (scheme, rest) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

fn refused() -> Response<Body> {
    let error = json!({"code": "UNAUTHORIZED", "message": "incorrect username or password"});
    json(StatusCode::UNAUTHORIZED, &json!({"errors": [error]}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_asks_with_a_query_and_containerd_with_a_form() {
        let query = "account=a&scope=repository%3Aa%2Fb%3Apull&service=x&offline_token=true";
        let docker = Wish::of_query(query, "Basic YTpw").unwrap_or_default();
        let form = b"grant_type=password&username=a&password=p&scope=repository%3Aa%2Fb%3Apull";
        let containerd = Wish::of_form(form).unwrap_or_default();
        assert!(docker.wants_refresh && !containerd.wants_refresh);
        for wish in [docker, containerd] {
            assert_eq!(wish.scopes, [Grant::pull("a/b")]);
            assert!(
                matches!(wish.login, Login::Password(name, word) if name == "a" && word == "p")
            );
        }
        assert!(Wish::of_form(b"grant_type=magic").is_none());
        assert!(Wish::of_query("", "Basic !").is_none());
    }
}
