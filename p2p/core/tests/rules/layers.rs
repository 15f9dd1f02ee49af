//! Many blobs at once, as an image has them: what a reader waits for comes first, and none starves.

use std::collections::VecDeque;

use hawker_swarm::{Limit, Limits, Rate};

use super::*;

const LAYERS: u8 = 4;
const LAYER_PIECES: u32 = 64;
/// The one that is read.
const READ: u8 = 0;
/// So long a link takes for a piece.
const PIECE_TIME: Duration = Duration::from_millis(10);

fn layer_geometry() -> Geometry {
    Geometry::for_length(u64::from(LAYER_PIECES) * PIECE_LEN).expect("a sound length")
}

fn layer_state(layer: u8, piece: u32) -> ChainState {
    let mut bytes = [layer; 32];
    bytes[0] = piece as u8;
    ChainState::from_bytes(bytes)
}

fn layer(layer: u8) -> TaskId {
    TaskId::Blob(layer_state(layer, LAYER_PIECES - 1).to_digest())
}

fn number(task: TaskId) -> u8 {
    let number = (0..LAYERS).find(|it| layer(*it) == task);
    number.expect("a layer of the image")
}

fn layer_batch(layer: u8) -> SignedStates {
    SignedStates {
        first: PieceIndex(0),
        states: (0..LAYER_PIECES).map(|it| layer_state(layer, it)).collect(),
        origin: None,
        signer: Arc::from([]),
        signature: Vec::new(),
    }
}

/// A node that fetches all layers over one link, on which whatever was asked for first comes first.
struct Pull {
    swarm: Swarm,
    now: Instant,
    /// Asked for by number, of whom.
    asked: VecDeque<(HostId, TaskId, PieceIndex)>,
    /// Open requests, those served longest ago first, and what each sends next.
    open: VecDeque<(HostId, TaskId, u16)>,
    given: Vec<(TaskId, PieceIndex)>,
    turns: u32,
    /// How many pieces came of each layer.
    came: [u32; LAYERS as usize],
    went_to_origin: Vec<u8>,
}

impl Pull {
    fn new(limits: Limits) -> Self {
        #[allow(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let now = Instant::now();
        let mut config = SwarmConfig::new(host("me"), Role::Node);
        config.limits = limits;
        let mut pull = Self {
            swarm: Swarm::new(config, 1),
            now,
            asked: VecDeque::new(),
            open: VecDeque::new(),
            given: Vec::new(),
            turns: 0,
            came: [0; LAYERS as usize],
            went_to_origin: Vec::new(),
        };
        for it in 0..LAYERS {
            let opening = Opening {
                source: Some(source()),
                stored: None,
                want: Want::Fetch,
            };
            pull.swarm.handle_open(layer(it), opening, now);
            let nobody = Vec::new();
            pull.swarm
                .handle_parents(layer(it), nobody, Duty::Wait, now);
        }
        pull
    }

    /// A reader waits for the first layer from a piece on.
    fn read(&mut self, from: u32) {
        self.swarm
            .handle_waiting(layer(READ), from..LAYER_PIECES, self.now);
    }

    /// A host comes that has all of these layers.
    fn meet(&mut self, name: &str, role: Role, layers: impl Iterator<Item = u8>) {
        self.swarm.handle_connected(host(name), role, self.now);
        for it in layers {
            let geometry = layer_geometry();
            let batch = layer_batch(it);
            let pieces = PieceSet::full(LAYER_PIECES);
            for message in [
                Message::Join { source: None },
                Message::Head { geometry },
                Message::List { batch },
                Message::Have { pieces },
            ] {
                self.say(name, layer(it), message);
            }
        }
    }

    fn say(&mut self, from: &str, task: TaskId, message: Message) {
        let envelope = Envelope { task, message };
        self.swarm.handle_message(&host(from), envelope, self.now);
        self.listen();
    }

    /// Takes down what the node says.
    fn listen(&mut self) {
        while let Some(action) = self.swarm.poll_action() {
            match action {
                Action::Send { host, envelope } => self.hear(host, envelope),
                Action::FetchOrigin { task, .. } => self.went_to_origin.push(number(task)),
                _ => {}
            }
        }
    }

    fn hear(&mut self, host: HostId, Envelope { task, message }: Envelope) {
        match message {
            Message::Request { piece } => self.asked.push_back((host, task, piece)),
            Message::Cancel { piece } => self.asked.retain(|it| *it != (host.clone(), task, piece)),
            Message::RequestAny { credit } => {
                let entry = self.open.iter_mut().find(|it| it.0 == host && it.1 == task);
                match entry {
                    Some(entry) => entry.2 = credit,
                    None => self.open.push_back((host, task, credit)),
                }
                self.open.retain(|it| it.2 > 0);
            }
            _ => {}
        }
    }

    /// What the link brings next: of each host in turn, by turns what was asked for by number and what
    /// it chose.
    fn next(&mut self) -> Option<(HostId, TaskId, PieceIndex)> {
        self.turns += 1;
        let hosts = match self.turns % 2 {
            0 => ["a", "b"],
            _ => ["b", "a"],
        };
        let mut next = hosts.into_iter().map(|name| self.next_of(&host(name)));
        next.find_map(|next| next)
    }

