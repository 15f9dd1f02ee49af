//! Whole clusters with a real scheduler, hosts of which are killed without a word: every reader
//! that is left gets the right bytes.

#![allow(clippy::unwrap_used)] // a test's helpers may fail as its assertions do

mod support;

use std::time::Duration;

use futures::future::join_all;
use hawker_model::{HostId, Role};
use hawker_p2p::{Node, Security};
use hawker_scheduler::{Scheduler, Security as SchedulerSecurity, Settings};
use tokio::runtime::Runtime;

use crate::support::{Cluster, Origin, content, fetch};

const MIB: usize = 1 << 20;

/// Something that can be killed: everything of it runs in a runtime of its own.
struct Killable<T> {
    runtime: Option<Runtime>,
    inner: T,
}

impl<T: Send + 'static> Killable<T> {
    async fn start(start: impl Future<Output = T> + Send + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let inner = runtime.spawn(start).await.unwrap();
        let runtime = Some(runtime);
        Self { runtime, inner }
    }

    /// Its sockets close; it says nothing.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl<T> Drop for Killable<T> {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Bed {
    cluster: Cluster,
    origin: Origin,
    scheduler: Killable<Scheduler>,
    seeds: Vec<Killable<Node>>,
    nodes: Vec<Killable<Node>>,
}

impl Bed {
    /// A cluster that helps itself as fast as it may.
    async fn new(seeds: usize, nodes: usize) -> Self {
        Self::with(Cluster::new(), seeds, nodes).await
    }

    /// A cluster that is not driven to the origin by a busy machine.
    async fn patient(seeds: usize, nodes: usize) -> Self {
        let mut cluster = Cluster::new();
        cluster.swarm(|swarm| {
            swarm.sign_of_life = Duration::from_secs(10);
            swarm.first_piece_deadline = Duration::from_secs(20);
            swarm.progress_deadline = Duration::from_secs(20);
        });
        Self::with(cluster, seeds, nodes).await
    }

