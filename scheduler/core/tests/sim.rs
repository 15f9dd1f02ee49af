//! The tracker among simulated hosts in virtual time. Every failure prints its seed.

mod sim_world;

use std::time::Duration;

use hawker_model::{HostId, Role, TaskId};
use hawker_tracker::{Duty, Misbehaviour, TrackerConfig};
use sim_world::{World, host};

const SEEDS: std::ops::Range<u64> = 0..20;

/// Hosts join in random order, some leave, all the others stay connected with the fetcher.
fn churn(seed: u64, nodes: usize, seeds: usize) -> World {
    let mut world = World::new(seed, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    for number in 0..seeds {
        world.hello(&format!("seed-{number}"), Role::Seed);
    }
    let mut order: Vec<usize> = (0..nodes).collect();
    world.shuffle(&mut order);
    for number in order {
        let name = format!("node-{number}");
        world.hello(&name, Role::Node);
        world.lookup(&name, 0);
        world.check();
        match world.below(10) {
            0 => world.random_leave(),
            1 => world.random_complete(),
            2 => world.random_withdraw(),
            _ => world.random_progress(),
        }
        world.check();
    }
    world
}

#[test]
fn everybody_has_a_path_from_the_seed_whoever_comes_and_goes() {
    for seed in SEEDS {
        churn(seed, 60, 2);
    }
}

#[test]
fn everybody_has_a_path_in_a_swarm_that_is_too_large_to_be_looked_at_as_a_whole() {
    churn(1, 450, 2);
    churn(1, 450, 0);
}

/// The neighbours of a host all go at once, and hosts that hang on them stay behind.
#[test]
fn who_loses_all_neighbours_in_a_large_swarm_gets_others_at_once() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    world.hello("seed-0", Role::Seed);
    for number in 0..400 {
        let name = format!("node-{number}");
        world.hello(&name, Role::Node);
        world.lookup(&name, 0);
    }
    for number in (0..390).step_by(39) {
        for neighbour in world.neighbours(&format!("node-{number}")) {
            if neighbour.as_str() != "seed-0" {
                world.leave(neighbour.as_str());
                world.check();
            }
        }
    }
}

#[test]
fn everybody_has_a_path_from_the_elected_node_where_there_is_no_seed() {
    for seed in SEEDS {
        churn(seed, 40, 0);
    }
}

/// Everything that hosts may say, in any order: also what no sane host says.
#[test]
fn nothing_that_hosts_say_breaks_it_or_sends_anybody_to_the_dead() {
    for seed in SEEDS {
        let mut world = World::new(seed, TrackerConfig::default());
        for _ in 0..600 {
            let name = format!("host-{}", world.below(25));
            let other = format!("host-{}", world.below(25));
            let role = [Role::Node, Role::Node, Role::Seed][world.below(3)];
            let attempt = u32::try_from(world.below(4)).unwrap();
            match world.below(12) {
                0 => world.hello(&name, role),
                1 => world.hello_hidden(&name, role),
                2..5 => world.lookup(&name, attempt),
                5 => world.announce(&name, attempt, false),
                6 => world.announce(&name, 10, true),
                7 => world.withdraw(&name),
                8 => world.leave(&name),
                9 => world.report(&name, &other, Misbehaviour::Stalled),
                10 => world.unreachable(&name),
                _ => world.sleep(Duration::from_millis(700)),
            }
        }
        let names: Vec<String> = (0..25).map(|number| format!("host-{number}")).collect();
        names.iter().for_each(|name| world.leave(name));
        assert_eq!(world.tracker.swarm_count(), 0, "seed {seed}");
    }
}

