//! How long a bearer token says that it is good for.
//!
//! The token is not verified: whoever forges it can only shorten what is remembered of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hawker_swarm::Secret;
use serde::Deserialize;

/// Longest token that is looked into, in bytes: no header of a request is longer.
const MAX_LEN: usize = 64 << 10;

#[derive(Deserialize)]
struct Payload {
    exp: Option<f64>,
}

/// What is left of the life of `Authorization: Bearer <JWT>` at `now`; `None` if it does not say.
pub(super) fn left(credential: &Secret, now: SystemTime) -> Option<Duration> {
    let text = credential.expose();
    let (scheme, token) = text.split_once(' ')?;
    if text.len() > MAX_LEN || !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parts = token.trim().split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let payload = GeneralPurpose::new(&base64::alphabet::URL_SAFE, lenient)
        .decode(payload)
        .ok()?;
    let payload: Payload = serde_json::from_slice(&payload).ok()?;
    let now = now.duration_since(UNIX_EPOCH).ok()?;
    let left = payload.exp? - now.as_secs_f64();
    // Beyond what a duration can be it does not matter any more.
    Some(Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX))
}

#[cfg(test)]
pub(super) mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    /// A token that says this.
    pub(crate) fn bearer(payload: &str) -> Secret {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let (header, payload) = (encode(r#"{"alg":"none"}"#), encode(payload));
        Secret::new(format!("Bearer {header}.{payload}.x"))
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn expiry_is_what_the_token_says() {
        let of = |payload: &str| left(&bearer(payload), at(1000));
        assert_eq!(of(r#"{"exp":1300}"#), Some(Duration::from_secs(300)));
        assert_eq!(of(r#"{"exp":1000.5}"#), Some(Duration::from_millis(500)));
        assert_eq!(of(r#"{"exp":900,"iat":1}"#), Some(Duration::ZERO));
        assert_eq!(of(r#"{"exp":-1}"#), Some(Duration::ZERO));
        assert_eq!(of(r#"{"exp":1e300}"#), Some(Duration::MAX));
        assert_eq!(of(r#"{"exp":null}"#), None);
        assert_eq!(of(r#"{"exp":"soon"}"#), None);
        assert_eq!(of("{}"), None);
    }

    #[test]
    fn what_is_no_such_token_says_nothing() {
        let token = bearer(r#"{"exp":1}"#);
        let token = token.expose().strip_prefix("Bearer ").unwrap();
        for text in [
            format!("Basic {token}"),
            token.to_owned(),
            format!("Bearer {token}.more"),
            "Bearer opaque".to_owned(),
            "Bearer a.!.c".to_owned(),
            String::new(),
        ] {
            assert_eq!(left(&Secret::new(text), at(0)), None);
        }
        assert!(left(&Secret::new(format!("bearer {token}")), at(0)).is_some());
    }

    proptest! {
        #[test]
        fn any_token_is_survived(text in "(Bearer )?[A-Za-z0-9._=-]{0,60}", payload in "\\PC{0,40}") {
            let _ = left(&Secret::new(text), at(5));
            let _ = left(&bearer(&payload), at(5));
        }
    }
}
