//! One question to the registry for all who have the same at once, and its answer for those who come
//! just after.
//!
//! An answer counts from when its question began: what it says was so then or later. It serves who
//! came before that, and who comes as long after it as its kind is kept. A failure is not kept: it is
//! told to those who waited for it. Memory is bounded.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hawker_p2p::{GivenManifest, ManifestWish};

use super::{Holder, JUST_NOW, NotGiven};

/// Bytes of all that is kept, at most.
const MOST_BYTES: usize = 8 << 20;
/// What one costs besides its bytes.
const OVERHEAD: usize = 512;

/// The same for all who show the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    wish: Holder,
    whole: bool,
}

/// What the registry gave lately, and what it is being asked.
#[derive(Default)]
pub(super) struct Answers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    kept: HashMap<Key, Kept>,
    bytes: usize,
    /// When all was last forgotten by hand.
    forgotten: Option<Instant>,
    /// And how many are aboard.
    flights: HashMap<Key, (Arc<Flight>, usize)>,
}

struct Kept {
    /// When its question began.
    since: Instant,
    manifest: GivenManifest,
}

/// Held by whoever asks; the failure of the last, and when that was.
type Flight = tokio::sync::Mutex<Option<(Instant, NotGiven)>>;

impl Answers {
    /// What was given for the wish within the last `keep`, or what `ask` is given.
    pub(super) async fn answer<F>(
        &self,
        wish: &ManifestWish,
        keep: Duration,
        ask: impl FnOnce() -> F,
    ) -> Result<GivenManifest, NotGiven>
    where
        F: Future<Output = Result<GivenManifest, NotGiven>>,
    {
        let came = Instant::now();
        let key = Key {
            wish: Holder::of_wish(wish),
            whole: wish.whole,
        };
        if let Some(manifest) = self.find(key, came, keep) {
            return Ok(manifest);
        }
        let aboard = self.board(key);
        let mut failed = aboard.flight.lock().await;
        if let Some(manifest) = self.find(key, came, keep) {
            return Ok(manifest);
        }
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| *at >= came) {
            return Err(error.clone());
        }
        let since = Instant::now();
        match ask().await {
            Ok(manifest) => {
                self.keep(key, since, manifest.clone());
                Ok(manifest)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// What serves one who came then. All of a manifest says what HEAD does.
    fn find(&self, key: Key, came: Instant, keep: Duration) -> Option<GivenManifest> {
        let inner = self.lock();
        let whole = Key { whole: true, ..key };
        let mut kept = [key, whole].into_iter();
        kept.find_map(|key| {
            let kept = inner.kept.get(&key)?;
            (came <= kept.since + keep).then(|| kept.manifest.clone())
        })
    }

    /// Nothing that the registry was asked before this serves anybody who comes after it.
    pub(super) fn forget(&self) {
        let mut inner = self.lock();
        inner.kept.clear();
        (inner.bytes, inner.forgotten) = (0, Some(Instant::now()));
    }

    fn keep(&self, key: Key, since: Instant, manifest: GivenManifest) {
        let mut inner = self.lock();
        if inner.forgotten.is_some_and(|at| since <= at) {
            return;
        }
        let old: Vec<_> = inner.old().collect();
        old.iter().for_each(|key| inner.forget(key));
        inner.forget(&key);
        inner.bytes += cost(&manifest);
        inner.kept.insert(key, Kept { since, manifest });
        while inner.bytes > MOST_BYTES
            && let Some(oldest) = inner.oldest()
        {
            inner.forget(&oldest);
        }
    }

    fn board(&self, key: Key) -> Aboard<'_> {
        let mut inner = self.lock();
        let (flight, aboard) = inner.flights.entry(key).or_default();
        *aboard += 1;
        Aboard {
            answers: self,
            key,
            flight: Arc::clone(flight),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Nothing is kept for longer.
    fn old(&self) -> impl Iterator<Item = Key> {
        let old = self.kept.iter().filter(|(_, kept)| {
            let age = kept.since.elapsed();
            age > JUST_NOW
        });
        old.map(|(key, _)| *key)
    }

    fn oldest(&self) -> Option<Key> {
        let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.since);
        oldest.map(|(key, _)| *key)
    }

    fn forget(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.bytes -= cost(&kept.manifest);
        }
    }
}

fn cost(manifest: &GivenManifest) -> usize {
    let bytes = manifest.bytes.as_ref().map_or(0, bytes::Bytes::len);
    bytes + manifest.media_type.len() + OVERHEAD
}

/// Somebody who waits for an answer. The last one to leave takes the flight away.
struct Aboard<'a> {
    answers: &'a Answers,
    key: Key,
    flight: Arc<Flight>,
}

