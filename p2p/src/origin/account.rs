//! Who asks, when it is somebody whose password or identity token we hold.

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hawker_model::Digest;
use hawker_swarm::Secret;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::{Login, sensitive};

/// Somebody whom a registry knows. What it buys at the registry's token server is kept in memory
/// under this very account, and used for nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// A name and a password.
    Login(Login),
    /// What `docker login` keeps instead of a password where the registry issues it: an OAuth 2
    /// refresh token. It goes to the registry's token server alone.
    IdentityToken(Secret),
}

/// An account by its hash: tables hold no password.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AccountKey(Digest);

impl Account {
    /// The account behind `Authorization: Basic …`; `None` if it is something else. The user
    /// `<token>` shows an identity token, as Docker and its credential helpers write it.
    pub(super) fn of_basic(authorization: &Secret) -> Option<Self> {
        let (scheme, encoded) = authorization.expose().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let lenient =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let decoded = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient)
            .decode(encoded.trim())
            .ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        match decoded.split_once(':')? {
            ("<token>", token) => Some(Self::IdentityToken(Secret::new(token))),
            (username, password) => Some(Self::Login(Login {
                username: username.to_owned(),
                password: Secret::new(password),
            })),
        }
    }

    /// What stands for the account in tables. `salt`: of the table, so that nothing outside of this
    /// process can be compared with it.
    pub(super) fn key(&self, salt: &[u8; 32]) -> AccountKey {
        let (kind, name, secret) = match self {
            Self::Login(login) => (0, login.username.as_str(), &login.password),
            Self::IdentityToken(token) => (1, "", token),
        };
        let mut text = Zeroizing::new(Vec::from(salt));
        text.push(kind);
        text.extend_from_slice(&(name.len() as u64).to_be_bytes());
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(secret.expose().as_bytes());
        AccountKey(Digest::of(&text))
    }

    pub(super) fn username(&self) -> Option<&str> {
        match self {
            Self::Login(login) => Some(&login.username),
            Self::IdentityToken(_) => None,
        }
    }

    /// The account as an `Authorization`, where it can be one.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        match self {
            Self::Login(login) => basic(login),
            Self::IdentityToken(_) => None,
        }
    }
}

/// A login as an `Authorization`.
pub(super) fn basic(login: &Login) -> Option<HeaderValue> {
    let pair = format!("{}:{}", login.username, login.password.expose());
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    sensitive(&Secret::new(format!("Basic {encoded}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn login(username: &str, password: &str) -> Account {
        Account::Login(Login {
            username: username.to_owned(),
            password: Secret::new(password),
        })
    }

    #[test]
    fn an_account_is_read_from_what_it_is_written_as() {
        for (username, password) in [("ann", "pw"), ("a", ""), ("", "x:y"), ("ü", "p w")] {
            let account = login(username, password);
            let header = account.basic().unwrap();
            let header = Secret::new(header.to_str().unwrap());
            assert_eq!(Account::of_basic(&header), Some(account));
        }
    }

    #[test]
    fn padding_and_case_do_not_matter_and_other_schemes_are_none() {
        let of = |text: &str| Account::of_basic(&Secret::new(text));
        assert_eq!(of("basic YW5uOnB3Mg"), Some(login("ann", "pw2")));
        assert_eq!(of("Basic YW5uOnB3Mg=="), Some(login("ann", "pw2")));
        let token = Account::IdentityToken(Secret::new("t"));
        assert_eq!(of("Basic PHRva2VuPjp0"), Some(token));
        for other in [
            "Bearer YW5uOnB3",
            "Basic",
            "Basic ",
            "Basic !",
            "Basic YW5u",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn accounts_are_told_apart_by_their_keys() {
        let (salt, other) = ([1; 32], [2; 32]);
        let all = [
            login("a", "bc"),
            login("ab", "c"),
            login("a", "bd"),
            login("", "bc"),
            Account::IdentityToken(Secret::new("bc")),
        ];
        for (at, one) in all.iter().enumerate() {
            assert_eq!(one.key(&salt), one.clone().key(&salt));
            assert_ne!(one.key(&salt), one.key(&other));
            for another in &all[at + 1..] {
                assert_ne!(one.key(&salt), another.key(&salt));
            }
        }
    }

    proptest! {
        #[test]
        fn any_authorization_is_survived(text in "(Basic )?\\PC{0,60}") {
            let _ = Account::of_basic(&Secret::new(text));
        }
    }
}
