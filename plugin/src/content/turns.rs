//! One change of a digest's record at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hawker_model::Digest;
use tokio::sync::{Mutex as Waiting, OwnedMutexGuard};

/// Whose turn it is, of the digests that somebody changes.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Digest, Arc<Waiting<()>>>>);

impl Turns {
    /// Waits until no other change of the digest is under way. Whoever holds the turn decides by
    /// what it finds, saves, and then changes memory.
    pub(super) async fn take(&self, digest: &Digest) -> Turn<'_> {
        let mut turn = self.queue(digest);
        if let Some(queue) = &turn.queue {
            turn.held = Some(Arc::clone(queue).lock_owned().await);
        }
        turn
    }

    /// Those turns, of many, that nobody has.
    pub(super) fn take_free(&self, digests: &[Digest]) -> Vec<Turn<'_>> {
        let free = digests.iter().filter_map(|digest| {
            let mut turn = self.queue(digest);
            let queue = Arc::clone(turn.queue.as_ref()?);
            turn.held = Some(queue.try_lock_owned().ok()?);
            Some(turn)
        });
        free.collect()
    }

    fn queue(&self, digest: &Digest) -> Turn<'_> {
        let queue = Arc::clone(self.lock().entry(*digest).or_default());
        Turn {
            turns: self,
            digest: *digest,
            held: None,
            queue: Some(queue),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Waiting<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A digest's turn, or a place in the queue for it, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'t> {
    turns: &'t Turns,
    digest: Digest,
    held: Option<OwnedMutexGuard<()>>,
    queue: Option<Arc<Waiting<()>>>,
}

impl Turn<'_> {
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut all = self.turns.lock();
        // Under the lock: the last one sees that it is the last.
        drop(self.queue.take());
        let is_last = |queue: &Arc<_>| Arc::strong_count(queue) == 1;
        if all.get(&self.digest).is_some_and(is_last) {
            all.remove(&self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn digests() -> [Digest; 3] {
        [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes))
    }

    #[tokio::test]
    async fn only_who_wants_the_same_digest_waits() {
        let (turns, [a, b, _]) = (Turns::default(), digests());
        let first = turns.take(&a).await;
        assert!(turns.take(&b).now_or_never().is_some());
        assert!(turns.take(&a).now_or_never().is_none());
        drop(first);
        assert!(turns.take(&a).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_takes_many_leaves_out_those_that_are_taken() {
        let (turns, all) = (Turns::default(), digests());
        let taken = turns.take(&all[1]).await;
        let free = turns.take_free(&all);
        let free_digests: Vec<_> = free.iter().map(|turn| *turn.digest()).collect();
        assert_eq!(free_digests, [all[0], all[2]]);
        assert!(turns.take(&all[0]).now_or_never().is_none());
        drop((free, taken));
        assert_eq!(turns.take_free(&all).len(), 3);
    }

    #[tokio::test]
    async fn nothing_is_kept_of_turns_that_are_over_or_waited_for_in_vain() {
        let (turns, [a, ..]) = (Turns::default(), digests());
        let first = turns.take(&a).await;
        assert!(turns.take(&a).now_or_never().is_none());
        assert!(turns.take_free(&[a]).is_empty());
        assert_eq!(turns.lock().len(), 1);
        drop(first);
        assert!(turns.lock().is_empty());
    }
}
