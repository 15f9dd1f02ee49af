//! `bench tasks`: what many small blobs cost that nobody asks for any more: memory and processor time
//! of a hawkerd that has them, the time until the scheduler knows of them all after a start, and the
//! scheduler's memory. Beside each stands the same without them.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::machine::Processors;
use crate::{
    bed::Process,
    cluster::{Cluster, Member, Topology},
    http as client,
    image::digest_of,
    progress::step,
    registry::AUTHORITY,
    table::{Table, seconds},
};

const REPOSITORY: &str = "bench/tasks";
const LIMIT: Duration = Duration::from_secs(60);
/// Clients of one node that fill it.
const CLIENTS: usize = 8;
/// Entries of finished tasks are given up within 2 s, and the state is written.
const REST: Duration = Duration::from_secs(6);
/// Between two looks at what the scheduler knows.
const LOOK: Duration = Duration::from_millis(20);
/// Of one processor, for doing nothing.
const MOST_CPU: f64 = 0.01;
/// Resident bytes for each task, of a hawkerd that was started with them.
const MOST_EACH: f64 = 2048.0;
/// Until the scheduler knows of all, for each task.
const MOST_ANNOUNCE: Duration = Duration::from_micros(200);

/// Many blobs that lie in the store.
#[derive(Debug, Clone, clap::Args)]
pub struct Tasks {
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tasks: u32,
    /// Nodes that all have them.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=20))]
    nodes: u16,
    /// For how long nothing happens while processor time is measured.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    tasks: u32,
    nodes: u16,
    empty: State,
    /// Started with all tasks.
    full: State,
    /// Resident, of the hawkerd that got them one by one.
    filled_bytes: u64,
    /// Processor time of that hawkerd for getting one.
    get_seconds: f64,
}

/// A node that was just started, and its scheduler, at rest.
#[derive(Debug, Serialize)]
struct State {
    bytes: u64,
    scheduler_bytes: u64,
    /// Processor seconds in a second.
    cpu: f64,
    scheduler_cpu: f64,
    /// Until hawkerd is healthy.
    start_seconds: f64,
    /// Until the scheduler knows it with all that it has.
    announce_seconds: f64,
    /// Share of the machine's processors.
    idle: f64,
}

impl Tasks {
    /// # Errors
    /// When a node gets a wrong answer, or tasks cost more than they may.
    pub fn run(&self) -> Result<()> {
        let topology = Topology {
            nodes: usize::from(self.nodes),
            has_containerd: false,
            log_level: "warn".to_owned(),
            ..Topology::default()
        };
        let text = format!("start a scheduler, a seed and {} nodes", self.nodes);
        let cluster = step(&text, || Cluster::start(&topology))?;
        let report = self.measure(&cluster);
        let report = report.inspect_err(|_| eprintln!("{}", cluster.bed().log_tails(10)))?;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => print!("{}", report.render()),
        }
        report.check()
    }

    fn measure(&self, cluster: &Cluster) -> Result<Report> {
        let node = &cluster.nodes()[0];
        let empty = self.state(cluster, node, 0)?;
        let urls = step("put the blobs into the registry", || self.plant(cluster))?;
        let before = node.hawkerd()?.usage()?;
        for (number, node) in cluster.nodes().iter().enumerate() {
            let whence = if number == 0 { "registry" } else { "cluster" };
            let text = format!("{} gets them from the {whence}", node.name());
            step(&text, || fill(node, &urls))?;
        }
        thread::sleep(REST);
        let filled = node.hawkerd()?.usage()?;
        let full = self.state(cluster, node, urls.len())?;
        Ok(Report {
            tasks: self.tasks,
            nodes: self.nodes,
            empty,
            full,
            filled_bytes: filled.memory_len,
            get_seconds: (filled.cpu_seconds - before.cpu_seconds) / f64::from(self.tasks),
        })
    }

    fn plant(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let plant = |number: u32| {
            let bytes = format!("blob number {number}");
            let digest = digest_of(bytes.as_bytes());
            let registry = &cluster.registry;
            registry.plant_blob(REPOSITORY, &digest, bytes.as_bytes())?;
            let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
            Ok(format!("http://127.0.0.1:65001{path}?ns={AUTHORITY}"))
        };
        (0..self.tasks).map(plant).collect()
    }

    /// Starts the node again, which has so many tasks, and lets it be.
    fn state(&self, cluster: &Cluster, node: &Member, tasks: usize) -> Result<State> {
        let text = format!("start {} again with {tasks} tasks", node.name());
        let (start_seconds, announce_seconds) = step(&text, || restart(cluster, node, tasks))?;
        thread::sleep(REST);
        let (hawkerd, scheduler) = (node.hawkerd()?, cluster.scheduler()?);
        let text = format!("let nothing happen for {} s", self.seconds);
        let began = Processors::read()?;
        let [cpu, scheduler_cpu] = step(&text, || self.cpu(&hawkerd, scheduler))?;
        Ok(State {
            bytes: hawkerd.usage()?.memory_len,
            scheduler_bytes: scheduler.usage()?.memory_len,
            cpu,
            scheduler_cpu,
            start_seconds,
            announce_seconds,
            idle: Processors::read()?.idle_since(began),
        })
    }

    /// What two processes take meanwhile.
    fn cpu(&self, hawkerd: &Process, scheduler: &Process) -> Result<[f64; 2]> {
        let used = || -> Result<[f64; 2]> {
            Ok([hawkerd.usage()?.cpu_seconds, scheduler.usage()?.cpu_seconds])
        };
        let before = used()?;
        thread::sleep(Duration::from_secs(self.seconds));
        let after = used()?;
        let seconds = self.seconds.max(1) as f64;
        Ok([0, 1].map(|it| (after[it] - before[it]) / seconds))
    }
}

