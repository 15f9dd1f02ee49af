//! Receivers that are slow, silent or greedy: what they do to the others that a host serves.

use std::time::{Duration, Instant};

use hawker_model::{
    ChainState, Geometry, HostId, PieceIndex, PieceList, PieceSet, Role, SignedStates, TaskId,
};
use hawker_swarm::{
    Action, Envelope, Message, Opening, Stored, Swarm, SwarmConfig, Want, sim::Scenario,
};

const PIECES: u32 = 1024;
const MILLI: Duration = Duration::from_millis(1);

fn host(name: &str) -> HostId {
    HostId::parse(name).expect("a sound name")
}

fn task() -> TaskId {
    TaskId::Blob(state(PIECES - 1).to_digest())
}

fn state(piece: u32) -> ChainState {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&piece.to_le_bytes());
    ChainState::from_bytes(bytes)
}

/// A host that has everything, and those that it serves. Its clock is that of its timeouts.
struct Server {
    swarm: Swarm,
    now: Instant,
    /// Pieces on their way, and when they will have left.
    sending: Vec<(Instant, HostId, PieceIndex)>,
    /// How long a piece takes to a host of this name.
    takes: fn(&HostId) -> Duration,
    /// Pieces begun.
    begun: Vec<(HostId, PieceIndex)>,
    /// Those that were hung up on.
    hung_up: Vec<HostId>,
}

impl Server {
    fn new(takes: fn(&HostId) -> Duration) -> Self {
        #[allow(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let now = Instant::now();
        let geometry = Geometry::for_length(u64::from(PIECES) << 16).expect("a sound length");
        let mut list = PieceList::new(&task(), geometry);
        list.add(SignedStates {
            first: PieceIndex(0),
            states: (0..PIECES).map(state).collect(),
            origin: None,
            signer: [].into(),
            signature: Vec::new(),
        })
        .expect("a sound batch");
        let pieces = PieceSet::full(PIECES);
        let config = SwarmConfig {
            upload_slots: 4,
            ..SwarmConfig::new(host("me"), Role::Seed)
        };
        let mut swarm = Swarm::new(config, 1);
        let opening = Opening {
            source: None,
            stored: Some(Stored { pieces, list }),
            want: Want::Serve,
        };
        swarm.handle_open(task(), opening, now);
        Self {
            swarm,
            now,
            sending: Vec::new(),
            takes,
            begun: Vec::new(),
            hung_up: Vec::new(),
        }
    }

    fn join(&mut self, name: &str) {
        let (host, role) = (host(name), Role::Node);
        self.swarm.handle_connected(host, role, self.now);
        self.say(name, Message::Join { source: None });
    }

    fn say(&mut self, name: &str, message: Message) {
        let task = task();
        let envelope = Envelope { task, message };
        self.swarm.handle_message(&host(name), envelope, self.now);
        self.act();
    }

