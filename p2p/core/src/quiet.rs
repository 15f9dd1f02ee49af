//! Whether anybody is heard at all: who has just waited for one host in vain need not wait as long
//! for the next.

use std::time::{Duration, Instant};

/// How long a silence counts that nothing has broken.
const MEMORY: Duration = Duration::from_secs(5);

/// The last word of any host, and the last silence of one that was to speak.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    heard_at: Option<Instant>,
    until: Option<Instant>,
}

impl Quiet {
    /// Some host said something, or connected.
    pub(crate) fn note_word(&mut self, now: Instant) {
        self.heard_at = Some(now);
        self.until = None;
    }

    /// A host that was asked something so long ago has not given a sign of life.
    pub(crate) fn note_silence(&mut self, time: Duration, now: Instant) {
        if self.heard_at.is_none_or(|at| at + time <= now) {
            self.until = Some(now + MEMORY);
        }
    }

    /// Whether a host was waited for in vain just now, and nobody has been heard since it was asked.
    pub(crate) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    const MOMENT: Duration = Duration::from_millis(250);

    #[test]
    fn a_word_from_anybody_ends_a_silence() {
        let (mut quiet, now) = (Quiet::default(), sample::start());
        quiet.note_silence(MOMENT, now);
        assert!(quiet.is_on(now) && !quiet.is_on(now + MEMORY));
        quiet.note_word(now);
        assert!(!quiet.is_on(now));
        quiet.note_silence(MOMENT, now + MOMENT / 2);
        assert!(!quiet.is_on(now + MOMENT / 2), "another one speaks");
    }
}
