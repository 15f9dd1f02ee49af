//! Neighbours that fall silent, or give nothing of what they have.

use super::*;

const MOMENT: Duration = Duration::from_millis(100);

fn pings(actions: &[Action], name: &str) -> usize {
    let ping =
        |action: &&Action| matches!(action, Action::Ping { host: to, .. } if *to == host(name));
    actions.iter().filter(ping).count()
}

fn fetches(actions: &[Action]) -> bool {
    let fetch = |action: &Action| matches!(action, Action::FetchOrigin { .. });
    actions.iter().any(fetch)
}

/// A node that fetches, and its seed, which has told the first half of what there is.
fn with_seed(told: u32) -> Bench {
    let mut bench = Bench::fetching();
    bench.parents(&[("seed", Role::Seed)], Duty::Wait);
    bench.connect("seed", Role::Seed);
    bench.say("seed", Message::Join { source: None });
    let geometry = geometry();
    bench.say("seed", Message::Head { geometry });
    let batch = batch(0, told);
    bench.say("seed", Message::List { batch });
    let pieces = (0..told).map(PieceIndex).collect();
    bench.say("seed", Message::Gained { pieces });
    bench
}

#[test]
fn who_is_waited_for_and_says_nothing_is_asked_for_a_sign_of_life() {
    let mut bench = with_seed(2);
    bench.piece_stored("seed", 0);
    bench.pass(MOMENT / 2);
    assert_eq!(pings(&bench.actions(), "seed"), 0);
    bench.pass(MOMENT * 10);
    let asked = pings(&bench.actions(), "seed");
    assert!((2..=4).contains(&asked), "{asked} times in a second");
}

#[test]
fn who_owes_nothing_is_asked_for_no_sign_of_life() {
    let mut bench = with_seed(2);
    bench.connect("node", Role::Node);
    bench.say("node", Message::Join { source: None });
    bench.pass(MOMENT * 9);
    assert_eq!(pings(&bench.actions(), "node"), 0);
}

/// It waits for its origin: whoever goes there as well does not speed that up.
#[test]
fn a_seed_that_gives_signs_of_life_is_waited_for() {
    let mut bench = with_seed(1);
    bench.piece_stored("seed", 0);
    bench.actions();
    bench.pass(MOMENT * 25);
    assert!(!fetches(&bench.actions()));
}

#[test]
fn the_origin_is_read_soon_when_the_only_seed_falls_silent() {
    let mut bench = with_seed(1);
    bench.piece_stored("seed", 0);
    bench.pass(MOMENT * 5);
    bench.actions();
    bench.swarm.handle_silent(&host("seed"), bench.now);
    bench.pass(MOMENT * 4);
    assert!(fetches(&bench.actions()));
}

/// The nodes that can be heard wait for the same.
#[test]
fn the_origin_is_read_soon_when_a_crowd_s_seed_falls_silent() {
    let mut bench = with_seed(1);
    for name in ["a", "b"] {
        bench.connect(name, Role::Node);
        bench.say(name, Message::Join { source: None });
    }
    bench.piece_stored("seed", 0);
    bench.actions();
    bench.swarm.handle_silent(&host("seed"), bench.now);
    bench.pass(MOMENT * 12);
    assert!(fetches(&bench.actions()));
}

#[test]
fn a_crowd_whose_seed_is_silent_does_not_read_the_origin_for_what_a_node_has() {
    let mut bench = with_seed(1);
    bench.piece_stored("seed", 0);
    bench.connect("node", Role::Node);
    bench.say_everything("node");
    bench.actions();
    bench.swarm.handle_silent(&host("seed"), bench.now);
    bench.pass(MOMENT * 5);
    assert!(!fetches(&bench.actions()));
}

