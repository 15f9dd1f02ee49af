//! What one event costs the tracker, for growing numbers of hosts: what grows with them is a cost
//! that n hosts pay n times. Processor time, so that other work on the machine does not show.
//!
//!     cargo run --release -p hawker-tracker --example tracker-scale [tasks [hosts...]]

#![allow(clippy::print_stdout, reason = "a tool for people")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::time::{Duration, Instant};

use hawker_model::{HostId, Role, TaskId};
use hawker_tracker::{
    Accusation, Holding, Misbehaviour, NewHost, Progress, Tracker, TrackerConfig,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

const SEEDS: usize = 10;
const PIECES: u32 = 512;

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).flat_map(|a| a.parse()).collect();
    let tasks = given.first().copied().unwrap_or(5);
    let sizes = match given.get(1..) {
        Some([_, ..]) => given[1..].to_vec(),
        _ => vec![1250, 2500, 5000, 10_000],
    };
    println!("{tasks} tasks, {SEEDS} seeds; microseconds for each event");
    println!(
        "| event | {} |",
        sizes
            .iter()
            .map(|n| format!("{n} hosts"))
            .collect::<Vec<_>>()
            .join(" | ")
    );
    println!("|---|{}", "---:|".repeat(sizes.len()));
    let worlds: Vec<_> = sizes
        .iter()
        .map(|hosts| World::new(*hosts, tasks).play())
        .collect();
    for (at, (name, _)) in worlds[0].iter().enumerate() {
        let costs = worlds.iter().map(|world| format!("{:.1}", world[at].1));
        println!("| {name} | {} |", costs.collect::<Vec<_>>().join(" | "));
    }
}

/// A tracker, and hosts that speak one after another.
struct World {
    tracker: Tracker,
    rng: StdRng,
    now: Instant,
    hosts: Vec<HostId>,
    tasks: Vec<TaskId>,
    costs: Vec<(&'static str, f64)>,
}

impl World {
    fn new(hosts: usize, tasks: usize) -> Self {
        let now = Instant::now();
        let task = |number: usize| TaskId::Url([number as u8; 32]);
        Self {
            tracker: Tracker::new(TrackerConfig::default(), 1, now),
            rng: StdRng::seed_from_u64(1),
            now: now + Duration::from_secs(3),
            hosts: (0..hosts)
                .filter_map(|n| HostId::parse(&format!("host-{n}")).ok())
                .collect(),
            tasks: (0..tasks).map(task).collect(),
            costs: Vec::new(),
        }
    }

    fn play(mut self) -> Vec<(&'static str, f64)> {
        self.each_host("hello", Self::hello);
        self.each_host_and_task("lookup", |world, host, task| {
            world.tracker.handle_lookup(host, task, 0, world.now);
        });
        self.tick("a second passes");
        self.each_host_and_task("progress", Self::progress);
        self.each_host_and_task("lookup again", |world, host, task| {
            world.tracker.handle_lookup(host, task, 1, world.now);
        });
        self.each_host("report as slow", |world, host| {
            world.report(host, Misbehaviour::Stalled)
        });
        self.each_host("report of a lie", |world, host| {
            world.report(host, Misbehaviour::FalseList);
        });
        self.each_host("report of a flood", |world, host| {
            world.report(host, Misbehaviour::Flood);
        });
        self.tick("a second passes, with isolated hosts");
        self.each_host("session begun again", Self::hello);
        self.each_host_and_task("lookup after that", |world, host, task| {
            world.tracker.handle_lookup(host, task, 0, world.now);
        });
        self.each_host_and_task("announce complete", Self::complete);
        self.each_host_and_task("lookup of a copy", |world, host, task| {
            world.tracker.handle_lookup(host, task, 0, world.now);
        });
        self.each_host("withdraw", |world, host| {
            let task = world.tasks[0];
            world.tracker.handle_withdraw(host, task, world.now);
        });
        self.each_host("gone", |world, host| world.tracker.handle_gone(host));
        self.costs
    }

    fn each_host(&mut self, name: &'static str, say: impl Fn(&mut Self, &HostId)) {
        let mut hosts = self.hosts.clone();
        hosts.shuffle(&mut self.rng);
        self.time(name, hosts.len(), |world| {
            for host in &hosts {
                say(world, host);
                world.drain();
            }
        });
    }

    fn each_host_and_task(&mut self, name: &'static str, say: impl Fn(&mut Self, &HostId, TaskId)) {
        let tasks = self.tasks.clone();
        let mut hosts = self.hosts.clone();
        hosts.shuffle(&mut self.rng);
        self.time(name, hosts.len() * tasks.len(), |world| {
            for host in &hosts {
                for task in &tasks {
                    say(world, host, *task);
                    world.drain();
                }
            }
        });
    }

    fn tick(&mut self, name: &'static str) {
        self.time(name, 1, |world| {
            world.now += Duration::from_secs(1);
            while world.tracker.poll_timeout() <= world.now {
                world.tracker.handle_timeout(world.now);
                world.drain();
            }
        });
    }

    fn time(&mut self, name: &'static str, events: usize, run: impl FnOnce(&mut Self)) {
        let began = cpu_time();
        run(self);
        let cost = (cpu_time() - began) * 1e6 / events as f64;
        self.costs.push((name, cost));
    }

    fn drain(&mut self) {
        while self.tracker.poll_action().is_some() {}
    }

    fn hello(&mut self, host: &HostId) {
        let number = host.as_str().trim_start_matches("host-").parse();
        let new = NewHost {
            host: host.clone(),
            role: match number {
                Ok(0..SEEDS) => Role::Seed,
                _ => Role::Node,
            },
            addresses: vec![([10, 0, 0, 1], 4005).into()],
            zone: String::new(),
        };
        self.tracker.handle_hello(new, self.now);
    }

    fn progress(&mut self, host: &HostId, task: TaskId) {
        let progress = Progress {
            task,
            pieces: self.rng.random_range(1..PIECES),
            total: PIECES,
            seed_bytes: 0,
            parent_bytes: 0,
            origin_bytes: 0,
        };
        self.tracker.handle_progress(host, &[progress], self.now);
    }

    fn report(&mut self, host: &HostId, what: Misbehaviour) {
        let about = self.hosts[self.rng.random_range(0..self.hosts.len())].clone();
        let task = self.tasks[self.rng.random_range(0..self.tasks.len())];
        let accusation = Accusation { what, piece: None };
        self.tracker
            .handle_report(host, task, (&about, accusation), self.now);
    }

    fn complete(&mut self, host: &HostId, task: TaskId) {
        let holding = Holding {
            task,
            pieces: PIECES,
            total: PIECES,
            complete: true,
        };
        self.tracker.handle_announce(host, &[holding], self.now);
    }
}

/// Seconds that this thread has had a processor: others may be busy with something else.
fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let spent = stat
        .split(' ')
        .next()
        .and_then(|text| text.parse::<f64>().ok());
    spent.unwrap_or_default() / 1e9
}
