//! The world: hosts, network, origin, schedulers and the queue of events.

mod acting;
mod lying;
mod reading;
mod sending;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{GeometryError, HostId, Role, TaskId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    blob::{Blob, BlobNo},
    connections::Connections,
    event::{Event, HostNo, Time},
    host::{Host, Part, Received, source},
    meter::Meter,
    net::{Load, Site},
    origin::{Origin, OriginFault},
    outcome::{HostOutcome, Outcome},
    queue::Queue,
    scenario::{HostPlan, Lie, Scenario},
    scheduler::{Answer, Scheduler},
};
use crate::{Message, Misbehaviour, Parent, SwarmConfig};

/// How long a lost message takes longer.
const RETRANSMISSION: Time = 200_000_000;
/// When the scheduler looks whether a host has got enough neighbours, as in `hawker-tracker`.
const MAKE_UP_AFTER: Time = 800_000_000;
/// Who may be a liar has a second to show that it was deceived itself.
const AFTERMATH: Time = 2_000_000_000;
/// How long a host that hangs is dialed, as by `p2p`.
const HANDSHAKE: Time = 5_000_000_000;

pub(crate) struct World {
    plan: Scenario,
    blobs: Vec<Blob>,
    base: Instant,
    now: Time,
    queue: Queue,
    hosts: Vec<Host>,
    sites: Vec<Site>,
    /// One for each blob.
    schedulers: Vec<Scheduler>,
    origin: Origin,
    rng: SmallRng,
    connections: Connections,
    counter: u64,
    list_bytes: u64,
    reports: Vec<(HostId, Misbehaviour)>,
    meter: Meter,
    /// When what was sent from one zone to another has passed.
    passed_at: BTreeMap<(u8, u8), Time>,
    crossed_bytes: u64,
    /// A host has finished, failed or died.
    changed: bool,
    any_hangs: bool,
    rejected: BTreeMap<(HostId, HostId), u32>,
    given: BTreeMap<(HostId, HostId), u32>,
}

impl World {
    pub(crate) fn new(plan: Scenario) -> Result<Self, GeometryError> {
        let lengths = std::iter::once(&plan.length).chain(&plan.beside);
        let blobs = (0..).zip(lengths);
        let blobs = blobs.map(|(number, length)| Blob::new(number, *length));
        let blobs = blobs.collect::<Result<Vec<_>, _>>()?;
        let mut rng = SmallRng::seed_from_u64(plan.seed);
        let (mut hosts, mut sites) = (Vec::new(), Vec::new());
        for (number, host) in plan.hosts.iter().enumerate() {
            let Ok(id) = HostId::parse(&format!("{}{number:04}", host.role)) else {
                continue; // Not possible: a role and digits are a name.
            };
            let mut config = SwarmConfig::new(id.clone(), host.role);
            config.zone = zone_name(host.zone);
            (plan.tune)(&mut config);
            sites.push(site(id.clone(), host, plan.payload_share));
            let mut host = Host::new(id, host.clone(), config, rng.random());
            host.parts = blobs.iter().map(part).collect();
            hosts.push(host);
        }
        let mut world = Self {
            schedulers: schedulers(&plan, blobs.len()),
            blobs,
            base: start(),
            now: 0,
            queue: Queue::default(),
            hosts,
            sites,
            origin: Origin::default(),
            rng,
            connections: Connections::default(),
            counter: 0,
            list_bytes: 0,
            reports: Vec::new(),
            meter: Meter::new(nanos(plan.bound()) / 10),
            passed_at: BTreeMap::new(),
            crossed_bytes: 0,
            changed: false,
            any_hangs: plan.hosts.iter().any(|host| host.hangs.is_some()),
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
            for (from, until) in &plan.breaks {
                self.queue.add(nanos(*from), Event::GiveUp(number));
                self.queue.add(nanos(*until), Event::Arrive(number));
            }
        }
        self.plan_cut();
    }

    fn plan_cut(&mut self) {
        if self.plan.cuts > 0.0 {
            let pause = self.rng.random_range(0.0..2.0) / self.plan.cuts;
            let at = self.now + nanos(Duration::from_secs_f64(pause));
            self.queue.add(at, Event::Cut);
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
            match self.hangs_until(&event) {
                Some(until) => self.put_off(event, until),
                None => self.play(event),
            }
        }
        self.outcome(events)
    }

    fn hangs_for_ever(&self, host: &Host) -> bool {
        let hangs = host.plan.hangs;
        hangs.is_some_and(|(from, until)| nanos(from) <= self.now && until >= self.plan.limit)
    }

