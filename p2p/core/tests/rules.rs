//! One rule of the swarm each, by its inputs and outputs alone.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{
    ChainState, Digest, Geometry, HostId, PieceIndex, PieceList, PieceSet, Role, SignedStates,
    TaskId,
};
use hawker_swarm::{
    Action, Behalf, Duty, Envelope, Message, Misbehaviour, Opening, Parent, Refusal, Secret,
    Source, Stored, Swarm, SwarmConfig, TaskFailure, Want,
};

const PIECES: u32 = 8;
const PIECE_LEN: u64 = 64 << 10;

fn host(name: &str) -> HostId {
    HostId::parse(name).expect("a sound name")
}

fn geometry() -> Geometry {
    Geometry::for_length(u64::from(PIECES) * PIECE_LEN).expect("a sound length")
}

fn state(piece: u32) -> ChainState {
    ChainState::from_bytes([piece as u8 + 1; 32])
}

fn task() -> TaskId {
    TaskId::Blob(state(PIECES - 1).to_digest())
}

fn batch(first: u32, end: u32) -> SignedStates {
    SignedStates {
        first: PieceIndex(first),
        states: (first..end).map(state).collect(),
        origin: None,
        signer: Arc::from([]),
        signature: Vec::new(),
    }
}

fn source() -> Source {
    source_of("t")
}

/// The same place, with another credential.
fn source_of(token: &str) -> Source {
    let url = "https://registry.example/v2/a/blobs/b".to_owned();
    let authorization = Some(Secret::new(format!("Bearer {token}")));
    Source { url, authorization }
}

fn discards(action: &Action) -> bool {
    matches!(action, Action::Discard { task: discarded, .. } if *discarded == task())
}

/// A swarm under test and its clock.
struct Bench {
    swarm: Swarm,
    now: Instant,
}

impl Bench {
    fn new(role: Role) -> Self {
        #[allow(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let now = Instant::now();
        let swarm = Swarm::new(SwarmConfig::new(host("me"), role), 1);
        Self { swarm, now }
    }

    /// A node of a zone that fetches, with parents of its own zone and of another one that say which
    /// of all pieces they have.
    fn between_zones(parents: &[(&str, &str, &[u32])]) -> Self {
        let mut bench = Self::fetching();
        let mut config = SwarmConfig::new(host("me"), Role::Node);
        config.zone = "here".to_owned();
        bench.swarm = Swarm::new(config, 1);
        bench.open(Want::Fetch, Some(source()), None);
        let contacts: Vec<_> = parents
            .iter()
            .map(|(name, ..)| (*name, Role::Node))
            .collect();
        bench.parents(&contacts, Duty::Wait);
        for (name, zone, _) in parents {
            bench.swarm.note_zone(&host(name), zone);
            bench.connect(name, Role::Node);
            bench.say(name, Message::Join { source: None });
            let geometry = geometry();
            bench.say(name, Message::Head { geometry });
        }
        for (name, _, pieces) in parents {
            let pieces = pieces.iter().map(|piece| PieceIndex(*piece)).collect();
            bench.say(name, Message::Gained { pieces });
        }
        let batch = batch(0, PIECES);
        bench.say(parents[0].0, Message::List { batch });
        bench
    }

    /// A node that fetches, and whose lookup was answered with nobody.
    fn fetching() -> Self {
        let mut bench = Self::new(Role::Node);
        bench.open(Want::Fetch, Some(source()), None);
        bench.parents(&[], Duty::Wait);
        bench.actions();
        bench
    }

    /// A node that fetches and has the whole list from a parent that has everything.
    fn with_parents(names: &[&str]) -> Self {
        let mut bench = Self::fetching();
        for name in names {
            bench.connect(name, Role::Node);
            bench.say_everything(name);
        }
        bench
    }

    fn open(&mut self, want: Want, source: Option<Source>, stored: Option<Stored>) {
        let opening = Opening {
            source,
            stored,
            want,
        };
        self.swarm.handle_open(task(), opening, self.now);
    }

    /// Opens a task that is stored up to a piece.
    fn stored(pieces: u32, listed: u32) -> Stored {
        let mut list = PieceList::new(&task(), geometry());
        if listed > 0 {
            list.add(batch(0, listed)).expect("a sound batch");
        }
        let mut set = PieceSet::empty(PIECES);
        set.insert_range(0..pieces);
        Stored { pieces: set, list }
    }

    fn parents(&mut self, parents: &[(&str, Role)], duty: Duty) {
        let parent = |(name, role): &(&str, Role)| Parent {
            host: host(name),
            role: *role,
        };
        let parents = parents.iter().map(parent).collect();
        self.swarm.handle_parents(task(), parents, duty, self.now);
    }

    fn connect(&mut self, name: &str, role: Role) {
        self.swarm.handle_connected(host(name), role, self.now);
    }

    fn say(&mut self, from: &str, message: Message) {
        let envelope = Envelope {
            task: task(),
            message,
        };
        self.swarm.handle_message(&host(from), envelope, self.now);
    }

    fn say_everything(&mut self, from: &str) {
        self.say(from, Message::Join { source: None });
        self.say(
            from,
            Message::Head {
                geometry: geometry(),
            },
        );
        self.say(
            from,
            Message::List {
                batch: batch(0, PIECES),
            },
        );
        self.say(
            from,
            Message::Have {
                pieces: PieceSet::full(PIECES),
            },
        );
    }

    fn piece(&mut self, from: &str, piece: u32) {
        let (piece, data) = (PieceIndex(piece), bytes::Bytes::new());
        self.say(from, Message::Piece { piece, data });
    }

    fn piece_stored(&mut self, from: &str, piece: u32) {
        self.piece(from, piece);
        self.swarm
            .handle_stored(task(), PieceIndex(piece), &host(from), self.now);
    }

    fn piece_rejected(&mut self, from: &str, piece: u32) {
        self.piece(from, piece);
        self.swarm
            .handle_rejected(task(), PieceIndex(piece), &host(from), self.now);
    }

    /// The origin refuses the credential in use.
    fn denied(&mut self) {
        let denied = Err(TaskFailure::Denied("401".into()));
        self.swarm.handle_origin_done(task(), denied, self.now);
    }

    /// The owner's answer about a refused credential.
    fn renewed(&mut self, token: &str, fresh: Option<&str>) {
        let (refused, fresh) = (source_of(token).mark(), fresh.map(source_of));
        self.swarm.handle_renewed(task(), refused, fresh, self.now);
    }

    /// A host joins a seed with a credential.
    fn join_as(&mut self, name: &str, token: &str) {
        self.connect(name, Role::Node);
        let source = Some(source_of(token));
        self.say(name, Message::Join { source });
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.swarm.poll_action()).collect()
    }

    /// What was sent to a host.
    fn sent(&mut self, to: &str) -> Vec<Message> {
        let to = host(to);
        let message = |action| match action {
            Action::Send { host, envelope } if host == to => Some(envelope.message),
            _ => None,
        };
        self.actions().into_iter().filter_map(message).collect()
    }

    fn requests(&mut self, to: &str) -> Vec<u32> {
        let number = |message| match message {
            Message::Request { piece } => Some(piece.0),
            _ => None,
        };
        self.sent(to).into_iter().filter_map(number).collect()
    }

    /// Lets time pass, waking the swarm whenever it wants.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.swarm.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.swarm.handle_timeout(self.now);
        }
        self.now = end;
    }
}

fn fetch(actions: &[Action]) -> Option<(u32, Option<u32>)> {
    actions.iter().rev().find_map(|action| match action {
        Action::FetchOrigin { first, end, .. } => Some((first.0, end.map(|end| end.0))),
        _ => None,
    })
}

/// The credential with which the origin is asked, at last.
fn token(actions: &[Action]) -> Option<String> {
    actions.iter().rev().find_map(|action| match action {
        Action::FetchOrigin { source, .. } => {
            let secret = source.authorization.as_ref()?.expose();
            Some(secret.trim_start_matches("Bearer ").to_owned())
        }
        _ => None,
    })
}

/// For whom the origin is asked, at last.
fn behalf(actions: &[Action]) -> Option<Behalf> {
    actions.iter().rev().find_map(|action| match action {
        Action::FetchOrigin { behalf, .. } => Some(*behalf),
        _ => None,
    })
}

/// A call for another credential than the one with this token.
fn renew(token: &str) -> Message {
    let refused = source_of(token).mark();
    Message::Renew { refused }
}

/// What of this says a credential, or has the owner asked for one.
fn told(actions: &[Action]) -> Vec<&Action> {
    let tells = |action: &&Action| match action {
        Action::Renew { .. } => true,
        Action::Send { envelope, .. } => {
            matches!(envelope.message, Message::Join { source: Some(_) })
        }
        _ => false,
    };
    actions.iter().filter(tells).collect()
}

