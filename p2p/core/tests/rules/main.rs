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

mod credentials;
mod doubt;
mod download;
mod giving;
mod layers;
mod meeting;
mod origin;
mod silence;
mod store;
mod zones;

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
