//! The origin: gives pieces one after the other, to all who ask, at its rate.

use std::collections::BTreeMap;

use super::event::Time;
use crate::TaskFailure;

/// What is wrong with an origin.
#[derive(Clone, Debug, PartialEq)]
pub enum OriginFault {
    /// Every fetch fails so.
    Refuses(TaskFailure),
    /// Every fetch ends after so many pieces.
    CutsAfter(u32),
    /// So many fetches get other bytes.
    Lies(u32),
}

/// What the origin thinks of a credential. Of one that it was told nothing about, it thinks well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Granted,
    /// 401.
    Denied,
    /// Good for so many pieces.
    Expires(u32),
    /// Nothing is ever answered.
    Hangs,
}

#[derive(Debug, Default)]
pub(crate) struct Origin {
    free_at: Time,
    /// Pieces given, by credential.
    given: BTreeMap<String, u32>,
    pub(crate) sent_bytes: u64,
    pub(crate) lies: u32,
}

impl Origin {
    /// Notes that a piece is asked for with a credential; says whether it is given.
    pub(crate) fn admits(&mut self, credential: &str, access: Access) -> bool {
        let given = self.given.entry(credential.to_owned()).or_default();
        let admitted = match access {
            Access::Granted => true,
            Access::Denied | Access::Hangs => false,
            Access::Expires(after) => *given < after,
        };
        *given += u32::from(admitted);
        admitted
    }

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
    pub(crate) credential: String,
    /// The origin gives it other bytes.
    pub(crate) deceived: bool,
    pub(crate) next: u32,
    pub(crate) end: Option<u32>,
    pub(crate) got: u32,
}