const DENIED: Message = Message::Refuse {
    piece: None,
    reason: Refusal::Denied,
};
const SECOND: Duration = Duration::from_secs(1);

// --- Meeting ---

#[test]
fn only_a_seed_is_told_the_source() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Fetch, Some(source()), None);
    assert!(bench.actions().contains(&Action::Lookup { task: task() }));
    bench.parents(&[("node", Role::Node), ("seed", Role::Seed)], Duty::Wait);
    let dialed = bench.actions();
    assert!(dialed.contains(&Action::Dial { host: host("node") }));
    bench.connect("seed", Role::Seed);
    let join = |source| Message::Join { source };
    let ahead = Message::RequestAny { credit: 1 };
    assert_eq!(bench.sent("seed"), [join(Some(source())), ahead]);
    bench.connect("node", Role::Node);
    assert_eq!(bench.sent("node"), [join(None)]);
}

/// A blob of one piece.
fn small() -> (TaskId, Geometry) {
    let geometry = Geometry::for_length(10).expect("a sound length");
    (TaskId::Blob(state(0).to_digest()), geometry)
}

/// What a host says that has all of it.
fn say_small(bench: &mut Bench, from: &str) {
    let (task, geometry) = small();
    for message in [
        Message::Join { source: None },
        Message::Head { geometry },
        Message::List { batch: batch(0, 1) },
        Message::Have {
            pieces: PieceSet::full(1),
        },
    ] {
        let envelope = Envelope { task, message };
        bench.swarm.handle_message(&host(from), envelope, bench.now);
    }
}

#[test]
fn a_small_blob_is_asked_for_with_the_first_word_and_of_one_host_only() {
    let mut bench = Bench::new(Role::Node);
    let opening = Opening {
        source: Some(source()),
        stored: None,
        want: Want::Fetch,
    };
    bench.swarm.handle_open(small().0, opening, bench.now);
    bench.connect("a", Role::Node);
    bench.connect("b", Role::Node);
    let parents = ["a", "b"].map(|name| Parent {
        host: host(name),
        role: Role::Node,
    });
    let (parents, duty) = (parents.to_vec(), Duty::Wait);
    bench
        .swarm
        .handle_parents(small().0, parents, duty, bench.now);
    let ahead = Message::RequestAny { credit: 1 };
    let join = Message::Join { source: None };
    assert_eq!(bench.sent("a"), [join, ahead]);
    say_small(&mut bench, "a");
    say_small(&mut bench, "b");
    assert_eq!(bench.requests("b"), [0; 0]);
    // It does not come after all.
    bench.pass(SECOND / 2);
    assert_eq!(bench.requests("b"), [0]);
}

#[test]
fn an_unknown_task_is_refused() {
    let mut bench = Bench::new(Role::Node);
    bench.connect("peer", Role::Node);
    // Even with a source: only seeds fetch for others.
    bench.say(
        "peer",
        Message::Join {
            source: Some(source()),
        },
    );
    let (piece, reason) = (None, Refusal::UnknownTask);
    assert_eq!(bench.sent("peer"), [Message::Refuse { piece, reason }]);
}

#[test]
fn a_join_is_answered_with_all_that_is_here() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Serve, None, Some(Bench::stored(PIECES, PIECES)));
    bench.connect("peer", Role::Node);
    bench.say("peer", Message::Join { source: None });
    let said = bench.sent("peer");
    let expected = [
        Message::Join { source: None },
        Message::Head {
            geometry: geometry(),
        },
        Message::List {
            batch: batch(0, PIECES),
        },
        Message::Have {
            pieces: PieceSet::full(PIECES),
        },
    ];
    assert_eq!(said, expected);
    bench.say("peer", Message::Join { source: None });
    assert_eq!(bench.sent("peer"), []);
}

#[test]
fn complete_peers_part() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Serve, None, Some(Bench::stored(PIECES, PIECES)));
    bench.connect("peer", Role::Node);
    bench.say_everything("peer");
    assert_eq!(bench.sent("peer").last(), Some(&Message::Leave));
    assert_eq!(bench.swarm.neighbours(&task()), 0);
}

#[test]
fn a_served_task_costs_no_clock() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Serve, None, Some(Bench::stored(3, PIECES)));
    assert_eq!(bench.swarm.poll_timeout(), None);
}

#[test]
fn a_lost_seed_is_looked_up_again_at_once() {
    let mut bench = Bench::fetching();
    bench.parents(&[("seed", Role::Seed)], Duty::Wait);
    bench.connect("seed", Role::Seed);
    bench.say("seed", Message::Join { source: None });
    bench.actions();
    bench.swarm.handle_disconnected(&host("seed"), bench.now);
    assert!(bench.actions().contains(&Action::Lookup { task: task() }));
}

#[test]
fn an_evicted_task_is_left_and_withdrawn() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Serve, None, Some(Bench::stored(3, PIECES)));
    bench.connect("peer", Role::Node);
    bench.say("peer", Message::Join { source: None });
    bench.actions();
    bench.swarm.handle_forget(task(), bench.now);
    let actions = bench.actions();
    assert!(actions.contains(&Action::Withdraw { task: task() }));
    assert!(!bench.swarm.contains(&task()));
}

#[test]
fn idle_connections_are_given_up() {
    let mut bench = Bench::new(Role::Node);
    bench.connect("peer", Role::Node);
    bench.pass(SECOND * 200);
    let hung_up = |action: &Action| matches!(action, Action::HangUp { .. });
    assert!(bench.actions().iter().any(hung_up));
}

// --- Download ---

#[test]
fn pieces_are_asked_for_stored_and_announced() {
    let mut bench = Bench::with_parents(&["a"]);
    let asked = bench.requests("a");
    assert!(!asked.is_empty());
    bench.piece("a", asked[0]);
    let (piece, from) = (PieceIndex(asked[0]), host("a"));
    assert!(bench.actions().contains(&Action::Store {
        task: task(),
        piece,
        from
    }));
    for piece in 0..PIECES {
        bench.piece_stored("a", piece);
    }
    assert!(bench.actions().contains(&Action::Announce {
        task: task(),
        pieces: 8,
        complete: true
    }));
    bench.pass(SECOND * 30);
    assert_eq!(fetch(&bench.actions()), None);
}

#[test]
fn completion_is_told_once() {
    let mut bench = Bench::with_parents(&["a"]);
    for piece in 0..PIECES {
        bench.piece_stored("a", piece);
        bench.piece_stored("a", piece);
    }
    let actions = bench.actions();
    let complete = actions
        .iter()
        .filter(|a| matches!(a, Action::Complete { .. }))
        .count();
    assert_eq!(complete, 1);
}

#[test]
fn no_piece_is_asked_of_two_neighbours_at_first() {
    let mut bench = Bench::with_parents(&["a"]);
    let mut asked = bench.requests("a");
    bench.connect("b", Role::Node);
    bench.say_everything("b");
    asked.extend(bench.requests("b"));
    let count = asked.len();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), count);
}

#[test]
fn what_a_reader_waits_for_comes_first() {
    let mut bench = Bench::fetching();
    bench.swarm.handle_waiting(task(), 5..7, bench.now);
    bench.connect("a", Role::Node);
    bench.say_everything("a");
    assert_eq!(bench.requests("a")[..2], [5, 6]);
}

#[test]
fn a_piece_without_its_chain_value_is_neither_asked_for_nor_stored() {
    let mut bench = Bench::fetching();
    bench.connect("a", Role::Node);
    bench.say("a", Message::Join { source: None });
    bench.say(
        "a",
        Message::Head {
            geometry: geometry(),
        },
    );
    bench.say("a", Message::List { batch: batch(0, 2) });
    bench.say(
        "a",
        Message::Have {
            pieces: PieceSet::full(PIECES),
        },
    );
    let mut asked = bench.requests("a");
    asked.sort_unstable();
    assert_eq!(asked, [0, 1]);
    bench.piece("a", 5);
    let stores = |action: &Action| matches!(action, Action::Store { .. });
    assert!(!bench.actions().iter().any(stores));
}

#[test]
fn a_source_chooses_what_it_gives() {
    let mut bench = Bench::fetching();
    bench.connect("seed", Role::Seed);
    bench.say_everything("seed");
    let said = bench.sent("seed");
    assert!(
        said.iter()
            .any(|m| matches!(m, Message::RequestAny { credit } if *credit > 0))
    );
    assert!(!said.iter().any(|m| matches!(m, Message::Request { .. })));
    // It does not answer: then it is asked by number.
    bench.pass(SECOND * 3);
    assert!(!bench.requests("seed").is_empty());
}

