//! Bearer tokens as registries issue them: asked of the challenge's realm, kept in memory until
//! they expire.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hawker_swarm::Secret;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use url::Url;

use super::{
    Account, By, Led, OriginClient, OriginError, Redirects,
    account::AccountKey,
    challenge::Challenge,
    error::{shown, shown_text},
    exchange::{self, Answer, Ask},
    sensitive,
};

/// Longest answer of a token server that is read, in bytes.
const LONGEST_ANSWER: usize = 256 * 1024;
/// What an answer without `expires_in` means, by the token specification.
const USUAL_LIFE: Duration = Duration::from_secs(60);
/// A token is not believed for longer than this, whatever its server says.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);

/// What a token is for. Tokens are shared by all who would ask for the same one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) realm: Url,
    service: Option<String>,
    scope: Option<String>,
    account: Option<AccountKey>,
    /// At whose word it is asked for.
    on_behalf: Url,
    /// Who sent us to whom asks for it.
    led: Led,
}

impl TokenKey {
    /// Reads a Bearer challenge of the registry at `registry`.
    pub(super) fn of_challenge(
        challenge: &Challenge,
        registry: &Url,
        (on_behalf, led): (&Url, Led),
        account: Option<AccountKey>,
    ) -> Result<Self, OriginError> {
        let realm = challenge.parameter("realm").unwrap_or_default();
        let refused = |reason: &str| OriginError::Token {
            url: shown_text(realm),
            reason: reason.to_owned(),
        };
        let url = registry
            .join(realm)
            .map_err(|error| refused(&error.to_string()))?;
        if realm.is_empty() {
            return Err(refused("the challenge names no realm"));
        }
        exchange::check_url(&url).map_err(|reason| refused(&reason))?;
        if registry.scheme() == "https" && url.scheme() != "https" {
            return Err(refused(
                "an https registry may not send us to a plain token server",
            ));
        }
        let owned = |name| challenge.parameter(name).map(str::to_owned);
        Ok(Self {
            realm: url,
            service: owned("service"),
            scope: owned("scope"),
            account,
            on_behalf: root(on_behalf),
            led,
        })
    }

    fn url(&self, account: Option<&Account>) -> Url {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            for scope in self
                .scope
                .iter()
                .flat_map(|scope| scope.split_ascii_whitespace())
            {
                query.append_pair("scope", scope);
            }
            if let Some(username) = account.and_then(Account::username) {
                query.append_pair("account", username);
            }
        }
        url
    }

    /// What an identity token is exchanged with (the token specification's OAuth 2 form).
    fn form(&self, identity: &Secret) -> Bytes {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token");
        form.append_pair("client_id", "hawker");
        form.append_pair("service", self.service.as_deref().unwrap_or_default());
        form.append_pair("scope", self.scope.as_deref().unwrap_or_default());
        form.append_pair("refresh_token", identity.expose());
        form.finish().into()
    }
}

/// The server of a URL, so that all its repositories share a token that is the same.
fn root(url: &Url) -> Url {
    let mut root = url.clone();
    root.set_path("");
    root.set_query(None);
    root
}

/// A token and how long we use it.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) authorization: HeaderValue,
    expires: Instant,
}

impl Token {
    pub(super) fn is_fresh(&self) -> bool {
        Instant::now() < self.expires
    }
}

/// The answer of a token server. Only these fields matter.
#[derive(Deserialize)]
struct Issued {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

/// Asks for a token in the name of `account`, which the key stands for. Somebody waits, so this does
/// not last.
pub(super) async fn issue(
    client: &OriginClient,
    key: &TokenKey,
    account: Option<&Account>,
) -> Result<Token, OriginError> {
    let limit = client
        .0
        .config
        .token_timeout
        .min(client.0.config.header_timeout);
    let issued = tokio::time::timeout(limit, issue_slowly(client, key, account));
    let issued = issued.await.unwrap_or_else(|_| {
        Err(OriginError::Timeout {
            url: shown(&key.realm),
            awaited: "token",
            limit,
        })
    });
    issued.map_err(|error| match error.is_outage() {
        true => OriginError::TokenServer {
            url: shown(&key.realm),
            registry: client.0.registries.about(&key.on_behalf).registry,
            source: Box::new(error),
        },
        false => {
            if let (OriginError::Denied { status, .. }, Some(name)) =
                (&error, client.configured_as(&key.on_behalf, account))
            {
                tracing::warn!(
                    "{} refuses the login of registries.\"{name}\" (status {status}): correct \
                     username and password_file",
                    shown(&key.realm)
                );
            }
            error
        }
    })
}

async fn issue_slowly(
    client: &OriginClient,
    key: &TokenKey,
    account: Option<&Account>,
) -> Result<Token, OriginError> {
    let asked = Instant::now();
    let (url, answer) = match account {
        Some(Account::IdentityToken(identity)) => exchange(client, key, identity).await?,
        account => ask(client, key, account).await?,
    };
    if answer.status() != StatusCode::OK {
        return Err(answer.error());
    }
    let failed = |reason: &str| OriginError::Token {
        url: shown(&url),
        reason: reason.to_owned(),
    };
    let limit = client.0.config.read_timeout;
    let body = Limited::new(answer.response.into_body(), LONGEST_ANSWER).collect();
    let body = tokio::time::timeout(limit, body)
        .await
        .map_err(|_| OriginError::Timeout {
            url: shown(&url),
            awaited: "token",
            limit,
        })?
        .map_err(|_| failed("its answer is too long or broke off"))?;
    let (authorization, life) = read_answer(&body.to_bytes()).map_err(failed)?;
    Ok(Token {
        authorization,
        expires: asked + life,
    })
}

/// The token in an answer, and how long it is used; else what is wrong.
pub(super) fn read_answer(body: &[u8]) -> Result<(HeaderValue, Duration), &'static str> {
    let issued: Issued =
        serde_json::from_slice(body).map_err(|_| "its answer is not the JSON of a token")?;
    let mut texts = [issued.token, issued.access_token].into_iter().flatten();
    let text = texts.find(|text| !text.is_empty());
    let text = text.ok_or("its answer holds no token")?;
    let authorization = sensitive(&Secret::new(format!("Bearer {text}")));
    let authorization = authorization.ok_or("its token is no header value")?;
    Ok((authorization, life(issued.expires_in)))
}

