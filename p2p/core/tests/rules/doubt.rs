//! Wrong bytes, false lists, and who is reported for them.

use super::*;

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