#[test]
fn what_others_have_is_asked_of_a_complete_source_by_number() {
    let mut bench = Bench::with_parents(&["a"]);
    bench.actions();
    bench.connect("seed", Role::Seed);
    bench.say_everything("seed");
    assert!(!bench.requests("seed").is_empty());
}

#[test]
fn a_slow_answer_is_sought_elsewhere_and_taken_back() {
    let mut bench = Bench::with_parents(&["a"]);
    let first = bench.requests("a")[0];
    bench.connect("b", Role::Node);
    bench.say_everything("b");
    for piece in (0..PIECES).filter(|piece| *piece != first) {
        bench.piece_stored("b", piece);
    }
    bench.actions();
    bench.pass(SECOND);
    assert_eq!(bench.requests("b"), [first]);
    bench.piece_stored("b", first);
    let piece = PieceIndex(first);
    assert!(bench.sent("a").contains(&Message::Cancel { piece }));
}

#[test]
fn a_busy_neighbour_is_left_in_peace_for_a_moment() {
    let mut bench = Bench::with_parents(&["a"]);
    for piece in bench.requests("a") {
        let (piece, reason) = (Some(PieceIndex(piece)), Refusal::Busy);
        bench.say("a", Message::Refuse { piece, reason });
    }
    assert_eq!(bench.requests("a"), []);
    bench.pass(SECOND);
    assert!(!bench.requests("a").is_empty());
}

#[test]
fn a_false_have_set_is_found_out() {
    let mut bench = Bench::with_parents(&["a"]);
    for _ in 0..4 {
        for piece in bench.requests("a") {
            let piece = Some(PieceIndex(piece));
            bench.say(
                "a",
                Message::Refuse {
                    piece,
                    reason: Refusal::Missing,
                },
            );
        }
        bench.say(
            "a",
            Message::Have {
                pieces: PieceSet::full(PIECES),
            },
        );
    }
    assert_eq!(bench.swarm.neighbours(&task()), 0);
}

#[test]
fn a_silent_neighbour_is_dropped_and_reported() {
    let mut bench = Bench::with_parents(&["a"]);
    bench.pass(SECOND * 6);
    let (task, host, reason) = (task(), host("a"), Misbehaviour::Stalled);
    let piece = None;
    assert!(bench.actions().contains(&Action::Report {
        task,
        host,
        reason,
        piece
    }));
}

#[test]
fn closing_takes_back_what_was_asked_and_serves_on() {
    let mut bench = Bench::with_parents(&["a"]);
    bench.piece_stored("a", 0);
    bench.actions();
    bench.swarm.handle_close(task(), bench.now);
    let said = bench.sent("a");
    assert!(said.iter().any(|m| matches!(m, Message::Cancel { .. })));
    bench.say(
        "a",
        Message::Request {
            piece: PieceIndex(0),
        },
    );
    let upload = |a: &Action| matches!(a, Action::Upload { .. });
    assert!(bench.actions().iter().any(upload));
}

#[test]
fn a_reader_that_closes_just_before_the_end_does_not_stop_the_fetch() {
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    bench
        .swarm
        .handle_origin_head(task(), geometry(), bench.now);
    bench
        .swarm
        .handle_origin_batch(task(), batch(0, PIECES), bench.now);
    for piece in 0..PIECES - 1 {
        bench
            .swarm
            .handle_origin_stored(task(), PieceIndex(piece), bench.now);
    }
    bench.swarm.handle_close(task(), bench.now);
    assert!(
        !bench
            .actions()
            .contains(&Action::CancelOrigin { task: task() })
    );
    bench.open(Want::Fetch, Some(source()), None);
    let last = PieceIndex(PIECES - 1);
    bench.swarm.handle_origin_stored(task(), last, bench.now);
    let actions = bench.actions();
    assert_eq!(fetch(&actions), None);
    assert!(actions.contains(&Action::Complete { task: task() }));
}

#[test]
fn a_reader_that_closes_early_stops_the_fetch() {
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    bench.swarm.handle_close(task(), bench.now);
    assert!(
        bench
            .actions()
            .contains(&Action::CancelOrigin { task: task() })
    );
    assert!(!bench.swarm.contains(&task()));
}

// --- Giving ---

/// A seed that got a task from a child.
fn seed_with_child() -> Bench {
    let mut bench = Bench::new(Role::Seed);
    bench.connect("child", Role::Node);
    bench.say(
        "child",
        Message::Join {
            source: Some(source()),
        },
    );
    bench.say("child", Message::RequestAny { credit: 4 });
    bench
}

#[test]
fn a_seed_fetches_for_others_and_hands_on_each_piece_as_it_comes() {
    let mut bench = seed_with_child();
    bench.pass(SECOND / 10);
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
    bench
        .swarm
        .handle_origin_head(task(), geometry(), bench.now);
    bench
        .swarm
        .handle_origin_batch(task(), batch(0, 1), bench.now);
    bench
        .swarm
        .handle_origin_stored(task(), PieceIndex(0), bench.now);
    let actions = bench.actions();
    let position = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted);
    let list = position(&|action| {
        let Action::Send { envelope, .. } = action else {
            return false;
        };
        matches!(envelope.message, Message::List { .. })
    });
    let upload = position(&|action| matches!(action, Action::Upload { .. }));
    assert!(list.is_some() && list < upload, "{actions:#?}");
}

#[test]
fn a_seed_asks_the_origin_once_the_scheduler_says_that_nobody_has_the_task() {
    let grace = SwarmConfig::new(host("me"), Role::Seed).seed_grace;
    let asked = |answer: Option<Duty>, after: Duration| {
        let mut bench = Bench::new(Role::Seed);
        bench.join_as("child", "t");
        if let Some(duty) = answer {
            bench.parents(&[("peer", Role::Node)], duty);
        }
        bench.pass(after);
        fetch(&bench.actions())
    };
    let all = Some((0, None));
    assert_eq!(asked(Some(Duty::Fetch), Duration::ZERO), all);
    assert_eq!(asked(Some(Duty::Wait), grace / 2), None);
    assert_eq!(asked(Some(Duty::Wait), grace), all);
    assert_eq!(asked(None, grace / 2), None);
    assert_eq!(asked(None, grace), all);
}

#[test]
fn a_seed_tells_its_children_why_the_origin_fails() {
    let mut bench = seed_with_child();
    bench.pass(SECOND / 10);
    bench.actions();
    let failure = TaskFailure::NotFound("404".into());
    bench
        .swarm
        .handle_origin_done(task(), Err(failure), bench.now);
    let (piece, reason) = (None, Refusal::NotFound);
    assert!(
        bench
            .sent("child")
            .contains(&Message::Refuse { piece, reason })
    );
    // Whoever comes with the same source is told at once.
    bench.connect("other", Role::Node);
    bench.say(
        "other",
        Message::Join {
            source: Some(source()),
        },
    );
    assert!(
        bench
            .sent("other")
            .contains(&Message::Refuse { piece, reason })
    );
    assert_eq!(fetch(&bench.actions()), None);
}

#[test]
fn another_credential_is_tried_after_one_was_denied() {
    let mut bench = seed_with_child();
    let other = source_of("other");
    bench.connect("second", Role::Node);
    bench.say(
        "second",
        Message::Join {
            source: Some(other),
        },
    );
    bench.pass(SECOND / 10);
    bench.actions();
    let denied = TaskFailure::Denied("401".into());
    bench
        .swarm
        .handle_origin_done(task(), Err(denied), bench.now);
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
}

// --- Credentials ---

/// A seed that fetches with the credentials of "a" and "b", at first with that of "a".
fn seed_of_two_tenants() -> Bench {
    let mut bench = Bench::new(Role::Seed);
    bench.join_as("a", "a");
    bench.join_as("b", "b");
    bench.pass(SECOND / 10);
    assert_eq!(token(&bench.actions()).as_deref(), Some("a"));
    bench
}

#[test]
fn refusal_of_one_tenant_does_not_fail_another() {
    let mut bench = seed_of_two_tenants();
    bench.denied();
    let actions = bench.actions();
    assert_eq!(token(&actions).as_deref(), Some("b"));
    let refused = |action: &Action| matches!(action, Action::Send { envelope, .. } if envelope.message == DENIED);
    assert!(!actions.iter().any(refused));
}

#[test]
fn when_every_credential_is_refused_those_who_brought_them_are_called_back() {
    let mut bench = seed_of_two_tenants();
    bench.denied();
    bench.actions();
    bench.denied();
    let renew = |token: &str| Message::Renew {
        refused: source_of(token).mark(),
    };
    let actions = bench.actions();
    for name in ["a", "b"] {
        let (task, message) = (task(), renew(name));
        let envelope = Envelope { task, message };
        let call = Action::Send {
            host: host(name),
            envelope,
        };
        assert!(actions.contains(&call), "{actions:#?}");
    }
    bench.join_as("b", "fresh");
    assert_eq!(token(&bench.actions()).as_deref(), Some("fresh"));
}

