//! Liars of every kind among honest hosts: everyone honest ends with the right bytes, nobody honest
//! is called a liar, and no liar gets rid of more than three wrong pieces at one victim.

use std::time::Duration;

use hawker_model::Role;
use hawker_swarm::{
    Misbehaviour, TaskFailure,
    sim::{Gush, HostOutcome, HostPlan, Lie, OriginFault, Outcome, Scenario},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

const MIB: u64 = 1 << 20;
const LIES: [Lie; 8] = [
    Lie::Corrupt,
    Lie::FalseHave,
    Lie::Silent,
    Lie::FalseList,
    Lie::Busy,
    Lie::Disorder,
    Lie::Equivocate,
    Lie::Random,
];

/// Any lie, a flood of any kind among them.
fn any_lie(rng: &mut SmallRng) -> Lie {
    let gush = Gush::ALL[rng.random_range(0..Gush::ALL.len())];
    let flood = [Lie::Flood(gush)];
    let all: Vec<_> = LIES.iter().chain(&flood).collect();
    *all[rng.random_range(0..all.len())]
}

fn network(seed: u64, seeds: usize, nodes: usize) -> Scenario {
    Scenario::new(seed, seeds, nodes, 100.0, 4 * MIB)
}

/// What is wrong with how a scenario ended.
fn faults(outcome: &Outcome) -> Vec<String> {
    let mut faults = Vec::new();
    // Of whom the registry gives other bytes to no more can be asked than that it says so.
    let deceived = |host: &&HostOutcome| matches!(host.failed, Some(TaskFailure::WrongDigest(_)));
    let mut behind = outcome.left_behind();
    behind.retain(|host| !outcome.origin_lies || !deceived(host));
    if !behind.is_empty() {
        faults.push(format!("left behind {behind:#?}"));
    }
    let wronged = outcome.wronged();
    if !wronged.is_empty() {
        faults.push(format!("wronged {wronged:?}: {:?}", outcome.reports));
    }
    let honest = |name| outcome.hosts.iter().any(|h| h.honest && h.host == name);
    for ((victim, liar), pieces) in &outcome.rejected {
        if honest(victim.clone()) && *pieces > 3 {
            faults.push(format!("{victim} took {pieces} wrong pieces of {liar}"));
        }
    }
    faults
}

fn run(scenario: Scenario) -> Outcome {
    let outcome = scenario.run().expect("a sound length");
    let faults = faults(&outcome);
    assert!(faults.is_empty(), "seed {}: {faults:#?}", outcome.seed);
    outcome
}

/// Any liars, maybe a lying seed, a flipped bit, an origin that lies once.
fn crowd(seed: u64) -> Scenario {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (seeds, nodes) = (rng.random_range(0..3), rng.random_range(3..14));
    let mut scenario = network(seed, seeds, nodes);
    scenario.latency = Duration::from_micros(rng.random_range(50..10_000));
    for host in &mut scenario.hosts {
        host.arrives = Duration::from_millis(rng.random_range(0..800));
        if rng.random_bool(0.25) {
            host.lie = Some(any_lie(&mut rng));
            host.stored = rng.random_bool(0.5);
        } else if rng.random_bool(0.1) {
            (host.rotten, host.stored) = (Some(rng.random_range(0..64)), rng.random_bool(0.5));
        }
    }
    if rng.random_bool(0.2) {
        scenario.origin_fault = Some(OriginFault::Lies(rng.random_range(1..3)));
    }
    scenario
}

#[test]
fn whoever_lies_everyone_honest_ends_well_and_unblamed() {
    // ADVERSARY=<seed> plays one again, ADVERSARIES=<count> more than the usual.
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("ADVERSARY") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ADVERSARIES").unwrap_or(120),
    };
    let mut bad = Vec::new();
    for seed in seeds {
        let outcome = crowd(seed).run().expect("a sound length");
        let faults = faults(&outcome);
        if !faults.is_empty() {
            bad.push(format!("ADVERSARY={seed}: {}", faults.join("; ")));
        }
    }
    assert!(bad.is_empty(), "{} of them:\n{}", bad.len(), bad.join("\n"));
}

/// How often each victim's reports name the host.
fn reports(outcome: &Outcome, host: usize, what: Misbehaviour) -> usize {
    let name = &outcome.hosts[host].host;
    let reports = outcome.reports.iter();
    reports
        .filter(|(about, why)| about == name && *why == what)
        .count()
}

#[test]
fn who_gives_wrong_bytes_is_reported_by_every_victim() {
    let scenario = network(1, 1, 6).node(0, |liar| {
        (liar.lie, liar.stored) = (Some(Lie::Corrupt), true);
    });
    let outcome = run(scenario);
    let victims = outcome.rejected.len();
    assert!(victims > 2, "{:?}", outcome.rejected);
    assert_eq!(reports(&outcome, 1, Misbehaviour::CorruptPiece), victims);
    assert!(outcome.overhead() < 1.3, "{}", outcome.overhead());
}

#[test]
fn who_gives_wrong_bytes_before_it_has_all_is_reported_by_every_victim() {
    for seed in 1..=10 {
        let scenario = network(seed, 1, 6).node(0, |liar| liar.lie = Some(Lie::Corrupt));
        let outcome = run(scenario);
        let victims = outcome.rejected.len();
        assert!(victims > 0, "seed {seed}");
        let reports = reports(&outcome, 1, Misbehaviour::CorruptPiece);
        assert_eq!(reports, victims, "seed {seed}");
    }
}

/// The most pieces that a liar got rid of at one victim.
fn most_given(outcome: &Outcome) -> u32 {
    outcome.given.values().copied().max().unwrap_or_default()
}

