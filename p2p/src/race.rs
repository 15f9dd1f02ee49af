//! A question that is put to a seed and to its origin as well.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Between a seed ([`crate::Node::ask_seed`], [`crate::Node::ask_manifest`]) and the origin, which
/// whoever asks the seed asks itself when the seed takes its time.
#[derive(Debug, Default)]
pub struct Race(AtomicBool);

impl Race {
    /// The origin has answered, and soon, while the seed had still nothing to say. To be said before
    /// the question to the seed is dropped: one that has heard it, and had half a second and more, is
    /// not asked of this origin for fifteen seconds. An answer that comes after all is forgiven once.
    pub fn lose(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether that was said.
    pub fn is_lost(&self) -> bool {
        self.0.load(Relaxed)
    }
}