#[test]
fn without_a_fresh_credential_in_time_those_who_brought_refused_ones_are_refused() {
    let mut bench = seed_of_two_tenants();
    bench.connect("bystander", Role::Node);
    bench.say("bystander", Message::Join { source: None });
    bench.denied();
    bench.denied();
    bench.actions();
    bench.pass(SECOND * 19 / 10);
    assert_eq!(bench.sent("a"), []);
    bench.pass(SECOND / 5);
    let actions = bench.actions();
    let refusals = actions.iter().filter_map(|action| match action {
        Action::Send { host, envelope } => match envelope.message {
            Message::Refuse { reason, .. } => Some((host.as_str(), reason)),
            _ => None,
        },
        _ => None,
    });
    let expected = [
        ("a", Refusal::Denied),
        ("b", Refusal::Denied),
        ("bystander", Refusal::OriginFailed),
    ];
    assert_eq!(refusals.collect::<Vec<_>>(), expected);
}

#[test]
fn when_all_who_were_called_back_have_nothing_the_refusal_comes_at_once() {
    let mut bench = seed_with_child();
    bench.pass(SECOND / 10);
    bench.denied();
    assert!(!bench.sent("child").contains(&DENIED));
    bench.say("child", Message::Join { source: None });
    bench.pass(SECOND / 5);
    assert!(bench.sent("child").contains(&DENIED));
}

#[test]
fn a_host_that_leaves_is_not_waited_for() {
    let mut bench = seed_of_two_tenants();
    bench.denied();
    bench.denied();
    bench.swarm.handle_disconnected(&host("a"), bench.now);
    bench.say("b", Message::Join { source: None });
    bench.pass(SECOND / 5);
    assert!(bench.sent("b").contains(&DENIED));
}

#[test]
fn a_fresh_credential_is_taken_after_the_task_has_failed() {
    let mut bench = seed_with_child();
    bench.pass(SECOND / 10);
    bench.denied();
    bench.pass(SECOND * 3);
    assert!(bench.sent("child").contains(&DENIED));
    bench.join_as("child", "fresh");
    bench.pass(SECOND / 10);
    assert_eq!(token(&bench.actions()).as_deref(), Some("fresh"));
}

#[test]
fn fresh_credentials_that_are_all_refused_are_not_asked_for_without_end() {
    let mut bench = seed_with_child();
    bench.pass(SECOND / 10);
    let (mut number, mut calls) = (0, 0);
    bench.denied();
    while bench
        .sent("child")
        .iter()
        .any(|m| matches!(m, Message::Renew { .. }))
    {
        calls += 1;
        number += 1;
        bench.join_as("child", &format!("fresh {number}"));
        bench.denied();
    }
    assert!((2..10).contains(&calls), "{calls}");
}

#[test]
fn a_flood_of_wrong_credentials_does_not_shut_out_a_right_one() {
    let mut bench = Bench::new(Role::Seed);
    for number in 0..500 {
        bench.join_as("flood", &format!("wrong {number}"));
    }
    bench.join_as("honest", "right");
    bench.pass(SECOND / 10);
    let mut denials = 0;
    while token(&bench.actions()).is_some_and(|token| token != "right") {
        denials += 1;
        bench.denied();
    }
    assert!(denials <= 8, "{denials}");
}

#[test]
fn a_credential_that_hangs_delays_another_tenant_by_seconds_only() {
    let mut bench = seed_of_two_tenants();
    bench.pass(SECOND * 2);
    assert_eq!(token(&bench.actions()), None);
    bench.pass(SECOND * 2);
    assert_eq!(token(&bench.actions()).as_deref(), Some("b"));
    // It hangs as well: the first has its turn again, with more patience.
    bench.pass(SECOND * 4);
    assert_eq!(token(&bench.actions()).as_deref(), Some("a"));
    bench.pass(SECOND * 3);
    assert_eq!(token(&bench.actions()), None);
    bench.pass(SECOND * 2);
    assert_eq!(token(&bench.actions()).as_deref(), Some("b"));
}

#[test]
fn a_source_that_gives_bytes_is_kept() {
    let mut bench = seed_of_two_tenants();
    for piece in 0..PIECES - 1 {
        bench.pass(SECOND * 2);
        let swarm = &mut bench.swarm;
        swarm.handle_origin_head(task(), geometry(), bench.now);
        swarm.handle_origin_batch(task(), batch(piece, piece + 1), bench.now);
        swarm.handle_origin_stored(task(), PieceIndex(piece), bench.now);
    }
    assert_eq!(token(&bench.actions()), None);
}

#[test]
fn a_source_that_lies_does_not_take_an_honest_one_with_it() {
    let mut bench = seed_of_two_tenants();
    let swarm = &mut bench.swarm;
    swarm.handle_origin_head(task(), geometry(), bench.now);
    swarm.handle_origin_batch(task(), batch(0, 2), bench.now);
    swarm.handle_origin_stored(task(), PieceIndex(0), bench.now);
    swarm.handle_origin_stored(task(), PieceIndex(1), bench.now);
    let broken = Err(TaskFailure::Origin("cut".into()));
    swarm.handle_origin_done(task(), broken, bench.now);
    let actions = bench.actions();
    assert_eq!(token(&actions).as_deref(), Some("b"));
    assert_eq!(fetch(&actions), Some((2, None)));
    // What "a" gave leads to another digest.
    let wrong = || Err(TaskFailure::WrongDigest("no".into()));
    bench.swarm.handle_origin_done(task(), wrong(), bench.now);
    let actions = bench.actions();
    assert!(actions.iter().any(discards));
    assert_eq!(token(&actions).as_deref(), Some("b"));
    assert_eq!(fetch(&actions), Some((0, None)));
    // Alone, it has nobody else to blame.
    let swarm = &mut bench.swarm;
    swarm.handle_origin_head(task(), geometry(), bench.now);
    swarm.handle_origin_done(task(), wrong(), bench.now);
    assert_eq!(fetch(&bench.actions()), None);
}

/// A node whose source the seed knows.
fn node_at_seed() -> Bench {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Fetch, Some(source_of("old")), None);
    bench.parents(&[("seed", Role::Seed)], Duty::Wait);
    bench.connect("seed", Role::Seed);
    bench.say("seed", Message::Join { source: None });
    bench.actions();
    bench
}

fn call_back(bench: &mut Bench, token: &str) {
    let refused = source_of(token).mark();
    bench.say("seed", Message::Renew { refused });
}

#[test]
fn a_host_that_is_called_back_asks_its_owner_and_joins_with_the_fresh_credential() {
    let mut bench = node_at_seed();
    call_back(&mut bench, "old");
    call_back(&mut bench, "old");
    let renew = Action::Renew {
        task: task(),
        source: source_of("old"),
    };
    assert_eq!(bench.actions(), [renew], "asked once");
    bench.renewed("old", Some("fresh"));
    let source = Some(source_of("fresh"));
    assert_eq!(bench.sent("seed"), [Message::Join { source }]);
    // From now on it is the one that is used here, too.
    bench.swarm.handle_disconnected(&host("seed"), bench.now);
    bench.pass(SECOND * 6);
    assert_eq!(token(&bench.actions()).as_deref(), Some("fresh"));
}

#[test]
fn a_host_whose_owner_has_nothing_fresh_says_so() {
    let mut bench = node_at_seed();
    call_back(&mut bench, "old");
    bench.actions();
    bench.renewed("old", Some("old"));
    assert_eq!(bench.sent("seed"), [Message::Join { source: None }]);
    // Nor has it for a credential that it does not know.
    call_back(&mut bench, "other");
    let source = Some(source_of("old"));
    assert_eq!(bench.sent("seed"), [Message::Join { source }]);
}

#[test]
fn a_stranger_cannot_make_a_host_ask_its_owner() {
    let mut bench = node_at_seed();
    bench.connect("stranger", Role::Seed);
    let refused = source_of("old").mark();
    bench.say("stranger", Message::Renew { refused });
    assert_eq!(bench.actions(), []);
}

#[test]
fn only_a_seed_that_asks_for_a_fresh_credential_is_told_one() {
    for mut bench in [seed_of_two_tenants(), node_at_seed()] {
        bench.connect("thief", Role::Node);
        bench.say("thief", Message::Join { source: None });
        bench.actions();
        for token in ["foreign", "a", "b", "old"] {
            bench.say("thief", renew(token));
            assert_eq!(told(&bench.actions()), [] as [&Action; 0], "{token}");
        }
    }
    // Nor when the owner is asked for a seed at that moment, and has nothing.
    let mut bench = node_at_seed();
    bench.open(Want::Fetch, Some(source_of("second")), None);
    bench.connect("thief", Role::Node);
    bench.say("thief", Message::Join { source: None });
    call_back(&mut bench, "old");
    bench.say("thief", renew("old"));
    bench.actions();
    bench.renewed("old", None);
    let actions = bench.actions();
    let to_seed =
        |action: &&Action| matches!(action, Action::Send { host, .. } if host.as_str() == "seed");
    assert_eq!(told(&actions).len(), 1, "{actions:#?}");
    assert!(told(&actions).iter().all(to_seed), "{actions:#?}");
}