    /// Until when the host hangs that has to do something now.
    fn hangs_until(&self, event: &Event) -> Option<Time> {
        if !self.any_hangs {
            return None;
        }
        self.hangs_now(event.host()?)
    }

    /// Until when a host hangs, if it does.
    fn hangs_now(&self, host: HostNo) -> Option<Time> {
        let (from, until) = self.hosts[host].plan.hangs?;
        let until = nanos(until);
        (nanos(from)..until).contains(&self.now).then_some(until)
    }

    /// A host that hangs does it when it goes on.
    fn put_off(&mut self, event: Event, until: Time) {
        match event {
            Event::Connected { dialer, to } if until > self.now + HANDSHAKE => {
                let failed = Event::DialFailed { dialer, to };
                self.queue.add(self.now + HANDSHAKE, failed);
            }
            Event::Wake(host) if self.hosts[host].wake_at == Some(self.now) => {
                self.hosts[host].wake_at = Some(until);
                self.queue.add(until, Event::Wake(host));
            }
            Event::UplinkFree(host) if self.hosts[host].net.planned == Some(self.now) => {
                self.hosts[host].net.planned = Some(until);
                self.queue.add(until, Event::UplinkFree(host));
            }
            event => self.queue.add(until, event),
        }
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
            let done = host.failed.is_some() || host.completed_at().is_some();
            let gone = !host.alive || self.hangs_for_ever(host);
            done || gone || host.plan.role == Role::Seed || host.plan.lie.is_some()
        })
    }

    fn outcome(self, events: u64) -> Outcome {
        let outcome = |host: &Host| HostOutcome {
            host: host.id.clone(),
            role: host.plan.role,
            took: since_arrival(host, host.completed_at()),
            blobs: host
                .parts
                .iter()
                .map(|part| since_arrival(host, part.completed_at))
                .collect(),
            first: since_arrival(host, host.first_at),
            pause: Duration::from_nanos(host.pause),
            failed: host.failed.clone(),
            right: host.is_right(),
            alive: host.alive && !self.hangs_for_ever(host),
            honest: host.plan.lie.is_none() && host.plan.rotten.is_none(),
            sent_bytes: host.sent_bytes,
            pieces: host.stored().count() as u32,
        };
        let uplinks = self.plan.hosts.iter().map(|host| host.up_rate).sum();
        Outcome {
            seed: self.plan.seed,
            length: self.plan.total_length(),
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

    fn blob(&self, number: BlobNo) -> &Blob {
        &self.blobs[usize::from(number)]
    }

    /// Which blob a task is.
    fn number_of(&self, task: &TaskId) -> Option<BlobNo> {
        let place = self.blobs.iter().position(|blob| blob.task == *task);
        place.map(|place| place as BlobNo)
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
                let state = &mut self.hosts[host];
                state.failed = None;
                if state.completed_at().is_none() {
                    state.waits_since = Some(self.now);
                }
                for (number, blob) in (0..).zip(&self.blobs) {
                    self.hosts[host].arrive(number, blob, now);
                }
                self.after(host);
            }
            Event::Die(host) => self.die(host),
            Event::GiveUp(host) => self.give_up(host),
            Event::Cut => self.cut(),
            Event::Wake(host) => self.wake(host),
            Event::Connected { dialer, to } => self.connected(dialer, to),
            Event::DialFailed { dialer, to } => {
                let peer = &self.sites[to].id;
                self.hosts[dialer].swarm.handle_dial_failed(peer, now);
                self.after(dialer);
            }
            Event::Disconnected { host, peer } => self.disconnected(host, peer),
            Event::Silent { host, peer } => {
                let peer = &self.sites[peer].id;
                self.hosts[host].swarm.handle_silent(peer, now);
                self.after(host);
            }
            Event::Heard { host, peer } => {
                let peer = &self.sites[peer].id;
                self.hosts[host].swarm.handle_heard(peer, now);
                self.after(host);
            }
            Event::Deliver {
                from,
                to,
                link,
                blob,
                load,
            } => self.deliver(from, to, link, (blob, load)),
            Event::Departed(chunk) => self.departed(chunk),
            Event::UplinkFree(host) => {
                if self.hosts[host].net.planned == Some(self.now) {
                    self.hosts[host].net.planned = None;
                    self.serve_uplink(host);
                }
            }
            Event::Stored {
                host,
                blob,
                piece,
                from,
                bytes,
            } => {
                let what = Received {
                    blob,
                    piece,
                    from,
                    bytes,
                };
                self.stored(host, what);
            }
            Event::OriginHead { host, blob, fetch } => self.origin_head(host, blob, fetch),
            Event::OriginPiece { host, blob, fetch } => self.origin_piece(host, blob, fetch),
            Event::Lookup { host, blob } => {
                self.look_up(host, blob);
                let at = self.now + MAKE_UP_AFTER;
                self.queue.add(at, Event::MakeUp { host, blob });
            }
            Event::MakeUp { host, blob } => self.make_up(host, blob),
            Event::Renewed {
                host,
                blob,
                refused,
            } => {
                let (task, fresh) = (self.blob(blob).task, self.hosts[host].plan.fresh);
                let fresh = fresh.map(source);
                let swarm = &mut self.hosts[host].swarm;
                swarm.handle_renewed(task, *refused, fresh, now);
                self.after(host);
            }
            Event::Parents {
                host,
                blob,
                parents,
                duty,
            } => {
                let task = self.blob(blob).task;
                let swarm = &mut self.hosts[host].swarm;
                swarm.handle_parents(task, parents, duty, now);
                self.after(host);
            }
        }
    }

    fn die(&mut self, host: HostNo) {
        self.hosts[host].alive = false;
        self.changed = true;
        for part in &mut self.hosts[host].parts {
            part.fetch = None;
        }
        for blob in 0..self.schedulers.len() {
            self.schedulers[blob].note_dead(host);
            self.appoint(blob as BlobNo);
        }
        let peers = self.hosts[host].net.lanes.peers();
        for peer in &peers {
            if let Some(link) = self.hosts[host].net.lanes.close(*peer) {
                self.connections.close(link, host, *peer);
            }
        }
        self.hosts[host].net = Default::default();
        self.sites[host].downlink_free_at = 0;
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

    fn give_up(&mut self, host: HostNo) {
        let now = self.instant();
        if self.hosts[host].completed_at().is_some() {
            return;
        }
        self.hosts[host].end_wait(self.now);
        self.hosts[host].waits_since = None;
        for blob in &self.blobs {
            self.hosts[host].swarm.handle_close(blob.task, now);
        }
        self.after(host);
    }

    fn cut(&mut self) {
        let host = self.rng.random_range(0..self.hosts.len());
        let peers = self.hosts[host].net.lanes.peers();
        if !peers.is_empty() {
            let peer = peers[self.rng.random_range(0..peers.len())];
            let later = self.now + nanos(self.plan.latency);
            self.queue.add(self.now, Event::Disconnected { host, peer });
            let (host, peer) = (peer, host);
            self.queue.add(later, Event::Disconnected { host, peer });
        }
        self.plan_cut();
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
        let link = self.connections.add();
        for (host, peer) in [(dialer, to), (to, dialer)] {
            if self.hosts[host].net.lanes.open(peer, link) {
                self.connections.open(link, host, peer);
            }
            let Site { id, role, zone, .. } = &self.sites[peer];
            let swarm = &mut self.hosts[host].swarm;
            swarm.note_zone(id, &zone_name(*zone));
            swarm.handle_connected(id.clone(), *role, now);
        }
        self.after(to);
        self.after(dialer);
    }

    fn disconnected(&mut self, host: HostNo, peer: HostNo) {
        let Some(link) = self.hosts[host].net.lanes.close(peer) else {
            return;
        };
        self.connections.close(link, host, peer);
        if self.hosts[host].alive {
            let (id, now) = (&self.sites[peer].id, self.instant());
            self.hosts[host].swarm.handle_disconnected(id, now);
            self.after(host);
        }
    }

    fn deliver(&mut self, from: HostNo, to: HostNo, link: u64, (blob, load): (BlobNo, Load)) {
        let deaf = self.sites[to].lie == Some(Lie::Deaf);
        if deaf || !self.connections.is_open(link, to, from) {
            return;
        }
        let (envelope, bytes) = self.unpack(blob, load);
        if let Message::List { batch } = &envelope.message {
            self.introduce_signer(to, &batch.signer);
        }
        if let Message::Piece { piece, .. } = &envelope.message {
            self.hosts[to].received = Some(Received {
                blob,
                piece: *piece,
                from,
                bytes,
            });
            self.note_given(from, to);
        }
        let (id, now) = (&self.sites[from].id, self.instant());
        self.hosts[to].swarm.handle_message(id, envelope, now);
        self.after(to);
        self.hosts[to].received = None;
    }

    /// The host reads whose the certificate of a batch is.
    fn introduce_signer(&mut self, host: HostNo, signer: &Arc<[u8]>) {
        let name = std::str::from_utf8(signer).unwrap_or_default();
        if let Ok(name) = HostId::parse(name) {
            self.hosts[host].swarm.note_signer(signer, name);
        }
    }

    fn stored(&mut self, host: HostNo, what: Received) {
        let Received {
            blob,
            piece,
            from,
            bytes,
        } = what;
        let (id, now) = (self.sites[from].id.clone(), self.instant());
        let content = &self.blobs[usize::from(blob)];
        let state = &mut self.hosts[host];
        let fits = |list| content.check(list, piece, bytes);
        if state.swarm.list(&content.task).is_some_and(fits) {
            state.part_mut(blob).store[piece.as_usize()] = Some(bytes);
            state.first_at.get_or_insert(self.now);
            state.end_wait(self.now);
            state.swarm.handle_stored(content.task, piece, &id, now);
            if piece.0 == state.part(blob).cursor {
                state.read_on(blob, content, now);
            }
        } else {
            state.swarm.handle_rejected(content.task, piece, &id, now);
            self.note_rejected(host, &id);
        }
        self.after(host);
    }

    fn look_up(&mut self, host: HostNo, blob: BlobNo) {
        let (degree, room) = (self.plan.degree, self.plan.seed_room);
        let scheduler = &mut self.schedulers[usize::from(blob)];
        let answer = scheduler.look_up(host, degree, room, &mut self.rng);
        self.name(host, blob, answer);
    }

    /// Who was to fetch is gone: the scheduler names another one.
    fn appoint(&mut self, blob: BlobNo) {
        let hosts = &self.hosts;
        let seeks = |host: HostNo| {
            let state = &hosts[host];
            let waits = state.waits_since.is_some() && state.plan.lie.is_none();
            waits && state.alive && state.part(blob).completed_at.is_none()
        };
        let next = self.schedulers[usize::from(blob)].appoint(seeks);
        if let Some((host, answer)) = next {
            self.name(host, blob, answer);
        }
    }

    fn make_up(&mut self, host: HostNo, blob: BlobNo) {
        let state = &self.hosts[host];
        if state.alive && state.part(blob).completed_at.is_none() {
            let degree = self.plan.degree;
            let scheduler = &mut self.schedulers[usize::from(blob)];
            let answer = scheduler.make_up(host, degree, &mut self.rng);
            if !answer.parents.is_empty() {
                self.name(host, blob, answer);
            }
        }
    }

    /// Tells a host the scheduler's answer.
    fn name(&mut self, host: HostNo, blob: BlobNo, answer: Answer) {
        let Answer { parents, duty } = answer;
        let parent = |number: HostNo| Parent {
            host: self.sites[number].id.clone(),
            role: self.sites[number].role,
        };
        let parents = parents.into_iter().map(parent).collect();
        let at = self.now + nanos(self.plan.latency);
        let event = Event::Parents {
            host,
            blob,
            parents,
            duty,
        };
        self.queue.add(at, event);
    }
}

