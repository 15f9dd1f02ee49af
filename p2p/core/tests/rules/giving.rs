//! What others get, of a seed first of all.

use super::*;

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

/// It forgets us, so that it knows nothing of what we told it before.
#[test]
fn a_child_that_was_refused_half_way_is_told_everything_when_it_joins_again() {
    let mut bench = seed_with_child();
    bench.pass(SECOND / 10);
    let now = bench.now;
    bench.swarm.handle_origin_head(task(), geometry(), now);
    bench.swarm.handle_origin_batch(task(), batch(0, 2), now);
    bench.swarm.handle_origin_stored(task(), PieceIndex(0), now);
    bench.actions();
    let failure = Err(TaskFailure::NotFound("404".into()));
    bench.swarm.handle_origin_done(task(), failure, now);
    let (piece, reason) = (None, Refusal::NotFound);
    let refusal = Message::Refuse { piece, reason };
    assert!(bench.sent("child").contains(&refusal));
    assert_eq!(bench.swarm.neighbours(&task()), 0);
    bench.pass(SECOND * 6);
    bench.join_as("child", "t");
    let told = bench.sent("child");
    let tells = |what: fn(&Message) -> bool| told.iter().any(what);
    assert!(tells(|it| matches!(it, Message::Join { .. })), "{told:?}");
    assert!(tells(|it| matches!(it, Message::Head { .. })), "{told:?}");
    assert!(tells(|it| matches!(it, Message::List { .. })), "{told:?}");
    assert!(tells(|it| matches!(it, Message::Have { .. })), "{told:?}");
}

/// The pieces that are sent to a host.
fn uploads(bench: &mut Bench) -> Vec<u32> {
    let number = |action| match action {
        Action::Upload { piece, .. } => Some(piece.0),
        _ => None,
    };
    bench.actions().into_iter().filter_map(number).collect()
}

/// Who asked takes that piece for the answer to its request, and waits for one of our choice.
#[test]
fn a_piece_of_our_choice_that_is_asked_for_by_number_meanwhile_leaves_one_owed() {
    let mut bench = Bench::new(Role::Seed);
    bench.open(Want::Serve, None, Some(Bench::stored(PIECES, PIECES)));
    bench.connect("child", Role::Node);
    bench.say("child", Message::Join { source: None });
    bench.say("child", Message::RequestAny { credit: 1 });
    let first = uploads(&mut bench);
    assert_eq!(first.len(), 1);
    let piece = PieceIndex(first[0]);
    bench.say("child", Message::Request { piece });
    let second = uploads(&mut bench);
    assert!(second.len() == 1 && second != first, "{second:?}");
    bench.say("child", Message::Request { piece });
    assert_eq!(uploads(&mut bench), [0; 0], "asking twice is asking once");
}

#[test]
fn what_was_sent_for_an_earlier_credit_leaves_nothing_owed() {
    let mut bench = Bench::new(Role::Seed);
    bench.open(Want::Serve, None, Some(Bench::stored(PIECES, PIECES)));
    bench.connect("child", Role::Node);
    bench.say("child", Message::Join { source: None });
    bench.say("child", Message::RequestAny { credit: 1 });
    let piece = PieceIndex(uploads(&mut bench)[0]);
    bench.say("child", Message::RequestAny { credit: 0 });
    bench.say("child", Message::Request { piece });
    assert_eq!(uploads(&mut bench), [0; 0]);
}
