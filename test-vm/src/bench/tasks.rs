//! `bench tasks`: what many small blobs cost that nobody asks for any more: memory and processor time
//! of a hawkerd that has them, the time it takes to start with them, and the scheduler's memory.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;

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
/// Of one processor, for doing nothing.
const MOST_CPU: f64 = 0.01;

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
    empty_bytes: u64,
    scheduler_empty_bytes: u64,
    /// After it got them, and after it was started again.
    filled_bytes: u64,
    restarted_bytes: u64,
    scheduler_bytes: u64,
    /// Share of one processor, of the restarted hawkerd and of the scheduler.
    cpu: f64,
    scheduler_cpu: f64,
    /// Until it is healthy and has told the scheduler of them all.
    start_seconds: f64,
    empty_start_seconds: f64,
}

impl Tasks {
    /// # Errors
    /// When a node gets a wrong answer, or takes more than 1 % of a processor to do nothing.
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
        ensure!(
            report.cpu <= MOST_CPU,
            "hawkerd takes {:.1} % of a processor for nothing",
            report.cpu * 100.0
        );
        Ok(())
    }

    fn measure(&self, cluster: &Cluster) -> Result<Report> {
        let (node, scheduler) = (&cluster.nodes()[0], cluster.scheduler()?);
        let empty_start_seconds = restart(node)?;
        thread::sleep(REST);
        let empty_bytes = node.hawkerd()?.usage()?.memory_len;
        let scheduler_empty_bytes = scheduler.usage()?.memory_len;
        let paths = step("put the blobs into the registry", || self.plant(cluster))?;
        for node in cluster.nodes() {
            step(&format!("fill {}", node.name()), || fill(node, &paths))?;
        }
        thread::sleep(REST);
        let filled_bytes = node.hawkerd()?.usage()?.memory_len;
        let start_seconds = step("start it again", || restart(node))?;
        thread::sleep(REST);
        let text = format!("let nothing happen for {} s", self.seconds);
        let (cpu, scheduler_cpu) = step(&text, || {
            let cpu = self.cpu(&*node.hawkerd()?, scheduler)?;
            Ok((cpu[0], cpu[1]))
        })?;
        Ok(Report {
            tasks: self.tasks,
            nodes: self.nodes,
            empty_bytes,
            scheduler_empty_bytes,
            filled_bytes,
            restarted_bytes: node.hawkerd()?.usage()?.memory_len,
            scheduler_bytes: scheduler.usage()?.memory_len,
            cpu,
            scheduler_cpu,
            start_seconds,
            empty_start_seconds,
        })
    }

    fn plant(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let plant = |number: u32| {
            let bytes = format!("blob number {number}");
            let digest = digest_of(bytes.as_bytes());
            let registry = &cluster.registry;
            registry.plant_blob(REPOSITORY, &digest, bytes.as_bytes())?;
            Ok(format!("/v2/{REPOSITORY}/blobs/{digest}"))
        };
        (0..self.tasks).map(plant).collect()
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

fn restart(node: &Member) -> Result<f64> {
    if let Ok(hawkerd) = node.hawkerd() {
        hawkerd.terminate(LIMIT)?;
    }
    let began = Instant::now();
    node.start_hawkerd()?;
    node.wait_until_healthy(LIMIT)?;
    node.wait_until_scheduled(LIMIT)?;
    Ok(began.elapsed().as_secs_f64())
}

/// Several clients at once get them all.
fn fill(node: &Member, paths: &[String]) -> Result<()> {
    let get_all = |paths: &[String]| {
        for path in paths {
            let url = format!("http://127.0.0.1:65001{path}?ns={AUTHORITY}");
            client::get(&url, LIMIT)?.success()?;
        }
        anyhow::Ok(())
    };
    thread::scope(|scope| {
        let parts = paths.chunks(paths.len().div_ceil(CLIENTS));
        let clients: Vec<_> = parts
            .map(|part| scope.spawn(move || node.host().enter(|| get_all(part))?))
            .collect();
        clients.into_iter().try_for_each(|client| {
            let ended = client.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

impl Report {
    fn render(&self) -> String {
        let mib = |len: u64| format!("{:.1} MiB", len as f64 / f64::from(1 << 20));
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let mut table = Table::new(&["", "hawkerd", "scheduler"]);
        let none = String::new;
        for (what, hawkerd, scheduler) in [
            (
                "resident without tasks",
                mib(self.empty_bytes),
                mib(self.scheduler_empty_bytes),
            ),
            ("after getting them", mib(self.filled_bytes), none()),
            (
                "started with them",
                mib(self.restarted_bytes),
                mib(self.scheduler_bytes),
            ),
            (
                "of a processor",
                percent(self.cpu),
                percent(self.scheduler_cpu),
            ),
            ("start", seconds(self.start_seconds), none()),
            (
                "start without them",
                seconds(self.empty_start_seconds),
                none(),
            ),
        ] {
            table.row([what.to_owned(), hawkerd, scheduler]);
        }
        let (tasks, nodes) = (self.tasks, self.nodes);
        format!(
            "\n{tasks} tasks at {nodes} nodes and a seed\n\n{}",
            table.render()
        )
    }
}