/// A seed, and so many nodes that look for the same one after another.
fn crowd(seed: u64, nodes: usize) -> World {
    let mut world = World::new(seed, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    world.hello("seed-0", Role::Seed);
    for number in 0..nodes {
        let name = format!("node-{number}");
        world.hello(&name, Role::Node);
        world.lookup(&name, 0);
    }
    world.sleep(TrackerConfig::default().make_up_after);
    world
}

#[test]
fn degrees_are_much_alike() {
    for seed in SEEDS {
        let world = crowd(seed, 300);
        world.check();
        let degrees = world.degrees();
        assert_eq!(degrees[&host("seed-0")], 32, "seed {seed}");
        let nodes = degrees.iter().filter(|(name, _)| **name != host("seed-0"));
        let nodes: Vec<usize> = nodes.map(|(_, degree)| *degree).collect();
        let mean = nodes.iter().sum::<usize>() as f64 / nodes.len() as f64;
        assert!((9.0..14.0).contains(&mean), "seed {seed}: mean {mean}");
        let (least, most) = (nodes.iter().min(), nodes.iter().max());
        assert!(
            least >= Some(&10) && most <= Some(&17),
            "seed {seed}: {least:?} {most:?}"
        );
        let far = world.farthest(&host("seed-0"));
        assert!(far <= 6, "seed {seed}: {far} hops");
    }
}

#[test]
fn what_the_seed_gives_its_children_has_many_ways_to_the_others() {
    for seed in SEEDS {
        let world = crowd(seed, 100);
        let edges = world.edges();
        let source = host("seed-0");
        let children = &edges[&source];
        let of_children = children.iter().flat_map(|child| &edges[child]);
        let (mut within, mut outwards) = (0, 0);
        for other in of_children.filter(|other| **other != source) {
            match children.contains(other) {
                true => within += 1,
                false => outwards += 1,
            }
        }
        let all = within + outwards;
        assert!(3 * outwards >= all, "seed {seed}: {outwards} of {all}");
    }
}

/// A seed in zone a, and as many nodes there as in zone b, in turn.
fn two_zones(seed: u64, nodes: usize) -> World {
    let mut world = World::new(seed, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    world.hello_in("a", "seed-0", Role::Seed);
    for number in 0..nodes {
        let name = format!("{}-{number}", ["a", "b"][number % 2]);
        world.hello_in(["a", "b"][number % 2], &name, Role::Node);
        world.lookup(&name, 0);
    }
    world.sleep(TrackerConfig::default().make_up_after);
    world
}

/// The hosts of zone b that are linked with others.
fn gates(world: &World) -> Vec<String> {
    let edges = world.edges();
    let gates = edges.iter().filter(|(name, others)| {
        let far = |other: &HostId| !other.as_str().starts_with("b-");
        name.as_str().starts_with("b-") && others.iter().any(far)
    });
    gates.map(|(name, _)| name.to_string()).collect()
}

#[test]
fn few_hosts_of_a_zone_are_linked_with_other_zones() {
    for seed in SEEDS {
        let world = two_zones(seed, 100);
        world.check();
        let gates = gates(&world);
        assert!((2..=4).contains(&gates.len()), "seed {seed}: {gates:?}");
        let edges = world.edges();
        let far = gates.iter().map(|gate| {
            let others = edges[&host(gate)].iter();
            others
                .filter(|other| !other.as_str().starts_with("b-"))
                .count()
        });
        let far: Vec<_> = far.collect();
        // The seed, and four nodes.
        assert!(far.iter().all(|far| *far <= 5), "seed {seed}: {far:?}");
    }
}

#[test]
fn a_zone_whose_links_to_others_are_lost_gets_new_ones() {
    for seed in SEEDS {
        let mut world = two_zones(seed, 40);
        for gate in gates(&world) {
            world.leave(&gate);
        }
        world.check();
        assert!(!gates(&world).is_empty(), "seed {seed}");
    }
}

#[test]
fn one_seed_is_ordered_and_it_is_the_same_after_a_restart() {
    for seed in SEEDS {
        let mut world = World::new(seed, TrackerConfig::default());
        world.sleep(Duration::from_secs(3));
        for number in 0..4 {
            world.hello(&format!("seed-{number}"), Role::Seed);
        }
        for number in 0..20 {
            let name = format!("node-{number}");
            world.hello(&name, Role::Node);
            world.lookup(&name, 0);
            world.random_progress();
            world.random_complete();
        }
        let chosen = world.chosen.clone();
        assert_eq!(chosen.len(), 1, "seed {seed}: {chosen:?}");
        let mut again = World::new(seed + 1000, TrackerConfig::default());
        for number in (0..4).rev() {
            again.hello(&format!("seed-{number}"), Role::Seed);
        }
        again.hello("late", Role::Node);
        again.lookup("late", 0);
        again.sleep(Duration::from_millis(400));
        assert_eq!(again.chosen, chosen, "seed {seed}");
    }
}

#[test]
fn the_next_seed_is_pushed_to_the_lookers_when_a_seed_dies() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    world.hello("seed-0", Role::Seed);
    world.hello("seed-1", Role::Seed);
    for name in ["a", "b", "c"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    let first = world.chosen[0].clone();
    world.leave(first.as_str());
    let second = world.chosen[1].clone();
    assert_ne!(first, second);
    for name in ["a", "b", "c"] {
        assert!(world.is_told(name, second.as_str()), "{name}");
    }
}

#[test]
fn without_a_seed_the_first_is_elected_and_the_next_when_it_fails() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    for name in ["a", "b", "c"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    assert_eq!(world.duty("a"), Some(Duty::Fetch));
    assert_eq!(world.duty("b"), Some(Duty::Wait));
    assert!(world.is_told("b", "a") && world.is_told("c", "a"));
    world.withdraw("a");
    assert_eq!(world.chosen.len(), 2);
    let next = world.chosen[1].clone();
    assert_eq!(world.duty(next.as_str()), Some(Duty::Fetch));
    // It comes back: somebody else is at work.
    world.lookup("a", 0);
    assert_eq!(world.duty("a"), Some(Duty::Wait));
    world.leave(next.as_str());
    assert_eq!(world.chosen.len(), 3);
    world.check();
}

#[test]
fn an_elected_node_that_lost_interest_is_replaced_when_somebody_complains() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    for name in ["a", "b"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    world.lookup("b", 1);
    assert_eq!(world.duty("b"), Some(Duty::Wait));
    world.sleep(Duration::from_secs(4));
    world.lookup("b", 2);
    assert_eq!(world.duty("b"), Some(Duty::Fetch));
}

#[test]
fn a_lookup_after_a_restart_waits_for_who_has_the_task() {
    let mut world = World::new(1, TrackerConfig::default());
    world.hello("seed-0", Role::Seed);
    world.hello("a", Role::Node);
    world.lookup("a", 0);
    assert_eq!(world.duty("a"), None);
    world.sleep(Duration::from_millis(100));
    world.hello("holder", Role::Node);
    world.announce("holder", 10, true);
    assert_eq!(world.duty("a"), Some(Duty::Wait));
    assert!(world.is_told("a", "holder"));
    assert!(world.chosen.is_empty(), "nobody needs the origin");
}

#[test]
fn a_lookup_after_a_restart_is_answered_within_400_ms_all_the_same() {
    let mut world = World::new(1, TrackerConfig::default());
    world.hello("seed-0", Role::Seed);
    world.hello("a", Role::Node);
    world.lookup("a", 0);
    world.sleep(Duration::from_millis(400));
    assert_eq!(world.duty("a"), Some(Duty::Wait));
    assert!(world.is_told("a", "seed-0"));
}

#[test]
fn a_seed_that_says_late_that_it_is_at_work_takes_over() {
    let mut world = World::new(1, TrackerConfig::default());
    let (first, second) = world.seeds_by_rank();
    world.hello(&first, Role::Seed);
    world.hello("a", Role::Node);
    world.lookup("a", 0);
    world.sleep(Duration::from_millis(400));
    assert!(world.is_told("a", &first));
    world.hello(&second, Role::Seed);
    world.announce(&second, 3, false);
    assert!(world.is_told("a", &second));
    assert_eq!(world.chosen.last(), Some(&host(&second)));
}

#[test]
fn complete_copies_are_used_before_the_origin() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    world.hello("seed-0", Role::Seed);
    world.hello("holder", Role::Node);
    world.announce("holder", 10, true);
    world.hello("a", Role::Node);
    world.lookup("a", 0);
    assert!(world.is_told("a", "holder") && !world.is_told("a", "seed-0"));
    // But not for ever.
    world.lookup("a", 1);
    world.lookup("a", 2);
    assert!(world.is_told("a", "seed-0"));
    // And when the last copy goes, the seed is pushed at once.
    world.hello("b", Role::Node);
    world.lookup("b", 0);
    world.leave("holder");
    world.check();
}

#[test]
fn reported_hosts_are_isolated_and_paroled() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    world.hello("seed-0", Role::Seed);
    for name in ["a", "b", "bad"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    world.report("a", "bad", Misbehaviour::CorruptPiece);
    world.report("a", "bad", Misbehaviour::CorruptPiece);
    assert_eq!(
        world.tracker.isolated_count(),
        0,
        "one host convicts nobody"
    );
    world.report("b", "bad", Misbehaviour::FalseList);
    assert_eq!(world.tracker.isolated_count(), 1);
    world.hello("c", Role::Node);
    world.lookup("c", 0);
    assert!(!world.is_told("c", "bad"));
    // A new session does not wash it clean; time does.
    world.hello("bad", Role::Node);
    assert_eq!(world.tracker.isolated_count(), 1);
    world.stay_alive(Duration::from_secs(301));
    assert_eq!(world.tracker.isolated_count(), 0);
}

#[test]
fn a_flood_about_tasks_that_do_not_exist_is_reported_all_the_same() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    for name in ["a", "b", "c", "d", "bad"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    for name in ["a", "b"] {
        world.report_of(name, "bad", Misbehaviour::CorruptPiece, made_up());
    }
    assert_eq!(world.tracker.isolated_count(), 0);
    for name in ["a", "b"] {
        world.report_of(name, "bad", Misbehaviour::Flood, made_up());
    }
    assert_eq!(world.tracker.isolated_count(), 1);
}

#[test]
fn every_host_knows_who_is_isolated_for_lies_and_for_how_long() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    for name in ["a", "b", "c", "d", "bad", "worse"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    world.report("a", "bad", Misbehaviour::CorruptPiece);
    assert_eq!(
        world.liars_of("c").len(),
        0,
        "the word of one is no warning"
    );
    world.report("b", "bad", Misbehaviour::FalseList);
    assert_eq!(world.liars_of("c"), ["bad"]);
    world.hello("late", Role::Node);
    assert_eq!(world.liars_of("late"), ["bad"]);
    // What comes at once after is told together.
    world.report("c", "worse", Misbehaviour::FalseList);
    world.report("d", "worse", Misbehaviour::FalseList);
    assert_eq!(world.liars_of("late"), ["bad"]);
    world.stay_alive(Duration::from_secs(2));
    assert_eq!(world.liars_of("late"), ["bad", "worse"]);
    world.stay_alive(Duration::from_secs(300));
    assert_eq!(world.liars_of("late").len(), 0);
}

#[test]
fn a_liar_is_linked_with_nobody_and_fetches_for_itself_until_its_parole() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    world.hello("seed-0", Role::Seed);
    for name in ["a", "b", "liar"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    for name in ["a", "b"] {
        world.report(name, "liar", Misbehaviour::FalseList);
    }
    world.forget_told("liar");
    world.lookup("liar", 1);
    assert_eq!(world.duty("liar"), Some(Duty::Fetch));
    world.hello("c", Role::Node);
    world.lookup("c", 0);
    world.leave("c");
    world.stay_alive(Duration::from_secs(2));
    assert!(!world.is_told("liar", "a") && !world.is_told("liar", "seed-0"));
    world.stay_alive(Duration::from_secs(300));
    world.lookup("liar", 0);
    assert_eq!(world.duty("liar"), Some(Duty::Wait));
    assert!(world.is_told("liar", "seed-0"));
    world.check();
}

#[test]
fn nobody_is_told_to_part_with_a_host_that_some_found_slow() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    for name in ["a", "b", "slow"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    for name in ["a", "b"] {
        world.report(name, "slow", Misbehaviour::Stalled);
    }
    assert_eq!(world.tracker.isolated_count(), 1);
    world.stay_alive(Duration::from_secs(2));
    assert_eq!(world.liars_of("a").len(), 0);
}

fn made_up() -> TaskId {
    TaskId::Url([7; 32])
}

#[test]
fn an_isolated_seed_is_replaced() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    let (first, second) = world.seeds_by_rank();
    for seed in [&first, &second] {
        world.hello(seed, Role::Seed);
    }
    for name in ["a", "b"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    let chosen = world.chosen[0].clone();
    world.report("a", chosen.as_str(), Misbehaviour::FalseList);
    world.report("b", chosen.as_str(), Misbehaviour::FalseList);
    assert_eq!(world.chosen.len(), 2);
    world.check();
}

#[test]
fn a_loaded_seed_is_not_isolated_because_two_of_many_found_it_slow() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    world.hello("seed-0", Role::Seed);
    for number in 0..12 {
        let name = format!("node-{number}");
        world.hello(&name, Role::Node);
        world.lookup(&name, 0);
    }
    for number in 0..3 {
        world.report(&format!("node-{number}"), "seed-0", Misbehaviour::Stalled);
    }
    assert_eq!(world.tracker.isolated_count(), 0);
    world.report("node-3", "seed-0", Misbehaviour::Stalled);
    assert_eq!(
        world.tracker.isolated_count(),
        1,
        "a third of them is enough"
    );
}

