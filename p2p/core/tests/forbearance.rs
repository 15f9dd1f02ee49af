//! What no honest host is punished for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{
    ChainState, Geometry, HostId, PieceIndex, PieceList, PieceSet, Role, SignedStates, TaskId,
};
use hawker_swarm::{
    Action, Envelope, Message, Misbehaviour, Opening, Price, Refusal, Stored, Swarm, SwarmConfig,
    Want,
};

const PIECES: u32 = 8;

fn host(name: &str) -> HostId {
    HostId::parse(name).expect("a sound name")
}

fn url(number: u8) -> TaskId {
    TaskId::Url([number; 32])
}

fn geometry() -> Geometry {
    Geometry::for_length(u64::from(PIECES) << 16).expect("a sound length")
}

fn state(piece: u32) -> ChainState {
    ChainState::from_bytes([piece as u8 + 1; 32])
}

fn batch() -> SignedStates {
    SignedStates {
        first: PieceIndex(0),
        states: (0..PIECES).map(state).collect(),
        origin: None,
        signer: [].into(),
        signature: Vec::new(),
    }
}

/// A host that has some tasks, and a peer that has joined it in all of them.
struct Bench {
    swarm: Swarm,
    now: Instant,
    reports: Vec<Misbehaviour>,
}

impl Bench {
    fn new(tasks: &[TaskId], tune: fn(&mut SwarmConfig)) -> Self {
        #[allow(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let now = Instant::now();
        let mut config = SwarmConfig::new(host("me"), Role::Node);
        tune(&mut config);
        let mut bench = Self {
            swarm: Swarm::new(config, 1),
            now,
            reports: Vec::new(),
        };
        let (peer, role) = (host("peer"), Role::Node);
        bench.swarm.handle_connected(peer, role, now);
        for task in tasks {
            let mut list = PieceList::new(task, geometry());
            list.add(batch()).expect("a sound batch");
            let pieces = PieceSet::full(PIECES);
            let opening = Opening {
                source: None,
                stored: Some(Stored { pieces, list }),
                want: Want::Serve,
            };
            bench.swarm.handle_open(*task, opening, now);
            bench.hear(*task, Message::Join { source: None });
        }
        bench
    }