#[test]
fn a_seed_is_told_no_credential_that_other_hosts_brought_to_another_seed() {
    let mut bench = seed_of_two_tenants();
    bench.connect("other", Role::Seed);
    bench.say("other", Message::Join { source: None });
    for token in ["foreign", "a", "b"] {
        bench.say("other", renew(token));
    }
    assert_eq!(told(&bench.actions()), [] as [&Action; 0]);
    // What a reader of this very host brought is another matter.
    bench.open(Want::Fetch, Some(source_of("mine")), None);
    let join = |token: &str| Message::Join {
        source: Some(source_of(token)),
    };
    assert_eq!(bench.sent("other"), [join("mine")]);
    bench.say("other", renew("foreign"));
    assert_eq!(bench.sent("other"), [join("mine")]);
}

#[test]
fn what_other_hosts_brought_is_fetched_with_nothing_of_ours_until_a_reader_brings_it_too() {
    let mut bench = seed_with_child();
    bench.pass(SECOND / 10);
    assert_eq!(behalf(&bench.actions()), Some(Behalf::Others));
    bench.open(Want::Fetch, Some(source()), None);
    bench.denied();
    let actions = bench.actions();
    assert_eq!(behalf(&actions), Some(Behalf::Reader));
    assert_eq!(token(&actions).as_deref(), Some("t"));
    bench.denied();
    assert_eq!(behalf(&bench.actions()), None, "refused for good");
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    assert_eq!(behalf(&bench.actions()), Some(Behalf::Reader));
}

#[test]
fn a_node_alone_renews_its_own_credential() {
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    bench.actions();
    bench.denied();
    let renew = Action::Renew {
        task: task(),
        source: source(),
    };
    assert_eq!(bench.actions(), [renew]);
    bench.renewed("t", Some("fresh"));
    assert_eq!(token(&bench.actions()).as_deref(), Some("fresh"));
}

#[test]
fn a_seed_is_told_the_credential_of_every_reader() {
    let mut bench = node_at_seed();
    bench.open(Want::Fetch, Some(source_of("second")), None);
    bench.open(Want::Fetch, Some(source_of("second")), None);
    let source = Some(source_of("second"));
    assert_eq!(bench.sent("seed"), [Message::Join { source }]);
    bench.parents(&[("other", Role::Seed)], Duty::Wait);
    bench.connect("other", Role::Seed);
    let joins = ["old", "second"].map(|token| Message::Join {
        source: Some(source_of(token)),
    });
    assert_eq!(bench.sent("other")[..2], joins);
}

#[test]
fn credentials_are_forgotten_when_nobody_wants_the_task_any_more() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Fetch, Some(source()), Some(Bench::stored(1, 1)));
    bench.parents(&[], Duty::Wait);
    bench.swarm.handle_close(task(), bench.now);
    bench.open(Want::Fetch, None, None);
    bench.parents(&[], Duty::Fetch);
    bench.pass(SECOND);
    assert_eq!(fetch(&bench.actions()), None);
}

#[test]
fn after_one_of_two_connections_is_lost_both_sides_tell_everything_again() {
    let mut bench = Bench::with_parents(&["peer"]);
    bench.piece_stored("peer", 0);
    bench.actions();
    bench.swarm.handle_lost_words(&host("peer"), bench.now);
    let said = bench.sent("peer");
    let after = said
        .iter()
        .skip_while(|message| **message != Message::Leave);
    let after: Vec<_> = after.skip(1).take(2).collect();
    let (source, geometry) = (None, geometry());
    assert_eq!(
        after,
        [&Message::Join { source }, &Message::Head { geometry }]
    );
    // The other side: it forgets us, and greets us as one who is new.
    bench.say("peer", Message::Leave);
    bench.say("peer", Message::Join { source: None });
    let said = bench.sent("peer");
    assert!(said.contains(&Message::Head { geometry }), "{said:#?}");
    assert!(said.iter().any(|m| matches!(m, Message::Have { .. })));
}

#[test]
fn more_requests_than_the_queue_holds_are_refused_as_busy() {
    let mut bench = Bench::new(Role::Node);
    bench.swarm = Swarm::new(
        SwarmConfig {
            upload_slots: 1,
            upload_queue: 2,
            ..SwarmConfig::new(host("me"), Role::Node)
        },
        1,
    );
    bench.open(Want::Serve, None, Some(Bench::stored(PIECES, PIECES)));
    bench.connect("peer", Role::Node);
    bench.say("peer", Message::Join { source: None });
    for piece in 0..4 {
        bench.say(
            "peer",
            Message::Request {
                piece: PieceIndex(piece),
            },
        );
    }
    let (piece, reason) = (Some(PieceIndex(3)), Refusal::Busy);
    assert!(
        bench
            .sent("peer")
            .contains(&Message::Refuse { piece, reason })
    );
}

#[test]
fn a_missing_piece_is_refused_and_an_impossible_one_convicts() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Serve, None, Some(Bench::stored(3, PIECES)));
    bench.connect("peer", Role::Node);
    bench.say("peer", Message::Join { source: None });
    bench.say(
        "peer",
        Message::Request {
            piece: PieceIndex(5),
        },
    );
    let (piece, reason) = (Some(PieceIndex(5)), Refusal::Missing);
    assert!(
        bench
            .sent("peer")
            .contains(&Message::Refuse { piece, reason })
    );
    bench.say(
        "peer",
        Message::Request {
            piece: PieceIndex(PIECES),
        },
    );
    let hung_up = |action: &Action| matches!(action, Action::HangUp { .. });
    assert!(bench.actions().iter().any(hung_up));
}

// --- Origin ---

#[test]
fn the_chosen_fetcher_goes_to_the_origin_at_once() {
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
}

#[test]
fn without_an_answer_to_the_lookup_a_node_goes_by_itself() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Fetch, Some(source()), None);
    bench.pass(SECOND / 4);
    assert_eq!(fetch(&bench.actions()), None);
    bench.pass(SECOND / 2);
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
}

#[test]
fn who_has_just_waited_for_a_seed_in_vain_goes_to_the_origin_soon() {
    let goes_within = |time: Duration, heard: bool| {
        let mut bench = Bench::new(Role::Node);
        bench.swarm.note_silence(bench.now);
        if heard {
            bench.connect("other", Role::Node);
        }
        bench.open(Want::Fetch, Some(source()), None);
        bench.parents(&[("seed", Role::Seed)], Duty::Wait);
        bench.pass(time);
        fetch(&bench.actions()).is_some()
    };
    assert!(!goes_within(SECOND / 20, false));
    assert!(goes_within(SECOND / 5, false));
    assert!(!goes_within(SECOND / 5, true), "somebody speaks");
}

#[test]
fn a_seed_that_answers_late_ends_a_fetch_for_want_of_life() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Fetch, Some(source()), None);
    bench.parents(&[("seed", Role::Seed)], Duty::Wait);
    bench.connect("seed", Role::Seed);
    bench.pass(SECOND / 2);
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
    bench.say_everything("seed");
    let ends = Action::CancelOrigin { task: task() };
    assert!(bench.actions().contains(&ends));
}

#[test]
fn without_a_piece_in_time_a_node_goes_by_itself() {
    let mut bench = Bench::fetching();
    bench.pass(SECOND);
    assert_eq!(fetch(&bench.actions()), None);
    bench.pass(SECOND * 4);
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
}

#[test]
fn a_refusal_by_the_seed_sends_a_node_to_the_origin_at_once() {
    let mut bench = Bench::fetching();
    bench.connect("seed", Role::Seed);
    bench.say("seed", Message::Join { source: None });
    let (piece, reason) = (None, Refusal::Denied);
    bench.say("seed", Message::Refuse { piece, reason });
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
}

#[test]
fn a_stored_chain_is_resumed_where_it_ends() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Fetch, Some(source()), Some(Bench::stored(3, 3)));
    bench.parents(&[], Duty::Fetch);
    assert_eq!(fetch(&bench.actions()), Some((3, None)));
}

/// Half of it came from the origin when the disk lost all but two pieces.
fn lose_in_the_middle(bench: &mut Bench) {
    let (id, now) = (task(), bench.now);
    bench.swarm.handle_origin_head(id, geometry(), now);
    bench.swarm.handle_origin_batch(id, batch(0, 4), now);
    for piece in (0..4).map(PieceIndex) {
        bench.swarm.handle_origin_stored(id, piece, now);
    }
    bench.actions();
    bench.swarm.handle_lost(id, Bench::stored(2, 4), now);
    let ends = Action::CancelOrigin { task: id };
    assert!(bench.actions().contains(&ends));
}