#[test]
fn what_a_silent_host_owes_is_asked_of_others_and_nothing_of_it() {
    let mut bench = Bench::with_parents(&["a", "b"]);
    bench.piece_stored("a", 0);
    let owed: BTreeSet<_> = bench.requests("a").into_iter().collect();
    assert!(!owed.is_empty());
    bench.swarm.handle_silent(&host("a"), bench.now);
    let mut given = BTreeSet::new();
    for _ in 0..PIECES {
        // What was asked of b before is not known here any more.
        for piece in (1..PIECES).filter(|piece| !owed.contains(piece)) {
            if given.insert(piece) {
                bench.piece_stored("b", piece);
            }
        }
        for action in bench.actions() {
            if let Action::Send { host: to, envelope } = action
                && let Message::Request { piece } = envelope.message
            {
                assert_eq!(to, host("b"));
                if given.insert(piece.0) {
                    bench.piece_stored("b", piece.0);
                }
            }
        }
    }
    assert!(given.is_superset(&owed), "{given:?} of {owed:?}");
}

fn have() -> Message {
    let pieces = PieceSet::full(PIECES);
    Message::Have { pieces }
}

/// What the other host owed when it left is asked of it.
#[test]
fn a_host_that_is_heard_again_is_asked_again() {
    let asked_after = |heard: fn(&mut Bench)| {
        let mut bench = Bench::with_parents(&["a", "b"]);
        bench.piece_stored("a", 0);
        bench.piece_stored("b", 1);
        bench.swarm.handle_silent(&host("a"), bench.now);
        heard(&mut bench);
        bench.actions();
        bench.say("b", Message::Leave);
        bench.requests("a").len()
    };
    assert_eq!(asked_after(|_| {}), 0);
    assert!(asked_after(|bench| bench.swarm.handle_heard(&host("a"), bench.now)) > 0);
    assert!(asked_after(|bench| bench.say("a", have())) > 0);
}

#[test]
fn a_host_that_was_silent_before_a_task_began_is_not_counted_on() {
    let mut bench = Bench::new(Role::Node);
    bench.connect("seed", Role::Seed);
    bench.swarm.handle_silent(&host("seed"), bench.now);
    bench.open(Want::Fetch, Some(source()), None);
    bench.parents(&[("seed", Role::Seed)], Duty::Wait);
    bench.pass(MOMENT * 4);
    assert!(fetches(&bench.actions()));
}

/// Its disk may hang: it has what it says, and answers all but that.
#[test]
fn who_gives_nothing_of_what_it_has_is_not_waited_for() {
    let mut bench = with_seed(PIECES);
    bench.piece_stored("seed", 0);
    bench.actions();
    bench.pass(MOMENT * 9);
    assert!(!fetches(&bench.actions()));
    bench.pass(MOMENT * 5);
    assert!(fetches(&bench.actions()));
}

/// What it owed may wait in a socket for as long as it likes.
#[test]
fn what_a_source_owed_when_it_fell_silent_is_taken_however_often_it_did() {
    let mut bench = Bench::fetching();
    bench.connect("seed", Role::Seed);
    bench.say_everything("seed");
    for _ in 0..3 {
        bench.swarm.handle_silent(&host("seed"), bench.now);
        bench.swarm.handle_heard(&host("seed"), bench.now);
    }
    bench.actions();
    for piece in 0..3 {
        bench.piece("seed", piece);
        let stores = |action: &Action| matches!(action, Action::Store { .. });
        assert!(bench.actions().iter().any(stores), "piece {piece}");
    }
}

/// It fetches for all of us.
#[test]
fn who_went_to_the_origin_because_of_a_silent_seed_stands_back_when_it_is_heard() {
    let mut bench = with_seed(1);
    bench.piece_stored("seed", 0);
    bench.swarm.handle_silent(&host("seed"), bench.now);
    bench.pass(MOMENT * 4);
    assert!(fetches(&bench.actions()));
    bench.swarm.handle_heard(&host("seed"), bench.now);
    let cancel = Action::CancelOrigin { task: task() };
    assert!(bench.actions().contains(&cancel));
}
