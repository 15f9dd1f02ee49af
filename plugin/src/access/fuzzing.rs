//! What must hold for any credential that a client shows, and any source that another host names.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use hawker_model::{Digest, TaskId};
use hawker_p2p::{OriginClient, OriginConfig};
use hawker_swarm::{Secret, Source};
use url::Url;

use super::{Claim, jwt};

/// Bytes as an `Authorization`: it says how long it is good for, or nothing; later, no longer.
pub fn jwt(bytes: &[u8]) {
    let credential = Secret::new(String::from_utf8_lossy(bytes));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let left = jwt::left(&credential, now);
    let later = jwt::left(&credential, now + Duration::from_secs(60));
    assert_eq!(left.is_some(), later.is_some());
    assert!(later <= left);
}

/// Bytes as lines: where another host says that the blob `sha256:e3b0…` is, and what it shows there.
/// What is judged is a registry's blob of that digest, and nothing else is asked for.
pub fn claim(bytes: &[u8]) {
    static ORIGIN: OnceLock<Option<OriginClient>> = OnceLock::new();
    let made = ORIGIN.get_or_init(|| OriginClient::new(OriginConfig::default()).ok());
    let Some(origin) = made else {
        return;
    };
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.splitn(2, '\n');
    let source = Source {
        url: lines.next().unwrap_or_default().to_owned(),
        authorization: lines.next().map(Secret::new),
    };
    let digest = Digest::of(b"");
    let Some(claim) = Claim::of_source(origin, TaskId::Blob(digest), &source) else {
        return;
    };
    let Ok(url) = Url::parse(&source.url) else {
        unreachable!("it was read")
    };
    let place = claim.place();
    let path = format!("/v2/{}/blobs/{digest}", place.repository());
    assert!(url.path().ends_with(&path), "{url}");
    assert!(url.query().is_none() && url.fragment().is_none());
    let host = url.host_str().unwrap_or_default();
    assert!(!host.is_empty() && place.registry().starts_with(host));
    assert_eq!(claim.shows(), source.authorization.as_ref());
}
