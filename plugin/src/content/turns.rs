//! One change of a digest's record at a time.

use std::collections::BTreeSet;

use hawker_model::Digest;
use tokio::sync::{Mutex, MutexGuard};

/// So many digests may change at once; some wait for each other without need.
const SHARDS: usize = 64;

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Turns([Mutex<()>; SHARDS]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Turns {
    /// Waits until no other change of the digest is under way. Whoever holds the turn decides by
    /// what it finds, saves, and then changes memory.
    pub(super) async fn take(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        self.0[shard(digest)].lock().await
    }

    /// The same for many. Never while one is held.
    pub(super) async fn take_all(&self, digests: &[Digest]) -> Vec<MutexGuard<'_, ()>> {
        // In order: two that take many do not wait for each other in a circle.
        let shards: BTreeSet<usize> = digests.iter().map(shard).collect();
        let mut turns = Vec::new();
        for shard in shards {
            turns.push(self.0[shard].lock().await);
        }
        turns
    }
}

fn shard(digest: &Digest) -> usize {
    usize::from(digest.as_bytes()[0]) % SHARDS
}
