//! What swarms want done.

use hawker_model::{HostId, PieceIndex};

use super::{World, nanos};
use crate::{
    Action, Envelope, Message, Refusal,
    sim::{
        blob::certificate,
        event::{Event, HostNo, Time},
        net::Load,
    },
};

/// An owner's answer about a refused credential.
const RENEW_TIME: Time = 50_000_000;

impl World {
    /// Performs all actions of a host and sets its clock.
    pub(super) fn after(&mut self, host: HostNo) {
        while let Some(action) = self.hosts[host].swarm.poll_action() {
            if self.hosts[host].alive {
                self.perform(host, action);
            }
        }
        let due = self.hosts[host].swarm.poll_timeout();
        let Some(due) = due.filter(|_| self.hosts[host].alive) else {
            return;
        };
        let at = nanos(due.saturating_duration_since(self.base)).max(self.now);
        let state = &mut self.hosts[host];
        if state.wake_at.is_none_or(|planned| at < planned) {
            state.wake_at = Some(at);
            self.queue.add(at, Event::Wake(host));
        }
    }

    pub(super) fn perform(&mut self, host: HostNo, action: Action) {
        match action {
            Action::Dial { host: to } => self.dial(host, &to),
            Action::HangUp { host: peer, .. } => self.hang_up(host, &peer),
            Action::Send { host: to, envelope } => self.send(host, &to, envelope),
            Action::Upload {
                host: to, piece, ..
            } => self.upload(host, &to, piece),
            Action::Store { piece, from, .. } => self.store(host, piece, &from),
            Action::FetchOrigin {
                source, first, end, ..
            } => self.begin_fetch(host, &source, first, end),
            Action::CancelOrigin { .. } => self.hosts[host].fetch = None,
            Action::Lookup { .. } => {
                if self.plan.scheduler {
                    let at = self.now + nanos(self.plan.latency);
                    self.queue.add(at, Event::Lookup(host));
                }
            }
            Action::Complete { .. } => {
                self.hosts[host].completed_at = Some(self.now);
                self.changed = true;
            }
            Action::Failed { reason, .. } => {
                self.hosts[host].failed = Some(reason);
                self.changed = true;
            }
            Action::Discard { .. } => self.hosts[host].store.fill(None),
            // What liars say of others is not what is looked at.
            Action::Report {
                host: liar, reason, ..
            } if self.hosts[host].plan.lie.is_none() => self.reports.push((liar, reason)),
            Action::Report { .. } => {}
            Action::Announce { .. } => self.scheduler.announce(host),
            Action::Renew { source, .. } => {
                let refused = source.mark();
                let at = self.now + RENEW_TIME;
                self.queue.add(at, Event::Renewed { host, refused });
            }
            Action::Create { .. } => {
                let now = self.instant();
                self.hosts[host].read_on(&self.blob, now);
            }
            Action::Withdraw { .. } => {}
        }
    }

    pub(super) fn number(&self, host: &HostId) -> Option<HostNo> {
        let digits = host
            .as_str()
            .trim_start_matches(|c: char| !c.is_ascii_digit());
        digits.parse().ok()
    }

    pub(super) fn dial(&mut self, dialer: HostNo, to: &HostId) {
        let Some(to) = self.number(to) else { return };
        let at = self.now + 3 * nanos(self.plan.latency) + nanos(self.plan.handshake);
        let event = match self.hosts[to].alive {
            true => Event::Connected { dialer, to },
            false => Event::DialFailed { dialer, to },
        };
        self.queue.add(at, event);
    }

    pub(super) fn hang_up(&mut self, host: HostNo, peer: &HostId) {
        let Some(peer) = self.number(peer) else {
            return;
        };
        self.queue.add(self.now, Event::Disconnected { host, peer });
        let at = self.now + nanos(self.plan.latency);
        self.queue.add(
            at,
            Event::Disconnected {
                host: peer,
                peer: host,
            },
        );
    }

    pub(super) fn store(&mut self, host: HostNo, piece: PieceIndex, from: &HostId) {
        let Some(from) = self.number(from) else {
            return;
        };
        if let Some(bytes) = self.hosts[host].received.remove(&(piece, from)) {
            let at = self.now + nanos(self.plan.store_time);
            self.queue.add(
                at,
                Event::Stored {
                    host,
                    piece,
                    from,
                    bytes,
                },
            );
        }
    }

    pub(super) fn send(&mut self, host: HostNo, to: &HostId, envelope: Envelope) {
        let Some(to) = self.number(to) else { return };
        let envelope = self.signed(host, envelope);
        for envelope in self.twist(host, to, envelope) {
            self.send_message(host, to, envelope);
        }
    }

    /// Chain values of the sender's own are signed as they leave.
    fn signed(&self, host: HostNo, envelope: Envelope) -> Envelope {
        let Envelope { task, mut message } = envelope;
        if let Message::List { batch } = &mut message
            && batch.signer.is_empty()
        {
            batch.signer = certificate(&self.hosts[host].id);
        }
        Envelope { task, message }
    }

    fn refuse_as_busy(&mut self, host: HostNo, to: HostNo, piece: PieceIndex) {
        let (task, now) = (self.blob.task, self.instant());
        let (piece, reason) = (Some(piece), Refusal::Busy);
        let message = Message::Refuse { piece, reason };
        self.send_message(host, to, Envelope { task, message });
        let peer = self.hosts[to].id.clone();
        if let Some(piece) = piece {
            let swarm = &mut self.hosts[host].swarm;
            swarm.handle_uploaded(&peer, task, piece, now);
        }
    }

    pub(super) fn upload(&mut self, host: HostNo, to: &HostId, piece: PieceIndex) {
        let Some(to) = self.number(to) else { return };
        let state = &mut self.hosts[host];
        let stored = state.store.get(piece.as_usize()).copied().flatten();
        let Some(bytes) = stored else {
            return;
        };
        if self.pretends_to_be_busy(host) {
            return self.refuse_as_busy(host, to, piece);
        }
        let Some(bytes) = self.falsify(host, to, piece, bytes) else {
            return;
        };
        let len = self.blob.geometry.len_of(piece);
        self.send_piece(host, to, Load::Piece(piece, bytes), len);
    }
}
