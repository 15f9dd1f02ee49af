//! What must hold for any credential that a client shows.

use std::time::{Duration, SystemTime};

use hawker_swarm::Secret;

use super::jwt;

/// Bytes as an `Authorization`: it says how long it is good for, or nothing; later, no longer.
pub fn jwt(bytes: &[u8]) {
    let credential = Secret::new(String::from_utf8_lossy(bytes));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let left = jwt::left(&credential, now);
    let later = jwt::left(&credential, now + Duration::from_secs(60));
    assert_eq!(left.is_some(), later.is_some());
    assert!(later <= left);
}
