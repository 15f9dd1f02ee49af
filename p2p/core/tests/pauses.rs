//! How long a client waits for its next piece, in small networks where links break and clients give up
//! and ask again: what it lacks is somewhere, and no clock of a host's may be all that it waits for.

use std::time::Duration;

use hawker_model::Role;
use hawker_swarm::sim::{Access, HostPlan, Lie, OriginFault, Reads, Scenario};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

fn millis(rng: &mut SmallRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

/// One or two seeds and up to eleven nodes that come within a second; blobs of up to 6 MiB.
fn network(seed: u64, rng: &mut SmallRng) -> Scenario {
    let (seeds, nodes) = (rng.random_range(1..3), rng.random_range(1..12));
    let mut scenario = Scenario::new(seed, seeds, nodes, 100.0, rng.random_range(1..6 << 20));
    scenario.latency = Duration::from_micros(rng.random_range(50..2_000));
    scenario.degree = rng.random_range(1..9);
    scenario.seed_room = rng.random_range(1..20);
    scenario.origin_rate *= rng.random_range(0.1..1.0);
    for node in nodes_of(&mut scenario) {
        node.arrives = millis(rng, 0..1000);
    }
    scenario
}

fn nodes_of(scenario: &mut Scenario) -> impl Iterator<Item = &mut HostPlan> {
    let hosts = scenario.hosts.iter_mut();
    hosts.filter(|host| host.role == Role::Node)
}

/// Every other client gives up and comes back, up to three times.
fn give_up(scenario: &mut Scenario, rng: &mut SmallRng) {
    for node in nodes_of(scenario) {
        let times = rng.random_range(0..7u32).saturating_sub(3);
        let mut at = node.arrives;
        for _ in 0..times {
            let from = at + millis(rng, 1..300);
            at = from + millis(rng, 1..200);
            node.breaks.push((from, at));
        }
    }
}

/// Plays many networks, each changed by `change`; nobody waits for longer than `most` at once.
fn play(most: Duration, change: impl Fn(&mut Scenario, &mut SmallRng)) {
    // PAUSES=<seed> plays one again, PAUSES=0-<count> more than the usual.
    let wanted = std::env::var("PAUSES").unwrap_or_else(|_| "0-120".to_owned());
    let (from, end) = wanted.split_once('-').unwrap_or((&wanted, ""));
    let from: u64 = from.parse().expect("a number");
    let mut bad = Vec::new();
    for seed in from..end.parse().unwrap_or(from + 1) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut scenario = network(seed, &mut rng);
        change(&mut scenario, &mut rng);
        let outcome = scenario.run().expect("a length of some MiB is sound");
        let hosts = outcome.hosts.iter().filter(|host| host.alive);
        let nodes = hosts.filter(|host| host.role == Role::Node);
        let slow = nodes
            .filter(|node| node.pause > most || (node.took.is_none() && node.failed.is_none()));
        let slow: Vec<_> = slow
            .map(|node| (&node.host, node.pause, node.took))
            .collect();
        if !slow.is_empty() {
            bad.push(format!("PAUSES={seed}: {slow:?}"));
        }
    }
    assert!(bad.is_empty(), "{} of them:\n{}", bad.len(), bad.join("\n"));
}

#[test]
fn a_client_that_gives_up_and_comes_back_waits_for_no_clock() {
    play(Duration::from_millis(300), |scenario, rng| {
        give_up(scenario, rng);
    });
}

#[test]
fn a_client_that_gives_up_layers_and_comes_back_waits_for_no_clock() {
    play(Duration::from_millis(400), |scenario, rng| {
        give_up(scenario, rng);
        for _ in 0..rng.random_range(1..5) {
            scenario.beside.push(rng.random_range(0..4 << 20));
        }
        for node in nodes_of(scenario) {
            node.reads = [Reads::First, Reads::All, Reads::Nothing][rng.random_range(0..3)];
        }
    });
}

#[test]
fn a_connection_that_breaks_costs_a_moment() {
    play(Duration::from_millis(300), |scenario, _| {
        scenario.cuts = 1.0
    });
}

#[test]
fn who_is_cut_off_again_and_again_goes_to_the_origin_soon() {
    play(Duration::from_millis(1100), |scenario, rng| {
        scenario.cuts = rng.random_range(0.5..20.0);
    });
}

#[test]
fn a_seed_that_dies_costs_a_moment() {
    play(Duration::from_millis(300), |scenario, rng| {
        give_up(scenario, rng);
        for seed in seeds_of(scenario) {
            seed.dies = Some(millis(rng, 0..1500));
        }
    });
}

fn seeds_of(scenario: &mut Scenario) -> impl Iterator<Item = &mut HostPlan> {
    let hosts = scenario.hosts.iter_mut();
    hosts.filter(|host| host.role == Role::Seed)
}

/// Nobody is told: their power is gone.
#[test]
fn seeds_that_fall_silent_cost_a_second_or_two() {
    play(Duration::from_millis(2300), |scenario, rng| {
        for seed in seeds_of(scenario) {
            let from = millis(rng, 0..1500);
            seed.hangs = Some((from, Duration::MAX));
        }
    });
}

#[test]
fn a_node_that_falls_silent_costs_a_moment() {
    play(Duration::from_millis(300), |scenario, rng| {
        if let Some(node) = nodes_of(scenario).last() {
            let from = millis(rng, 0..1500);
            node.hangs = Some((from, Duration::MAX));
        }
    });
}

/// Its disk hangs, say: it tells what it has, and gives none of it.
#[test]
fn a_seed_that_gives_nothing_costs_two_or_three_seconds() {
    play(Duration::from_millis(3300), |scenario, _| {
        if let Some(seed) = seeds_of(scenario).next() {
            seed.lie = Some(Lie::Silent);
        }
    });
}

/// One of them fetches; when its client gives up, the scheduler chooses another.
#[test]
fn where_there_is_no_seed_nobody_waits_for_who_has_given_up() {
    play(Duration::from_millis(400), |scenario, rng| {
        scenario.hosts.retain(|host| host.role == Role::Node);
        give_up(scenario, rng);
    });
}

/// A host that was refused for want of a good origin waits for a second before it tries its own again.
#[test]
fn who_comes_back_where_the_origin_cuts_waits_for_the_origin_alone() {
    play(Duration::from_millis(1100), |scenario, rng| {
        give_up(scenario, rng);
        scenario.origin_fault = Some(OriginFault::CutsAfter(rng.random_range(5..60)));
    });
}

#[test]
fn who_comes_back_after_another_one_s_credential_was_refused_waits_for_no_clock() {
    play(Duration::from_millis(400), |scenario, rng| {
        give_up(scenario, rng);
        scenario.access.insert("old", Access::Denied);
        for node in nodes_of(scenario) {
            node.credential = match rng.random_bool(0.4) {
                true => "old",
                false => "new",
            };
            node.fresh = rng.random_bool(0.5).then_some("new");
        }
    });
}
