//! Hosts that sent what does not check, and until when nothing is taken from them.

use std::{collections::BTreeMap, time::Instant};

use hawker_model::HostId;

#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    until: BTreeMap<HostId, Instant>,
}

impl Quarantine {
    pub(crate) fn shut_out(&mut self, host: HostId, until: Instant) {
        self.until.insert(host, until);
    }

    pub(crate) fn holds(&self, host: &HostId, now: Instant) -> bool {
        self.until.get(host).is_some_and(|until| now < *until)
    }

    /// Forgets those whose time is over.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.until.retain(|_, until| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sample;

    #[test]
    fn a_host_is_held_for_its_time_only() {
        let (now, host) = (sample::start(), sample::host("liar"));
        let mut quarantine = Quarantine::default();
        quarantine.shut_out(host.clone(), now + Duration::from_secs(1));
        assert!(quarantine.holds(&host, now));
        assert!(!quarantine.holds(&host, now + Duration::from_secs(1)));
        quarantine.sweep(now + Duration::from_secs(1));
        assert!(quarantine.until.is_empty());
    }
}
