//! With whose credential the origin is asked, and who is told of it.

use super::*;

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
