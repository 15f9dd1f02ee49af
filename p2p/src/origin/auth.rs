//! How challenges are answered: with the account that a request is made for, else with what is
//! configured for the registry, else in nobody's name; and the tokens that those buy.
//!
//! Invariant: what an account bought is kept under that account, and looked up with it alone. A
//! client's bearer token is never kept here, and no password is a key of a table.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderValue;
use url::Url;

use super::{
    Account, Led, OriginClient, OriginError,
    account::AccountKey,
    challenge::Challenge,
    token::{self, Token, TokenKey},
};

/// Entries of each table at most. Beyond it the table starts anew, which costs a request each.
const MOST: usize = 4096;
/// How long a token server that could not be asked is not asked again for the same token: whoever
/// comes meanwhile is told at once.
const QUIET: Duration = Duration::from_secs(1);
/// How long a registry that wants passwords is shown them at once.
const PASSWORDS_KEPT: Duration = Duration::from_secs(3600);

/// Answers challenges and remembers how.
pub(super) struct Authorizer {
    /// Of the keys of accounts.
    salt: [u8; 32],
    /// One slot per token; its lock is held while the token is asked for, so that the many ranges of
    /// one blob ask once.
    tokens: Mutex<HashMap<TokenKey, Arc<Slot>>>,
    /// What a registry last wanted for a repository, so that the next request brings it at once.
    remembered: Mutex<HashMap<Place, Means>>,
    /// Held by whoever finds out what a registry wants.
    turns: Mutex<HashMap<Place, Arc<tokio::sync::Mutex<()>>>>,
    /// Until when an account's password is shown at once in a repository,
    passwords: Mutex<HashMap<Place, Instant>>,
    /// and everybody's at a server that has no tokens.
    without_tokens: Mutex<HashMap<url::Origin, Instant>>,
}

type Slot = tokio::sync::Mutex<Attempts>;

#[derive(Default)]
struct Attempts {
    token: Option<Token>,
    /// The last one that failed. Whoever waited for it shares its error: a token server that hangs
    /// must not be waited for once per reader.
    failure: Option<(Instant, OriginError)>,
}

/// A server, the repository (or file) there, and who asks if it is not everybody.
type Place = (url::Origin, String, Option<AccountKey>);

/// What a server wants before it answers.
#[derive(Clone, Copy)]
pub(super) struct Demand<'a> {
    pub(super) url: &'a Url,
    /// What was wanted at first, which may have sent us to `url`.
    pub(super) on_behalf: &'a Url,
    /// Who sent us.
    pub(super) led: Led,
    pub(super) who: Who<'a>,
    pub(super) challenges: &'a [Challenge],
}

/// In whose name a challenge is answered.
#[derive(Clone, Copy)]
pub(super) enum Who<'a> {
    /// This one's.
    Account(&'a Account),
    /// That of whoever is configured for the server, else nobody's.
    Configured,
    /// Nobody's: a server that we were merely sent to gets none of our logins. Else any registry
    /// could show us another's content as its own.
    Nobody,
}

/// How to satisfy a challenge.
#[derive(Clone)]
enum Means {
    /// There was none.
    Nothing,
    Basic,
    Bearer(Box<TokenKey>),
}

/// What an account is known to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing, or that is not known.
    Nothing,
    Password,
    Token,
}

impl Default for Authorizer {
    fn default() -> Self {
        Self {
            salt: rand::random(),
            tokens: Mutex::default(),
            remembered: Mutex::default(),
            turns: Mutex::default(),
            passwords: Mutex::default(),
            without_tokens: Mutex::default(),
        }
    }
}

impl Authorizer {
    /// What `url` is known to want of `account`. `None` if nothing is known, or the token cannot be
    /// had now: the request without it will tell why.
    pub(super) async fn remembered(
        &self,
        client: &OriginClient,
        url: &Url,
        account: Option<&Account>,
    ) -> Option<HeaderValue> {
        let place = self.place(url, account);
        let means = lock(&self.remembered).get(&place).cloned()?;
        let who = account.or_else(|| client.0.accounts.get(&url.origin()));
        self.authorization(client, &means, who, None)
            .await
            .ok()
            .flatten()
    }