#[test]
fn what_the_disk_loses_of_a_running_fetch_comes_from_the_same_origin() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Fetch, Some(source_of("reader")), None);
    bench.parents(&[], Duty::Fetch);
    lose_in_the_middle(&mut bench);
    bench.parents(&[], Duty::Fetch);
    let actions = bench.actions();
    assert_eq!(fetch(&actions), Some((2, None)));
    assert_eq!(token(&actions).as_deref(), Some("reader"));
}

#[test]
fn what_the_disk_loses_of_a_seed_s_fetch_comes_from_the_origin_that_others_named() {
    let mut bench = seed_with_child();
    bench.pass(SECOND / 10);
    lose_in_the_middle(&mut bench);
    bench.pass(SECOND / 10);
    let actions = bench.actions();
    assert_eq!(fetch(&actions), Some((2, None)));
    assert_eq!(behalf(&actions), Some(Behalf::Others));
}

#[test]
fn what_the_disk_loses_of_a_task_that_nobody_wants_is_not_fetched() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Serve, None, Some(Bench::stored(PIECES, PIECES)));
    bench.actions();
    let left = Bench::stored(2, PIECES);
    bench.swarm.handle_lost(task(), left, bench.now);
    bench.pass(SECOND * 9);
    let actions = bench.actions();
    assert_eq!(fetch(&actions), None);
    assert_eq!(bench.swarm.pieces(&task()).map(PieceSet::len), Some(2));
}

#[test]
fn what_a_neighbour_has_is_not_fetched_from_the_origin() {
    let mut bench = Bench::new(Role::Seed);
    bench.connect("child", Role::Node);
    bench.say(
        "child",
        Message::Join {
            source: Some(source()),
        },
    );
    bench.say(
        "child",
        Message::Head {
            geometry: geometry(),
        },
    );
    bench.say("child", Message::List { batch: batch(0, 5) });
    let mut pieces = PieceSet::empty(PIECES);
    pieces.insert_range(0..5);
    bench.say("child", Message::Have { pieces });
    bench.pass(SECOND / 10);
    let actions = bench.actions();
    assert_eq!(fetch(&actions), Some((5, None)));
    let asks = |action: &&Action| {
        let Action::Send { envelope, .. } = action else {
            return false;
        };
        matches!(envelope.message, Message::Request { .. })
    };
    assert!(actions.iter().filter(asks).count() > 0);
}

#[test]
fn a_fetch_ends_when_a_peer_turns_out_to_have_everything() {
    let mut bench = seed_with_child();
    bench.pass(SECOND / 10);
    bench
        .swarm
        .handle_origin_head(task(), geometry(), bench.now);
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
    bench.connect("other", Role::Seed);
    bench.say_everything("other");
    let actions = bench.actions();
    assert!(actions.contains(&Action::CancelOrigin { task: task() }));
    assert_eq!(fetch(&actions), None);
    bench.say("child", Message::Leave);
    bench.pass(SECOND * 3);
    // It gives nothing after all.
    assert!(fetch(&bench.actions()).is_some());
}

#[test]
fn the_origins_refusal_fails_the_task_with_its_reason() {
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    bench.actions();
    let reason = TaskFailure::Denied("401".into());
    bench
        .swarm
        .handle_origin_done(task(), Err(reason.clone()), bench.now);
    bench.renewed("t", None);
    assert!(bench.actions().contains(&Action::Failed {
        task: task(),
        reason
    }));
    // The next reader starts afresh.
    bench.open(Want::Fetch, Some(source()), None);
    assert!(bench.actions().contains(&Action::Lookup { task: task() }));
    bench.parents(&[], Duty::Fetch);
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
}

#[test]
fn a_failure_that_may_pass_is_tried_again() {
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    bench.actions();
    let reason = TaskFailure::Origin("503".into());
    bench
        .swarm
        .handle_origin_done(task(), Err(reason), bench.now);
    assert_eq!(fetch(&bench.actions()), None);
    bench.pass(SECOND * 2);
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
}

#[test]
fn an_origin_that_is_silent_for_minutes_is_not_tried_without_end() {
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    let silent = || Err(TaskFailure::Origin("no bytes".into()));
    for minutes in [3, 3] {
        assert!(fetch(&bench.actions()).is_some());
        bench.pass(SECOND * 60 * minutes);
        bench.swarm.handle_origin_done(task(), silent(), bench.now);
        bench.pass(SECOND * 2);
    }
    let failed = |action: &Action| matches!(action, Action::Failed { .. });
    assert!(bench.actions().iter().any(failed));
}

#[test]
fn without_source_and_peers_a_task_fails() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Fetch, None, None);
    bench.parents(&[], Duty::Wait);
    bench.pass(SECOND * 3);
    let reason = TaskFailure::NoSource;
    assert!(bench.actions().contains(&Action::Failed {
        task: task(),
        reason
    }));
}

#[test]
fn wrong_bytes_from_the_origin_fail_the_task_and_leave_nothing() {
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    bench
        .swarm
        .handle_origin_head(task(), geometry(), bench.now);
    bench.actions();
    let reason = TaskFailure::WrongDigest("sha256:0".into());
    bench
        .swarm
        .handle_origin_done(task(), Err(reason.clone()), bench.now);
    let actions = bench.actions();
    assert!(actions.iter().any(discards));
    assert!(actions.contains(&Action::Failed {
        task: task(),
        reason
    }));
}

#[test]
fn an_empty_blob_is_complete_with_its_head_and_a_false_one_is_not() {
    let nothing = Geometry::for_length(0).expect("a sound length");
    for (digest, right) in [(Digest::of(b""), true), (Digest::of(b"x"), false)] {
        let task = TaskId::Blob(digest);
        let mut bench = Bench::new(Role::Node);
        let opening = Opening {
            source: Some(source()),
            stored: None,
            want: Want::Fetch,
        };
        bench.swarm.handle_open(task, opening, bench.now);
        bench
            .swarm
            .handle_parents(task, Vec::new(), Duty::Fetch, bench.now);
        bench.swarm.handle_origin_head(task, nothing, bench.now);
        let actions = bench.actions();
        let failed = actions
            .iter()
            .any(|action| matches!(action, Action::Failed { .. }));
        assert_eq!(actions.contains(&Action::Complete { task }), right);
        assert_eq!(failed, !right);
    }
}

// --- Doubt ---

#[test]
fn a_host_that_the_scheduler_has_isolated_is_parted_with_for_as_long_as_it_is() {
    let mut bench = Bench::with_parents(&["liar", "friend"]);
    let owed = bench.requests("liar");
    let liars = BTreeSet::from([host("liar"), host("me")]);
    bench.swarm.set_isolated(liars.clone(), bench.now);
    let actions = bench.actions();
    let hung_up = |action: &&Action| matches!(action, Action::HangUp { .. });
    assert_eq!(actions.iter().filter(hung_up).count(), 1);
    let reported = |action: &Action| matches!(action, Action::Report { .. });
    assert!(!actions.iter().any(reported), "it did nothing to us");
    assert_eq!(bench.swarm.quarantined(bench.now), [host("liar")]);
    let mut given = Vec::new();
    for piece in (0..PIECES).filter(|piece| !owed.contains(piece)) {
        bench.piece_stored("friend", piece);
        given.extend(bench.requests("friend"));
    }
    let asked = owed.iter().any(|piece| given.contains(piece));
    assert!(asked, "what it owed is asked of others: {owed:?} {given:?}");
    assert_eq!(bench.swarm.neighbours(&task()), 1);
    // Said again, it is no news; and it is not let in by another door.
    bench.swarm.set_isolated(liars, bench.now);
    assert_eq!(bench.actions(), []);
    bench.swarm.handle_disconnected(&host("liar"), bench.now);
    bench.parents(&[("liar", Role::Node)], Duty::Wait);
    let dials = |action: &Action| matches!(action, Action::Dial { .. });
    assert!(!bench.actions().iter().any(dials));
    bench.connect("liar", Role::Node);
    assert!(matches!(bench.actions()[..], [Action::HangUp { .. }]));
    bench.say_everything("liar");
    assert_eq!(bench.swarm.neighbours(&task()), 1);
    bench.swarm.handle_disconnected(&host("liar"), bench.now);
    bench.swarm.set_isolated(BTreeSet::new(), bench.now);
    bench.connect("liar", Role::Node);
    bench.say_everything("liar");
    assert_eq!(bench.swarm.neighbours(&task()), 2);
}