#[test]
fn silent_hosts_are_forgotten() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    for name in ["a", "b"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    for _ in 0..12 {
        world.sleep(Duration::from_secs(1));
        world.progress("b", 1);
    }
    assert_eq!(world.silent, vec![host("a")]);
    assert_eq!(world.duty("b"), Some(Duty::Fetch), "it takes over");
}

#[test]
fn hosts_behind_a_firewall_are_never_named_but_get_everything() {
    for seed in SEEDS {
        let mut world = World::new(seed, TrackerConfig::default());
        world.sleep(Duration::from_secs(3));
        world.hello_hidden("hidden", Role::Node);
        world.lookup("hidden", 0);
        for number in 0..20 {
            let name = format!("node-{number}");
            world.hello(&name, Role::Node);
            world.lookup(&name, 0);
            world.check();
        }
        assert!(
            world.is_told("hidden", "node-0"),
            "it is told of those who come later"
        );
        let named = |other: &HostId| world.is_told(other.as_str(), "hidden");
        assert!(!world.degrees().keys().any(named));
    }
}

#[test]
fn a_seed_that_cannot_be_reached_is_not_chosen() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    world.hello("seed-0", Role::Seed);
    world.hello("a", Role::Node);
    world.lookup("a", 0);
    world.hello("b", Role::Node);
    world.lookup("b", 0);
    world.unreachable("seed-0");
    assert_eq!(world.chosen.len(), 2);
    assert!(world.duty("a") == Some(Duty::Fetch) || world.duty("b") == Some(Duty::Fetch));
    world.check();
}