#[test]
fn who_gives_wrong_bytes_gets_rid_of_three_pieces_at_each_victim() {
    for seed in 1..=20 {
        let scenario = network(seed, 1, 6).node(0, |liar| {
            (liar.lie, liar.stored) = (Some(Lie::Corrupt), true);
        });
        let given = most_given(&run(scenario));
        assert!((1..=3).contains(&given), "seed {seed}: {given}");
    }
}

/// Only the seed is known at first, and it gives a forged blob with a list that fits.
fn lying_seed(seed: u64, nodes: usize, length: u64) -> Outcome {
    let scenario = Scenario::new(seed, 1, nodes, 100.0, length);
    run(scenario.seed(0, |seed| seed.lie = Some(Lie::FalseList)))
}

#[test]
fn a_lying_seed_gets_rid_of_three_pieces_at_each_victim() {
    for seed in 1..=20 {
        let given = most_given(&lying_seed(seed, 4, 16 * MIB));
        assert!((1..=3).contains(&given), "seed {seed}: {given}");
    }
}

#[test]
fn a_lying_seed_costs_the_origin_two_copies_at_most() {
    for seed in 1..=20 {
        let copies = lying_seed(seed, 4, 16 * MIB).origin_copies();
        assert!(copies <= 2.0, "seed {seed}: {copies} copies");
    }
}

#[test]
fn a_lying_seed_is_reported_by_every_victim() {
    for seed in 1..=20 {
        let outcome = lying_seed(seed, 4, 16 * MIB);
        assert_eq!(reports(&outcome, 0, Misbehaviour::FalseList), 4, "{seed}");
    }
}

#[test]
fn what_some_find_out_about_a_lying_seed_a_large_swarm_knows_soon() {
    for seed in 1..=5 {
        let outcome = lying_seed(seed, 20, 32 * MIB);
        let (given, copies) = (most_given(&outcome), outcome.origin_copies());
        assert!(given <= 6, "seed {seed}: {given}");
        assert!(copies <= 2.0, "seed {seed}: {copies} copies");
    }
}

#[test]
fn of_hosts_that_go_to_the_origin_at_the_same_moment_one_reads_all_of_it() {
    for seed in 1..=5 {
        let copies = lying_seed(seed, 40, 32 * MIB).origin_copies();
        assert!(copies <= 1.6, "seed {seed}: {copies} copies");
    }
}

#[test]
fn a_false_list_beside_a_true_one_costs_the_origin_one_piece_each() {
    for seed in 1..=5 {
        let scenario = network(seed, 1, 6).node(0, |liar| liar.lie = Some(Lie::FalseList));
        let outcome = run(scenario);
        assert!(reports(&outcome, 1, Misbehaviour::FalseList) > 0, "{seed}");
        let copies = outcome.origin_copies();
        assert!(copies <= 1.2, "seed {seed}: {copies} copies");
    }
}

#[test]
fn a_seed_that_tells_two_lists_is_convicted_when_the_blob_is_proven() {
    let scenario = network(2, 1, 6).seed(0, |seed| {
        (seed.lie, seed.stored) = (Some(Lie::Equivocate), true);
    });
    let outcome = run(scenario);
    assert!(reports(&outcome, 0, Misbehaviour::FalseList) > 0);
}

#[test]
fn liars_that_conspire_convict_nobody() {
    let mut scenario = network(3, 1, 8);
    for liar in 0..3 {
        scenario = scenario.node(liar, |liar| {
            (liar.lie, liar.stored) = (Some(Lie::FalseList), true);
        });
    }
    run(scenario);
}

#[test]
fn a_flood_of_whatever_ends_with_a_report_and_holds_nobody_up() {
    for gush in Gush::ALL {
        let flood = |liar: &mut HostPlan| {
            (liar.lie, liar.up_rate) = (Some(Lie::Flood(gush)), 10.0 * liar.up_rate);
        };
        let outcome = run(network(4, 1, 6).node(2, flood));
        let reports = reports(&outcome, 3, Misbehaviour::Flood);
        assert!(reports > 0, "{gush:?}");
        assert!(outcome.ratio() <= 2.5, "{gush:?}: {}", outcome.ratio());
    }
}

#[test]
fn a_flipped_bit_costs_each_victim_one_piece() {
    let scenario = network(5, 0, 6).node(0, |node| {
        (node.rotten, node.stored) = (Some(7), true);
    });
    let outcome = run(scenario);
    assert!(!outcome.rejected.is_empty());
    assert!(outcome.rejected.values().all(|pieces| *pieces == 1));
}

#[test]
fn a_registry_that_lies_fails_the_task_and_nobody_is_blamed() {
    for seeds in [0, 1] {
        let mut scenario = network(6, seeds, 4);
        scenario.origin_fault = Some(OriginFault::Lies(u32::MAX));
        let outcome = scenario.run().expect("a sound length");
        assert!(outcome.wronged().is_empty(), "{:?}", outcome.reports);
        for host in outcome.hosts.iter().filter(|host| host.role == Role::Node) {
            let failed = host.failed.as_ref().expect("no bytes, no success");
            let honest = matches!(failed, TaskFailure::WrongDigest(_) | TaskFailure::Origin(_));
            assert!(honest || *failed == TaskFailure::NoSource, "{failed}");
        }
        assert!(
            outcome.origin_copies() <= 12.0,
            "{}",
            outcome.origin_copies()
        );
    }
}

#[test]
fn who_was_deceived_by_the_registry_is_no_liar() {
    for seed in 1..=5 {
        let mut scenario = network(seed, 1, 6);
        scenario.origin_fault = Some(OriginFault::Lies(1));
        run(scenario);
    }
}
