//! The world: hosts, network, origin, scheduler and the queue of events.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hawker_model::{GeometryError, HostId, PieceIndex, Role};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    blob::{Blob, Bytes, CORRUPT, TRUE},
    event::{Event, HostNo, Queue, Time},
    host::Host,
    net::{Lane, Sending},
    origin::{Fetch, Origin, OriginFault},
    outcome::{HostOutcome, Outcome},
    scenario::{Lie, Scenario},
    scheduler::{Answer, Scheduler},
};
use crate::{Action, Envelope, Message, Misbehaviour, Parent, SwarmConfig, TaskFailure};

/// Checking and writing a piece.
const STORE_TIME: Time = 300_000;
/// How long a lost message takes longer.
const RETRANSMISSION: Time = 200_000_000;
/// A sender stops while the receiver's downlink is behind by so much.
const MOST_BACKLOG: Time = 30_000_000;
/// Chain values are told when so many are known or so much time has passed.
const BATCH: usize = 16;
const BATCH_TIME: Time = 30_000_000;

/// Bytes of a batch of chain values besides them: certificate, signature, frame.
const LIST_OVERHEAD: u64 = 600;

pub(crate) struct World {
    plan: Scenario,
    blob: Blob,
    base: Instant,
    now: Time,
    queue: Queue,
    hosts: Vec<Host>,
    numbers: BTreeMap<HostId, HostNo>,
    scheduler: Scheduler,
    origin: Origin,
    rng: SmallRng,
    counter: u64,
    list_bytes: u64,
    reports: Vec<(HostId, Misbehaviour)>,
}

impl World {
    pub(crate) fn new(plan: Scenario) -> Result<Self, GeometryError> {
        let blob = Blob::new(plan.length)?;
        let mut rng = SmallRng::seed_from_u64(plan.seed);
        let mut hosts = Vec::new();
        for (number, host) in plan.hosts.iter().enumerate() {
            let Ok(id) = HostId::parse(&format!("{}{number:04}", host.role)) else {
                continue; // Not possible: a role and digits are a name.
            };
            let mut config = SwarmConfig::new(id.clone(), host.role);
            (plan.tune)(&mut config);
            let mut host = Host::new(id, host.clone(), config, rng.random());
            host.store = vec![None; blob.geometry.piece_count() as usize];
            hosts.push(host);
        }
        let numbers = hosts
            .iter()
            .enumerate()
            .map(|(n, host)| (host.id.clone(), n))
            .collect();
        let is_seed = |n: &HostNo| plan.hosts[*n].role == Role::Seed;
        let scheduler = Scheduler::new((0..hosts.len()).filter(is_seed).collect());
        let mut world = Self {
            blob,
            base: start(),
            now: 0,
            queue: Queue::default(),
            hosts,
            numbers,
            scheduler,
            origin: Origin::default(),
            rng,
            counter: 0,
            list_bytes: 0,
            reports: Vec::new(),
            plan,
        };
        world.plan_lives();
        Ok(world)
    }

