//! What is asked of whom.

use super::*;

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

/// How many pieces are asked for of a task that nobody reads while a reader of another one, whose
/// first piece is here, wants these.
fn asked_beside(wanted: std::ops::Range<u32>) -> usize {
    let mut bench = Bench::fetching();
    let other = TaskId::Blob(state(99).to_digest());
    let (mut pieces, mut list) = (PieceSet::empty(PIECES), PieceList::new(&other, geometry()));
    pieces.insert(PieceIndex(0));
    list.add(batch(0, 1)).expect("a sound batch");
    let opening = Opening {
        source: None,
        stored: Some(Stored { pieces, list }),
        want: Want::Fetch,
    };
    bench.swarm.handle_open(other, opening, bench.now);
    bench.swarm.handle_waiting(other, wanted, bench.now);
    bench.connect("a", Role::Node);
    bench.say_everything("a");
    bench.requests("a").len()
}

#[test]
fn a_task_that_nobody_waits_for_leaves_the_links_to_one_that_a_reader_waits_for() {
    assert_eq!(asked_beside(1..PIECES), 2);
}

#[test]
fn a_reader_that_has_what_it_waited_for_holds_back_no_other_task() {
    assert_eq!(asked_beside(0..PIECES), 3);
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

/// A source does not choose them again, so that whoever opens the task next would wait for them.
#[test]
fn what_a_source_sent_before_the_reader_closed_is_taken() {
    let mut bench = Bench::fetching();
    bench.connect("seed", Role::Seed);
    bench.say_everything("seed");
    bench.piece_stored("seed", 0);
    let credits = bench.sent("seed").into_iter();
    let credits = credits.filter_map(|message| match message {
        Message::RequestAny { credit } => Some(u32::from(credit)),
        _ => None,
    });
    let credit = credits.last().unwrap();
    assert!(credit > 3, "more than is taken of anybody: {credit}");
    bench.swarm.handle_close(task(), bench.now);
    let ended = Message::RequestAny { credit: 0 };
    assert!(bench.sent("seed").contains(&ended));
    (1..=credit).for_each(|piece| bench.piece("seed", piece));
    let stores = |action: &Action| matches!(action, Action::Store { .. });
    let stored = bench.actions().into_iter().filter(stores).count();
    assert_eq!(stored, credit as usize);
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

#[test]
fn a_node_that_leaves_what_was_asked_ahead_unanswered_is_asked_by_number() {
    let mut bench = Bench::fetching();
    bench.connect("a", Role::Node);
    bench.connect("b", Role::Node);
    bench.parents(&[("a", Role::Node), ("b", Role::Node)], Duty::Wait);
    // With company, the origin is not gone to.
    bench.say("b", Message::Join { source: None });
    let ahead = Message::RequestAny { credit: 1 };
    assert!(bench.sent("a").contains(&ahead));
    bench.say_everything("a");
    let asked = bench.requests("a").len();
    bench.pass(SECOND * 23 / 10);
    assert_eq!(bench.requests("a").len(), 1, "beside {asked}");
}

/// The last credit that a source was given.
fn credit(bench: &mut Bench) -> Option<u16> {
    let said = bench.sent("seed").into_iter().rev();
    let mut credits = said.filter_map(|message| match message {
        Message::RequestAny { credit } => Some(credit),
        _ => None,
    });
    credits.next()
}

#[test]
fn what_a_source_cannot_give_of_its_choice_is_not_waited_for() {
    let mut bench = Bench::fetching();
    bench.connect("seed", Role::Seed);
    bench.say_everything("seed");
    bench.piece_stored("seed", 0);
    let credit_before = credit(&mut bench).unwrap();
    for piece in 1..PIECES - 1 {
        let (piece, reason) = (Some(PieceIndex(piece)), Refusal::Missing);
        bench.say("seed", Message::Refuse { piece, reason });
        if let Some(credit) = credit(&mut bench) {
            assert!(credit > 0);
            return;
        }
    }
    panic!("still waits for {credit_before}");
}

/// It chose and sent the piece before it heard that it was asked for by number.
#[test]
fn a_source_that_has_no_time_for_what_it_gave_by_choice_owes_one_less() {
    let mut bench = Bench::fetching();
    bench.connect("seed", Role::Seed);
    bench.say_everything("seed");
    bench.piece_stored("seed", 0);
    let credit_before = credit(&mut bench).expect("it chooses");
    for piece in 1..=u32::from(credit_before).min(PIECES - 2) {
        let (piece, reason) = (Some(PieceIndex(piece)), Refusal::Busy);
        bench.say("seed", Message::Refuse { piece, reason });
    }
    bench.pass(SECOND / 2);
    assert!(credit(&mut bench).is_some(), "nothing more is asked of it");
}
