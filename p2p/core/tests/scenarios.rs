//! Whole networks, good and bad. Every failure prints the scenario's seed.

use std::time::Duration;

use hawker_model::Role;
use hawker_swarm::{
    Misbehaviour, TaskFailure,
    sim::{Access, Lie, OriginFault, Outcome, Reads, Scenario},
};

const MIB: u64 = 1 << 20;

/// 20 nodes and some seeds on links of 100 Mbit/s, 16 MiB.
fn network(seed: u64, seeds: usize) -> Scenario {
    Scenario::new(seed, seeds, 20, 100.0, 16 * MIB)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Runs, and checks what always must be: all honest nodes have the right bytes, and no honest host
/// was called a liar.
fn run(scenario: Scenario) -> Outcome {
    let outcome = scenario.run().expect("a length of some MiB is sound");
    let behind = outcome.left_behind();
    assert!(
        behind.is_empty(),
        "seed {}: left behind {behind:#?}",
        outcome.seed
    );
    let wronged = outcome.wronged();
    assert!(
        wronged.is_empty(),
        "seed {}: wronged {wronged:?}",
        outcome.seed
    );
    outcome
}

#[test]
fn twenty_hosts_come_close_to_the_bound_with_one_copy_from_the_origin() {
    for seed in 1..=2 {
        let outcome = run(Scenario::new(seed, 1, 20, 100.0, 64 * MIB));
        assert!(outcome.ratio() <= 1.25, "seed {seed}: {}", outcome.ratio());
        assert!(
            outcome.seed_copies() <= 1.25,
            "seed {seed}: {}",
            outcome.seed_copies()
        );
        assert_eq!(outcome.origin_bytes, 64 * MIB, "seed {seed}");
    }
}

#[test]
fn sixty_hosts_come_close_to_the_bound() {
    let outcome = run(Scenario::new(1, 1, 60, 100.0, 32 * MIB));
    assert!(outcome.ratio() <= 1.5, "{}", outcome.ratio());
    assert_eq!(outcome.origin_bytes, 32 * MIB);
}

#[test]
fn latency_and_loss_cost_little() {
    let mut scenario = network(4, 1);
    scenario.latency = millis(15);
    scenario.loss = 0.002;
    let outcome = run(scenario);
    assert!(outcome.ratio() <= 2.0, "{}", outcome.ratio());
}

#[test]
fn a_second_seed_takes_over_without_fetching_what_the_swarm_has() {
    for seed in 1..=2 {
        let scenario = network(seed, 2).seed(0, |seed| seed.dies = Some(millis(800)));
        let outcome = run(scenario);
        assert!(
            outcome.origin_copies() <= 1.1,
            "seed {seed}: {}",
            outcome.origin_copies()
        );
        assert!(outcome.ratio() <= 2.0, "seed {seed}: {}", outcome.ratio());
    }
}

#[test]
fn a_liar_is_found_out_and_nobody_else() {
    for seed in 1..=2 {
        let scenario = network(seed, 1).node(7, |liar| liar.lie = Some(Lie::Corrupt));
        let outcome = run(scenario);
        let corrupt = |what: &Misbehaviour| *what == Misbehaviour::CorruptPiece;
        assert!(
            outcome.reports.iter().any(|(_, what)| corrupt(what)),
            "seed {seed}"
        );
        assert_eq!(outcome.origin_bytes, 16 * MIB, "seed {seed}");
    }
}

#[test]
fn two_liars_do_not_bring_down_a_true_list() {
    for seed in 1..=2 {
        let mut scenario = network(seed, 1);
        for liar in [3, 9] {
            scenario = scenario.node(liar, |liar| liar.lie = Some(Lie::Corrupt));
        }
        let outcome = run(scenario);
        assert!(
            outcome.origin_copies() <= 1.1,
            "seed {seed}: {}",
            outcome.origin_copies()
        );
    }
}

#[test]
fn a_corrupt_seed_is_found_out_by_the_origin() {
    let scenario = network(6, 1).seed(0, |seed| seed.lie = Some(Lie::Corrupt));
    let outcome = run(scenario);
    assert!(
        outcome
            .reports
            .iter()
            .any(|(host, _)| host.as_str().starts_with("seed"))
    );
}

#[test]
fn a_false_list_is_discarded_and_the_origin_decides() {
    let scenario = network(7, 0).node(0, |liar| liar.lie = Some(Lie::FalseList));
    let outcome = run(scenario);
    let false_list = (outcome.hosts[0].host.clone(), Misbehaviour::FalseList);
    assert!(
        outcome.reports.contains(&false_list),
        "{:?}",
        outcome.reports
    );
}

#[test]
fn without_a_scheduler_every_host_goes_to_the_origin() {
    let mut scenario = Scenario::new(8, 1, 3, 100.0, 8 * MIB);
    scenario.scheduler = false;
    let outcome = run(scenario);
    assert!(outcome.last().unwrap() < Duration::from_secs(4));
}

#[test]
fn without_a_seed_the_elected_fetcher_reads_the_origin_once() {
    for seed in 1..=2 {
        let outcome = run(network(seed, 0));
        assert_eq!(outcome.origin_bytes, 16 * MIB, "seed {seed}");
        assert!(outcome.ratio() <= 1.6, "seed {seed}: {}", outcome.ratio());
    }
}

#[test]
fn a_dead_fetcher_is_replaced() {
    for seed in 1..=2 {
        let scenario = network(seed, 0).node(0, |fetcher| fetcher.dies = Some(millis(600)));
        let outcome = run(scenario);
        assert!(
            outcome.origin_copies() <= 2.0,
            "seed {seed}: {}",
            outcome.origin_copies()
        );
    }
}

#[test]
fn silent_parents_fall_back_to_the_origin() {
    let mut scenario = Scenario::new(9, 1, 2, 100.0, 8 * MIB);
    scenario = scenario.seed(0, |seed| seed.lie = Some(Lie::Silent));
    let outcome = run(scenario);
    assert!(
        outcome.last().unwrap() < Duration::from_secs(10),
        "{:?}",
        outcome.last()
    );
}

#[test]
fn false_have_sets_do_not_hold_the_swarm_up() {
    let mut scenario = network(10, 1);
    for liar in [2, 12] {
        scenario = scenario.node(liar, |liar| liar.lie = Some(Lie::FalseHave));
    }
    let outcome = run(scenario);
    assert!(outcome.ratio() <= 2.5, "{}", outcome.ratio());
}

#[test]
fn dying_peers_do_not_hold_the_swarm_up() {
    let mut scenario = network(11, 1);
    for number in 0..6 {
        let dies = Some(millis(300 + 200 * number as u64));
        scenario = scenario.node(number, |peer| peer.dies = dies);
    }
    let outcome = run(scenario);
    assert!(outcome.ratio() <= 1.6, "{}", outcome.ratio());
    assert_eq!(outcome.origin_bytes, 16 * MIB);
}

#[test]
fn a_late_joiner_is_served_by_the_swarm() {
    let late = Duration::from_secs(20);
    let scenario = network(12, 1).node(19, |node| node.arrives = late);
    let outcome = run(scenario);
    assert!(outcome.ratio() <= 1.5, "{}", outcome.ratio());
    assert_eq!(outcome.origin_bytes, 16 * MIB);
}

#[test]
fn hosts_that_arrive_one_by_one_share_one_copy() {
    let mut scenario = network(13, 1);
    for number in 0..20 {
        scenario = scenario.node(number, |node| node.arrives = millis(75 * number as u64));
    }
    let outcome = run(scenario);
    assert!(outcome.ratio() <= 1.6, "{}", outcome.ratio());
    assert_eq!(outcome.origin_bytes, 16 * MIB);
}

#[test]
fn one_slow_host_slows_nobody_else() {
    let scenario = network(14, 1).node(5, |slow| {
        (slow.up_rate, slow.down_rate) = (slow.up_rate / 10.0, slow.down_rate / 10.0);
    });
    let bound = network(14, 1).bound();
    let outcome = run(scenario);
    assert!(
        outcome.median().unwrap() <= bound.mul_f64(1.4),
        "{:?}",
        outcome.median()
    );
}

#[test]
fn a_slow_origin_is_read_once() {
    let mut scenario = network(15, 1);
    scenario.origin_rate = 2e6;
    let outcome = run(scenario);
    assert_eq!(outcome.origin_bytes, 16 * MIB);
    assert!(outcome.ratio() <= 1.2, "{}", outcome.ratio());
    assert!(outcome.seed_copies() <= 1.5, "{}", outcome.seed_copies());
}

#[test]
fn an_origin_that_cuts_bodies_is_resumed() {
    let mut scenario = network(16, 0);
    scenario.origin_fault = Some(OriginFault::CutsAfter(100));
    let outcome = run(scenario);
    assert!(
        outcome.origin_copies() <= 1.1,
        "{}",
        outcome.origin_copies()
    );
}

#[test]
fn an_origin_that_denies_fails_quickly_with_its_reason() {
    let mut scenario = network(17, 1);
    let denied = TaskFailure::Denied("401".to_owned());
    scenario.origin_fault = Some(OriginFault::Refuses(denied.clone()));
    let outcome = scenario.run().unwrap();
    let nodes = outcome
        .hosts
        .iter()
        .filter(|host| host.host.as_str().starts_with("node"));
    for node in nodes {
        assert_eq!(node.failed, Some(denied.clone()), "{}", node.host);
    }
}

#[test]
fn an_empty_blob_and_a_tiny_one_arrive() {
    for length in [0, 1, 64 << 10] {
        let outcome = run(Scenario::new(18, 1, 5, 100.0, length));
        assert!(
            outcome.last().unwrap() < millis(500),
            "{length}: {:?}",
            outcome.last()
        );
        assert_eq!(outcome.origin_bytes, length);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || network(19, 1).run().unwrap();
    let (one, two) = (run(), run());
    assert_eq!(one.events, two.events);
    assert_eq!(one.last(), two.last());
}

// --- Credentials ---

/// A network in which nobody loses patience with the seed.
fn patient(seed: u64) -> Scenario {
    Scenario {
        tune: |config| {
            config.first_piece_deadline = Duration::from_secs(30);
            config.progress_deadline = Duration::from_secs(30);
        },
        ..network(seed, 1)
    }
}

#[test]
fn token_that_expires_half_way_is_renewed_by_its_host() {
    let mut scenario = patient(1);
    scenario.access.insert("old", Access::Expires(100));
    for number in 0..20 {
        scenario = scenario.node(number, |node| {
            node.credential = "old";
            node.fresh = Some("fresh");
        });
    }
    let outcome = run(scenario);
    assert_eq!(outcome.origin_bytes, 16 * MIB);
}

#[test]
fn two_tenants_cost_one_fetch_though_one_is_refused() {
    let mut scenario = patient(1);
    scenario.access.insert("wrong", Access::Denied);
    for number in 0..10 {
        scenario = scenario.node(number, |node| node.credential = "wrong");
    }
    for number in 10..20 {
        scenario = scenario.node(number, |node| node.credential = "right");
    }
    let outcome = run(scenario);
    assert_eq!(outcome.origin_bytes, 16 * MIB);
}

#[test]
fn a_credential_that_hangs_delays_the_others_by_seconds_only() {
    let mut scenario = patient(1);
    scenario.access.insert("hangs", Access::Hangs);
    scenario = scenario.node(0, |node| node.credential = "hangs");
    for number in 1..20 {
        scenario = scenario.node(number, |node| {
            node.credential = "right";
            node.arrives = millis(100);
        });
    }
    let bound = scenario.bound();
    let outcome = run(scenario);
    let slowest = outcome.hosts.iter().filter_map(|host| host.took).max();
    assert!(
        slowest < Some(bound * 2 + Duration::from_secs(4)),
        "{slowest:?}"
    );
    assert_eq!(outcome.origin_bytes, 16 * MIB);
}

#[test]
fn wrong_credentials_of_many_do_not_shut_out_the_right_one() {
    let mut scenario = patient(1);
    for (number, wrong) in WRONG.iter().enumerate() {
        scenario.access.insert(wrong, Access::Denied);
        scenario = scenario.node(number, |node| node.credential = wrong);
    }
    let last = WRONG.len();
    scenario.hosts.truncate(last + 2);
    scenario = scenario.node(last, |node| {
        node.credential = "right";
        node.arrives = millis(50);
    });
    assert_eq!(run(scenario).origin_bytes, 16 * MIB);
}

const WRONG: [&str; 8] = ["w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7"];

#[test]
fn when_every_credential_is_refused_all_fail_with_that_reason() {
    let mut scenario = network(1, 1);
    scenario.access.insert("wrong", Access::Denied);
    for number in 0..20 {
        scenario = scenario.node(number, |node| node.credential = "wrong");
    }
    let outcome = scenario.run().expect("a sound length");
    for host in outcome.hosts.iter().filter(|host| host.role == Role::Node) {
        assert!(
            matches!(host.failed, Some(TaskFailure::Denied(_))),
            "{host:?}"
        );
    }
    assert_eq!(outcome.origin_bytes, 0);
}

#[test]
fn hosts_that_die_and_join_in_the_middle_hold_nobody_up() {
    let mut scenario = network(25, 1);
    for number in 0..5 {
        let at = millis(250 + 200 * number as u64);
        scenario = scenario.node(number, |node| node.dies = Some(at));
        scenario = scenario.node(19 - number, |node| node.arrives = at);
    }
    let outcome = run(scenario);
    assert!(outcome.ratio() <= 1.5, "{}", outcome.ratio());
    assert_eq!(outcome.origin_bytes, 16 * MIB);
}

/// Two zones of ten hosts, the seed in the first one, and a thin link between them.
fn zones(seed: u64) -> Scenario {
    let mut scenario = network(seed, 1);
    scenario.between_zones = Some(50e6 / 8.0);
    let apart = |scenario: Scenario, number| scenario.node(number, |node| node.zone = 1);
    (0..20).step_by(2).fold(scenario, apart)
}

#[test]
fn each_piece_crosses_a_thin_link_between_zones_little_more_than_once() {
    for seed in 1..=2 {
        let outcome = run(zones(seed));
        let (crossings, ratio) = (outcome.crossings(), outcome.ratio());
        assert!(crossings <= 1.5, "seed {seed}: {crossings}");
        assert!(ratio <= 1.6, "seed {seed}: {ratio}");
        assert_eq!(outcome.origin_bytes, 16 * MIB, "seed {seed}");
    }
}

#[test]
fn a_zone_goes_on_when_all_who_brought_it_pieces_die() {
    for seed in 1..=2 {
        // The scheduler makes the first four its gates.
        let dies = |scenario: Scenario, number| {
            scenario.node(number, |node| node.dies = Some(millis(1500)))
        };
        let unhurt = run(zones(seed)).last();
        let hurt = run([0, 2, 4, 6].into_iter().fold(zones(seed), dies)).last();
        let delay = hurt.unwrap().saturating_sub(unhurt.unwrap());
        assert!(delay <= millis(1500), "seed {seed}: {delay:?}");
    }
}

/// 20 hosts that pull an image of several layers at once.
fn image(seed: u64, layers: &[u64]) -> Scenario {
    let mut scenario = Scenario::new(seed, 1, 20, 100.0, layers[0]);
    scenario.beside = layers[1..].to_vec();
    scenario
}

#[test]
fn layers_that_come_at_once_take_no_longer_than_one_blob_of_all_their_bytes() {
    for seed in 1..=2 {
        let layers = run(image(seed, &[8 * MIB, 8 * MIB]));
        let (whole, last) = (run(network(seed, 1)).last(), layers.last());
        let (whole, last) = (whole.unwrap(), last.unwrap());
        assert!(
            last <= whole.mul_f64(1.1),
            "seed {seed}: {last:?}, {whole:?}"
        );
        assert_eq!(layers.origin_bytes, 16 * MIB, "seed {seed}");
    }
}

#[test]
fn no_layer_starves_while_a_larger_one_comes() {
    for seed in 1..=2 {
        let outcome = run(image(seed, &[12 * MIB, 2 * MIB, 2 * MIB]));
        let [(large, _), small, smallest] = outcome.spans()[..] else {
            panic!("seed {seed}: {:?}", outcome.spans());
        };
        let last = small.1.max(smallest.1);
        assert!(last <= large, "seed {seed}: {:?}", outcome.spans());
        assert_eq!(outcome.origin_bytes, 16 * MIB, "seed {seed}");
    }
}

#[test]
fn the_layer_that_is_read_comes_before_those_beside_it() {
    for seed in 1..=2 {
        // What comes from the origin comes to the seed evenly, whoever reads what.
        let mut scenario = image(seed, &[8 * MIB; 4]).seed(0, |seed| seed.stored = true);
        for number in 0..20 {
            scenario = scenario.node(number, |node| node.reads = Reads::First);
        }
        let outcome = run(scenario);
        let (read, beside) = (outcome.spans()[0], &outcome.spans()[1..]);
        assert_eq!(beside.len(), 3);
        let first = beside.iter().all(|other| read.1 <= other.0);
        assert!(first, "seed {seed}: {:?}", outcome.spans());
    }
}

#[test]
fn layers_of_a_fast_seed_come_without_a_pause_however_slowly_they_are_stored() {
    for (layers, store) in [(2, 30), (3, 1), (3, 60), (6, 5)] {
        let mut scenario = Scenario::new(1, 1, 1, 4000.0, 64 * MIB);
        scenario.beside = vec![20 * MIB; layers - 1];
        scenario.origin_rate = 4e9 / 8.0;
        scenario.store_time = millis(store);
        let outcome = run(scenario.node(0, |node| node.reads = Reads::First));
        // A third to two thirds of a second: what is asked for once more is asked for after two.
        let last = outcome.last().unwrap();
        assert!(last < millis(1000), "{layers}, {store}: {last:?}");
        assert_eq!(outcome.origin_copies(), 1.0, "{layers}, {store}");
    }
}

/// A piece takes long from everyone there.
#[test]
fn honest_hosts_on_slow_links_are_not_said_to_stall() {
    for seed in 1..4 {
        let outcome = run(Scenario::testbed(seed, 1, 12, 4.0, 64 * MIB));
        assert_eq!(outcome.reports, [], "seed {seed}");
        assert!(outcome.ratio() < 1.26, "seed {seed}: {}", outcome.ratio());
    }
}
