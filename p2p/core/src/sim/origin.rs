//! The origin: gives pieces one after the other, to all who ask, at its rate.

use super::event::Time;
use crate::TaskFailure;

/// What is wrong with an origin.
#[derive(Clone, Debug, PartialEq)]
pub enum OriginFault {
    /// Every fetch fails so.
    Refuses(TaskFailure),
    /// Every fetch ends after so many pieces.
    CutsAfter(u32),
}

#[derive(Debug, Default)]
pub(crate) struct Origin {
    free_at: Time,
    pub(crate) sent_bytes: u64,
}

impl Origin {
    /// When `len` bytes that are asked for now have left.
    pub(crate) fn send(&mut self, len: u32, rate: f64, now: Time) -> Time {
        let duration = (f64::from(len) / rate * 1e9) as Time;
        self.free_at = self.free_at.max(now) + duration;
        self.sent_bytes += u64::from(len);
        self.free_at
    }
}

/// One host's fetch.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) number: u64,
    pub(crate) next: u32,
    pub(crate) end: Option<u32>,
    pub(crate) got: u32,
    /// Pieces whose chain values are not told yet.
    pub(crate) untold: Vec<u32>,
    pub(crate) told_at: Time,
}
