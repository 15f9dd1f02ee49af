//! Random faults: whatever happens, every honest host that lives gets the right bytes.

use std::time::Duration;

use hawker_model::Role;
use hawker_swarm::sim::{Lie, OriginFault, Scenario};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

const LIES: [Lie; 4] = [Lie::Corrupt, Lie::FalseHave, Lie::Silent, Lie::FalseList];

fn soup(seed: u64) -> Scenario {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (seeds, nodes) = (rng.random_range(0..3), rng.random_range(1..16));
    let mut scenario = Scenario::new(seed, seeds, nodes, 100.0, rng.random_range(0..6 << 20));
    scenario.latency = Duration::from_micros(rng.random_range(50..20_000));
    scenario.loss = if rng.random_bool(0.3) { 0.01 } else { 0.0 };
    scenario.cuts = if rng.random_bool(0.3) { 2.0 } else { 0.0 };
    scenario.scheduler = rng.random_bool(0.9);
    scenario.degree = rng.random_range(1..9);
    scenario.seed_room = rng.random_range(0..20);
    scenario.origin_rate *= rng.random_range(0.02..1.0);
    if rng.random_bool(0.3) {
        scenario.origin_fault = Some(OriginFault::CutsAfter(rng.random_range(5..60)));
    }
    for host in &mut scenario.hosts {
        host.arrives = Duration::from_millis(rng.random_range(0..1500));
        host.up_rate *= rng.random_range(0.2..1.0);
        host.down_rate *= rng.random_range(0.2..1.0);
        if host.role == Role::Node && rng.random_bool(0.2) {
            let from = host.arrives + Duration::from_millis(rng.random_range(1..500));
            let until = from + Duration::from_millis(rng.random_range(1..500));
            host.breaks.push((from, until));
        }
        if rng.random_bool(0.15) {
            let from = Duration::from_millis(rng.random_range(0..3000));
            let awhile = Duration::from_millis(rng.random_range(100..4000));
            host.hangs = Some((from, from + awhile));
        }
        if rng.random_bool(0.15) {
            host.dies = Some(Duration::from_millis(rng.random_range(0..3000)));
        } else if rng.random_bool(0.15) {
            host.lie = Some(LIES[rng.random_range(0..LIES.len())]);
        }
    }
    scenario
}

#[test]
fn all_living_honest_hosts_finish_with_right_bytes() {
    // SOUP=<seed> plays one again, SOUPS=<count> more than the usual.
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match number("SOUP") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SOUPS").unwrap_or(150),
    };
    let mut bad = Vec::new();
    for seed in seeds {
        let outcome = soup(seed).run().unwrap();
        let behind = outcome.left_behind();
        if !behind.is_empty() {
            bad.push(format!("SOUP={seed}: left behind {behind:#?}"));
        }
        let wronged = outcome.wronged();
        if !wronged.is_empty() {
            bad.push(format!(
                "SOUP={seed}: wronged {wronged:?} {:?}",
                outcome.reports
            ));
        }
    }
    assert!(bad.is_empty(), "{} of them:\n{}", bad.len(), bad.join("\n"));
}