    fn next_of(&mut self, from: &HostId) -> Option<(HostId, TaskId, PieceIndex)> {
        let asked = self.asked.iter().position(|it| it.0 == *from);
        let open = self.open.iter().position(|it| it.0 == *from);
        let by_number = open.is_none() || self.turns % 4 < 2;
        if let Some(at) = asked.filter(|_| by_number) {
            return self.asked.remove(at);
        }
        let at = open?;
        let (host, task, credit) = self.open.remove(at)?;
        if credit > 1 {
            self.open.push_back((host.clone(), task, credit - 1));
        }
        let is_new = |piece: &PieceIndex| !self.given.contains(&(task, *piece));
        let piece = (0..LAYER_PIECES).map(PieceIndex).find(is_new)?;
        Some((host, task, piece))
    }

    /// Lets the link bring a piece. Says of which layer, unless it is idle.
    fn bring(&mut self, takes: Duration) -> Option<u8> {
        self.pass(takes);
        let (from, task, piece) = self.next()?;
        self.given.push((task, piece));
        let it = number(task);
        let data = bytes::Bytes::new();
        self.say(from.as_str(), task, Message::Piece { piece, data });
        self.swarm.handle_stored(task, piece, &from, self.now);
        self.came[usize::from(it)] += 1;
        if it == READ {
            let pieces = self.swarm.pieces(&task).expect("a known layer");
            let next = pieces.missing().next();
            if let Some(next) = next {
                self.read(next.0);
            }
        }
        self.listen();
        Some(it)
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.swarm.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.swarm.handle_timeout(self.now);
            self.listen();
        }
        self.now = end;
    }

    /// How many pieces are on order at a host, of layers that nobody reads.
    fn beside(&self, at: &str) -> usize {
        let others = |of: &HostId, task: &TaskId| *of == host(at) && *task != layer(READ);
        let asked = self.asked.iter().filter(|it| others(&it.0, &it.1));
        let open = self.open.iter().filter(|it| others(&it.0, &it.1));
        asked.count() + open.map(|it| usize::from(it.2)).sum::<usize>()
    }
}

/// How much had come of each layer when the one that is read was whole.
fn until_read(role: Role, limits: Limits) -> [u32; LAYERS as usize] {
    let mut pull = Pull::new(limits);
    pull.read(0);
    pull.meet("a", role, 0..LAYERS);
    pull.meet("b", role, 0..LAYERS);
    let (mut idle, mut rounds) = (0, 0);
    while pull.came[usize::from(READ)] < LAYER_PIECES {
        idle += u32::from(pull.bring(PIECE_TIME).is_none());
        rounds += 1;
        assert!(rounds < 2000, "it does not come: {:?}", pull.came);
    }
    let limited = limits.download.total.is_some();
    assert!(limited || idle <= rounds / 50, "{idle} of {rounds} idle");
    assert_eq!(pull.went_to_origin, []);
    pull.came
}

/// The layer that is read is there before half of all bytes, and of the others each has its part.
#[track_caller]
fn assert_first(came: [u32; LAYERS as usize]) {
    let all: u32 = came.iter().sum();
    let most = u32::from(LAYERS) * LAYER_PIECES * 2 / 5;
    assert!(all <= most, "{came:?}");
    let others = &came[1..];
    let (least, most) = (others.iter().min(), others.iter().max());
    let (least, most) = (least.expect("a layer"), most.expect("a layer"));
    assert!(*least >= 3 && most - least <= 2, "{came:?}");
}

#[test]
fn the_layer_that_is_read_comes_before_those_that_nobody_reads() {
    assert_first(until_read(Role::Node, Limits::default()));
}

#[test]
fn the_layer_that_is_read_comes_first_from_seeds_that_choose() {
    assert_first(until_read(Role::Seed, Limits::default()));
}

#[test]
fn the_layer_that_is_read_comes_first_where_downloads_are_limited() {
    let total = Rate::new(PIECE_LEN * 50);
    let download = Limit {
        total,
        per_task: None,
    };
    let limits = Limits {
        download,
        ..Limits::default()
    };
    assert_first(until_read(Role::Node, limits));
}

#[test]
fn a_host_that_has_nothing_of_what_is_read_is_kept_busy_with_two_pieces_of_all_others() {
    let mut pull = Pull::new(Limits::default());
    pull.read(0);
    pull.meet("a", Role::Node, 0..LAYERS);
    pull.meet("b", Role::Node, 1..LAYERS);
    for round in 0..100 {
        pull.bring(PIECE_TIME);
        let (used, idle) = (pull.beside("a"), pull.beside("b"));
        // At first the end of each list is looked at.
        assert!(round < 10 || (used <= 2 && idle == 2), "{used} {idle}");
    }
    let [_, others @ ..] = pull.came;
    let (least, most) = (others.iter().min(), others.iter().max());
    assert!(most.unwrap() - least.unwrap() <= 2, "{others:?}");
}

