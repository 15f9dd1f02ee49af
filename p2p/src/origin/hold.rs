//! Who holds a body up, so that whoever waits for it does not take that for silence.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Relaxed},
};

/// Who holds a body up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldBy {
    /// A limit of ours: the registry is not to blame.
    Limit,
    /// The registry, which said when to come back.
    Registry,
}

/// What a body that waits tells those who wait for it. Clones tell the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hold(Arc<AtomicU8>);

impl Hold {
    /// Who holds the body up now, if anybody does.
    pub(crate) fn by(&self) -> Option<HeldBy> {
        match self.0.load(Relaxed) {
            0 => None,
            1 => Some(HeldBy::Limit),
            _ => Some(HeldBy::Registry),
        }
    }

    /// Waits, and tells why as long as that takes.
    pub(crate) async fn during<T>(&self, by: HeldBy, wait: impl Future<Output = T>) -> T {
        let _held = Held::begin(self, by);
        wait.await
    }
}

/// Ends with the wait, also when that is given up.
struct Held<'a>(&'a Hold);

impl<'a> Held<'a> {
    fn begin(hold: &'a Hold, by: HeldBy) -> Self {
        let by = match by {
            HeldBy::Limit => 1,
            HeldBy::Registry => 2,
        };
        hold.0.store(by, Relaxed);
        Self(hold)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Relaxed);
    }
}
