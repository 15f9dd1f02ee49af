//! For whom the network was told of a source: so that another can be found when it is refused.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hawker_model::TaskId;
use hawker_swarm::Source;

use super::{Claim, right_key::Holder};

/// How long a source may be in use.
const KEEP: Duration = Duration::from_secs(3600);
/// Sources remembered at most.
const MOST: usize = 1024;

/// The claims behind the sources that were handed to the network.
#[derive(Default)]
pub(super) struct Offers(Mutex<HashMap<Key, (Claim, Instant)>>);

/// A task, and the hash of a source.
type Key = (TaskId, Holder);

impl Offers {
    pub(super) fn note(&self, claim: &Claim, source: &Source) {
        let mut offers = self.lock();
        // Few at a time: what has ended is credentials that nobody needs.
        offers.retain(|_, (_, at)| at.elapsed() < KEEP);
        if offers.len() >= MOST {
            // What is not renewed is asked for by its reader.
            offers.clear();
        }
        offers.insert(key(claim.task, source), (claim.clone(), Instant::now()));
    }

    pub(super) fn find(&self, task: TaskId, source: &Source) -> Option<Claim> {
        let offers = self.lock();
        let (claim, at) = offers.get(&key(task, source))?;
        (at.elapsed() < KEEP).then(|| claim.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (Claim, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(task: TaskId, source: &Source) -> Key {
    (task, Holder::of_file(&source.url, source))
}

impl fmt::Debug for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offers").finish_non_exhaustive()
    }
}