/// It withdraws, and announces what it has.
#[test]
fn an_elected_node_that_gives_up_half_way_is_replaced_at_once_and_named_for_what_it_has() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    for name in ["a", "b"] {
        world.hello(name, Role::Node);
        world.lookup(name, 0);
    }
    assert_eq!(world.duty("a"), Some(Duty::Fetch));
    world.withdraw("a");
    world.announce("a", 5, false);
    assert_eq!(world.duty("b"), Some(Duty::Fetch));
    world.hello("c", Role::Node);
    world.lookup("c", 0);
    assert!(world.is_told("c", "a") && world.is_told("c", "b"));
    world.check();
}

#[test]
fn nothing_is_kept_of_tasks_that_nobody_has_or_wants() {
    let mut world = World::new(1, TrackerConfig::default());
    world.sleep(Duration::from_secs(3));
    world.hello("seed-0", Role::Seed);
    world.hello("a", Role::Node);
    world.lookup("a", 0);
    assert_eq!(world.tracker.swarm_count(), 1);
    world.withdraw("a");
    assert_eq!(world.tracker.swarm_count(), 0);
    assert!(world.tracker.hosts().all(|host| host.tasks == 0));
}

#[test]
fn strangers_are_ignored() {
    let mut world = World::new(1, TrackerConfig::default());
    world.lookup("stranger", 0);
    world.announce("stranger", 1, true);
    world.withdraw("stranger");
    assert_eq!(world.tracker.swarm_count(), 0);
    assert_eq!(world.duty("stranger"), None);
}

