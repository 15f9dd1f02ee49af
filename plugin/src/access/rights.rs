//! What is remembered of rights.
//!
//! Knowing a digest is no right to its bytes. The right is established at the origin, with the
//! client's own credential, and remembered for a while under (registry, repository, digest, hash
//! of the credential): another client's right is never looked at. Credentials are not kept.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hawker_model::{Digest, RegistryHost, Repository};
use hawker_swarm::Secret;
use sha2::{Digest as _, Sha256};

/// Rights remembered at most: a few MiB.
const MAX_RIGHTS: usize = 16_384;

/// Who asks for what.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct RightKey {
    registry: RegistryHost,
    repository: Repository,
    digest: Option<Digest>,
    credential: [u8; 32],
}

impl RightKey {
    /// The right to one blob of a repository.
    pub(super) fn new(
        registry: &RegistryHost,
        repository: &Repository,
        digest: Digest,
        credential: Option<&Secret>,
    ) -> Self {
        let digest = Some(digest);
        Self {
            digest,
            ..Self::of_repository(registry, repository, credential)
        }
    }

    /// That the credential is good for the repository at all. It gives no right to any blob, but
    /// it makes one likely.
    pub(super) fn of_repository(
        registry: &RegistryHost,
        repository: &Repository,
        credential: Option<&Secret>,
    ) -> Self {
        let mut hasher = Sha256::new();
        // "No credential" must not equal an empty one.
        hasher.update([u8::from(credential.is_some())]);
        hasher.update(credential.map_or("", Secret::expose));
        Self {
            registry: registry.clone(),
            repository: repository.clone(),
            digest: None,
            credential: hasher.finalize().into(),
        }
    }
}

/// A right that stands, with what was learnt on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Right {
    /// The blob's length, as the origin tells it.
    pub(crate) length: Option<u64>,
}

/// The rights that clients have shown.
pub(super) struct Rights {
    keep: Duration,
    entries: Mutex<HashMap<RightKey, Arc<Entry>>>,
}

impl std::fmt::Debug for Rights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.lock().len();
        f.debug_struct("Rights").field("known", &known).finish()
    }
}

/// Held while the origin is asked, so that it is asked once for many requests at once.
type Entry = tokio::sync::Mutex<Option<(Right, Instant)>>;

impl Rights {
    /// Remembers rights for `keep`.
    pub(super) fn new(keep: Duration) -> Self {
        Self {
            keep,
            entries: Mutex::default(),
        }
    }

    /// The right, remembered or established by `ask`. A refusal is not remembered: it is this
    /// request's alone.
    pub(super) async fn establish<F, E>(&self, key: &RightKey, ask: F) -> Result<Right, E>
    where
        F: Future<Output = Result<Right, E>>,
    {
        let entry = self.entry(key);
        let mut held = entry.lock().await;
        if let Some((right, since)) = *held
            && since.elapsed() < self.keep
        {
            return Ok(right);
        }
        let right = ask.await?;
        *held = Some((right, Instant::now()));
        Ok(right)
    }

    /// Remembers that the origin accepted a credential.
    pub(super) fn note(&self, key: &RightKey) {
        self.grant(key, Right { length: None });
    }

    /// Remembers a right that was established elsewhere.
    pub(super) fn grant(&self, key: &RightKey, right: Right) {
        if let Ok(mut held) = self.entry(key).try_lock() {
            *held = Some((right, Instant::now()));
        }
    }

    /// Takes a right back: the origin has changed its mind.
    pub(super) fn forget(&self, key: &RightKey) {
        self.lock().remove(key);
    }

    /// Whether a right is remembered and fresh.
    pub(super) fn knows(&self, key: &RightKey) -> bool {
        let entry = self.lock().get(key).cloned();
        entry.is_some_and(|entry| self.is_fresh(&entry))
    }

    fn is_fresh(&self, entry: &Entry) -> bool {
        entry
            .try_lock()
            .is_ok_and(|held| held.is_some_and(|(_, since)| since.elapsed() < self.keep))
    }

    fn entry(&self, key: &RightKey) -> Arc<Entry> {
        let mut entries = self.lock();
        if entries.len() >= MAX_RIGHTS && !entries.contains_key(key) {
            entries.retain(|_, entry| Arc::strong_count(entry) > 1 || self.is_fresh(entry));
        }
        if entries.len() >= MAX_RIGHTS {
            // All fresh: they are cheap to establish again.
            entries.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
        Arc::clone(entries.entry(key.clone()).or_default())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RightKey, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn key(repository: &str, credential: Option<&str>) -> RightKey {
        RightKey::new(
            &RegistryHost::parse("r.io").unwrap(),
            &Repository::parse(repository).unwrap(),
            Digest::of(b"x"),
            credential.map(Secret::new).as_ref(),
        )
    }

    const RIGHT: Right = Right { length: Some(1) };

    #[tokio::test]
    async fn right_is_asked_for_once_even_by_many() {
        let rights = Rights::new(Duration::from_secs(60));
        let asked = AtomicU32::new(0);
        let ask = || async {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok::<_, ()>(RIGHT)
        };
        let key = key("a", Some("t"));
        let (a, b) = tokio::join!(rights.establish(&key, ask()), rights.establish(&key, ask()));
        assert_eq!((a, b), (Ok(RIGHT), Ok(RIGHT)));
        assert_eq!(asked.into_inner(), 1);
        assert!(rights.knows(&key));
    }

    #[tokio::test]
    async fn rights_of_others_and_refusals_count_for_nothing() {
        let rights = Rights::new(Duration::from_secs(60));
        let granted = async { Ok::<_, ()>(RIGHT) };
        rights
            .establish(&key("a", Some("t")), granted)
            .await
            .unwrap();
        for other in [
            key("a", None),
            key("a", Some("")),
            key("a", Some("u")),
            key("b", Some("t")),
        ] {
            assert!(!rights.knows(&other));
            assert_eq!(rights.establish(&other, async { Err(()) }).await, Err(()));
            assert!(!rights.knows(&other));
        }
    }

    #[tokio::test]
    async fn right_ends_after_its_time() {
        let rights = Rights::new(Duration::ZERO);
        let key = key("a", None);
        rights
            .establish(&key, async { Ok::<_, ()>(RIGHT) })
            .await
            .unwrap();
        assert_eq!(rights.establish(&key, async { Err(1) }).await, Err(1));
    }

    #[test]
    fn memory_is_bounded() {
        let rights = Rights::new(Duration::from_secs(60));
        for i in 0..MAX_RIGHTS + 10 {
            rights.note(&key(&format!("r{i}"), None));
        }
        assert!(rights.lock().len() <= MAX_RIGHTS);
    }
}