#[test]
fn a_reader_that_gets_nothing_holds_back_no_other_layer() {
    let mut pull = Pull::new(Limits::default());
    pull.read(0);
    pull.meet("b", Role::Node, 1..LAYERS);
    assert_eq!(pull.beside("b"), 2);
    pull.pass(SECOND);
    assert!(pull.beside("b") > 4, "{}", pull.beside("b"));
}

#[test]
fn layers_that_were_held_back_go_on_when_the_reader_has_what_it_wanted() {
    let mut pull = Pull::new(Limits::default());
    pull.read(0);
    pull.meet("a", Role::Node, 0..LAYERS);
    for _ in 0..20 {
        pull.bring(PIECE_TIME);
    }
    assert!(pull.beside("a") <= 1, "{}", pull.beside("a"));
    pull.swarm.handle_close(layer(READ), pull.now);
    pull.listen();
    assert!(pull.beside("a") > 4, "{}", pull.beside("a"));
}

#[test]
fn a_layer_that_is_held_back_is_not_sought_at_the_origin() {
    let mut pull = Pull::new(Limits::default());
    pull.read(0);
    pull.meet("a", Role::Node, 0..LAYERS);
    // One piece in five is for the others, so each waits for nearly four seconds.
    for _ in 0..60 {
        pull.bring(Duration::from_millis(250));
    }
    let [read, others @ ..] = pull.came;
    assert!(
        read < LAYER_PIECES && others.iter().all(|it| *it <= 6),
        "{:?}",
        pull.came
    );
    pull.went_to_origin.retain(|it| *it != READ);
    assert_eq!(pull.went_to_origin, []);
}

/// A piece on its way to a host.
type Upload = (HostId, TaskId, PieceIndex);

/// A seed that fetches two layers for two nodes.
fn seed_of_two_layers() -> Bench {
    let mut bench = Bench::new(Role::Seed);
    for child in ["x", "y"] {
        bench.connect(child, Role::Node);
        for it in 0..2 {
            let (task, source) = (layer(it), Some(source()));
            for message in [Message::Join { source }, Message::RequestAny { credit: 64 }] {
                let envelope = Envelope { task, message };
                bench
                    .swarm
                    .handle_message(&host(child), envelope, bench.now);
            }
        }
    }
    bench.pass(SECOND / 10);
    for it in 0..2 {
        let (task, now) = (layer(it), bench.now);
        bench.swarm.handle_origin_head(task, layer_geometry(), now);
        bench.swarm.handle_origin_batch(task, layer_batch(it), now);
    }
    bench
}

/// What it sends now.
fn uploads(bench: &mut Bench) -> Vec<Upload> {
    let actions = bench.actions().into_iter();
    let uploads = actions.filter_map(|action| match action {
        Action::Upload { host, task, piece } => Some((host, task, piece)),
        _ => None,
    });
    uploads.collect()
}

/// The origin brings a piece of a layer; who gets it at once.
fn bring(bench: &mut Bench, it: u8, piece: u32) -> Vec<Upload> {
    let (task, piece) = (layer(it), PieceIndex(piece));
    bench.swarm.handle_origin_stored(task, piece, bench.now);
    uploads(bench)
}

fn sent(bench: &mut Bench, (host, task, piece): &Upload) {
    bench.swarm.handle_uploaded(host, *task, *piece, bench.now);
}

#[test]
fn while_layers_come_from_the_origin_nothing_is_sent_twice_before_what_nobody_got() {
    let mut seed = seed_of_two_layers();
    let first: Vec<_> = (0..2)
        .flat_map(|piece| bring(&mut seed, 0, piece))
        .collect();
    first.iter().for_each(|upload| sent(&mut seed, upload));
    let second: Vec<_> = (0..2)
        .flat_map(|piece| bring(&mut seed, 1, piece))
        .collect();
    let hosts = |uploads: &[Upload]| {
        let mut hosts: Vec<_> = uploads.iter().map(|(host, ..)| host.clone()).collect();
        hosts.sort();
        hosts
    };
    assert_eq!(hosts(&first), [host("x"), host("y")]);
    assert_eq!(hosts(&second), [host("x"), host("y")]);
    // Both take their time, until what one has of the first layer may be sent to the other as well.
    seed.pass(SECOND * 6 / 5);
    assert_eq!(uploads(&mut seed), []);
    assert_eq!(bring(&mut seed, 1, 2), []);
    let (ended, _, _) = second[0].clone();
    sent(&mut seed, &second[0]);
    // The first layer was served longer ago.
    assert_eq!(
        uploads(&mut seed),
        [(ended.clone(), layer(1), PieceIndex(2))]
    );
    sent(&mut seed, &(ended, layer(1), PieceIndex(2)));
    // There is nothing else, and the link is free.
    let again = uploads(&mut seed);
    assert!(
        again.iter().any(|(_, task, _)| *task == layer(0)),
        "{again:?}"
    );
}
