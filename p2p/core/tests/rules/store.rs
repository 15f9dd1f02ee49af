//! What the store has, gains and loses.

use super::*;

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
