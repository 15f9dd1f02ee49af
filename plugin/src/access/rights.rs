//! What is remembered of rights.
//!
//! A right is established at the origin, with the asker's own credential, and remembered under who
//! asked where for what ([`RightKey`]): another one's right is never looked at. It is fresh for a
//! while, never longer than its token says of itself; then it is good only while the origin cannot
//! be reached, for the time of grace. A refusal ends all that the refused one holds at the place.
//!
//! Whoever asks for the same right at once shares one question and its answer ([`Rights::establish`]).
//! Memory is bounded: what has expired goes first, then what was granted longest ago.

mod ended;
mod table;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use hawker_swarm::Secret;

pub(crate) use self::table::{RepositoryRights, Right};
use self::{
    ended::Ended,
    table::{Standing, Table},
};
use super::{
    AccessError, Place,
    claim::is_password,
    jwt,
    right_key::{Holder, RightKey},
};

/// How long a token is good for at least that does not say it: what token services promise
/// (<https://distribution.github.io/distribution/spec/auth/token/>, `expires_in`). Who buys tokens
/// can buy another.
const SHORTEST_TOKEN: Duration = Duration::from_secs(60);

/// How long a right is good for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RightsSettings {
    /// How long it is not asked for again.
    pub(crate) keep: Duration,
    /// How long after that it holds while the origin cannot be reached.
    pub(crate) grace: Duration,
    /// How long a seed's answer about what a tag names serves other hosts.
    pub(crate) keep_tags: Duration,
}

/// How an established right came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// It was remembered.
    Remembered,
    /// The origin granted it just now, or a moment ago to the same asker.
    Asked,
    /// The origin cannot be reached, and granted it before.
    Grace,
}

/// The rights that clients have shown.
pub(super) struct Rights {
    settings: RightsSettings,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    table: Table,
    /// Rights that are being asked for.
    flights: HashMap<RightKey, Arc<Flight>>,
    /// When whose rights were last ended.
    ended: Ended,
    /// When any were last forgotten by hand.
    forgotten: Option<Instant>,
}

/// One right that is being asked for. Its lock is held by whoever asks.
#[derive(Default)]
struct Flight {
    /// When the last question failed, and how: whoever waited for it shares that.
    failed: tokio::sync::Mutex<Option<(Instant, AccessError)>>,
    /// The origin has refused the holder since it was asked: what it grants is not remembered.
    is_ended: AtomicBool,
}

impl Rights {
    pub(super) fn new(settings: RightsSettings) -> Self {
        Self {
            settings,
            inner: Mutex::default(),
        }
    }

    /// Whether any right is remembered at all, and not asked for each time.
    pub(super) fn remembers(&self) -> bool {
        !self.settings.keep.is_zero()
    }

    /// The right, if it is remembered and fresh.
    pub(super) fn find(&self, key: &RightKey) -> Option<Right> {
        match self.lock().table.find(key, Instant::now())? {
            (right, Standing::Fresh) => Some(right.clone()),
            (_, Standing::InGrace) => None,
        }
    }

