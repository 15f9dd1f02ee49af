//! Join tokens: what lets a new host ask for its first certificate.
//!
//! `hawker-join.<id>.<secret>.<authority>`: 12, 64 and 64 lower-case hexadecimal digits. The id names
//! the token in lists and logs. The secret is known to whoever was given the token: the issuer
//! keeps only its SHA-256. The authority's hash tells the host whom it may show the secret.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
    error::Unspecified,
    rand,
};
use hawker_identity::AuthorityPin;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize as _;

const PREFIX: &str = "hawker-join";

/// A token as it is handed to a new host. Cannot be printed by accident: see [`Self::reveal`].
#[derive(Clone, Debug)]
pub struct JoinToken {
    pub id: TokenId,
    pub secret: TokenSecret,
    pub authority: AuthorityPin,
}

/// Names a token; no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 6]);

/// A token's secret. Wiped when it is dropped, and never shown.
#[derive(Clone)]
pub struct TokenSecret([u8; 32]);

/// What an issuer remembers of a secret: its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

/// Why a text is no token. Does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(
        "that is no join token: it has the form hawker-join.<id>.<secret>.<authority>, as `hawker token create` prints it"
    )]
    Form,
    #[error("the token's {0} is not of the right length in hexadecimal digits: was it cut short?")]
    Part(&'static str),
}

impl JoinToken {
    /// The token as text: for the one time that it is shown.
    pub fn reveal(&self) -> String {
        let (id, authority) = (self.id, self.authority);
        format!("{PREFIX}.{id}.{}.{authority}", self.secret.reveal())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [PREFIX, id, secret, authority] = parts[..] else {
            return Err(TokenError::Form);
        };
        let authority = authority.parse();
        Ok(Self {
            id: id.parse()?,
            secret: secret.parse()?,
            authority: authority.map_err(|_| TokenError::Part("authority"))?,
        })
    }
}

impl TokenId {
    /// A new one, by chance.
    pub fn random() -> Result<Self, Unspecified> {
        let mut bytes = [0; 6];
        rand::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl TokenSecret {
    /// A new one, by chance.
    pub fn random() -> Result<Self, Unspecified> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// What the issuer keeps.
    pub fn hash(&self) -> TokenHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        TokenHash(hash)
    }

    /// Its digits: for the token's text and the request to the issuer.
    pub fn reveal(&self) -> String {
        hex(&self.0)
    }
}

impl TokenHash {
    /// Whether `secret` is the one. Takes the same time whatever it is.
    pub fn matches(&self, secret: &TokenSecret) -> bool {
        verify_slices_are_equal(&self.0, &secret.hash().0).is_ok()
    }

    /// One that no secret has, to compare with where there is no token.
    pub fn of_nothing() -> Self {
        Self([0; 32])
    }
}

impl Drop for TokenSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        unhex(text).map(Self).ok_or(TokenError::Part("id"))
    }
}

impl FromStr for TokenSecret {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        unhex(text).map(Self).ok_or(TokenError::Part("secret"))
    }
}

impl FromStr for TokenHash {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        unhex(text).map(Self).ok_or(TokenError::Part("hash"))
    }
}

/// As text of hexadecimal digits.
macro_rules! serde_hex {
    ($type:ty, $digits:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, target: S) -> Result<S::Ok, S::Error> {
                let digits: fn(&Self) -> String = $digits;
                target.serialize_str(&digits(self))
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
                let text = String::deserialize(source)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
serde_hex!(TokenId, |id| id.to_string());
serde_hex!(TokenSecret, |secret| secret.reveal());
serde_hex!(TokenHash, |hash| hex(&hash.0));

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..2 * N).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            id: TokenId::random().unwrap(),
            secret: TokenSecret::random().unwrap(),
            authority: "ab".repeat(32).parse().unwrap(),
        }
    }

    #[test]
    fn tokens_survive_text_and_are_not_printed() {
        let token = token();
        let read: JoinToken = format!(" {}\n", token.reveal()).parse().unwrap();
        assert_eq!((read.id, read.authority), (token.id, token.authority));
        assert!(token.secret.hash().matches(&read.secret));
        assert!(!format!("{token:?}").contains(&token.secret.reveal()));
        assert!(!token.secret.hash().matches(&TokenSecret::random().unwrap()));
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        let good = token().reveal();
        for wrong in [
            "",
            "hawker-join",
            &good[1..],
            &good[..good.len() - 1],
            &good.to_uppercase(),
            &good.replacen('.', "", 1),
            &format!("{good}."),
            "hawker-join.é.é.é",
        ] {
            let error = wrong.parse::<JoinToken>().unwrap_err().to_string();
            let secret = wrong.split('.').nth(2).filter(|part| !part.is_empty());
            assert!(
                !secret.is_some_and(|secret| error.contains(secret)),
                "{error}"
            );
        }
    }
}
