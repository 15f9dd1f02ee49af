//! The seeds that live: every host is told of them, at first and whenever they change. Hosts ask
//! them to judge credentials, and use them when no scheduler is there.

use std::sync::Arc;

use hawker_model::{HostId, Role};

use crate::{Action, Peer, Tracker};

/// No more are told.
const MOST: usize = 256;

impl Tracker {
    /// Something happened to a host: if that changes which seeds live, or where, all are told.
    pub(crate) fn review_seeds(&mut self) {
        let seeds = self
            .hosts
            .iter()
            .filter(|(name, host)| host.role == Role::Seed && self.may_be_named(name));
        let seeds = seeds.map(|(name, host)| host.to_peer(name)).take(MOST);
        let seeds: Arc<[Peer]> = seeds.collect();
        if seeds == self.seeds {
            return;
        }
        self.seeds = seeds;
        for host in self.hosts.keys() {
            self.actions.push_back(Action::Seeds {
                to: host.clone(),
                seeds: Arc::clone(&self.seeds),
            });
        }
    }

    /// A host that has just come is told.
    pub(crate) fn tell_seeds(&mut self, to: &HostId) {
        self.actions.push_back(Action::Seeds {
            to: to.clone(),
            seeds: Arc::clone(&self.seeds),
        });
    }
}
