//! The tokens on disk: one JSON file, written whole at every change and renamed into place, so that
//! a crash leaves the state before or after. No secret is in it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hawker_enrol::{TokenHash, TokenId, TokenSecret};
use hawker_identity::{WriteError, write_secret};
use hawker_model::{HostId, Role};
use serde::{Deserialize, Serialize};

use super::{TokenOrder, refusal::Refusal};

/// More are not kept.
const MOST_TOKENS: usize = 10_000;

/// What is known of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) id: TokenId,
    /// The SHA-256 of its secret.
    hash: TokenHash,
    pub(crate) role: Role,
    /// The only name it is good for, where there is one.
    pub(crate) host: Option<HostId>,
    /// How often it may be used still.
    pub(crate) uses: u32,
    /// Seconds since 1970.
    pub(crate) expires: u64,
}

/// All tokens.
#[derive(Debug)]
pub(super) struct TokenStore {
    path: PathBuf,
    tokens: Vec<Token>,
}

/// Why tokens cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum TokenStoreError {
    #[error("cannot read the tokens in {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} does not hold tokens ({source}): remove it, and all tokens are void")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the tokens cannot be put in words: {0}")]
    Encode(serde_json::Error),
    #[error("there are {MOST_TOKENS} tokens: revoke some")]
    Full,
    #[error("no random numbers are to be had")]
    Random,
}

impl Token {
    pub(super) fn new(
        id: TokenId,
        hash: TokenHash,
        order: &TokenOrder,
        expires: SystemTime,
    ) -> Self {
        Self {
            id,
            hash,
            role: order.role,
            host: order.host.clone(),
            uses: order.uses,
            expires: seconds(expires),
        }
    }

    pub(super) fn is_usable(&self, now: SystemTime) -> bool {
        self.uses > 0 && self.expires > seconds(now)
    }

    /// Whether it may be used by `host` now.
    pub(super) fn check(&self, host: &HostId, now: SystemTime) -> Result<(), Refusal> {
        if self.expires <= seconds(now) {
            return Err(Refusal::Expired);
        }
        if self.uses == 0 {
            return Err(Refusal::UsedUp);
        }
        match self.host.as_ref().filter(|bound| *bound != host) {
            Some(bound) => Err(Refusal::OtherHost(bound.clone())),
            None => Ok(()),
        }
    }
}

impl TokenStore {
    pub(super) fn open(path: &Path) -> Result<Self, TokenStoreError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"[]".to_vec(),
            Err(source) => {
                let path = path.to_owned();
                return Err(TokenStoreError::Read { path, source });
            }
        };
        let tokens = serde_json::from_slice(&text).map_err(|source| TokenStoreError::Parse {
            path: path.to_owned(),
            source,
        })?;
        let path = path.to_owned();
        Ok(Self { path, tokens })
    }

    /// Adds a token; those that ended long ago are forgotten.
    pub(super) fn add(&mut self, token: Token, now: SystemTime) -> Result<(), TokenStoreError> {
        const REMEMBERED: Duration = Duration::from_secs(7 * 86_400);
        let mut tokens = self.tokens.clone();
        let limit = seconds(now).saturating_sub(REMEMBERED.as_secs());
        tokens.retain(|token| token.expires > limit);
        if tokens.len() >= MOST_TOKENS {
            return Err(TokenStoreError::Full);
        }
        tokens.push(token);
        self.replace(tokens)
    }

    /// The token of this id, if that is its secret. Takes as long where there is none.
    pub(super) fn find(&self, id: TokenId, secret: &TokenSecret) -> Option<&Token> {
        let found = self.tokens.iter().find(|token| token.id == id);
        let hash = found.map_or_else(TokenHash::of_nothing, |token| token.hash);
        match hash.matches(secret) {
            true => found,
            false => None,
        }
    }

    /// Counts a use.
    pub(super) fn take(&mut self, id: TokenId) -> Result<(), TokenStoreError> {
        let mut tokens = self.tokens.clone();
        for token in tokens.iter_mut().filter(|token| token.id == id) {
            token.uses = token.uses.saturating_sub(1);
        }
        self.replace(tokens)
    }

    pub(super) fn remove(&mut self, id: TokenId) -> Result<bool, TokenStoreError> {
        let mut tokens = self.tokens.clone();
        tokens.retain(|token| token.id != id);
        let removed = tokens.len() < self.tokens.len();
        self.replace(tokens)?;
        Ok(removed)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter()
    }

    /// On disk first: what is not there does not count.
    fn replace(&mut self, tokens: Vec<Token>) -> Result<(), TokenStoreError> {
        let text = serde_json::to_string_pretty(&tokens).map_err(TokenStoreError::Encode)?;
        write_secret(&self.path, &text)?;
        self.tokens = tokens;
        Ok(())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
