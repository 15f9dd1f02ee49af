//! Whose credential a request shows.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::token::{now, unverified};

/// What an `Authorization` says of itself, unverified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credential {
    /// The account; empty where none is named.
    pub(super) account: String,
    has_expired: bool,
}

impl Credential {
    pub(super) fn parse(authorization: &str) -> Self {
        let (scheme, rest) = authorization.split_once(' ').unwrap_or_default();
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => Self {
                account: user(rest).unwrap_or_default(),
                has_expired: false,
            },
            "bearer" => {
                let claims = unverified(rest);
                Self {
                    // docker-registry itself lets a minute pass.
                    has_expired: claims.as_ref().is_some_and(|it| it.exp <= now()),
                    account: claims.map(|it| it.sub).unwrap_or_default(),
                }
            }
            _ => Self {
                account: String::new(),
                has_expired: false,
            },
        }
    }

    /// Whether it is to be refused before the registry sees it.
    pub(super) fn is_void(&self, revoked: &BTreeSet<String>) -> bool {
        self.has_expired || revoked.contains(&self.account)
    }
}

fn user(encoded: &str) -> Option<String> {
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, _) = text.split_once(':')?;
    Some(user.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_told_by_basic_and_by_tokens() {
        assert_eq!(Credential::parse("Basic YTpw").account, "a");
        assert_eq!(Credential::parse("Bearer opaque").account, "");
        assert_eq!(Credential::parse("").account, "");
        let revoked = BTreeSet::from(["a".to_owned()]);
        assert!(Credential::parse("Basic YTpw").is_void(&revoked));
        assert!(!Credential::parse("Basic YjpwCg==").is_void(&revoked));
    }
}