    fn plan_lives(&mut self) {
        for number in 0..self.hosts.len() {
            let plan = &self.hosts[number].plan;
            let (arrives, dies) = (plan.arrives, plan.dies);
            self.queue.add(nanos(arrives), Event::Arrive(number));
            if let Some(dies) = dies {
                self.queue.add(nanos(dies), Event::Die(number));
            }
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        let limit = nanos(self.plan.limit);
        let mut events = 0;
        while let Some((at, event)) = self.queue.next() {
            if at > limit || self.is_over() {
                break;
            }
            self.now = at;
            events += 1;
            self.play(event);
        }
        self.outcome(events)
    }

    /// Every living, honest node has what it wants or has given up.
    fn is_over(&self) -> bool {
        self.hosts.iter().all(|host| {
            let done = host.completed_at.is_some() || host.failed.is_some();
            done || !host.alive || host.plan.role == Role::Seed || host.plan.lie.is_some()
        })
    }

    fn outcome(self, events: u64) -> Outcome {
        let outcome = |host: &Host| HostOutcome {
            host: host.id.clone(),
            role: host.plan.role,
            took: host
                .completed_at
                .map(|at| Duration::from_nanos(at).saturating_sub(host.plan.arrives)),
            failed: host.failed.clone(),
            right: host.is_right(),
            alive: host.alive,
            honest: host.plan.lie.is_none(),
            sent_bytes: host.sent_bytes,
            pieces: host.store.iter().flatten().count() as u32,
        };
        Outcome {
            seed: self.plan.seed,
            length: self.plan.length,
            bound: self.plan.bound(),
            hosts: self.hosts.iter().map(outcome).collect(),
            origin_bytes: self.origin.sent_bytes,
            list_bytes: self.list_bytes,
            reports: self.reports,
            events,
        }
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    fn latency(&mut self) -> Time {
        let lost = self.plan.loss > 0.0 && self.rng.random::<f64>() < self.plan.loss;
        nanos(self.plan.latency) + if lost { RETRANSMISSION } else { 0 }
    }

    // --- Events ---

    fn play(&mut self, event: Event) {
        let now = self.instant();
        match event {
            Event::Arrive(host) => {
                self.hosts[host].arrive(&self.blob, now);
                self.after(host);
            }
            Event::Die(host) => self.die(host),
            Event::Wake(host) => self.wake(host),
            Event::Connected { dialer, to } => self.connected(dialer, to),
            Event::DialFailed { dialer, to } => {
                let peer = self.hosts[to].id.clone();
                self.hosts[dialer].swarm.handle_dial_failed(&peer, now);
                self.after(dialer);
            }
            Event::Disconnected { host, peer } => self.disconnected(host, peer),
            Event::Deliver {
                from,
                to,
                link,
                envelope,
                bytes,
            } => {
                self.deliver(from, to, link, envelope, bytes);
            }
            Event::ChunkSent {
                host,
                to,
                link,
                len,
            } => self.chunk_sent(host, to, link, len),
            Event::UplinkFree(host) => self.serve_uplink(host),
            Event::Stored {
                host,
                piece,
                from,
                bytes,
            } => self.stored(host, piece, from, bytes),
            Event::OriginHead { host, fetch } => self.origin_head(host, fetch),
            Event::OriginPiece { host, fetch } => self.origin_piece(host, fetch),
            Event::Lookup(host) => self.look_up(host),
            Event::Parents {
                host,
                parents,
                duty,
            } => {
                self.hosts[host]
                    .swarm
                    .handle_parents(self.blob.task, parents, duty, now);
                self.after(host);
            }
        }
    }

    fn die(&mut self, host: HostNo) {
        self.hosts[host].alive = false;
        self.hosts[host].fetch = None;
        self.scheduler.note_dead(host);
        let peers: Vec<_> = self.hosts[host].net.lanes.keys().copied().collect();
        self.hosts[host].net = Default::default();
        for peer in peers {
            let at = self.now + nanos(self.plan.latency);
            self.queue.add(
                at,
                Event::Disconnected {
                    host: peer,
                    peer: host,
                },
            );
        }
    }

    fn wake(&mut self, host: HostNo) {
        if self.hosts[host].wake_at == Some(self.now) {
            self.hosts[host].wake_at = None;
            let now = self.instant();
            self.hosts[host].swarm.handle_timeout(now);
            self.after(host);
        }
    }

    fn connected(&mut self, dialer: HostNo, to: HostNo) {
        if !self.hosts[dialer].alive || !self.hosts[to].alive {
            return;
        }
        let now = self.instant();
        self.counter += 1;
        for (host, peer) in [(dialer, to), (to, dialer)] {
            let lanes = &mut self.hosts[host].net.lanes;
            let link = self.counter;
            let fresh = lanes.get(&peer).is_none();
            if fresh {
                lanes.insert(peer, Lane::new(link));
            }
            let (id, role) = (self.hosts[peer].id.clone(), self.hosts[peer].plan.role);
            self.hosts[host].swarm.handle_connected(id, role, now);
        }
        self.after(to);
        self.after(dialer);
    }

    fn disconnected(&mut self, host: HostNo, peer: HostNo) {
        let lane = self.hosts[host].net.lanes.remove(&peer);
        if lane.is_some() && self.hosts[host].alive {
            let (id, now) = (self.hosts[peer].id.clone(), self.instant());
            self.hosts[host].swarm.handle_disconnected(&id, now);
            self.after(host);
        }
    }

    fn deliver(&mut self, from: HostNo, to: HostNo, link: u64, envelope: Envelope, bytes: Bytes) {
        let lane = self.hosts[to].net.lanes.get(&from);
        if lane.is_none_or(|lane| lane.link != link) {
            return;
        }
        if let Message::List { batch } = &envelope.message {
            self.list_bytes += LIST_OVERHEAD + 32 * batch.states.len() as u64;
        }
        if let Message::Piece { piece, .. } = &envelope.message {
            self.hosts[to].received.insert((*piece, from), bytes);
        }
        let (id, now) = (self.hosts[from].id.clone(), self.instant());
        self.hosts[to].swarm.handle_message(&id, envelope, now);
        self.after(to);
        self.hosts[to].received.clear();
    }

    fn stored(&mut self, host: HostNo, piece: PieceIndex, from: HostNo, bytes: Bytes) {
        let (id, now, task) = (self.hosts[from].id.clone(), self.instant(), self.blob.task);
        let state = &mut self.hosts[host];
        let fits = |list| self.blob.check(list, piece, bytes);
        if state.swarm.list(&task).is_some_and(fits) {
            state.store[piece.as_usize()] = Some(bytes);
            state.swarm.handle_stored(task, piece, &id, now);
        } else {
            state.swarm.handle_rejected(task, piece, &id, now);
        }
        self.after(host);
    }

    fn look_up(&mut self, host: HostNo) {
        let (degree, room) = (self.plan.degree, self.plan.seed_room);
        let answer = self.scheduler.look_up(host, degree, room, &mut self.rng);
        let Answer { parents, duty } = answer;
        let parent = |number: HostNo| Parent {
            host: self.hosts[number].id.clone(),
            role: self.hosts[number].plan.role,
        };
        let parents = parents.into_iter().map(parent).collect();
        let at = self.now + nanos(self.plan.latency);
        let event = Event::Parents {
            host,
            parents,
            duty,
        };
        self.queue.add(at, event);
    }

    // --- The origin ---

    fn begin_fetch(&mut self, host: HostNo, first: PieceIndex, end: Option<PieceIndex>) {
        self.counter += 1;
        let number = self.counter;
        self.hosts[host].fetch = Some(Fetch {
            number,
            next: first.0,
            end: end.map(|end| end.0),
            got: 0,
            untold: Vec::new(),
            told_at: 0,
        });
        let at = self.now + nanos(self.plan.origin_latency);
        self.queue.add(
            at,
            Event::OriginHead {
                host,
                fetch: number,
            },
        );
    }

    fn is_current(&self, host: HostNo, fetch: u64) -> bool {
        let current = self.hosts[host].fetch.as_ref();
        self.hosts[host].alive && current.is_some_and(|current| current.number == fetch)
    }

    fn origin_head(&mut self, host: HostNo, fetch: u64) {
        if !self.is_current(host, fetch) {
            return;
        }
        if let Some(OriginFault::Refuses(failure)) = self.plan.origin_fault.clone() {
            return self.end_fetch(host, Err(failure));
        }
        let (task, geometry, now) = (self.blob.task, self.blob.geometry, self.instant());
        self.hosts[host]
            .swarm
            .handle_origin_head(task, geometry, now);
        self.after(host);
        self.next_origin_piece(host, fetch);
    }

    fn next_origin_piece(&mut self, host: HostNo, number: u64) {
        let count = self.blob.geometry.piece_count();
        let Some(fetch) = self.hosts[host]
            .fetch
            .as_ref()
            .filter(|f| f.number == number)
        else {
            return;
        };
        let cut = match self.plan.origin_fault {
            Some(OriginFault::CutsAfter(pieces)) => fetch.got >= pieces,
            _ => false,
        };
        if cut {
            let cut = TaskFailure::Origin("the body was cut".to_owned());
            return self.end_fetch(host, Err(cut));
        }
        if fetch.next >= fetch.end.unwrap_or(count) {
            return self.end_fetch(host, Ok(()));
        }
        let len = self.blob.geometry.len_of(PieceIndex(fetch.next));
        let sent = self.origin.send(len, self.plan.origin_rate, self.now);
        let at = self.through_downlink(host, len, self.now, sent);
        self.queue.add(
            at,
            Event::OriginPiece {
                host,
                fetch: number,
            },
        );
    }

    fn origin_piece(&mut self, host: HostNo, number: u64) {
        if !self.is_current(host, number) {
            return;
        }
        let task = self.blob.task;
        let count = self.blob.geometry.piece_count();
        let state = &mut self.hosts[host];
        let Some(fetch) = &mut state.fetch else {
            return;
        };
        let piece = PieceIndex(fetch.next);
        let known = state
            .swarm
            .list(&task)
            .is_some_and(|list| piece.0 < list.len());
        let fits = state
            .swarm
            .list(&task)
            .is_some_and(|l| self.blob.check(l, piece, TRUE));
        if known && !fits {
            let wrong = TaskFailure::WrongDigest(format!("piece {piece}"));
            return self.end_fetch(host, Err(wrong));
        }
        fetch.next += 1;
        fetch.got += 1;
        fetch.untold.push(piece.0);
        let last = fetch.next >= fetch.end.unwrap_or(count);
        let due = fetch.untold.len() >= BATCH || self.now >= fetch.told_at + BATCH_TIME;
        if last || due || known {
            self.tell_origin_pieces(host);
        }
        self.next_origin_piece(host, number);
    }

    /// Tells the swarm the chain values of what came, then the pieces.
    fn tell_origin_pieces(&mut self, host: HostNo) {
        let (task, now) = (self.blob.task, self.instant());
        let state = &mut self.hosts[host];
        let Some(fetch) = &mut state.fetch else {
            return;
        };
        let number = fetch.number;
        fetch.told_at = self.now;
        let pieces = std::mem::take(&mut fetch.untold);
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
            return;
        };
        let known = state.swarm.list(&task).map_or(0, |list| list.len());
        if known < last + 1 {
            let batch = self.blob.batch(known.min(*first), last + 1, TRUE);
            state.swarm.handle_origin_batch(task, batch, now);
            self.after(host);
        }
        for piece in pieces {
            if self.is_current(host, number) {
                self.hosts[host].store[piece as usize] = Some(TRUE);
                self.hosts[host]
                    .swarm
                    .handle_origin_stored(task, PieceIndex(piece), now);
                self.after(host);
            }
        }
    }

    fn end_fetch(&mut self, host: HostNo, result: Result<(), TaskFailure>) {
        self.tell_origin_pieces(host);
        if self.hosts[host].fetch.take().is_some() {
            let (task, now) = (self.blob.task, self.instant());
            self.hosts[host].swarm.handle_origin_done(task, result, now);
            self.after(host);
        }
    }

    // --- What swarms want done ---

    /// Performs all actions of a host and sets its clock.
    fn after(&mut self, host: HostNo) {
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
            Action::HangUp { host: peer, .. } => self.hang_up(host, &peer),
            Action::Send { host: to, envelope } => self.send(host, &to, envelope),
            Action::Upload {
                host: to, piece, ..
            } => self.upload(host, &to, piece),
            Action::Store { piece, from, .. } => self.store(host, piece, &from),
            Action::FetchOrigin { first, end, .. } => self.begin_fetch(host, first, end),
            Action::CancelOrigin { .. } => self.hosts[host].fetch = None,
            Action::Lookup { .. } => {
                if self.plan.scheduler {
                    let at = self.now + nanos(self.plan.latency);
                    self.queue.add(at, Event::Lookup(host));
                }
            }
            Action::Complete { .. } => self.hosts[host].completed_at = Some(self.now),
            Action::Failed { reason, .. } => self.hosts[host].failed = Some(reason),
            Action::Discard { .. } => self.hosts[host].store.fill(None),
            Action::Report {
                host: liar, reason, ..
            } => self.reports.push((liar, reason)),
            Action::Announce { .. } => self.scheduler.announce(host),
            Action::Create { .. } | Action::Withdraw { .. } => {}
        }
    }