/// What others look at of a host.
fn site(id: HostId, host: &HostPlan, payload_share: f64) -> Site {
    Site {
        id,
        role: host.role,
        zone: host.zone,
        lie: host.lie,
        up_rate: host.up_rate * payload_share,
        down_rate: host.down_rate * payload_share,
        downlink_free_at: 0,
    }
}

/// Nothing of a blob.
fn part(blob: &Blob) -> Part {
    Part {
        store: vec![None; blob.geometry.piece_count() as usize],
        ..Part::default()
    }
}

/// A scheduler for each blob; each blob has another seed first, as by rendezvous hashing.
fn schedulers(plan: &Scenario, blobs: usize) -> Vec<Scheduler> {
    let is_seed = |number: &HostNo| plan.hosts[*number].role == Role::Seed;
    let mut seeds: Vec<_> = (0..plan.hosts.len()).filter(is_seed).collect();
    let zones: Vec<_> = plan.hosts.iter().map(|host| host.zone).collect();
    let mut schedulers = Vec::new();
    for _ in 0..blobs {
        schedulers.push(Scheduler::new(seeds.clone(), zones.clone()));
        if !seeds.is_empty() {
            seeds.rotate_left(1);
        }
    }
    schedulers
}

fn since_arrival(host: &Host, at: Option<Time>) -> Option<Duration> {
    at.map(|at| Duration::from_nanos(at).saturating_sub(host.plan.arrives))
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