#[test]
fn every_host_knows_the_seeds_that_live() {
    let mut world = World::new(1, TrackerConfig::default());
    world.hello("node", Role::Node);
    assert_eq!(world.seeds_of("node").len(), 0);
    world.hello("seed-0", Role::Seed);
    world.hello("seed-1", Role::Seed);
    assert_eq!(world.seeds_of("node"), ["seed-0", "seed-1"]);
    world.hello("late", Role::Node);
    assert_eq!(world.seeds_of("late"), ["seed-0", "seed-1"]);
    world.leave("seed-0");
    assert_eq!(world.seeds_of("node"), ["seed-1"]);
    world.hello_hidden("seed-0", Role::Seed);
    assert_eq!(world.seeds_of("late"), ["seed-1"]);
    world.unreachable("seed-1");
    assert_eq!(world.seeds_of("late").len(), 0);
}

#[test]
fn a_seed_that_falls_silent_is_no_longer_named_as_one() {
    let mut world = World::new(1, TrackerConfig::default());
    world.hello("seed-0", Role::Seed);
    world.sleep(TrackerConfig::default().silent_after / 2);
    world.hello("node", Role::Node);
    assert_eq!(world.seeds_of("node"), ["seed-0"]);
    world.sleep(TrackerConfig::default().silent_after / 2 + Duration::from_secs(1));
    assert_eq!(world.silent, [host("seed-0")]);
    assert_eq!(world.seeds_of("node").len(), 0);
}
