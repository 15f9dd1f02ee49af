//! Many tasks at one seed that may send little: nobody is blamed for asking in vain, and all ends.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hawker_model::{
    ChainState, Geometry, HostId, PieceIndex, PieceList, PieceSet, Role, SignedStates, TaskId,
};
use hawker_swarm::{
    Action, Duty, Envelope, Limit, Message, Misbehaviour, Opening, Parent, Rate, Stored, Swarm,
    SwarmConfig, Want,
};

const MILLI: Duration = Duration::from_millis(1);
const PIECES: u32 = 2;
const TASKS: u8 = 250;

fn host(number: usize) -> HostId {
    HostId::parse(&format!("h{number}")).expect("a sound name")
}

fn task(number: u8) -> TaskId {
    TaskId::Url([number; 32])
}

fn stored(task: &TaskId) -> Stored {
    let geometry = Geometry::for_length(u64::from(PIECES) << 16).expect("a sound length");
    let mut list = PieceList::new(task, geometry);
    let state = |piece: u32| ChainState::from_bytes([piece as u8 + 1; 32]);
    let batch = SignedStates {
        first: PieceIndex(0),
        states: (0..PIECES).map(state).collect(),
        origin: None,
        signer: [].into(),
        signature: Vec::new(),
    };
    list.add(batch).expect("a sound batch");
    Stored {
        pieces: PieceSet::full(PIECES),
        list,
    }
}

/// What will happen to a host.
enum Event {
    Hear(usize, Envelope),
    Sent(usize, TaskId, PieceIndex),
    Stored(usize, TaskId, PieceIndex),
    Connected(usize),
    Lost(usize),
}

/// Hosts, 0 a seed that has all, and what is under way between them.
struct Town {
    now: Instant,
    swarms: Vec<Swarm>,
    events: BTreeMap<(Instant, u64), (usize, Event)>,
    added: u64,
    completed: usize,
    reports: Vec<(usize, HostId, Misbehaviour)>,
}

impl Town {
    fn new(nodes: usize, seed_rate: u64) -> Self {
        #[allow(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let now = Instant::now();
        let swarm = |number| {
            let role = if number == 0 { Role::Seed } else { Role::Node };
            let mut config = SwarmConfig::new(host(number), role);
            if number == 0 {
                let total = Rate::new(seed_rate);
                config.limits.upload = Limit {
                    total,
                    per_task: None,
                };
            }
            Swarm::new(config, number as u64)
        };
        Self {
            now,
            swarms: (0..=nodes).map(swarm).collect(),
            events: BTreeMap::new(),
            added: 0,
            completed: 0,
            reports: Vec::new(),
        }
    }

    fn open(&mut self, number: usize, task: TaskId, want: Want) {
        let opening = Opening {
            source: None,
            stored: (want == Want::Serve).then(|| stored(&task)),
            want,
        };
        self.swarms[number].handle_open(task, opening, self.now);
        self.act(number);
    }

    fn later(&mut self, after: Duration, number: usize, event: Event) {
        self.added += 1;
        let at = (self.now + after, self.added);
        self.events.insert(at, (number, event));
    }

    fn act(&mut self, number: usize) {
        while let Some(action) = self.swarms[number].poll_action() {
            self.perform(number, action);
        }
    }

    fn perform(&mut self, number: usize, action: Action) {
        let place = |host: &HostId| host.as_str()[1..].parse().expect("a number");
        match action {
            Action::Send { host, envelope } => {
                self.later(MILLI, place(&host), Event::Hear(number, envelope));
            }
            Action::Upload { host, task, piece } => {
                let data = bytes::Bytes::new();
                let message = Message::Piece { piece, data };
                let (to, envelope) = (place(&host), Envelope { task, message });
                self.later(MILLI, to, Event::Hear(number, envelope));
                self.later(MILLI, number, Event::Sent(to, task, piece));
            }
            Action::Store { task, piece, from } => {
                let stored = Event::Stored(place(&from), task, piece);
                self.later(MILLI, number, stored);
            }
            Action::Dial { host } => {
                self.later(MILLI, number, Event::Connected(place(&host)));
                self.later(MILLI, place(&host), Event::Connected(number));
            }
            Action::HangUp { host, .. } => self.cut(number, place(&host)),
            Action::Lookup { task } => self.name_all(number, task),
            Action::Complete { .. } => self.completed += 1,
            Action::Report { host, reason, .. } => self.reports.push((number, host, reason)),
            _ => {}
        }
    }

    /// A connection ends.
    fn cut(&mut self, a: usize, b: usize) {
        self.later(Duration::ZERO, a, Event::Lost(b));
        self.later(MILLI, b, Event::Lost(a));
    }

    fn name_all(&mut self, number: usize, task: TaskId) {
        let others = (0..self.swarms.len()).filter(|other| *other != number);
        let parent = |number| Parent {
            host: host(number),
            role: if number == 0 { Role::Seed } else { Role::Node },
        };
        let parents = others.map(parent).collect();
        self.swarms[number].handle_parents(task, parents, Duty::Wait, self.now);
    }

    fn play(&mut self, number: usize, event: Event) {
        let (now, swarm) = (self.now, &mut self.swarms[number]);
        match event {
            Event::Hear(from, envelope) => swarm.handle_message(&host(from), envelope, now),
            Event::Sent(to, task, piece) => swarm.handle_uploaded(&host(to), task, piece, now),
            Event::Stored(from, task, piece) => swarm.handle_stored(task, piece, &host(from), now),
            Event::Connected(to) => {
                let role = if to == 0 { Role::Seed } else { Role::Node };
                swarm.handle_connected(host(to), role, now);
            }
            Event::Lost(to) => swarm.handle_disconnected(&host(to), now),
        }
        self.act(number);
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let wakes = self.swarms.iter().enumerate();
            let wakes = wakes.filter_map(|(number, swarm)| Some((swarm.poll_timeout()?, number)));
            let wake = wakes.min();
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let next = event.into_iter().chain(wake.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if event.is_some_and(|at| at <= self.now) {
                if let Some((_, (number, event))) = self.events.pop_first() {
                    self.play(number, event);
                }
            } else if let Some((_, number)) = wake {
                self.swarms[number].handle_timeout(self.now);
                self.act(number);
            }
        }
        self.now = end;
    }
}

#[test]
fn nobody_is_blamed_who_wants_many_blobs_of_one_seed_that_may_send_little() {
    let mut town = Town::new(3, 4 << 20);
    let tasks: Vec<_> = (0..TASKS).map(task).collect();
    for task in &tasks {
        town.open(0, *task, Want::Serve);
    }
    for number in 1..=3 {
        for task in &tasks {
            town.open(number, *task, Want::Fetch);
        }
    }
    // All connections break once while it goes on, as when the seed starts anew.
    town.pass(Duration::from_secs(3));
    for number in 1..=3 {
        town.cut(0, number);
    }
    town.pass(Duration::from_secs(57));
    assert_eq!(town.reports, []);
    assert_eq!(town.completed, 3 * tasks.len());
}
