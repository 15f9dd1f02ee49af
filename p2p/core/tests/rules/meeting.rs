//! Who takes part, and what hosts tell each other first.

use super::*;

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

/// Whoever asked forgets that it did when it hears that contact is taken up anew.
#[test]
fn what_a_host_asked_before_contact_was_taken_up_anew_is_not_answered() {
    let mut bench = Bench::new(Role::Node);
    bench.open(Want::Serve, None, Some(Bench::stored(PIECES, PIECES)));
    bench.connect("peer", Role::Node);
    bench.say("peer", Message::Join { source: None });
    bench.swarm.handle_lost_words(&host("peer"), bench.now);
    let given = |bench: &mut Bench| {
        bench.say("peer", Message::RequestAny { credit: 1 });
        let piece = PieceIndex(PIECES - 1);
        bench.say("peer", Message::Request { piece });
        let upload = |action: &Action| matches!(action, Action::Upload { .. });
        bench.actions().into_iter().filter(upload).count()
    };
    assert_eq!(given(&mut bench), 0);
    bench.say("peer", Message::Join { source: None });
    assert_eq!(given(&mut bench), 2);
}

#[test]
fn the_only_connection_is_dialed_again_as_soon_as_it_breaks() {
    let mut bench = Bench::fetching();
    bench.parents(&[("a", Role::Node)], Duty::Wait);
    bench.connect("a", Role::Node);
    bench.say_everything("a");
    bench.actions();
    bench.swarm.handle_disconnected(&host("a"), bench.now);
    let dial = Action::Dial { host: host("a") };
    assert!(bench.actions().contains(&dial));
}

/// What it refused us for may have been the last reader's credential.
#[test]
fn a_seed_that_refused_is_asked_again_for_the_next_reader() {
    let mut bench = Bench::fetching();
    bench.parents(&[("seed", Role::Seed)], Duty::Wait);
    bench.connect("seed", Role::Seed);
    bench.say_everything("seed");
    bench.piece_stored("seed", 0);
    bench.say("seed", DENIED);
    bench.swarm.handle_close(task(), bench.now);
    bench.actions();
    let other = Some(source_of("other"));
    bench.open(Want::Fetch, other.clone(), None);
    bench.pass(SECOND / 5);
    let join = Message::Join { source: other };
    assert!(bench.sent("seed").contains(&join));
}

#[test]
fn who_gives_up_before_anything_came_is_no_longer_counted_among_those_who_seek() {
    let mut bench = Bench::fetching();
    bench.swarm.handle_close(task(), bench.now);
    let withdraw = Action::Withdraw { task: task() };
    assert!(bench.actions().contains(&withdraw));
}

/// The scheduler may have chosen it to fetch the rest for others.
#[test]
fn who_gives_up_half_way_is_counted_among_those_who_have_some() {
    let mut bench = Bench::with_parents(&["a"]);
    bench.piece_stored("a", 0);
    bench.actions();
    bench.swarm.handle_close(task(), bench.now);
    let actions = bench.actions();
    let place = |wanted: fn(&Action) -> bool| actions.iter().position(wanted);
    let withdrawn = place(|action| matches!(action, Action::Withdraw { .. }));
    let announced = place(|action| matches!(action, Action::Announce { pieces: 1, .. }));
    assert!(withdrawn.is_some() && withdrawn < announced, "{actions:#?}");
}

/// Its last bytes may be read before they are known to be stored.
#[test]
fn who_has_almost_all_of_it_is_not_withdrawn_when_its_reader_closes() {
    for missing in 0..2 {
        let mut bench = Bench::with_parents(&["a"]);
        for piece in missing..PIECES {
            bench.piece_stored("a", piece);
        }
        bench.actions();
        bench.swarm.handle_close(task(), bench.now);
        let withdraw = Action::Withdraw { task: task() };
        assert!(!bench.actions().contains(&withdraw), "{missing} missing");
    }
}

/// They had one reason, and it may be gone.
#[test]
fn hosts_whose_connections_break_together_are_all_dialed_again_at_once() {
    let mut bench = Bench::fetching();
    let parents = [("a", Role::Node), ("b", Role::Node), ("c", Role::Node)];
    bench.parents(&parents, Duty::Wait);
    for (name, role) in parents {
        bench.connect(name, role);
        bench.say_everything(name);
    }
    bench.actions();
    for (name, _) in parents {
        bench.swarm.handle_disconnected(&host(name), bench.now);
    }
    let dialed = bench.actions();
    let dialed = dialed
        .iter()
        .filter(|action| matches!(action, Action::Dial { .. }));
    assert_eq!(dialed.count(), 3);
}

/// As who takes nothing from us, and hangs up before it says a word.
#[test]
fn a_host_that_hangs_up_before_it_answers_is_dialed_less_and_less_often() {
    let mut bench = Bench::fetching();
    bench.parents(&[("seed", Role::Seed)], Duty::Wait);
    let dial = Action::Dial { host: host("seed") };
    let (mut dials, mut lookups) = (0, 0);
    for _ in 0..300 {
        for action in bench.actions() {
            lookups += usize::from(matches!(action, Action::Lookup { .. }));
            if action == dial {
                dials += 1;
                bench.connect("seed", Role::Seed);
                bench.swarm.handle_disconnected(&host("seed"), bench.now);
            }
        }
        bench.pass(SECOND / 5);
    }
    assert!(dials <= 9, "{dials} in a minute");
    assert!(lookups <= 9, "{lookups} in a minute");
}

/// Our own credential may be of no use, and the seed be started anew just now.
#[test]
fn a_task_does_not_fail_while_those_that_were_lost_may_come_back() {
    let mut bench = Bench::fetching();
    bench.parents(&[("seed", Role::Seed)], Duty::Wait);
    bench.connect("seed", Role::Seed);
    bench.say_everything("seed");
    bench.piece_stored("seed", 0);
    bench.swarm.handle_disconnected(&host("seed"), bench.now);
    bench.pass(SECOND / 2);
    assert!(fetch(&bench.actions()).is_some());
    let missing = Err(TaskFailure::NotFound("404".into()));
    bench.swarm.handle_origin_done(task(), missing, bench.now);
    bench.pass(SECOND);
    let failed = |action: &Action| matches!(action, Action::Failed { .. });
    assert!(!bench.actions().iter().any(failed));
    bench.pass(SECOND * 3);
    assert!(bench.actions().iter().any(failed));
}

/// It closed before it heard that it was chosen.
#[test]
fn who_is_chosen_to_fetch_and_does_not_want_says_so() {
    let mut bench = Bench::with_parents(&["a"]);
    for piece in 0..PIECES - 1 {
        bench.piece_stored("a", piece);
    }
    bench.swarm.handle_close(task(), bench.now);
    bench.actions();
    bench.parents(&[], Duty::Fetch);
    let actions = bench.actions();
    let place = |wanted: fn(&Action) -> bool| actions.iter().position(wanted);
    let withdrawn = place(|action| matches!(action, Action::Withdraw { .. }));
    let announced = place(|action| matches!(action, Action::Announce { pieces: 7, .. }));
    assert!(withdrawn.is_some() && withdrawn < announced, "{actions:#?}");
}