    fn ask(&mut self, name: &str, pieces: std::ops::Range<u32>) {
        for piece in pieces.map(PieceIndex) {
            self.say(name, Message::Request { piece });
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.swarm.poll_action() {
            match action {
                Action::Upload { host, piece, .. } => {
                    let done = self.now + (self.takes)(&host);
                    self.begun.push((host.clone(), piece));
                    self.sending.push((done, host, piece));
                }
                Action::HangUp { host, .. } => {
                    self.sending.retain(|(_, to, _)| *to != host);
                    self.swarm.handle_disconnected(&host, self.now);
                    self.hung_up.push(host);
                }
                _ => {}
            }
        }
    }

    /// Lets the time pass until the next thing happens, at most until `end`; says who took a piece.
    fn pass(&mut self, end: Instant) -> Option<(HostId, PieceIndex)> {
        let left = self.sending.iter().map(|(at, ..)| *at).min();
        let timeout = self.swarm.poll_timeout();
        let next = left.into_iter().chain(timeout).min();
        self.now = self.now.max(next.map_or(end, |at| at.min(end)));
        if timeout.is_some_and(|at| at <= self.now) {
            self.swarm.handle_timeout(self.now);
            self.act();
        }
        let at = self.sending.iter().position(|(at, ..)| *at <= self.now)?;
        let (_, host, piece) = self.sending.swap_remove(at);
        self.swarm.handle_uploaded(&host, task(), piece, self.now);
        self.act();
        Some((host, piece))
    }

    /// The longest that the host waits for one of its pieces, which it asks for one after another.
    fn longest_wait(
        &mut self,
        name: &str,
        pieces: u32,
        mut others: impl FnMut(&mut Self),
    ) -> Duration {
        let mut longest = Duration::ZERO;
        for piece in 0..pieces {
            let asked = self.now;
            self.ask(name, piece..piece + 1);
            let end = asked + Duration::from_secs(60);
            while self.now < end {
                let taken = self.pass(end);
                others(self);
                if taken == Some((host(name), PieceIndex(piece))) {
                    break;
                }
            }
            longest = longest.max(self.now - asked);
            // It is no hurry: so the silent ones have their time.
            let rest = self.now + MILLI * 300;
            while self.now < rest {
                self.pass(rest);
                others(self);
            }
        }
        longest
    }
}

fn is_silent(host: &HostId) -> bool {
    host.as_str().starts_with("silent")
}

/// The transport gives up after 30 s without a byte; each byte begins them anew.
fn silent_or_quick(host: &HostId) -> Duration {
    match is_silent(host) {
        true => Duration::from_secs(29),
        false => MILLI * 5,
    }
}

#[test]
fn a_slot_that_is_free_by_age_is_given_although_nobody_says_a_word() {
    let mut server = Server::new(silent_or_quick);
    for name in ["silent-a", "silent-b", "quick"] {
        server.join(name);
    }
    server.ask("silent-a", 0..4);
    server.ask("silent-b", 0..4);
    assert_eq!(server.begun.len(), 4, "as many as there are slots");
    server.ask("quick", 0..1);
    let asked = server.now;
    let end = asked + Duration::from_secs(9);
    while server.begun.len() == 4 && server.now < end {
        server.pass(end);
    }
    let fifth = server.begun.get(4).map(|(to, _)| to.clone());
    assert_eq!(fifth, Some(host("quick")));
    assert!(server.now > asked, "it had to wait");
    assert!(
        server.now - asked <= MILLI * 250,
        "{:?}",
        server.now - asked
    );
}

#[test]
fn a_receiver_that_takes_half_a_minute_for_each_piece_delays_nobody() {
    let mut server = Server::new(silent_or_quick);
    server.join("silent");
    server.join("quick");
    let mut next = 0;
    let longest = server.longest_wait("quick", 400, |server| {
        let waits = server.sending.iter().any(|(_, to, _)| is_silent(to));
        if !waits {
            next = (next + 8) % PIECES;
            server.ask("silent", next..next + 8);
        }
    });
    assert!(longest < MILLI * 500, "{longest:?}");
    assert!(server.hung_up.is_empty());
}

#[test]
fn a_crowd_of_silent_receivers_does_not_stop_all_uploads() {
    let mut server = Server::new(silent_or_quick);
    let silent: Vec<_> = (0..30).map(|number| format!("silent-{number}")).collect();
    for name in &silent {
        server.join(name);
        server.ask(name, 0..8);
    }
    server.join("quick");
    let longest = server.longest_wait("quick", 200, |_| ());
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    let all_silent = server.hung_up.iter().all(is_silent);
    assert!(all_silent && !server.hung_up.is_empty());
}

#[test]
fn who_claims_to_have_nothing_gets_no_more_than_the_others() {
    let mut server = Server::new(|_| MILLI * 5);
    let mut next = [0; 3];
    let names = ["greedy", "fair-a", "fair-b"];
    for (at, name) in names.into_iter().enumerate() {
        server.join(name);
        server.ask(name, 0..8);
        next[at] = 8;
    }
    let mut got = [0; 3];
    while got[1] < 400 {
        let end = server.now + MILLI * 100;
        let Some((to, piece)) = server.pass(end) else {
            continue;
        };
        let at = names.iter().position(|name| host(name) == to).unwrap();
        got[at] += 1;
        if at > 0 {
            let pieces = vec![piece];
            server.say(names[at], Message::Gained { pieces });
        }
        // The greedy one wants the same few again and again.
        let piece = if at == 0 { next[at] % 64 } else { next[at] };
        server.ask(names[at], piece..piece + 1);
        next[at] += 1;
    }
    let fair = got[1].min(got[2]);
    assert!(got[0] * 10 <= fair * 13, "{got:?}");
}

#[test]
fn a_receiver_on_a_hopeless_link_slows_no_other_down() {
    let network = |slow: bool| {
        let mut scenario = Scenario::new(3, 1, 8, 100.0, 8 << 20);
        scenario.limit = Duration::from_secs(60);
        for number in 0..2 {
            scenario = scenario.node(number, |node| {
                if slow {
                    (node.down_rate, node.source) = (2_000.0, false);
                }
            });
        }
        let outcome = scenario.run().expect("a sound length");
        let others = outcome.hosts[3..].iter().map(|host| host.took);
        others.map(|took| took.expect("it ends")).max()
    };
    let (alone, beside) = (network(false).unwrap(), network(true).unwrap());
    assert!(beside <= alone.mul_f64(1.3), "{alone:?} {beside:?}");
}
