//! Manifests that passed, by registry and digest, and what tags were last said to name.
//!
//! By registry, because the media type is its word: the same bytes at another one may be called
//! something else, and what one says must not change what another's clients get.
//!
//! Nothing here gives a right: whoever is answered from here has been found to have one.
//!
//! Invariants: the bytes of an entry have its digest; memory is bounded.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use hawker_model::{Digest, RegistryHost};

use crate::access::Holder;

/// Bytes of manifests at most.
const MOST_BYTES: usize = 32 << 20;
/// Longest one that is kept, in bytes.
const MAX_LEN: usize = 1 << 20;
/// Longest media type of one that is kept, in bytes.
const MAX_TYPE_LEN: usize = 256;
/// Manifests at most.
const MOST: usize = 4096;
/// Tags at most.
const MOST_TAGS: usize = 4096;

/// A manifest as its registry gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cached {
    pub(super) registry: RegistryHost,
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
}

/// What passed lately.
#[derive(Default)]
pub(super) struct ManifestCache(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    manifests: HashMap<Name, Entry>,
    bytes: usize,
    /// Counts uses, so that the oldest is known.
    clock: u64,
    /// What the registry said to this very visitor.
    tags: HashMap<(Holder, String), Digest>,
}

type Name = (RegistryHost, Digest);

struct Entry {
    cached: Cached,
    used: u64,
}

impl ManifestCache {
    pub(super) fn find(&self, registry: &RegistryHost, digest: &Digest) -> Option<Cached> {
        let mut inner = self.lock();
        inner.clock += 1;
        let now = inner.clock;
        let entry = inner.manifests.get_mut(&(registry.clone(), *digest))?;
        entry.used = now;
        Some(entry.cached.clone())
    }

    /// Keeps a manifest, whose bytes have its digest.
    pub(super) fn keep(&self, cached: Cached) {
        if cached.bytes.len() > MAX_LEN || cached.media_type.len() > MAX_TYPE_LEN {
            return;
        }
        let mut inner = self.lock();
        inner.clock += 1;
        let used = inner.clock;
        inner.bytes += cached.bytes.len();
        let name = (cached.registry.clone(), cached.digest);
        let before = inner.manifests.insert(name, Entry { cached, used });
        inner.bytes -= before.map_or(0, |entry| entry.cached.bytes.len());
        while inner.bytes > MOST_BYTES || inner.manifests.len() > MOST {
            inner.drop_oldest();
        }
    }

    /// What the registry last told this visitor that a tag names.
    pub(super) fn tagged(&self, visitor: Holder, tag: &str) -> Option<Digest> {
        let key = (visitor, tag.to_owned());
        self.lock().tags.get(&key).copied()
    }

    pub(super) fn note_tag(&self, visitor: Holder, tag: &str, digest: Digest) {
        let mut inner = self.lock();
        if inner.tags.len() >= MOST_TAGS {
            inner.tags.clear();
        }
        inner.tags.insert((visitor, tag.to_owned()), digest);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn drop_oldest(&mut self) {
        let oldest = self.manifests.iter().min_by_key(|(_, entry)| entry.used);
        let gone = oldest.map(|(name, _)| name.clone());
        if let Some(entry) = gone.and_then(|name| self.manifests.remove(&name)) {
            self.bytes -= entry.cached.bytes.len();
        }
    }
}

impl fmt::Debug for ManifestCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("ManifestCache")
            .field("manifests", &inner.manifests.len())
            .field("bytes", &inner.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(name: &str) -> RegistryHost {
        RegistryHost::parse(name).unwrap()
    }

    fn find(cache: &ManifestCache, cached: &Cached) -> Option<Cached> {
        cache.find(&cached.registry, &cached.digest)
    }

    fn cached(i: usize, length: usize) -> Cached {
        Cached {
            registry: registry("r.io"),
            digest: Digest::of(&i.to_le_bytes()),
            media_type: "a/b".to_owned(),
            bytes: vec![0; length].into(),
        }
    }

    #[test]
    fn one_registrys_word_is_not_anothers() {
        let cache = ManifestCache::default();
        let ours = cached(1, 1);
        let theirs = Cached {
            registry: registry("s.io"),
            media_type: "c/d".to_owned(),
            ..ours.clone()
        };
        cache.keep(ours.clone());
        assert_eq!(find(&cache, &theirs), None);
        cache.keep(theirs.clone());
        assert_eq!(find(&cache, &ours), Some(ours));
        assert_eq!(find(&cache, &theirs), Some(theirs));
    }

    #[test]
    fn what_was_used_last_stays_and_memory_is_bounded() {
        let cache = ManifestCache::default();
        let first = cached(0, 100);
        cache.keep(first.clone());
        for i in 1..100 {
            cache.keep(cached(i, MAX_LEN));
            assert_eq!(find(&cache, &first), Some(first.clone()));
            assert!(cache.lock().bytes <= MOST_BYTES);
        }
        assert_eq!(find(&cache, &cached(1, 0)), None);
        assert!(find(&cache, &cached(99, 0)).is_some());
        let inner = cache.lock();
        let bytes = inner.manifests.values().map(|e| e.cached.bytes.len());
        assert_eq!(bytes.sum::<usize>(), inner.bytes);
    }

    #[test]
    fn same_manifest_again_costs_nothing_and_a_huge_one_is_not_kept() {
        let cache = ManifestCache::default();
        for _ in 0..10 {
            cache.keep(cached(1, 1000));
        }
        cache.keep(cached(2, MAX_LEN + 1));
        assert_eq!(cache.lock().bytes, 1000);
        for i in 0..2 * MOST {
            cache.keep(cached(i, 1));
        }
        assert_eq!(cache.lock().manifests.len(), MOST);
    }
}