#[test]
fn a_corrupt_piece_is_sought_elsewhere_and_its_sender_reported_in_the_end() {
    let mut bench = Bench::with_parents(&["liar", "b"]);
    let asked = bench.requests("liar")[0];
    bench.piece_rejected("liar", asked);
    bench.actions();
    for piece in 0..PIECES {
        bench.piece_stored("b", piece);
    }
    let (task, host, reason) = (task(), host("liar"), Misbehaviour::CorruptPiece);
    let piece = Some(PieceIndex(asked));
    let actions = bench.actions();
    assert!(actions.contains(&Action::Complete { task }));
    assert!(actions.contains(&Action::Report {
        task,
        host,
        reason,
        piece
    }));
    bench.connect("liar", Role::Node);
    let hung_up = |action: &Action| matches!(action, Action::HangUp { .. });
    assert!(bench.actions().iter().any(hung_up));
}

/// Says a list that contradicts ours from a piece on.
fn contradict(bench: &mut Bench, from: &str, piece: u32) {
    bench.connect(from, Role::Node);
    bench.say(from, Message::Join { source: None });
    let geometry = geometry();
    bench.say(from, Message::Head { geometry });
    let mut batch = batch(0, PIECES - 1);
    batch.states[piece as usize..].fill(state(99));
    bench.say(from, Message::List { batch });
}

#[test]
fn the_origin_is_asked_once_about_what_many_contradict() {
    let mut bench = Bench::with_parents(&["a"]);
    bench.actions();
    contradict(&mut bench, "x", 3);
    assert_eq!(fetch(&bench.actions()), Some((3, Some(4))));
    bench
        .swarm
        .handle_origin_stored(task(), PieceIndex(3), bench.now);
    bench.swarm.handle_origin_done(task(), Ok(()), bench.now);
    bench.actions();
    contradict(&mut bench, "y", 3);
    assert_eq!(fetch(&bench.actions()), None);
    contradict(&mut bench, "z", 2);
    assert_eq!(fetch(&bench.actions()), Some((2, Some(3))));
}

#[test]
fn the_origin_is_asked_once_about_another_length() {
    let mut bench = Bench::with_parents(&["a"]);
    bench.actions();
    let other = Geometry::for_length(10).expect("a sound length");
    let say = |bench: &mut Bench, from: &str| {
        bench.connect(from, Role::Node);
        bench.say(from, Message::Join { source: None });
        bench.say(from, Message::Head { geometry: other });
        fetch(&bench.actions())
    };
    assert_eq!(say(&mut bench, "x"), Some((0, Some(1))));
    let (swarm, now) = (&mut bench.swarm, bench.now);
    swarm.handle_origin_head(task(), geometry(), now);
    swarm.handle_origin_stored(task(), PieceIndex(0), now);
    swarm.handle_origin_done(task(), Ok(()), now);
    bench.actions();
    assert_eq!(say(&mut bench, "y"), None);
}

/// A node that fetches from a liar that has all but the last piece, and the pieces it has asked for.
fn at_a_liar() -> (Bench, Vec<u32>) {
    let mut bench = Bench::fetching();
    bench.connect("liar", Role::Node);
    say_almost_all(&mut bench);
    let mut asked = bench.requests("liar");
    asked.sort_unstable();
    (bench, asked)
}

fn say_almost_all(bench: &mut Bench) {
    let (geometry, batch) = (geometry(), batch(0, PIECES));
    let mut pieces = PieceSet::empty(PIECES);
    pieces.insert_range(0..PIECES - 1);
    for message in [
        Message::Join { source: None },
        Message::Head { geometry },
        Message::List { batch },
        Message::Have { pieces },
    ] {
        bench.say("liar", message);
    }
}

/// An honest host brings all that is missing; says who is reported for wrong bytes then.
fn who_lied(bench: &mut Bench) -> Vec<String> {
    bench.connect("honest", Role::Node);
    bench.say_everything("honest");
    for piece in 0..PIECES {
        bench.piece_stored("honest", piece);
    }
    bench.pass(2 * SECOND);
    let corrupt = |action| match action {
        Action::Report {
            host,
            reason: Misbehaviour::CorruptPiece,
            ..
        } => Some(host),
        _ => None,
    };
    let reported = bench.actions().into_iter().filter_map(corrupt);
    reported.map(|host| host.to_string()).collect()
}

#[test]
fn a_host_that_leaves_after_wrong_bytes_is_still_reported() {
    let (mut bench, asked) = at_a_liar();
    bench.piece_rejected("liar", asked[0]);
    bench.say("liar", Message::Leave);
    assert_eq!(who_lied(&mut bench), ["liar"]);
}

#[test]
fn a_host_that_hangs_up_after_wrong_bytes_is_still_reported() {
    let (mut bench, asked) = at_a_liar();
    bench.piece_rejected("liar", asked[0]);
    bench.swarm.handle_disconnected(&host("liar"), bench.now);
    assert_eq!(who_lied(&mut bench), ["liar"]);
}

#[test]
fn a_host_that_stays_after_wrong_bytes_is_reported_however_soon_the_blob_is_complete() {
    let (mut bench, asked) = at_a_liar();
    bench.piece_rejected("liar", asked[0]);
    assert_eq!(who_lied(&mut bench), ["liar"]);
}

#[test]
fn a_host_that_left_and_came_back_before_it_gave_wrong_bytes_is_reported() {
    let (mut bench, _) = at_a_liar();
    bench.say("liar", Message::Leave);
    say_almost_all(&mut bench);
    let asked = bench.requests("liar");
    bench.piece_rejected("liar", asked[0]);
    assert_eq!(who_lied(&mut bench), ["liar"]);
}

#[test]
fn a_wrong_piece_that_nobody_asked_for_excuses_no_other() {
    let (mut bench, asked) = at_a_liar();
    let unasked = (0..PIECES).find(|piece| !asked.contains(piece)).unwrap();
    bench.piece("liar", unasked);
    bench.piece("liar", asked[0]);
    for piece in [unasked, asked[0]].map(PieceIndex) {
        let (liar, now) = (host("liar"), bench.now);
        bench.swarm.handle_rejected(task(), piece, &liar, now);
    }
    assert_eq!(who_lied(&mut bench), ["liar"]);
}

#[test]
fn a_host_that_shows_another_list_after_wrong_bytes_may_have_been_deceived() {
    let (mut bench, asked) = at_a_liar();
    bench.piece_rejected("liar", asked[1]);
    let mut batch = batch(asked[0], asked[1] + 1);
    batch.states.fill(state(99));
    bench.say("liar", Message::List { batch });
    bench.say("liar", Message::Leave);
    assert_eq!(who_lied(&mut bench), [""; 0]);
}

#[test]
fn who_shows_another_list_of_later_pieces_only_is_reported() {
    let (mut bench, asked) = at_a_liar();
    bench.piece_rejected("liar", asked[0]);
    let mut batch = batch(asked[1], asked[1] + 1);
    batch.states.fill(state(99));
    bench.say("liar", Message::List { batch });
    assert_eq!(who_lied(&mut bench), ["liar"]);
}

#[test]
fn who_sent_three_wrong_pieces_is_heard_before_it_is_hung_up_on_and_reported_in_the_end() {
    let (mut bench, asked) = at_a_liar();
    for piece in &asked {
        bench.piece("liar", *piece);
    }
    for piece in asked[..3].iter().copied().map(PieceIndex) {
        let (liar, now) = (host("liar"), bench.now);
        bench.swarm.handle_rejected(task(), piece, &liar, now);
    }
    let ends = |action: &Action| matches!(action, Action::HangUp { .. });
    assert!(!bench.actions().iter().any(ends));
    bench.pass(2 * SECOND);
    assert!(bench.actions().iter().any(ends));
    bench.swarm.handle_disconnected(&host("liar"), bench.now);
    assert_eq!(who_lied(&mut bench), ["liar"]);
}

#[test]
fn a_host_shows_its_list_before_it_leaves_whom_it_gave_pieces() {
    let mut bench = Bench::fetching();
    bench.open(Want::Fetch, Some(source()), Some(Bench::stored(4, 4)));
    bench.connect("child", Role::Node);
    bench.say("child", Message::Join { source: None });
    let geometry = geometry();
    bench.say("child", Message::Head { geometry });
    let piece = PieceIndex(2);
    bench.say("child", Message::Request { piece });
    bench.actions();
    let mut other = batch(0, PIECES);
    other.states[..7].fill(state(99));
    bench.say("child", Message::List { batch: other });
    let sent = bench.sent("child");
    let shown = Message::List { batch: batch(0, 4) };
    assert_eq!(sent, [shown, Message::Leave]);
}