    /// The credential that answers one of the challenges, other than the one that was `refused`.
    /// `None` if we have none.
    pub(super) async fn answer(
        &self,
        client: &OriginClient,
        demand: Demand<'_>,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, OriginError> {
        let Demand {
            url,
            on_behalf,
            led,
            who,
            challenges,
        } = demand;
        let (asker, who) = match who {
            Who::Account(account) => (Some(account), Some(account)),
            Who::Configured => (None, client.0.accounts.get(&url.origin())),
            Who::Nobody => (None, None),
        };
        let mut failure = None;
        for challenge in in_order_of_worth(challenges) {
            let means = match (challenge.scheme.as_str(), who) {
                ("bearer", who) => {
                    let who = who.map(|who| who.key(&self.salt));
                    TokenKey::of_challenge(challenge, url, (on_behalf, led), who)
                        .map(|key| Means::Bearer(Box::new(key)))
                }
                ("basic", Some(Account::Login(_))) => Ok(Means::Basic),
                _ => continue,
            };
            let found = match means {
                Ok(means) => self
                    .authorization(client, &means, who, refused)
                    .await
                    .map(|found| (means, found)),
                Err(error) => Err(error),
            };
            match found {
                Ok((means, Some(authorization))) => {
                    if !matches!(demand.who, Who::Nobody) {
                        self.note_wanted(url, challenges, &means);
                        bounded(&mut lock(&self.remembered)).insert(self.place(url, asker), means);
                    }
                    return Ok(Some(authorization));
                }
                Ok((_, None)) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Whether the registry at `url` is shown this account's password at once.
    pub(super) fn wants_password(&self, url: &Url, account: &Account) -> bool {
        let lasts = |until: Option<&Instant>| until.is_some_and(|until| Instant::now() < *until);
        lasts(lock(&self.without_tokens).get(&url.origin()))
            || lasts(lock(&self.passwords).get(&self.place(url, Some(account))))
    }

    /// Remembers for a while that the registry at `url` gives this account what is in this
    /// repository for the password alone. Others may get a token there.
    pub(super) fn note_password(&self, url: &Url, account: &Account, lasts: Duration) {
        let until = Instant::now() + lasts.min(PASSWORDS_KEPT);
        bounded(&mut lock(&self.passwords)).insert(self.place(url, Some(account)), until);
    }

    /// A registry that wants a password and offers no tokens wants it everywhere.
    fn note_wanted(&self, url: &Url, challenges: &[Challenge], means: &Means) {
        let has_tokens = challenges.iter().any(|c| c.scheme == "bearer");
        let mut without_tokens = lock(&self.without_tokens);
        match means {
            Means::Basic if !has_tokens => {
                let until = Instant::now() + PASSWORDS_KEPT;
                bounded(&mut without_tokens).insert(url.origin(), until);
            }
            _ => drop(without_tokens.remove(&url.origin())),
        }
    }

    /// What `url` is known to want of `account`.
    pub(super) fn known(&self, url: &Url, account: &Account) -> Known {
        match lock(&self.remembered).get(&self.place(url, Some(account))) {
            None | Some(Means::Nothing) => Known::Nothing,
            Some(Means::Basic) => Known::Password,
            Some(Means::Bearer(_)) => Known::Token,
        }
    }

    /// Waits while another request finds out what `url` wants of `account`. The first to come finds
    /// it out, as long as it keeps what it is handed.
    pub(super) async fn turn(&self, url: &Url, account: &Account) -> Option<impl Drop + use<>> {
        let place = self.place(url, Some(account));
        if lock(&self.remembered).contains_key(&place) {
            return None;
        }
        let turn = Arc::clone(bounded(&mut lock(&self.turns)).entry(place).or_default());
        match Arc::clone(&turn).try_lock_owned() {
            Ok(first) => Some(first),
            Err(_) => {
                drop(turn.lock().await);
                None
            }
        }
    }

    /// Remembers that `url` gave `account` what it asked for, and wanted nothing.
    pub(super) fn note_nothing(&self, url: &Url, account: &Account) {
        let place = self.place(url, Some(account));
        bounded(&mut lock(&self.remembered)).insert(place, Means::Nothing);
    }

    fn place(&self, url: &Url, account: Option<&Account>) -> Place {
        let account = account.map(|account| account.key(&self.salt));
        (url.origin(), repository_of(url).to_owned(), account)
    }

    async fn authorization(
        &self,
        client: &OriginClient,
        means: &Means,
        who: Option<&Account>,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, OriginError> {
        let other_than_refused = |value: &HeaderValue| Some(value) != refused;
        let key = match means {
            Means::Nothing => return Ok(None),
            Means::Basic => {
                let basic = who.and_then(Account::basic);
                return Ok(basic.filter(other_than_refused));
            }
            Means::Bearer(key) => key,
        };
        let slot = Arc::clone(
            bounded(&mut lock(&self.tokens))
                .entry(TokenKey::clone(key))
                .or_default(),
        );
        let since = Instant::now();
        let mut slot = slot.lock().await;
        if let Some(token) = slot.token.as_ref().filter(|token| token.is_fresh())
            && other_than_refused(&token.authorization)
        {
            return Ok(Some(token.authorization.clone()));
        }
        let counts = |(at, error): &&(Instant, OriginError)| {
            *at > since || (is_silence(error) && at.elapsed() < QUIET)
        };
        if let Some((at, error)) = slot.failure.as_ref().filter(counts) {
            tracing::debug!(%error, waited = ?at.duration_since(since), "no token for anyone");
            return Err(error.clone());
        }
        match token::issue(client, key, who).await {
            Ok(token) => {
                let authorization = token.authorization.clone();
                slot.token = Some(token);
                Ok(Some(authorization).filter(other_than_refused))
            }
            Err(error) => {
                slot.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

/// What one credential opens: the path of a repository, or else one path.
fn repository_of(url: &Url) -> &str {
    let path = url.path();
    ["/blobs/", "/manifests/"]
        .iter()
        .find_map(|part| path.rsplit_once(part))
        .map_or(path, |(repository, _)| repository)
}

/// Bearer before Basic: a registry that offers both has tokens for those without a login. One of
/// each, so that an answer costs a server's victims no more than one request.
fn in_order_of_worth(challenges: &[Challenge]) -> impl Iterator<Item = &Challenge> {
    let of = |scheme: &'static str| challenges.iter().find(|c| c.scheme == scheme);
    of("bearer").into_iter().chain(of("basic"))
}

/// Whether a token server said nothing at all.
fn is_silence(error: &OriginError) -> bool {
    match error {
        OriginError::TokenServer { source, .. } => !matches!(**source, OriginError::Server { .. }),
        _ => false,
    }
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