    /// The right, remembered or established by `ask`. A refusal ends all rights of the holder, and
    /// is told to those who asked meanwhile, who showed the same; nobody else's is touched.
    pub(super) async fn establish<F>(
        &self,
        key: &RightKey,
        place: &Place,
        ask: impl FnOnce() -> F,
    ) -> Result<(Right, Basis), AccessError>
    where
        F: Future<Output = Result<Granted, AccessError>>,
    {
        if let Some(right) = self.find(key) {
            return Ok((right, Basis::Remembered));
        }
        let since = Instant::now();
        let flight = self.board(key);
        let mut failed = flight.flight.failed.lock().await;
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| *at >= since) {
            return self.in_grace(key, error.clone());
        }
        if let Some(right) = self.granted_since(key, since) {
            return Ok((right, Basis::Asked));
        }
        // What was ended before is asked for now; what is ended from now on is not remembered.
        flight.flight.is_ended.store(false, Ordering::Relaxed);
        let error = match ask().await {
            Ok(granted) => {
                let right = granted.right.clone();
                self.remember(key, place, granted, &flight.flight);
                return Ok((right, Basis::Asked));
            }
            Err(error) => error,
        };
        if error.is_refusal() {
            self.end(&key.holder);
        } else if error.is_missing() {
            self.forget_one(key);
        }
        *failed = Some((Instant::now(), error.clone()));
        drop(failed);
        self.in_grace(key, error)
    }

    /// What an outage leaves; every other error stands.
    fn in_grace(&self, key: &RightKey, error: AccessError) -> Result<(Right, Basis), AccessError> {
        let held = match error.is_outage() {
            true => self.held(key),
            false => None,
        };
        held.map(|right| (right, Basis::Grace)).ok_or(error)
    }

    /// The right, fresh or within its grace: for when the origin is known not to be reachable.
    pub(super) fn held(&self, key: &RightKey) -> Option<Right> {
        let inner = self.lock();
        let (right, _) = inner.table.find(key, Instant::now())?;
        Some(right.clone())
    }

    /// Whether it was granted then or later.
    pub(super) fn was_granted_since(&self, key: &RightKey, since: Instant) -> bool {
        self.granted_since(key, since).is_some()
    }

    fn granted_since(&self, key: &RightKey, since: Instant) -> Option<Right> {
        let inner = self.lock();
        inner.table.granted_since(key, since).cloned()
    }

    /// Remembers a right that was asked for otherwise, and when, unless it has been ended since: what
    /// was granted may be older than the refusal.
    pub(super) fn grant(&self, key: &RightKey, place: &Place, granted: Granted, asked: Instant) {
        let lasts = self.lasts(&granted);
        let mut inner = self.lock();
        if inner.was_ended_since(&key.holder, asked) {
            return;
        }
        inner
            .table
            .grant(key, place, granted.right, Instant::now(), lasts);
    }

    fn remember(&self, key: &RightKey, place: &Place, granted: Granted, flight: &Flight) {
        let lasts = self.lasts(&granted);
        let mut inner = self.lock();
        if !flight.is_ended.load(Ordering::Relaxed) {
            inner
                .table
                .grant(key, place, granted.right, Instant::now(), lasts);
        }
    }

    /// How long it is fresh, and how long it may be used at all.
    fn lasts(&self, granted: &Granted) -> (Duration, Duration) {
        let shown = granted.shown.as_ref();
        let told = shown.and_then(|shown| jwt::left(shown, SystemTime::now()));
        let bought = granted.right.bought.as_ref().and_then(Option::as_ref);
        let is_bought = bought.is_some_and(|bought| !is_password(bought));
        let left = told.or_else(|| is_bought.then_some(SHORTEST_TOKEN));
        let fresh = left.map_or(self.settings.keep, |left| left.min(self.settings.keep));
        (fresh, fresh.saturating_add(self.settings.grace))
    }

    /// The whole content has been shown to be held by the right's own origin.
    pub(super) fn prove(&self, key: &RightKey) {
        self.lock().table.prove(key);
    }

    /// Remembers that the origin accepted the holder at the place. It gives no right to anything,
    /// but it makes one likely.
    pub(super) fn note_accepted(&self, holder: &Holder, place: &Place) {
        let mut inner = self.lock();
        let until = Instant::now() + self.settings.keep;
        inner.table.note_accepted(holder, place, until);
    }

    /// Whether the origin accepted the holder lately.
    pub(super) fn is_accepted(&self, holder: &Holder) -> bool {
        self.lock().table.is_accepted(holder, Instant::now())
    }

    /// The origin refused the holder: nothing that it granted before counts any more.
    pub(super) fn end(&self, holder: &Holder) {
        let mut inner = self.lock();
        inner.table.end(holder);
        inner.ended.note(*holder, Instant::now());
        inner.end_flights(|key| key.holder == *holder);
    }

    /// Whether all rights of the holder were ended within the last `while_ago`.
    pub(super) fn was_ended(&self, holder: &Holder, while_ago: Duration) -> bool {
        let at = self.lock().ended.find(holder);
        at.is_some_and(|at| at.elapsed() < while_ago)
    }

    /// A right is to be asked for again; until its time of grace is over it outlasts an outage.
    pub(super) fn age(&self, key: &RightKey) {
        self.lock().table.age(key, Instant::now());
    }

    /// Takes one right back.
    pub(super) fn forget_one(&self, key: &RightKey) {
        let mut inner = self.lock();
        inner.table.forget_one(key);
        inner.end_flights(|other| other == key);
    }

    /// Forgets the rights of the places that `applies` takes, and tells how many those were.
    pub(super) fn forget(&self, applies: &dyn Fn(&Place) -> bool) -> usize {
        let mut inner = self.lock();
        // Whose place a question is about is not known here: all of them are asked anew.
        inner.end_flights(|_| true);
        let now = Instant::now();
        inner.forgotten = Some(now);
        let Inner { table, ended, .. } = &mut *inner;
        table.forget(applies, &mut |holder| ended.note(holder, now))
    }

    /// How many rights are remembered and good for something.
    pub(super) fn len(&self) -> usize {
        self.lock().table.len()
    }

    /// What is remembered, by repository.
    pub(super) fn report(&self) -> Vec<RepositoryRights> {
        self.lock().table.report(Instant::now())
    }

    fn board(&self, key: &RightKey) -> Aboard<'_> {
        let flight = Arc::clone(self.lock().flights.entry(*key).or_default());
        Aboard {
            rights: self,
            key: *key,
            flight,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether the holder's rights, or those of whoever it may be, were ended then or later.
    fn was_ended_since(&self, holder: &Holder, then: Instant) -> bool {
        let ended = self.ended.find(holder).max(self.forgotten);
        ended.is_some_and(|at| at >= then)
    }

    fn end_flights(&self, applies: impl Fn(&RightKey) -> bool) {
        let ended = self.flights.iter().filter(|(key, _)| applies(key));
        ended.for_each(|(_, flight)| flight.is_ended.store(true, Ordering::Relaxed));
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rights")
            .field("known", &self.len())
            .finish_non_exhaustive()
    }
}

/// An origin's yes.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    pub(super) right: Right,
    /// The credential that it was said to: the right does not outlive it.
    pub(super) shown: Option<Secret>,
}

/// Somebody who waits for a right. The last one to leave takes the flight away.
struct Aboard<'a> {
    rights: &'a Rights,
    key: RightKey,
    flight: Arc<Flight>,
}

impl Drop for Aboard<'_> {
    fn drop(&mut self) {
        let mut inner = self.rights.lock();
        // The table's and this one.
        if Arc::strong_count(&self.flight) <= 2 {
            inner.flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