    fn number(&self, host: &HostId) -> Option<HostNo> {
        self.numbers.get(host).copied()
    }

    fn dial(&mut self, dialer: HostNo, to: &HostId) {
        let Some(to) = self.number(to) else { return };
        let at = self.now + 3 * nanos(self.plan.latency);
        let event = match self.hosts[to].alive {
            true => Event::Connected { dialer, to },
            false => Event::DialFailed { dialer, to },
        };
        self.queue.add(at, event);
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

    fn store(&mut self, host: HostNo, piece: PieceIndex, from: &HostId) {
        let Some(from) = self.number(from) else {
            return;
        };
        if let Some(bytes) = self.hosts[host].received.remove(&(piece, from)) {
            let at = self.now + STORE_TIME;
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

    fn send(&mut self, host: HostNo, to: &HostId, envelope: Envelope) {
        let Some(to) = self.number(to) else { return };
        let boasts = self.hosts[host].plan.lie == Some(Lie::FalseHave);
        let head = matches!(envelope.message, Message::Head { .. });
        self.send_message(host, to, envelope);
        if boasts && head {
            let pieces = hawker_model::PieceSet::full(self.blob.geometry.piece_count());
            let (task, message) = (self.blob.task, Message::Have { pieces });
            self.send_message(host, to, Envelope { task, message });
        }
    }

    fn send_message(&mut self, host: HostNo, to: HostNo, envelope: Envelope) {
        let delay = self.latency();
        let Some(lane) = self.hosts[host].net.lanes.get_mut(&to) else {
            return;
        };
        if lane.current.is_some() {
            return lane.messages.push_back(envelope);
        }
        let (link, from, bytes) = (lane.link, host, TRUE);
        let at = (self.now + delay).max(lane.last_arrival);
        lane.last_arrival = at;
        self.queue.add(
            at,
            Event::Deliver {
                from,
                to,
                link,
                envelope,
                bytes,
            },
        );
    }

    fn upload(&mut self, host: HostNo, to: &HostId, piece: PieceIndex) {
        let Some(to) = self.number(to) else { return };
        let state = &mut self.hosts[host];
        let stored = state.store.get(piece.as_usize()).copied().flatten();
        let Some(bytes) = stored else {
            return;
        };
        let bytes = match state.plan.lie {
            Some(Lie::Corrupt) => CORRUPT,
            Some(Lie::Silent) => return,
            _ => bytes,
        };
        if let Some(lane) = state.net.lanes.get_mut(&to) {
            lane.pieces.push_back((piece, bytes));
            if !std::mem::replace(&mut lane.in_turn, true) {
                state.net.turns.push_back(to);
            }
            self.serve_uplink(host);
        }
    }

    // --- Links ---

    /// Sends the next chunk of the connection whose turn it is.
    fn serve_uplink(&mut self, host: HostNo) {
        if self.hosts[host].net.uplink_busy {
            return;
        }
        let mut free_at = Time::MAX;
        for _ in 0..self.hosts[host].net.turns.len() {
            let Some(to) = self.hosts[host].net.turns.pop_front() else {
                return;
            };
            let backlog = self.hosts[to].net.downlink_free_at;
            let Some(lane) = self.hosts[host].net.lanes.get_mut(&to) else {
                continue;
            };
            if !lane.has_bytes() {
                lane.in_turn = false;
                continue;
            }
            self.hosts[host].net.turns.push_back(to);
            if backlog <= self.now + MOST_BACKLOG {
                return self.send_chunk(host, to);
            }
            free_at = free_at.min(backlog - MOST_BACKLOG);
        }
        if free_at < Time::MAX {
            self.queue.add(free_at, Event::UplinkFree(host));
        }
    }

    fn send_chunk(&mut self, host: HostNo, to: HostNo) {
        let (rate, chunk, geometry) = (
            self.hosts[host].plan.up_rate,
            self.plan.chunk,
            self.blob.geometry,
        );
        let Some(lane) = self.hosts[host].net.lanes.get_mut(&to) else {
            return;
        };
        if lane.current.is_none() {
            let next = lane.pieces.pop_front();
            lane.current = next.map(|(piece, bytes)| Sending {
                piece,
                bytes,
                left: geometry.len_of(piece),
                arrives: 0,
            });
        }
        let Some(current) = &lane.current else { return };
        let (len, link) = (current.left.min(chunk), lane.link);
        let sent = self.now + (f64::from(len) / rate * 1e9) as Time;
        let arrives = self.through_downlink(to, len, self.now, sent);
        let net = &mut self.hosts[host].net;
        net.uplink_busy = true;
        if let Some(current) = net
            .lanes
            .get_mut(&to)
            .and_then(|lane| lane.current.as_mut())
        {
            current.arrives = arrives;
        }
        self.hosts[host].sent_bytes += u64::from(len);
        self.queue.add(
            sent,
            Event::ChunkSent {
                host,
                to,
                link,
                len,
            },
        );
    }

    /// When bytes that leave from `start` to `sent` are through the receiver's downlink.
    fn through_downlink(&mut self, to: HostNo, len: u32, start: Time, sent: Time) -> Time {
        let duration = (f64::from(len) / self.hosts[to].plan.down_rate * 1e9) as Time;
        let free_at = &mut self.hosts[to].net.downlink_free_at;
        *free_at = sent.max((*free_at).max(start) + duration);
        *free_at
    }

    fn chunk_sent(&mut self, host: HostNo, to: HostNo, link: u64, len: u32) {
        self.hosts[host].net.uplink_busy = false;
        let lane = self.hosts[host]
            .net
            .lanes
            .get_mut(&to)
            .filter(|lane| lane.link == link);
        let done = lane.and_then(|lane| {
            let current = lane.current.as_mut()?;
            current.left -= len;
            if current.left > 0 {
                return None;
            }
            lane.current.take()
        });
        if let Some(sending) = done {
            self.piece_sent(host, to, link, sending);
        }
        self.serve_uplink(host);
    }

    fn piece_sent(&mut self, host: HostNo, to: HostNo, link: u64, sending: Sending) {
        let Sending {
            piece,
            bytes,
            arrives,
            ..
        } = sending;
        let (task, data) = (self.blob.task, bytes::Bytes::new());
        let message = Message::Piece { piece, data };
        let envelope = Envelope { task, message };
        let delay = self.latency();
        let Some(lane) = self.hosts[host].net.lanes.get_mut(&to) else {
            return;
        };
        let at = (arrives + delay).max(lane.last_arrival);
        lane.last_arrival = at;
        let messages = std::mem::take(&mut lane.messages);
        let from = host;
        self.queue.add(
            at,
            Event::Deliver {
                from,
                to,
                link,
                envelope,
                bytes,
            },
        );
        for envelope in messages {
            self.send_message(host, to, envelope);
        }
        let (id, now) = (self.hosts[to].id.clone(), self.instant());
        self.hosts[host]
            .swarm
            .handle_uploaded(&id, task, piece, now);
        self.after(host);
    }
}

fn nanos(duration: Duration) -> Time {
    duration.as_nanos() as Time
}

#[allow(
    clippy::disallowed_methods,
    reason = "an Instant has no other origin; only differences count"
)]
fn start() -> Instant {
    Instant::now()
}
