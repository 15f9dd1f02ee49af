//! Our own credentials: what is configured for a registry, and the tokens that it, or nobody's name,
//! buys. Clients' credentials are never kept here.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use http::HeaderValue;
use url::Url;

use super::{
    Login, OriginClient, OriginError,
    challenge::Challenge,
    token::{self, Token, TokenKey},
};

/// Entries of each table at most. Beyond it the table starts anew, which costs a request each.
const MOST: usize = 4096;

/// Answers challenges and remembers how.
#[derive(Default)]
pub(super) struct Authorizer {
    /// One slot per token; its lock is held while the token is asked for, so that the many ranges of
    /// one blob ask once.
    tokens: Mutex<HashMap<TokenKey, Arc<Slot>>>,
    /// What a registry last wanted for a repository, so that the next request brings it at once.
    remembered: Mutex<HashMap<Place, Means>>,
}

type Slot = tokio::sync::Mutex<Option<Token>>;
/// A server and the repository (or file) there.
type Place = (url::Origin, String);

/// How to satisfy a challenge.
#[derive(Clone)]
enum Means {
    Basic(Login),
    Bearer(TokenKey),
}

impl Authorizer {
    /// What `url` is known to want. `None` if nothing is known, or the token cannot be had now: the
    /// request without it will tell why.
    pub(super) async fn remembered(&self, client: &OriginClient, url: &Url) -> Option<HeaderValue> {
        let means = lock(&self.remembered).get(&place(url)).cloned()?;
        self.authorization(client, &means, None)
            .await
            .ok()
            .flatten()
    }

    /// The credential that answers one of `challenges`, other than the one that was `refused`.
    /// `None` if we have none.
    pub(super) async fn answer(
        &self,
        client: &OriginClient,
        url: &Url,
        challenges: &[Challenge],
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, OriginError> {
        let login = client.0.logins.get(&url.origin());
        let mut failure = None;
        for challenge in in_order_of_worth(challenges) {
            let means = match (challenge.scheme.as_str(), login) {
                ("bearer", login) => {
                    TokenKey::of_challenge(challenge, url, login).map(Means::Bearer)
                }
                ("basic", Some(login)) => Ok(Means::Basic(login.clone())),
                _ => continue,
            };
            let found = match means {
                Ok(means) => self
                    .authorization(client, &means, refused)
                    .await
                    .map(|found| (means, found)),
                Err(error) => Err(error),
            };
            match found {
                Ok((means, Some(authorization))) => {
                    bounded(&mut lock(&self.remembered)).insert(place(url), means);
                    return Ok(Some(authorization));
                }
                Ok((_, None)) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    async fn authorization(
        &self,
        client: &OriginClient,
        means: &Means,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, OriginError> {
        let other_than_refused = |value: &HeaderValue| Some(value) != refused;
        let key = match means {
            Means::Basic(login) => return Ok(token::basic(login).filter(other_than_refused)),
            Means::Bearer(key) => key,
        };
        let slot = Arc::clone(
            bounded(&mut lock(&self.tokens))
                .entry(key.clone())
                .or_default(),
        );
        let mut slot = slot.lock().await;
        if let Some(token) = slot.as_ref().filter(|token| token.is_fresh())
            && other_than_refused(&token.authorization)
        {
            return Ok(Some(token.authorization.clone()));
        }
        let token = token::issue(client, key).await?;
        let authorization = token.authorization.clone();
        *slot = Some(token);
        Ok(Some(authorization).filter(other_than_refused))
    }
}

/// Bearer before Basic: a registry that offers both has tokens for those without a login.
fn in_order_of_worth(challenges: &[Challenge]) -> impl Iterator<Item = &Challenge> {
    let of = |scheme: &'static str| challenges.iter().filter(move |c| c.scheme == scheme);
    of("bearer").chain(of("basic"))
}

/// What one credential opens: a repository, or else one path.
fn place(url: &Url) -> Place {
    let path = url.path();
    let repository = ["/blobs/", "/manifests/"]
        .iter()
        .find_map(|part| path.rsplit_once(part))
        .map_or(path, |(repository, _)| repository);
    (url.origin(), repository.to_owned())
}

fn bounded<K: Eq + Hash, V>(table: &mut HashMap<K, V>) -> &mut HashMap<K, V> {
    if table.len() >= MOST {
        table.clear();
    }
    table
}

/// These tables are whole between any two statements, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