/// The pieces that are to be stored, and those taken back of a host.
fn stored_and_cancelled(actions: &[Action], of: &str) -> (Vec<u32>, Vec<u32>) {
    let (mut stored, mut cancelled) = (Vec::new(), Vec::new());
    for action in actions {
        match action {
            Action::Store { piece, .. } => stored.push(piece.0),
            Action::Send { host, envelope } if host.as_str() == of => {
                if let Message::Cancel { piece } = envelope.message {
                    cancelled.push(piece.0);
                }
            }
            _ => {}
        }
    }
    (stored, cancelled)
}

#[test]
fn a_piece_that_nobody_asked_for_takes_nothing_off_order_before_it_has_matched() {
    let mut bench = Bench::with_parents(&["a"]);
    let asked = bench.requests("a");
    bench.connect("b", Role::Node);
    bench.say("b", Message::Join { source: None });
    bench.actions();
    bench.piece("b", asked[0]);
    let (stored, cancelled) = stored_and_cancelled(&bench.actions(), "a");
    assert_eq!((stored, cancelled), (vec![asked[0]], vec![]));
    let piece = PieceIndex(asked[0]);
    bench
        .swarm
        .handle_stored(task(), piece, &host("b"), bench.now);
    let (_, cancelled) = stored_and_cancelled(&bench.actions(), "a");
    assert_eq!(cancelled, [asked[0]]);
}

#[test]
fn of_pieces_that_nobody_asked_for_three_are_checked_at_a_time() {
    let mut bench = Bench::with_parents(&["a"]);
    bench.connect("b", Role::Node);
    bench.say("b", Message::Join { source: None });
    bench.actions();
    for piece in 0..PIECES {
        bench.piece("b", piece);
    }
    let (stored, cancelled) = stored_and_cancelled(&bench.actions(), "a");
    assert_eq!((stored, cancelled), (vec![0, 1, 2], vec![]));
}

#[test]
fn after_two_bad_copies_the_origin_decides() {
    let mut bench = Bench::with_parents(&["a"]);
    let asked = bench.requests("a")[0];
    bench.connect("b", Role::Node);
    bench.say_everything("b");
    bench.piece_rejected("a", asked);
    let mut given = bench.requests("b");
    while !given.contains(&asked) {
        let piece = given.pop().expect("what only b can give is asked of it");
        bench.piece_stored("b", piece);
        given.extend(bench.requests("b"));
    }
    bench.piece_rejected("b", asked);
    assert_eq!(fetch(&bench.actions()), Some((asked, Some(asked + 1))));
    bench
        .swarm
        .handle_origin_stored(task(), PieceIndex(asked), bench.now);
    let reports = bench.actions();
    let reported = reports
        .iter()
        .filter(|a| matches!(a, Action::Report { .. }))
        .count();
    assert_eq!(reported, 2);
}

#[test]
fn a_false_list_is_discarded_and_all_is_fetched_by_our_own_chain() {
    let mut bench = Bench::with_parents(&["a", "b"]);
    bench.piece_rejected("a", 3);
    bench.piece_rejected("b", 3);
    bench.actions();
    let wrong = TaskFailure::WrongDigest("piece 3".into());
    bench
        .swarm
        .handle_origin_done(task(), Err(wrong), bench.now);
    let actions = bench.actions();
    assert!(actions.iter().any(discards));
    assert_eq!(fetch(&actions), Some((0, None)));
    assert_eq!(bench.swarm.pieces(&task()), None);
}

#[test]
fn a_list_that_ends_in_another_digest_convicts_its_giver() {
    let mut bench = Bench::fetching();
    bench.connect("liar", Role::Node);
    bench.say("liar", Message::Join { source: None });
    bench.say(
        "liar",
        Message::Head {
            geometry: geometry(),
        },
    );
    let mut batch = batch(0, PIECES);
    batch.states[7] = state(99);
    bench.say("liar", Message::List { batch });
    let (task, host, reason) = (task(), host("liar"), Misbehaviour::FalseList);
    let piece = None;
    assert!(bench.actions().contains(&Action::Report {
        task,
        host,
        reason,
        piece
    }));
}

// --- The store ---

#[test]
fn after_a_store_failure_the_pieces_under_way_are_asked_for_again() {
    let mut bench = Bench::with_parents(&["a"]);
    bench.piece_stored("a", 7);
    bench.piece("a", 0);
    bench.piece("a", 1);
    let failed = "disk full".to_owned();
    bench.swarm.handle_store_failed(task(), failed, bench.now);
    bench.actions();
    bench.open(Want::Fetch, Some(source()), None);
    bench.pass(SECOND);
    let asked = bench.requests("a");
    assert!(asked.iter().any(|piece| *piece < 2), "{asked:?}");
}

#[test]
fn what_the_store_has_and_the_swarm_did_not_know_of_is_taken_up() {
    let mut bench = Bench::with_parents(&["a"]);
    bench.open(Want::Serve, None, Some(Bench::stored(PIECES, PIECES)));
    let complete = Action::Complete { task: task() };
    assert!(bench.actions().contains(&complete));
}

#[test]
fn what_the_running_fetch_has_stored_before_it_says_so_is_not_fetched_twice() {
    let many = 40;
    let geometry = Geometry::for_length(u64::from(many) * PIECE_LEN).expect("a sound length");
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    bench.swarm.handle_origin_head(task(), geometry, bench.now);
    bench.actions();
    // A second reader comes, so the store is looked at.
    let (mut pieces, mut list) = (PieceSet::empty(many), PieceList::new(&task(), geometry));
    pieces.insert_range(0..20);
    list.add(batch(0, 20)).expect("a sound batch");
    bench.open(Want::Serve, None, Some(Stored { pieces, list }));
    for piece in 0..22 {
        let swarm = &mut bench.swarm;
        swarm.handle_origin_batch(task(), batch(piece, piece + 1), bench.now);
        swarm.handle_origin_stored(task(), PieceIndex(piece), bench.now);
    }
    let actions = bench.actions();
    assert_eq!(fetch(&actions), None);
    assert!(!actions.contains(&Action::CancelOrigin { task: task() }));
}

#[test]
fn what_comes_into_the_store_whole_ends_the_search_for_it() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Fetch, Some(source()), None);
    bench.parents(&[], Duty::Fetch);
    let fetches = |action: &Action| matches!(action, Action::FetchOrigin { .. });
    assert!(
        bench.actions().iter().any(fetches),
        "of unknown length so far"
    );
    bench.open(Want::Serve, None, Some(Bench::stored(PIECES, PIECES)));
    let actions = bench.actions();
    for wanted in [
        Action::Complete { task: task() },
        Action::CancelOrigin { task: task() },
        Action::Announce {
            task: task(),
            pieces: PIECES,
            complete: true,
        },
    ] {
        assert!(actions.contains(&wanted), "{wanted:?} of {actions:?}");
    }
    bench.pass(SECOND * 30);
    assert_eq!(bench.actions(), []);
}

#[test]
fn a_task_rests_once_nobody_asks_for_it_and_is_not_withdrawn() {
    let mut bench = Bench::with_parents(&["a"]);
    bench.piece_stored("a", 0);
    assert!(!bench.swarm.rest(&task()));
    bench.swarm.handle_close(task(), bench.now);
    assert!(!bench.swarm.rest(&task()));
    bench.swarm.handle_disconnected(&host("a"), bench.now);
    bench.actions();
    assert!(bench.swarm.rest(&task()));
    assert!(!bench.swarm.contains(&task()));
    assert_eq!(bench.actions(), []);
}

/// Pieces asked of a host so far.
fn asked_of(actions: &[Action], name: &str) -> Vec<u32> {
    let asked = actions.iter().filter_map(|action| match action {
        Action::Send { host: to, envelope } if *to == host(name) => match envelope.message {
            Message::Request { piece } => Some(piece.0),
            _ => None,
        },
        _ => None,
    });
    asked.collect()
}

#[test]
fn what_the_own_zone_has_is_not_asked_of_another_zone() {
    let parents: [(_, _, &[u32]); 2] = [
        ("near", "here", &[0, 1, 2, 3, 4, 5]),
        ("far", "there", &[0, 1, 2, 3, 4, 5, 6, 7]),
    ];
    let mut bench = Bench::between_zones(&parents);
    let actions = bench.actions();
    let mut far = asked_of(&actions, "far");
    far.sort();
    assert_eq!(far, [6, 7]);
    assert!(!asked_of(&actions, "near").is_empty());
}

#[test]
fn what_the_own_zone_has_and_does_not_give_comes_from_another_one() {
    let everything: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7];
    let parents = [("near", "here", everything), ("far", "there", everything)];
    let mut bench = Bench::between_zones(&parents);
    assert_eq!(asked_of(&bench.actions(), "far"), [0; 0]);
    bench.pass(Duration::from_secs(2));
    let actions = bench.actions();
    assert!(!asked_of(&actions, "far").is_empty());
}