    async fn with(mut cluster: Cluster, seeds: usize, nodes: usize) -> Self {
        let origin = Origin::start().await;
        let Security::Tls(identity) = cluster.security("scheduler", Role::Scheduler) else {
            panic!("a cluster has TLS");
        };
        let mut settings = Settings::new(
            HostId::parse("scheduler").unwrap(),
            ([127, 0, 0, 1], 0).into(),
            SchedulerSecurity::Tls(identity),
        );
        settings.tracker.settle_time = Duration::from_millis(100);
        let start = async { Scheduler::start(settings).await.unwrap() };
        let scheduler = Killable::start(start).await;
        cluster.schedule(scheduler.inner.address());
        let mut bed = Self {
            cluster,
            origin,
            scheduler,
            seeds: Vec::new(),
            nodes: Vec::new(),
        };
        for number in 0..seeds {
            let seed = bed.start(&format!("seed{number}"), Role::Seed).await;
            bed.seeds.push(seed);
        }
        for number in 0..nodes {
            let node = bed.start(&format!("node{number}"), Role::Node).await;
            bed.nodes.push(node);
        }
        for host in bed.seeds.iter().chain(&bed.nodes) {
            while !host.inner.status().await.unwrap().schedulers[0].connected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        bed
    }

    async fn start(&self, host: &str, role: Role) -> Killable<Node> {
        let settings = self.cluster.settings(host, role);
        Killable::start(async { Node::start(settings).await.unwrap() }).await
    }

    /// All nodes read `len` bytes while `trouble` comes; those that live must have them. Returns
    /// how often the origin gave the content.
    async fn pull<F: Future<Output = ()>>(
        &mut self,
        seed: u64,
        len: usize,
        trouble: impl FnOnce(Origin, Kill) -> F,
    ) -> f64 {
        let data = content(seed, len);
        let (task, source) = self.origin.add(&data);
        self.origin.slow_down(Duration::from_millis(8));
        let readers: Vec<Node> = self.nodes.iter().map(|node| node.inner.clone()).collect();
        let pulls = readers.iter().map(|node| fetch(node, task, &source));
        let (sender, mut kills) = tokio::sync::mpsc::unbounded_channel();
        let killing = async {
            let mut dead = Vec::new();
            while let Some(victim) = kills.recv().await {
                match victim {
                    Victim::Node(number) => {
                        self.nodes[number].kill();
                        dead.push(number);
                    }
                    Victim::Scheduler => self.scheduler.kill(),
                    Victim::Seed(number) => self.seeds[number].kill(),
                }
            }
            dead
        };
        // What a dead node's reader gets is its own affair, but it gets something.
        let limit = Duration::from_secs(60);
        let pulls = tokio::time::timeout(limit, join_all(pulls));
        let trouble = trouble(self.origin.clone(), Kill(sender));
        let (pulled, (), dead) = tokio::join!(pulls, trouble, killing);
        for (number, pulled) in pulled
            .expect("nobody waits for ever")
            .into_iter()
            .enumerate()
        {
            match pulled {
                Ok(bytes) => assert!(bytes == data, "node {number} read wrong bytes"),
                Err(_) if dead.contains(&number) => {}
                Err(error) => panic!("node {number}: {error}"),
            }
        }
        self.origin.bytes() as f64 / len as f64
    }
}

enum Victim {
    Node(usize),
    Scheduler,
    Seed(usize),
}

/// The right to kill.
struct Kill(tokio::sync::mpsc::UnboundedSender<Victim>);

impl Kill {
    fn kill(&self, victim: Victim) {
        self.0.send(victim).unwrap();
    }
}

async fn until_sent(origin: &Origin, bytes: usize) {
    while origin.bytes() < bytes as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_seeds_one_node_is_elected_to_fetch_for_all() {
    let mut bed = Bed::patient(0, 4).await;
    let share = bed.pull(1, 6 * MIB, |_, _| async {}).await;
    assert!(share < 1.05, "the origin gave it {share} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_scheduler_is_killed_the_pull_goes_on() {
    let mut bed = Bed::patient(1, 4).await;
    let kill = |origin: Origin, kill: Kill| async move {
        until_sent(&origin, 2 * MIB).await;
        kill.kill(Victim::Scheduler);
    };
    let share = bed.pull(2, 6 * MIB, kill).await;
    assert!(share < 1.05, "the origin gave it {share} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_node_is_killed_the_others_finish() {
    let mut bed = Bed::patient(1, 5).await;
    let kill = |origin: Origin, kill: Kill| async move {
        until_sent(&origin, 2 * MIB).await;
        kill.kill(Victim::Node(0));
    };
    let share = bed.pull(3, 6 * MIB, kill).await;
    assert!(share < 1.05, "the origin gave it {share} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_seed_is_killed_another_goes_on_from_where_it_was() {
    let mut bed = Bed::new(2, 4).await;
    let kill = |origin: Origin, kill: Kill| async move {
        until_sent(&origin, 3 * MIB).await;
        // Whichever it is that fetches: the other is killed in the other half of all runs.
        kill.kill(Victim::Seed(0));
    };
    let share = bed.pull(4, 8 * MIB, kill).await;
    assert!(share < 3.0, "the origin gave it {share} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_the_readers_that_are_left_get_the_right_bytes() {
    for round in 0..6_u64 {
        let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005);
            state = state.wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % most
        };
        let mut bed = Bed::new(2, 5).await;
        let trouble = |origin: Origin, kill: Kill| async move {
            for _ in 0..3 {
                let bytes = origin.bytes() as usize;
                let most = (4 * MIB).saturating_sub(bytes).max(1) as u64;
                until_sent(&origin, bytes + random(most) as usize).await;
                kill.kill(match random(8) {
                    0 => Victim::Scheduler,
                    seed @ 1..=3 => Victim::Seed(seed as usize % 2),
                    node => Victim::Node(node as usize % 5),
                });
            }
        };
        let share = bed.pull(100 + round, 4 * MIB, trouble).await;
        assert!(
            share < 6.0,
            "round {round}: the origin gave it {share} times"
        );
    }
}