/// The usual form: the account, if there is one, in the header.
async fn ask(
    client: &OriginClient,
    key: &TokenKey,
    account: Option<&Account>,
) -> Result<(Url, Answer), OriginError> {
    let url = key.url(account);
    let authorization = account.and_then(Account::basic);
    let ask = Ask {
        method: Method::GET,
        url: &url,
        on_behalf: &key.on_behalf,
        led: key.led,
        headers: &own_headers(client),
        own_headers: &HeaderMap::new(),
        body: Bytes::new(),
        authorization: authorization.as_ref(),
        redirects: Redirects::Follow,
        by: By::Any,
    };
    let answer = client.follow(ask).await?;
    Ok((url, answer))
}

/// The form for identity tokens. The token stands in the body, so no redirect is followed.
async fn exchange(
    client: &OriginClient,
    key: &TokenKey,
    identity: &Secret,
) -> Result<(Url, Answer), OriginError> {
    let mut headers = own_headers(client);
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, form);
    let ask = Ask {
        method: Method::POST,
        url: &key.realm,
        on_behalf: &key.on_behalf,
        led: key.led,
        headers: &headers,
        own_headers: &HeaderMap::new(),
        body: key.form(identity),
        authorization: None,
        redirects: Redirects::Return,
        by: By::Any,
    };
    let answer = client.follow(ask).await?;
    Ok((key.realm.clone(), answer))
}

/// How long a token is used: a tenth less than it lives, at most 10 s less, so that it does not
/// expire on its way.
fn life(stated: Option<f64>) -> Duration {
    let stated = stated
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map_or(USUAL_LIFE, |life| life.min(LONGEST_LIFE));
    stated - (stated / 10).min(Duration::from_secs(10))
}

/// The headers of requests that no client made.
pub(super) fn own_headers(client: &OriginClient) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    if let Ok(agent) = HeaderValue::from_str(&client.0.config.user_agent) {
        headers.insert(USER_AGENT, agent);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::challenge;

    fn key(registry: &str, challenge: &str) -> Result<TokenKey, OriginError> {
        let registry = Url::parse(registry).unwrap();
        let challenge = &challenge::parse(challenge)[0];
        TokenKey::of_challenge(challenge, &registry, (&registry, Led::ByNobody), None)
    }

    #[test]
    fn plain_token_servers_are_for_plain_registries() {
        let challenge = r#"Bearer realm="http://t.io/token""#;
        assert!(key("http://r.io", challenge).is_ok());
        assert!(matches!(
            key("https://r.io", challenge),
            Err(OriginError::Token { .. })
        ));
        assert!(key("https://r.io", r#"Bearer realm="file:///etc/passwd""#).is_err());
        assert!(key("https://r.io", "Bearer service=x").is_err());
    }

    #[test]
    fn every_scope_is_asked_for() {
        let challenge = r#"Bearer realm="https://t.io/token?a=b",service="s p",scope="x:y:pull z""#;
        let url = key("https://r.io", challenge).unwrap().url(None);
        assert_eq!(
            url.as_str(),
            "https://t.io/token?a=b&service=s+p&scope=x%3Ay%3Apull&scope=z"
        );
    }

    #[test]
    fn absurd_lives_of_tokens_are_bounded() {
        assert_eq!(life(None), Duration::from_secs(54));
        assert_eq!(life(Some(300.0)), Duration::from_secs(290));
        assert_eq!(life(Some(f64::MAX)), USUAL_LIFE - Duration::from_secs(6));
        assert_eq!(life(Some(1e12)), LONGEST_LIFE - Duration::from_secs(10));
        assert_eq!(life(Some(-1.0)), Duration::from_secs(54));
        assert_eq!(life(Some(f64::NAN)), Duration::from_secs(54));
    }
}