    fn hear(&mut self, task: TaskId, message: Message) {
        let envelope = Envelope { task, message };
        let peer = host("peer");
        self.swarm.handle_message(&peer, envelope, self.now);
        while let Some(action) = self.swarm.poll_action() {
            if let Action::Report { reason, .. } = action {
                self.reports.push(reason);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.swarm.handle_timeout(self.now);
    }
}

#[test]
fn who_read_another_file_at_the_same_url_has_not_lied() {
    let blob = TaskId::Blob(state(PIECES - 1).to_digest());
    for (task, reports) in [(url(1), &[][..]), (blob, &[Misbehaviour::FalseList])] {
        let mut bench = Bench::new(&[task], |_| ());
        let geometry = geometry();
        bench.hear(task, Message::Head { geometry });
        let mut batch = batch();
        (batch.states[3], batch.signer) = (state(99), Arc::from(*b"the peer's"));
        bench.swarm.note_signer(&batch.signer, host("peer"));
        bench.hear(task, Message::List { batch });
        assert_eq!(bench.reports, reports, "{task}");
    }
}

#[test]
fn who_is_refused_as_busy_may_ask_again_after_a_while_but_not_at_once() {
    let tasks: Vec<_> = (0..200).map(url).collect();
    let no_time = |config: &mut SwarmConfig| config.upload_queue = 0;
    let piece = PieceIndex(0);
    let mut bench = Bench::new(&tasks, no_time);
    for _ in 0..100 {
        for task in &tasks {
            bench.hear(*task, Message::Request { piece });
        }
        bench.pass(Duration::from_millis(150));
    }
    assert_eq!(bench.reports, []);
    let mut bench = Bench::new(&tasks[..1], no_time);
    for _ in 0..20_000 {
        bench.hear(tasks[0], Message::Request { piece });
        bench.pass(Duration::from_millis(1));
    }
    assert_eq!(bench.reports, [Misbehaviour::Flood]);
}

/// How a host is judged that says such words to the shell, so many at once and then so many a second.
fn words(price: Price, at_once: u32, each_second: u32) -> Vec<Misbehaviour> {
    let (mut bench, peer) = (Bench::new(&[], |_| ()), host("peer"));
    for second in 0..60 {
        let count = if second == 0 { at_once } else { each_second };
        for number in 0..count {
            let task = url(number as u8);
            bench.swarm.note_nuisance(&peer, task, price, bench.now);
        }
        bench.pass(Duration::from_secs(1));
    }
    bench.hear(url(0), Message::Leave);
    bench.reports
}

#[test]
fn who_doubts_some_pieces_of_each_of_a_thousand_blobs_is_no_flood_and_who_goes_on_is_one() {
    assert_eq!(words(Price::Answer, 3 * 1000, 3 * 100), []);
    assert_eq!(words(Price::Answer, 0, 1000), [Misbehaviour::Flood]);
    assert_eq!(words(Price::Word, 10_000, 1000), []);
    assert_eq!(words(Price::Word, 0, 5000), [Misbehaviour::Flood]);
}

/// Two tasks that are fetched from the peer, which has both.
fn fetching_two() -> (Bench, [TaskId; 2]) {
    let (mut bench, tasks) = (Bench::new(&[], |_| ()), [url(1), url(2)]);
    for task in tasks {
        let opening = Opening {
            source: None,
            stored: None,
            want: Want::Fetch,
        };
        bench.swarm.handle_open(task, opening, bench.now);
    }
    (bench, tasks)
}

/// What the peer is asked for when it has told that it has all of a task.
fn asked(bench: &mut Bench, task: TaskId) -> Vec<u32> {
    let (geometry, batch, pieces) = (geometry(), batch(), PieceSet::full(PIECES));
    let said = [
        Message::Join { source: None },
        Message::Head { geometry },
        Message::List { batch },
        Message::Have { pieces },
    ];
    for message in said {
        let envelope = Envelope { task, message };
        let peer = host("peer");
        bench.swarm.handle_message(&peer, envelope, bench.now);
    }
    requests(bench)
}

fn requests(bench: &mut Bench) -> Vec<u32> {
    let actions = std::iter::from_fn(|| bench.swarm.poll_action());
    let asked = actions.filter_map(|action| match action {
        Action::Send { envelope, .. } => match envelope.message {
            Message::Request { piece } => Some(piece.0),
            _ => None,
        },
        _ => None,
    });
    asked.collect()
}

#[test]
fn a_host_that_has_no_time_is_left_in_peace_in_all_tasks_until_it_gives_what_was_asked_for() {
    let (mut bench, [one, two]) = fetching_two();
    let of_one = asked(&mut bench, one);
    let (piece, reason) = (Some(PieceIndex(of_one[0])), Refusal::Busy);
    bench.hear(one, Message::Refuse { piece, reason });
    assert_eq!(asked(&mut bench, two), [0; 0]);
    // A piece that nobody asked for is no sign of time.
    let data = bytes::Bytes::new();
    let gift = |piece| Message::Piece {
        piece: PieceIndex(piece),
        data: data.clone(),
    };
    let unasked = (0..PIECES).find(|piece| !of_one.contains(piece)).unwrap();
    bench.hear(one, gift(unasked));
    bench.pass(Duration::from_millis(100));
    assert_eq!(requests(&mut bench), [0; 0]);
    bench.hear(one, gift(of_one[1]));
    bench.pass(Duration::from_millis(20));
    bench.pass(Duration::from_millis(100));
    assert!(!requests(&mut bench).is_empty());
}
