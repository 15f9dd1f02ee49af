//! Which blobs are to be looked at, and when. No clock but the one of its own waiting.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hawker_model::Digest;

/// Blobs in the order in which they are due. One that is noted again while it waits is due later.
#[derive(Debug)]
pub(super) struct Agenda {
    settle: Duration,
    due: BTreeMap<Digest, Instant>,
    order: BTreeSet<(Instant, Digest)>,
}

impl Agenda {
    /// Nothing is due before `settle` has passed since it was noted.
    pub(super) fn new(settle: Duration) -> Self {
        Self {
            settle,
            due: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// Something happened to a blob.
    pub(super) fn note(&mut self, digest: Digest, now: Instant) {
        let at = now + self.settle;
        if let Some(before) = self.due.insert(digest, at) {
            self.order.remove(&(before, digest));
        }
        self.order.insert((at, digest));
    }

    pub(super) fn note_all(&mut self, digests: Vec<Digest>, now: Instant) {
        for digest in digests {
            self.note(digest, now);
        }
    }

    /// Takes the first that is due at `now`.
    pub(super) fn take(&mut self, now: Instant) -> Option<Digest> {
        let first = self.order.first().copied();
        let (at, digest) = first.filter(|(at, _)| *at <= now)?;
        self.order.remove(&(at, digest));
        self.due.remove(&digest);
        Some(digest)
    }

    /// Waits until one is due, and takes it. Cancel safe.
    pub(super) async fn next(&mut self) -> Digest {
        loop {
            match self.order.first() {
                Some((at, _)) => tokio::time::sleep_until((*at).into()).await,
                None => std::future::pending().await,
            }
            if let Some(digest) = self.take(Instant::now()) {
                return digest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn blobs_are_due_in_order_once_they_have_settled() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes));
        let (mut agenda, start) = (Agenda::new(SECOND * 5), Instant::now());
        agenda.note_all(vec![c, a], start);
        agenda.note(b, start + SECOND);
        assert_eq!(agenda.take(start + SECOND * 4), None);
        // Noted again while it waits.
        agenda.note(c, start + SECOND * 2);
        let mut taken = Vec::new();
        for at in 5..9 {
            while let Some(digest) = agenda.take(start + SECOND * at) {
                taken.push((at, digest));
            }
        }
        assert_eq!(taken, [(5, a), (6, b), (7, c)]);
        assert!(agenda.due.is_empty() && agenda.order.is_empty());
    }
}