impl Drop for Aboard<'_> {
    fn drop(&mut self) {
        let mut inner = self.answers.lock();
        if let Entry::Occupied(mut flight) = inner.flights.entry(self.key) {
            flight.get_mut().1 -= 1;
            if flight.get().1 == 0 {
                flight.remove();
            }
        }
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Answers")
            .field("kept", &inner.kept.len())
            .field("bytes", &inner.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use futures::future::join_all;
    use hawker_model::Digest;
    use hawker_swarm::{Secret, Source};

    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn wish(target: &str) -> ManifestWish {
        ManifestWish {
            source: Source {
                url: format!("https://r.io/v2/a/manifests/{target}"),
                authorization: None,
            },
            accept: String::new(),
            whole: true,
        }
    }

    fn manifest(bytes: &[u8]) -> GivenManifest {
        GivenManifest {
            digest: Digest::of(bytes),
            media_type: "a/b".to_owned(),
            length: bytes.len() as u64,
            bytes: Some(bytes.to_vec().into()),
        }
    }

    /// What is asked, and what that takes.
    #[derive(Default)]
    struct Registry(AtomicUsize);

    impl Registry {
        async fn give(&self) -> Result<GivenManifest, NotGiven> {
            self.0.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(manifest(b"m"))
        }

        async fn refuse(&self) -> Result<GivenManifest, NotGiven> {
            self.0.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err(NotGiven::Closed)
        }

        fn asked(&self) -> usize {
            self.0.load(SeqCst)
        }
    }

    #[tokio::test]
    async fn all_who_wish_for_the_same_at_once_cost_one_request() {
        let (answers, registry, wish) = (Answers::default(), Registry::default(), wish("v1"));
        let ask = || answers.answer(&wish, KEEP, || registry.give());
        let given = join_all((0..20).map(|_| ask())).await;
        assert!(
            given
                .into_iter()
                .all(|given| given.unwrap() == manifest(b"m"))
        );
        ask().await.unwrap();
        assert_eq!(registry.asked(), 1);
        assert!(answers.lock().flights.is_empty());
    }

    #[tokio::test]
    async fn nobody_is_told_what_was_so_before_he_came_where_nothing_is_kept() {
        let (answers, registry, wish) = (Answers::default(), Registry::default(), wish("v1"));
        let ask = || answers.answer(&wish, Duration::ZERO, || registry.give());
        // One for the first, and one for all who came meanwhile.
        join_all((0..20).map(|_| ask())).await;
        assert_eq!(registry.asked(), 2);
        ask().await.unwrap();
        assert_eq!(registry.asked(), 3);
        let short = Duration::from_millis(1);
        tokio::time::sleep(2 * short).await;
        let late = answers.answer(&wish, short, || registry.give());
        late.await.unwrap();
        assert_eq!(registry.asked(), 4);
    }

    #[tokio::test]
    async fn whoever_shows_or_wants_else_is_asked_for_apart() {
        let (answers, registry) = (Answers::default(), Registry::default());
        let mut wishes = vec![wish("v1"), wish("v2"), wish("v1"), wish("v1")];
        wishes[2].accept = "a/b".to_owned();
        wishes[3].source.authorization = Some(Secret::new("Bearer t"));
        for wish in &wishes {
            answers
                .answer(wish, KEEP, || registry.give())
                .await
                .unwrap();
        }
        assert_eq!(registry.asked(), 4);
        // What HEAD would say is known; not so the bytes, where only that was asked.
        let mut told = wish("v1");
        told.whole = false;
        answers
            .answer(&told, KEEP, || registry.give())
            .await
            .unwrap();
        assert_eq!(registry.asked(), 4);
        told = wish("v3");
        told.whole = false;
        answers
            .answer(&told, KEEP, || registry.give())
            .await
            .unwrap();
        answers
            .answer(&wish("v3"), KEEP, || registry.give())
            .await
            .unwrap();
        assert_eq!(registry.asked(), 6);
    }

    #[tokio::test]
    async fn a_failure_is_for_those_who_wait_and_not_remembered() {
        let (answers, registry, wish) = (Answers::default(), Registry::default(), wish("v1"));
        let ask = || answers.answer(&wish, KEEP, || registry.refuse());
        assert!(
            join_all((0..5).map(|_| ask()))
                .await
                .iter()
                .all(Result::is_err)
        );
        assert_eq!(registry.asked(), 1);
        answers
            .answer(&wish, KEEP, || registry.give())
            .await
            .unwrap();
        assert_eq!(registry.asked(), 2);
    }

    #[tokio::test]
    async fn what_was_asked_before_it_was_forgotten_serves_nobody_afterwards() {
        let (answers, registry, wish) = (Answers::default(), Registry::default(), wish("v1"));
        let ask = || answers.answer(&wish, KEEP, || registry.give());
        ask().await.unwrap();
        answers.forget();
        assert_eq!(answers.lock().bytes, 0);
        let mut under_way = Box::pin(ask());
        assert!(futures::poll!(&mut under_way).is_pending());
        assert_eq!(registry.asked(), 2);
        answers.forget();
        under_way.await.unwrap();
        ask().await.unwrap();
        assert_eq!(registry.asked(), 3);
        ask().await.unwrap();
        assert_eq!(registry.asked(), 3);
    }

    #[tokio::test]
    async fn who_leaves_while_he_asks_keeps_nobody_from_it() {
        let (answers, registry, wish) = (Answers::default(), Registry::default(), wish("v1"));
        let left = answers.answer(&wish, KEEP, std::future::pending);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), left)
                .await
                .is_err()
        );
        answers
            .answer(&wish, KEEP, || registry.give())
            .await
            .unwrap();
        assert_eq!(registry.asked(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let answers = Answers::default();
        let long = vec![0; 200 << 10];
        for number in 0..200 {
            let key = Key {
                wish: Holder::of_wish(&wish(&format!("v{number}"))),
                whole: true,
            };
            let now = Instant::now();
            for _ in 0..2 {
                answers.keep(key, now, manifest(&long));
            }
            assert!(answers.find(key, now, KEEP).is_some());
        }
        let inner = answers.lock();
        assert!(inner.bytes <= MOST_BYTES && inner.kept.len() < 50);
        let costs = inner.kept.values().map(|kept| cost(&kept.manifest));
        assert_eq!(costs.sum::<usize>(), inner.bytes);
    }
}
