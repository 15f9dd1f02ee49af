//! Seeds that were too slow with questions that one server answers at once.
//!
//! A seed may say that it has heard, and then nothing more. Whoever asks does not wait for it, but
//! would find that out with each question anew. What is noted is about one seed and one server: what
//! else the seed is asked it may know at once.
//!
//! One late answer is forgiven: a word that was lost on the seed's way to the server delays it
//! once, and all hosts would ask the server themselves for that.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hawker_model::HostId;

/// How long such a seed is not asked of that server.
const PAUSE: Duration = Duration::from_secs(15);
/// After so long nothing is known of it any more.
const MEMORY: Duration = Duration::from_secs(30);
/// Seeds and servers remembered at most.
const MOST: usize = 256;

/// Which seed is too slow with which server.
#[derive(Debug, Default)]
pub(crate) struct Laggards(BTreeMap<(HostId, String), Lag>);

#[derive(Debug)]
struct Lag {
    /// When it was last too slow.
    noted: Instant,
    until: Instant,
    /// When a question was given up whose answer came after all.
    forgiven: Option<Instant>,
}

impl Laggards {
    /// Whether the seed is not to be asked of the server now.
    pub(crate) fn holds(&self, seed: &HostId, server: &str, now: Instant) -> bool {
        let lag = self.0.get(&(seed.clone(), server.to_owned()));
        lag.is_some_and(|lag| now < lag.until)
    }

    /// The seed was too slow with what it was asked then. Questions from before one that is forgiven
    /// count no more: they were held up by the same.
    pub(crate) fn note(&mut self, (seed, server): (&HostId, &str), asked: Instant, now: Instant) {
        self.0.retain(|_, lag| now < lag.noted + MEMORY);
        let name = (seed.clone(), server.to_owned());
        if self.0.len() >= MOST && !self.0.contains_key(&name) {
            let oldest = self.0.iter().min_by_key(|(_, lag)| lag.noted);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.0.remove(&oldest);
            }
        }
        let lag = self.0.entry(name).or_insert(Lag {
            noted: now,
            until: now,
            forgiven: None,
        });
        if lag.forgiven.is_none_or(|at| at < asked) {
            (lag.noted, lag.until) = (now, now + PAUSE);
        }
    }

    /// It answered after all what was given up then.
    pub(crate) fn forgive(&mut self, seed: &HostId, server: &str, given_up: Instant) {
        if let Some(lag) = self.0.get_mut(&(seed.clone(), server.to_owned()))
            && lag.forgiven.is_none()
        {
            (lag.forgiven, lag.until) = (Some(given_up), lag.noted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        #[allow(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let now = Instant::now();
        let (mut laggards, seed) = (Laggards::default(), HostId::parse("a").expect("a name"));
        for number in 0..3 * MOST {
            let (server, at) = (
                number.to_string(),
                now + Duration::from_millis(number as u64),
            );
            laggards.note((&seed, &server), at, at);
            assert!(laggards.holds(&seed, &server, at) && laggards.0.len() <= MOST);
        }
        assert!(!laggards.holds(&seed, "0", now));
        laggards.note((&seed, "late"), now + 4 * MEMORY, now + 4 * MEMORY);
        assert_eq!(laggards.0.len(), 1);
    }
}
