//! Connections to peers as they come, end and are cut.

use std::time::Instant;

use hawker_model::HostId;

use super::{Driver, link::Removed};
use crate::transport::Connection;

/// Connections to one host: two that cross, and as many that are about to break.
const MAX_LINKS: usize = 4;

impl Driver {
    pub(super) fn handle_connected(&mut self, connection: Connection, now: Instant) {
        let (host, role) = (connection.peer.host.clone(), connection.peer.role);
        let abilities = connection.peer.abilities;
        let zone = connection.peer.zone.clone();
        let checked = self.security.check(connection.peer.certificate.as_ref());
        if let Err(reason) = checked {
            // Since its handshake.
            tracing::warn!(%host, %reason, "refused a peer");
            if self.dialing.remove(&host) {
                self.handle_dial_failed(&host, now);
            }
            return;
        }
        tracing::debug!(%host, %role, address = %connection.peer.address, "connected to a peer");
        self.dialing.remove(&host);
        if self.links.count(&host) >= MAX_LINKS {
            tracing::warn!(%host, "a peer opens connections without end");
            return self.swarm.handle_breach(&host, "too many connections", now);
        }
        let first = self.links.add(connection);
        let peer = (role, abilities);
        self.desk.claims.handle_connected(&host, peer, now);
        if first {
            self.swarm.note_zone(&host, &zone);
            self.swarm.handle_connected(host, role, now);
        }
    }

    /// Parts with peers that are no longer believed.
    pub(super) fn handle_trust(&mut self, now: Instant) {
        let security = &self.security;
        let distrusted = self
            .links
            .distrusted(|certificate| security.check(certificate));
        for (host, reason) in distrusted {
            tracing::warn!(%host, %reason, "cut the connection to a peer");
            self.links.cut(&host, &reason.to_string());
            self.swarm.handle_disconnected(&host, now);
            self.lose_claims(&host, now);
        }
    }

    pub(super) fn handle_dial_failed(&mut self, host: &HostId, now: Instant) {
        self.swarm.handle_dial_failed(host, now);
        if self.links.peer(host).is_none() {
            self.desk.claims.handle_unreachable(host, now);
        }
    }

    pub(super) fn handle_disconnected(
        &mut self,
        host: &HostId,
        link: u64,
        reason: &str,
        now: Instant,
    ) {
        let removed = self.links.remove(host, link);
        if removed != Removed::Unknown {
            tracing::debug!(%host, reason, "lost the connection to a peer");
        }
        match removed {
            Removed::Last => {
                self.swarm.handle_disconnected(host, now);
                self.lose_claims(host, now);
            }
            Removed::Sending => {
                self.swarm.handle_lost_words(host, now);
                self.desk.claims.handle_lost_words(host, now);
            }
            Removed::Spare => self.desk.claims.handle_lost_words(host, now),
            Removed::Unknown => {}
        }
    }
}