/// Seconds until hawkerd is healthy, and until the scheduler knows so many tasks of it.
fn restart(cluster: &Cluster, node: &Member, tasks: usize) -> Result<(f64, f64)> {
    node.hawkerd()?.terminate(LIMIT)?;
    await_tasks(cluster, node, None)?;
    let began = Instant::now();
    node.start_hawkerd()?;
    node.wait_until_healthy(LIMIT)?;
    let healthy = began.elapsed().as_secs_f64();
    await_tasks(cluster, node, Some(tasks as u64))?;
    Ok((healthy, began.elapsed().as_secs_f64()))
}

/// Waits until the scheduler knows the node with so many tasks, or does not know it any more.
fn await_tasks(cluster: &Cluster, node: &Member, wanted: Option<u64>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let known = known_tasks(cluster, node)?;
        if known == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the scheduler knows {known:?} tasks of {}", node.name());
        }
        thread::sleep(LOOK);
    }
}

fn known_tasks(cluster: &Cluster, node: &Member) -> Result<Option<u64>> {
    const STATUS: &str = "http://127.0.0.1:8000/v1/status";
    let scheduler = cluster.scheduler_host()?;
    let answer = scheduler.enter(|| client::get(STATUS, LIMIT))??.success()?;
    let status: Value = serde_json::from_slice(&answer.body)?;
    let hosts = status["hosts"].as_array();
    let host = hosts.and_then(|all| all.iter().find(|it| it["host"] == node.name()));
    Ok(host.and_then(|host| host["tasks"].as_u64()))
}

/// Several clients at once get them all.
fn fill(node: &Member, urls: &[String]) -> Result<()> {
    thread::scope(|scope| {
        let parts = urls.chunks(urls.len().div_ceil(CLIENTS));
        let get = |part| node.host().enter(|| client::get_each(part, LIMIT))?;
        let clients: Vec<_> = parts.map(|part| scope.spawn(move || get(part))).collect();
        clients.into_iter().try_for_each(|client| {
            let ended = client.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

impl Report {
    /// Resident bytes for each task, once hawkerd was started with them.
    fn each(&self) -> f64 {
        self.full.bytes.saturating_sub(self.empty.bytes) as f64 / f64::from(self.tasks)
    }

    fn check(&self) -> Result<()> {
        let (cpu, each) = (self.full.cpu, self.each());
        ensure!(
            cpu <= MOST_CPU,
            "hawkerd takes {:.1} % of a processor for nothing",
            cpu * 100.0
        );
        ensure!(each <= MOST_EACH, "a task takes {each:.0} bytes");
        let most = self.empty.announce_seconds + (MOST_ANNOUNCE * self.tasks).as_secs_f64();
        ensure!(
            self.full.announce_seconds <= most,
            "the scheduler knew of all after {} only",
            seconds(self.full.announce_seconds)
        );
        Ok(())
    }

    fn render(&self) -> String {
        let mib = |len: u64| format!("{:.1} MiB", len as f64 / f64::from(1 << 20));
        let cpu = |share: f64| format!("{:.2} ms/s", share * 1000.0);
        let (empty, full) = (&self.empty, &self.full);
        let (tasks, each) = (self.tasks, self.each());
        let mut table = Table::new(&["", "no tasks", &format!("{tasks} tasks"), "bar"]);
        let bar = empty.announce_seconds + (MOST_ANNOUNCE * tasks).as_secs_f64();
        let per_task = format!("{:.1} KiB each", MOST_EACH / 1024.0);
        let none = String::new;
        for (what, before, after, bar) in [
            (
                "hawkerd resident",
                mib(empty.bytes),
                mib(full.bytes),
                per_task,
            ),
            (
                "processor time at rest",
                cpu(empty.cpu),
                cpu(full.cpu),
                cpu(MOST_CPU),
            ),
            (
                "healthy after",
                seconds(empty.start_seconds),
                seconds(full.start_seconds),
                none(),
            ),
            (
                "all announced after",
                seconds(empty.announce_seconds),
                seconds(full.announce_seconds),
                seconds(bar),
            ),
            (
                "scheduler resident",
                mib(empty.scheduler_bytes),
                mib(full.scheduler_bytes),
                none(),
            ),
            (
                "its processor time",
                cpu(empty.scheduler_cpu),
                cpu(full.scheduler_cpu),
                none(),
            ),
            (
                "machine idle",
                format!("{:.0} %", empty.idle * 100.0),
                format!("{:.0} %", full.idle * 100.0),
                none(),
            ),
        ] {
            table.row([what.to_owned(), before, after, bar]);
        }
        format!(
            "\n{tasks} tasks at {} nodes and a seed; {each:.0} bytes each, {} resident and {:.2} ms \
             of processor time each while it got them\n\n{}",
            self.nodes,
            mib(self.filled_bytes),
            self.get_seconds * 1000.0,
            table.render()
        )
    }
}
