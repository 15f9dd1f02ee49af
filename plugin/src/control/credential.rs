//! What a user of `hawker` shows for a file.

use base64::Engine as _;
use hawker_p2p::Account;
use hawker_swarm::Secret;
use http::{HeaderMap, header};

/// The user name that stands for an identity token, as Docker's credential helpers have it.
const IDENTITY_USER: &str = "<token>";

/// What a user of `hawker` shows for a file.
#[derive(Debug)]
pub(super) enum Credential {
    /// As it is.
    Header(Secret),
    /// What is exchanged for something that can be shown.
    Account(Account),
}

impl Credential {
    /// Reads the request's `Authorization`. What is no text is nothing.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let secret = Secret::new(text);
        Some(match identity_token(&secret) {
            Some(token) => Self::Account(Account::IdentityToken(token)),
            None => Self::Header(secret),
        })
    }
}

fn identity_token(authorization: &Secret) -> Option<Secret> {
    let (scheme, encoded) = authorization.expose().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim());
    let decoded = Secret::new(String::from_utf8(decoded.ok()?).ok()?);
    let (user, token) = decoded.expose().split_once(':')?;
    (user == IDENTITY_USER).then(|| Secret::new(token))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(text: &str) -> Option<Credential> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(text).unwrap());
        Credential::of(&headers)
    }

    #[test]
    fn identity_token_is_exchanged_and_all_else_is_shown() {
        let basic = |pair: &str| {
            let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
            format!("Basic {encoded}")
        };
        assert!(matches!(
            of(&basic("<token>:id")),
            Some(Credential::Account(Account::IdentityToken(token))) if token.expose() == "id"
        ));
        for text in [basic("ann:pw"), "Bearer t".to_owned(), "Basic !".to_owned()] {
            assert!(matches!(
                of(&text),
                Some(Credential::Header(secret)) if secret.expose() == text
            ));
        }
        assert!(Credential::of(&HeaderMap::new()).is_none());
    }
}
