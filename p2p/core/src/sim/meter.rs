//! How busy the uplinks are as time passes.

use super::event::Time;

/// Bytes sent by all, by spans of time.
#[derive(Debug)]
pub(crate) struct Meter {
    span: Time,
    sent: Vec<u64>,
}

impl Meter {
    pub(crate) fn new(span: Time) -> Self {
        Self {
            span: span.max(1),
            sent: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, at: Time, len: u32) {
        let slot = (at / self.span) as usize;
        if slot >= self.sent.len() {
            self.sent.resize(slot + 1, 0);
        }
        self.sent[slot] += u64::from(len);
    }

    /// The share of what all links together could have sent, of `rate` bytes per second.
    pub(crate) fn shares(&self, rate: f64) -> Vec<f64> {
        let most = rate * self.span as f64 / 1e9;
        self.sent.iter().map(|sent| *sent as f64 / most).collect()
    }
}
