//! The world: hosts, network, origin, scheduler and the queue of events.

mod acting;
mod lying;
mod reading;
mod sending;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{GeometryError, HostId, PieceIndex, Role};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    blob::{Blob, Bytes},
    event::{Event, HostNo, Queue, Time},
    host::{Host, source},
    meter::Meter,
    net::Lane,
    origin::{Origin, OriginFault},
    outcome::{HostOutcome, Outcome},
    scenario::{Lie, Scenario},
    scheduler::{Answer, Scheduler},
};
use crate::{Envelope, Message, Misbehaviour, Parent, SwarmConfig};

/// How long a lost message takes longer.
const RETRANSMISSION: Time = 200_000_000;
/// When the scheduler looks whether a host has got enough neighbours, as in `hawker-tracker`.
const MAKE_UP_AFTER: Time = 800_000_000;
/// Who may be a liar has a second to show that it was deceived itself.
const AFTERMATH: Time = 2_000_000_000;
/// Bytes of a batch of chain values besides them: certificate, signature, frame.
const LIST_OVERHEAD: u64 = 600;

pub(crate) struct World {
    plan: Scenario,
    blob: Blob,
    base: Instant,
    now: Time,
    queue: Queue,
    hosts: Vec<Host>,
    scheduler: Scheduler,
    origin: Origin,
    rng: SmallRng,
    counter: u64,
    list_bytes: u64,
    reports: Vec<(HostId, Misbehaviour)>,
    meter: Meter,
    /// When what was sent from one zone to another has passed.
    passed_at: BTreeMap<(u8, u8), Time>,
    crossed_bytes: u64,
    /// A host has finished, failed or died.
    changed: bool,
    rejected: BTreeMap<(HostId, HostId), u32>,
    given: BTreeMap<(HostId, HostId), u32>,
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
            config.zone = zone_name(host.zone);
            (plan.tune)(&mut config);
            let mut host = Host::new(id, host.clone(), config, rng.random());
            host.store = vec![None; blob.geometry.piece_count() as usize];
            hosts.push(host);
        }
        let is_seed = |n: &HostNo| plan.hosts[*n].role == Role::Seed;
        let zones = plan.hosts.iter().map(|host| host.zone).collect();
        let scheduler = Scheduler::new((0..hosts.len()).filter(is_seed).collect(), zones);
        let mut world = Self {
            blob,
            base: start(),
            now: 0,
            queue: Queue::default(),
            hosts,
            scheduler,
            origin: Origin::default(),
            rng,
            counter: 0,
            list_bytes: 0,
            reports: Vec::new(),
            meter: Meter::new(nanos(plan.bound()) / 10),
            passed_at: BTreeMap::new(),
            crossed_bytes: 0,
            changed: false,
            rejected: BTreeMap::new(),
            given: BTreeMap::new(),
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
        let mut limit = nanos(self.plan.limit);
        let mut events = 0;
        while let Some((at, event)) = self.queue.next() {
            if std::mem::take(&mut self.changed) && self.is_over() {
                limit = limit.min(self.now + self.aftermath());
            }
            if at > limit {
                break;
            }
            self.now = at;
            events += 1;
            self.play(event);
        }
        self.outcome(events)
    }

    /// How long it is played on when all have ended: until liars have been judged.
    fn aftermath(&self) -> Time {
        let lies = |host: &Host| host.plan.lie.is_some() || host.plan.rotten.is_some();
        match self.hosts.iter().any(lies) {
            true => AFTERMATH,
            false => 0,
        }
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
            first: host
                .first_at
                .map(|at| Duration::from_nanos(at).saturating_sub(host.plan.arrives)),
            failed: host.failed.clone(),
            right: host.is_right(),
            alive: host.alive,
            honest: host.plan.lie.is_none() && host.plan.rotten.is_none(),
            sent_bytes: host.sent_bytes,
            pieces: host.store.iter().flatten().count() as u32,
        };
        let uplinks = self.plan.hosts.iter().map(|host| host.up_rate).sum();
        Outcome {
            seed: self.plan.seed,
            length: self.plan.length,
            bound: self.plan.bound(),
            hosts: self.hosts.iter().map(outcome).collect(),
            origin_bytes: self.origin.sent_bytes,
            origin_lies: matches!(self.plan.origin_fault, Some(OriginFault::Lies(_))),
            list_bytes: self.list_bytes,
            rejected: self.rejected,
            given: self.given,
            reports: self.reports,
            crossed_bytes: self.crossed_bytes,
            uplinks: self.meter.shares(uplinks),
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
            Event::Departed(chunk) => self.departed(*chunk),
            Event::UplinkFree(host) => {
                if self.hosts[host].net.planned == Some(self.now) {
                    self.hosts[host].net.planned = None;
                    self.serve_uplink(host);
                }
            }
            Event::Stored {
                host,
                piece,
                from,
                bytes,
            } => self.stored(host, piece, from, bytes),
            Event::OriginHead { host, fetch } => self.origin_head(host, fetch),
            Event::OriginPiece { host, fetch } => self.origin_piece(host, fetch),
            Event::Lookup(host) => {
                self.look_up(host);
                let at = self.now + MAKE_UP_AFTER;
                self.queue.add(at, Event::MakeUp(host));
            }
            Event::MakeUp(host) => self.make_up(host),
            Event::Renewed { host, refused } => {
                let (task, fresh) = (self.blob.task, self.hosts[host].plan.fresh);
                let fresh = fresh.map(source);
                let swarm = &mut self.hosts[host].swarm;
                swarm.handle_renewed(task, refused, fresh, now);
                self.after(host);
            }
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
        self.changed = true;
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
            let zone = zone_name(self.hosts[peer].plan.zone);
            self.hosts[host].swarm.note_zone(&id, &zone);
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
        let deaf = self.hosts[to].plan.lie == Some(Lie::Deaf);
        if deaf || lane.is_none_or(|lane| lane.link != link) {
            return;
        }
        if let Message::List { batch } = &envelope.message {
            self.introduce_signer(to, &batch.signer);
            self.list_bytes += LIST_OVERHEAD + 32 * batch.states.len() as u64;
        }
        if let Message::Piece { piece, .. } = &envelope.message {
            self.hosts[to].received.insert((*piece, from), bytes);
            self.note_given(from, to);
        }
        let (id, now) = (self.hosts[from].id.clone(), self.instant());
        self.hosts[to].swarm.handle_message(&id, envelope, now);
        self.after(to);
        self.hosts[to].received.clear();
    }

    /// The host reads whose the certificate of a batch is.
    fn introduce_signer(&mut self, host: HostNo, signer: &Arc<[u8]>) {
        let name = std::str::from_utf8(signer).unwrap_or_default();
        if let Ok(name) = HostId::parse(name) {
            self.hosts[host].swarm.note_signer(signer, name);
        }
    }

    fn stored(&mut self, host: HostNo, piece: PieceIndex, from: HostNo, bytes: Bytes) {
        let (id, now, task) = (self.hosts[from].id.clone(), self.instant(), self.blob.task);
        let state = &mut self.hosts[host];
        let fits = |list| self.blob.check(list, piece, bytes);
        if state.swarm.list(&task).is_some_and(fits) {
            state.store[piece.as_usize()] = Some(bytes);
            state.first_at.get_or_insert(self.now);
            state.swarm.handle_stored(task, piece, &id, now);
            if piece.0 == state.cursor {
                state.read_on(&self.blob, now);
            }
        } else {
            state.swarm.handle_rejected(task, piece, &id, now);
            self.note_rejected(host, &id);
        }
        self.after(host);
    }

    fn look_up(&mut self, host: HostNo) {
        let (degree, room) = (self.plan.degree, self.plan.seed_room);
        let answer = self.scheduler.look_up(host, degree, room, &mut self.rng);
        self.name(host, answer);
    }

    fn make_up(&mut self, host: HostNo) {
        if self.hosts[host].alive && self.hosts[host].completed_at.is_none() {
            let degree = self.plan.degree;
            let answer = self.scheduler.make_up(host, degree, &mut self.rng);
            if !answer.parents.is_empty() {
                self.name(host, answer);
            }
        }
    }

    /// Tells a host the scheduler's answer.
    fn name(&mut self, host: HostNo, answer: Answer) {
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
}

fn zone_name(zone: u8) -> String {
    format!("zone-{zone}")
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
