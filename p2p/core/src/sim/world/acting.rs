//! What swarms want done.

use std::sync::Arc;

use hawker_model::{HostId, PieceIndex, TaskId};

use super::{World, nanos};
use crate::{
    Action, Envelope, Message, Refusal,
    sim::{
        blob::BlobNo,
        event::{Event, HostNo, Time},
        host::Received,
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

    fn perform(&mut self, host: HostNo, action: Action) {
        match action {
            Action::Dial { host: to } => self.dial(host, &to),
            Action::Ping { host: peer, within } => self.ping(host, &peer, nanos(within)),
            Action::HangUp { host: peer, .. } => self.hang_up(host, &peer),
            Action::Send { host: to, envelope } => self.send(host, &to, envelope),
            // What liars say of others is not what is looked at.
            Action::Report {
                host: liar, reason, ..
            } if self.hosts[host].plan.lie.is_none() => self.reports.push((liar, reason)),
            Action::Report { .. } => {}
            Action::Upload {
                host: to,
                task,
                piece,
            } => {
                if let Some(blob) = self.number_of(&task) {
                    self.upload(host, &to, blob, piece);
                }
            }
            Action::Store { task, piece, from } => {
                if let Some(blob) = self.number_of(&task) {
                    self.store(host, blob, piece, &from);
                }
            }
            of_a_task => self.perform_for_task(host, of_a_task),
        }
    }

    /// What is not done for each piece.
    fn perform_for_task(&mut self, host: HostNo, action: Action) {
        let Some(blob) = task_of(&action).and_then(|task| self.number_of(&task)) else {
            return;
        };
        match action {
            Action::FetchOrigin {
                source, first, end, ..
            } => self.begin_fetch(host, blob, &source, first, end),
            Action::CancelOrigin { .. } => self.hosts[host].part_mut(blob).fetch = None,
            Action::Lookup { .. } if self.plan.scheduler => {
                let at = self.now + nanos(self.plan.latency);
                self.queue.add(at, Event::Lookup { host, blob });
            }
            Action::Complete { .. } => {
                self.hosts[host].part_mut(blob).completed_at = Some(self.now);
                self.hosts[host].end_wait(self.now);
                self.hosts[host].waits_since = None;
                self.changed = true;
            }
            Action::Failed { reason, .. } => {
                self.hosts[host].failed = Some(reason);
                self.changed = true;
            }
            Action::Discard { .. } => self.hosts[host].part_mut(blob).store.fill(None),
            Action::Withdraw { .. } => {
                self.schedulers[usize::from(blob)].withdraw(host);
                self.appoint(blob);
            }
            Action::Announce { .. } => self.schedulers[usize::from(blob)].announce(host),
            Action::Renew { source, .. } => {
                let (at, refused) = (self.now + RENEW_TIME, Box::new(source.mark()));
                let event = Event::Renewed {
                    host,
                    blob,
                    refused,
                };
                self.queue.add(at, event);
            }
            Action::Create { .. } => {
                let now = self.instant();
                let content = &self.blobs[usize::from(blob)];
                self.hosts[host].read_on(blob, content, now);
            }
            _ => {}
        }
    }

    fn number(&self, host: &HostId) -> Option<HostNo> {
        let name = host.as_str().as_bytes();
        let digits = name.iter().position(u8::is_ascii_digit)?;
        let digit = |number, digit: &u8| number * 10 + HostNo::from(digit - b'0');
        Some(name[digits..].iter().fold(0, digit))
    }

    fn dial(&mut self, dialer: HostNo, to: &HostId) {
        let Some(to) = self.number(to) else { return };
        let at = self.now + 3 * nanos(self.plan.latency) + nanos(self.plan.handshake);
        let event = match self.hosts[to].alive {
            true => Event::Connected { dialer, to },
            false => Event::DialFailed { dialer, to },
        };
        self.queue.add(at, event);
    }

    /// Whoever hangs does not answer; all others do.
    fn ping(&mut self, host: HostNo, peer: &HostId, within: Time) {
        let Some(peer) = self.number(peer) else {
            return;
        };
        if let Some(until) = self.hangs_now(peer) {
            let at = self.now + within;
            self.queue.add(at, Event::Silent { host, peer });
            self.queue.add(until, Event::Heard { host, peer });
        }
    }

    fn hang_up(&mut self, host: HostNo, peer: &HostId) {
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

    fn store(&mut self, host: HostNo, blob: BlobNo, piece: PieceIndex, from: &HostId) {
        let Some(from) = self.number(from) else {
            return;
        };
        let came = |it: &mut Received| (it.blob, it.piece, it.from) == (blob, piece, from);
        if let Some(Received { bytes, .. }) = self.hosts[host].received.take_if(came) {
            let at = self.now + nanos(self.plan.store_time);
            let event = Event::Stored {
                host,
                blob,
                piece,
                from,
                bytes,
            };
            self.queue.add(at, event);
        }
    }

    fn send(&mut self, host: HostNo, to: &HostId, mut envelope: Envelope) {
        let Some(to) = self.number(to) else { return };
        self.sign(host, &mut envelope.message);
        if self.hosts[host].plan.lie.is_none() {
            return self.send_message(host, to, envelope);
        }
        for envelope in self.twist(host, to, envelope) {
            self.send_message(host, to, envelope);
        }
    }

    /// Chain values of the sender's own are signed as they leave.
    fn sign(&self, host: HostNo, message: &mut Message) {
        if let Message::List { batch } = message
            && batch.signer.is_empty()
        {
            batch.signer = Arc::clone(&self.hosts[host].certificate);
        }
    }

    fn refuse_as_busy(&mut self, host: HostNo, to: HostNo, blob: BlobNo, piece: PieceIndex) {
        let (task, now) = (self.blob(blob).task, self.instant());
        let reason = Refusal::Busy;
        let message = Message::Refuse {
            piece: Some(piece),
            reason,
        };
        self.send_message(host, to, Envelope { task, message });
        let (swarm, peer) = (&mut self.hosts[host].swarm, &self.sites[to].id);
        swarm.handle_uploaded(peer, task, piece, now);
    }

    fn upload(&mut self, host: HostNo, to: &HostId, blob: BlobNo, piece: PieceIndex) {
        let Some(to) = self.number(to) else { return };
        let part = self.hosts[host].part(blob);
        let stored = part.store.get(piece.as_usize()).copied().flatten();
        let Some(bytes) = stored else {
            return;
        };
        if self.pretends_to_be_busy(host) {
            return self.refuse_as_busy(host, to, blob, piece);
        }
        let Some(bytes) = self.falsify(host, to, piece, bytes) else {
            return;
        };
        let len = self.blob(blob).geometry.len_of(piece);
        self.send_piece(host, to, (blob, Load::Piece(piece, bytes)), len);
    }
}

/// Which task an action that is not done for each piece is about.
fn task_of(action: &Action) -> Option<TaskId> {
    match action {
        Action::FetchOrigin { task, .. }
        | Action::CancelOrigin { task }
        | Action::Lookup { task, .. }
        | Action::Complete { task }
        | Action::Failed { task, .. }
        | Action::Discard { task, .. }
        | Action::Announce { task, .. }
        | Action::Withdraw { task }
        | Action::Renew { task, .. }
        | Action::Create { task, .. } => Some(*task),
        _ => None,
    }
}
