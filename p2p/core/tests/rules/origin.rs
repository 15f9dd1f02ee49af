//! When the origin is asked, and for what.

use super::*;

#[test]
fn the_chosen_fetcher_goes_to_the_origin_at_once() {
    let mut bench = Bench::fetching();
    bench.parents(&[], Duty::Fetch);
    assert_eq!(fetch(&bench.actions()), Some((0, None)));
}

#[test]
fn a_scheduler_that_lets_lookups_wait_when_it_has_just_begun_is_waited_for() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Fetch, Some(source()), None);
    bench.pass(SECOND * 4 / 10);
    assert_eq!(fetch(&bench.actions()), None);
    bench.pass(SECOND / 5);
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

/// The scheduler may be gone with it.
#[test]
fn who_has_lost_its_last_neighbour_goes_to_the_origin_soon() {
    let mut bench = Bench::with_parents(&["a", "b"]);
    bench.pass(SECOND / 100);
    bench.piece_stored("a", 0);
    bench.swarm.handle_disconnected(&host("a"), bench.now);
    bench.pass(SECOND / 2);
    assert_eq!(fetch(&bench.actions()), None, "there is another");
    bench.swarm.handle_disconnected(&host("b"), bench.now);
    bench.pass(SECOND / 5);
    assert_eq!(fetch(&bench.actions()), None, "one may come in a moment");
    bench.pass(SECOND / 4);
    assert!(fetch(&bench.actions()).is_some());
}
