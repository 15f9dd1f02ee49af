//! Which connections stand.

use super::event::HostNo;

/// Every connection by its number, and which of its two ends are open: little for each, since it is
/// looked at for each frame, when what else is known of the receiver may lie far away.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    ends: Vec<[bool; 2]>,
}

impl Connections {
    /// The number of a new connection, whose ends are to be opened.
    pub(crate) fn add(&mut self) -> u64 {
        self.ends.push([false; 2]);
        self.ends.len() as u64 - 1
    }

    pub(crate) fn open(&mut self, link: u64, host: HostNo, peer: HostNo) {
        self.set(link, host, peer, true);
    }

    pub(crate) fn close(&mut self, link: u64, host: HostNo, peer: HostNo) {
        self.set(link, host, peer, false);
    }

    fn set(&mut self, link: u64, host: HostNo, peer: HostNo, open: bool) {
        if let Some(ends) = self.ends.get_mut(link as usize) {
            ends[end(host, peer)] = open;
        }
    }

    /// Whether a host has the connection to its peer still.
    pub(crate) fn is_open(&self, link: u64, host: HostNo, peer: HostNo) -> bool {
        let ends = self.ends.get(link as usize);
        ends.is_some_and(|ends| ends[end(host, peer)])
    }
}

/// Which of the two ends is that of `host`.
fn end(host: HostNo, peer: HostNo) -> usize {
    usize::from(host > peer)
}
