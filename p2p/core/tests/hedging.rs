//! Networks in which peers are silent or slow: a node is hardly later than without them, and where
//! they do their work the origin is left in peace.

use std::time::Duration;

use hawker_model::Role;
use hawker_swarm::sim::{HostPlan, Lie, Outcome, Scenario};

const MIB: u64 = 1 << 20;

/// One node and some seeds on links of 100 Mbit/s, 64 MiB, an origin that gives as much.
fn lone_node(seeds: usize) -> Scenario {
    let mut scenario = Scenario::new(1, seeds, 1, 100.0, 64 * MIB);
    scenario.origin_rate = 100e6 / 8.0;
    scenario
}

/// The node's time over that of a fetch straight from the origin.
fn over_native(scenario: Scenario) -> f64 {
    let native = scenario.length as f64 / scenario.origin_rate;
    let outcome = scenario.run().expect("a length of some MiB is sound");
    let mut nodes = outcome.hosts.iter().filter(|host| host.role == Role::Node);
    let took = nodes.next().and_then(|node| node.took);
    took.expect("the node has everything").as_secs_f64() / native
}

/// Many nodes at one seed.
fn crowd(nodes: usize, mbit: f64, length: u64) -> Outcome {
    let scenario = Scenario::new(1, 1, nodes, mbit, length);
    let outcome = scenario.run().expect("a length of some MiB is sound");
    assert!(outcome.left_behind().is_empty());
    outcome
}

#[test]
fn a_scheduler_that_never_answers_costs_a_pull_little() {
    let mut scenario = lone_node(0);
    scenario.scheduler = false;
    let ratio = over_native(scenario);
    assert!(ratio <= 1.1, "{ratio}");
}

#[test]
fn seeds_that_never_answer_hardly_delay_a_pull() {
    let mut scenario = lone_node(2);
    for seed in 0..2 {
        scenario = scenario.seed(seed, |seed| seed.lie = Some(Lie::Deaf));
    }
    let ratio = over_native(scenario);
    assert!(ratio <= 1.1, "{ratio}");
}

#[test]
fn slow_peers_hardly_delay_a_pull() {
    let mut scenario = lone_node(1).seed(0, |seed| {
        *seed = HostPlan {
            stored: true,
            ..HostPlan::seed(1.0)
        };
    });
    for _ in 0..2 {
        scenario.hosts.push(HostPlan {
            stored: true,
            ..HostPlan::node(1.0)
        });
    }
    let ratio = over_native(scenario);
    assert!(ratio <= 1.1, "{ratio}");
}

#[test]
fn node_whose_own_disk_is_slow_leaves_the_origin_in_peace() {
    let mut scenario = lone_node(1);
    scenario.store_time = Duration::from_millis(700);
    let outcome = scenario.run().expect("a length of some MiB is sound");
    assert!(outcome.left_behind().is_empty());
    let copies = outcome.origin_copies();
    assert!(copies <= 1.01, "{copies}");
}

#[test]
fn a_crowd_at_a_healthy_seed_leaves_the_origin_in_peace() {
    let outcome = crowd(20, 100.0, 64 * MIB);
    assert!(
        outcome.origin_copies() <= 1.01,
        "{}",
        outcome.origin_copies()
    );
}

#[test]
fn a_crowd_whose_links_are_slower_than_a_trickle_does_not_run_to_the_origin() {
    let outcome = crowd(20, 3.0, 8 * MIB);
    assert!(
        outcome.origin_copies() <= 4.0,
        "{}",
        outcome.origin_copies()
    );
}

#[test]
fn a_seed_at_a_slow_origin_is_waited_for() {
    let mut scenario = Scenario::new(1, 1, 20, 100.0, 4 * MIB);
    scenario.origin_rate = (256 << 10) as f64;
    scenario.origin_latency = Duration::from_millis(700);
    let outcome = scenario.run().expect("a length of some MiB is sound");
    assert!(outcome.left_behind().is_empty());
    assert!(
        outcome.origin_copies() <= 1.01,
        "{}",
        outcome.origin_copies()
    );
}
