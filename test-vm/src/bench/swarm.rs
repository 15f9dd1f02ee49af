//! `bench swarm`: N hosts pull one blob at once, through Hawker and straight from the registry.
//!
//! The clients are threads of the testbed inside each host that read the blob from the mirror and
//! compare it: nothing of a containerd is measured. The simulator's word on the same swarm, from
//! the same state machines, stands beside what was measured, and what a BitTorrent client makes of
//! the same hosts and links (`torrent`).

mod torrent;
mod tracker;

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hawker_swarm::sim::Scenario;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;

use self::torrent::Torrent;
pub use self::tracker::Tracker;
use super::machine::{MIN_IDLE, Processors, warm_memory};
use crate::{
    bed::{Host, Link, Process, Rate, Usage},
    cluster::{Cluster, Topology, Transport},
    http,
    image::digest_of,
    progress::step,
    table::{Table, megabytes, seconds},
};

/// A frame of 1514 bytes, as the links count it, carries 1428 bytes of a stream: the rest is
/// Ethernet (14), IPv6 (40) and TCP with timestamps (32). The simulator knows no frames.
const PAYLOAD_SHARE: f64 = 1428.0 / 1514.0;
const REPOSITORY: &str = "bench";
/// For so long a scheduler that has just started keeps the first lookups of a blob back, lest hosts
/// that have it have not said so yet. That is its restart, not the swarm.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// How many pull what over which links.
#[derive(Debug, Clone, clap::Args)]
pub struct Swarm {
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    hosts: u16,
    /// Rate of every link, the registry's and the seeds' included, both ways.
    #[arg(long, default_value = "100mbit")]
    rate: Rate,
    /// The blob.
    #[arg(long, default_value = "64MiB", value_parser = super::parse_len)]
    size: u64,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=10))]
    seeds: u16,
    /// Hosts speak without TLS.
    #[arg(long)]
    plain: bool,
    /// Leave out the same pull straight from the registry, which takes N times as long.
    #[arg(long)]
    no_straight: bool,
    /// Leave out the same blob through a BitTorrent client, Debian's aria2.
    #[arg(long)]
    no_torrent: bool,
    #[arg(long)]
    json: bool,
}

/// What one pull by all hosts came to.
#[derive(Debug, Clone, Serialize)]
struct Run {
    /// Sorted, in seconds.
    times: Vec<f64>,
    bound: f64,
    last_over_bound: f64,
    median_over_bound: f64,
    /// What left the registry; of a torrent, what left the seeder's link, with all headers.
    registry_bytes: u64,
    registry_over_size: f64,
    idle: f64,
    is_void: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    hosts: u16,
    rate_bits: u64,
    size: u64,
    seeds: u16,
    transport: String,
    hawker: Run,
    /// Last finisher ÷ bound as the simulator says it.
    simulated: Option<f64>,
    straight: Option<Run>,
    torrent: Option<Run>,
    daemons: Vec<Daemon>,
}

/// What one daemon used for the pull.
#[derive(Debug, Serialize)]
struct Daemon {
    name: String,
    cpu_seconds: f64,
    peak_bytes: u64,
}

impl Swarm {
    /// # Errors
    /// When a host gets wrong bytes or none.
    pub fn run(&self) -> Result<()> {
        if !self.no_torrent {
            torrent::find_client()?;
        }
        let topology = Topology {
            seeds: usize::from(self.seeds),
            nodes: usize::from(self.hosts),
            link: Link::of_rate(self.rate),
            registry_link: Link::of_rate(self.rate),
            transport: self.transport(),
            has_containerd: false,
            log_level: "warn".to_owned(),
            ..Topology::default()
        };
        let text = format!(
            "start a registry, a scheduler, {} seeds and {} nodes",
            self.seeds, self.hosts
        );
        let cluster = step(&text, || Cluster::start(&topology))?;
        let blob = noise(self.size)?;
        let digest = digest_of(&blob);
        let path = step("push the blob", || {
            cluster
                .registry
                .push_bytes(REPOSITORY, &digest, blob.clone())
        })?;
        let measured = self.measure(&cluster, &blob, &path);
        if measured.is_err() {
            eprintln!("{}", cluster.bed().log_tails(10));
        }
        let report = measured?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{}", report.render());
        }
        Ok(())
    }

    fn measure(&self, cluster: &Cluster, blob: &Bytes, path: &str) -> Result<Report> {
        let daemons = daemons(cluster)?;
        step("wait until the scheduler has settled", || {
            thread::sleep(SETTLE_TIME);
            Ok(())
        })?;
        let before = usages(&daemons)?;
        let mirror = format!(
            "http://127.0.0.1:65001{path}?ns={}",
            crate::registry::AUTHORITY
        );
        let text = format!("{} hosts pull through Hawker", self.hosts);
        let hawker = step(&text, || self.pull(cluster, &mirror, blob))?;
        let after = usages(&daemons)?;
        let straight = format!("http://{}{path}", crate::registry::AUTHORITY);
        let text = format!("{} hosts pull straight from the registry", self.hosts);
        let straight = match self.no_straight {
            true => None,
            false => Some(step(&text, || self.pull(cluster, &straight, blob))?),
        };
        let text = format!("{} hosts get it through BitTorrent", self.hosts);
        let torrent = match self.no_torrent {
            true => None,
            false => Some(step(&text, || self.torrent(cluster, blob))?),
        };
        let used =
            daemons
                .into_iter()
                .zip(before)
                .zip(after)
                .map(|(((name, _), before), after)| {
                    let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
                    Daemon {
                        name,
                        cpu_seconds,
                        peak_bytes: after.peak_memory_len,
                    }
                });
        Ok(Report {
            hosts: self.hosts,
            rate_bits: self.rate.bits_per_second(),
            size: self.size,
            seeds: self.seeds,
            transport: if self.plain { "plain" } else { "tls" }.to_owned(),
            hawker,
            simulated: self.simulate(),
            straight,
            torrent,
            daemons: used.collect(),
        })
    }

    /// Lets all hosts read the URL in the same moment.
    fn pull(&self, cluster: &Cluster, url: &str, blob: &[u8]) -> Result<Run> {
        cluster.registry.reset()?;
        let hosts: Vec<_> = cluster.nodes().iter().map(|node| node.host()).collect();
        self.warm_memory()?;
        let limit = self.limit();
        let barrier = Barrier::new(hosts.len());
        let began = Processors::read()?;
        let read = |host: &Host| {
            let download = || {
                barrier.wait();
                download(url, blob, limit)
            };
            let done = host.enter(download).flatten();
            done.with_context(|| format!("the pull on {} failed", host.name()))
        };
        let read = &read;
        let times: Vec<_> = thread::scope(|scope| {
            let reads: Vec<_> = hosts
                .iter()
                .map(|host| scope.spawn(move || read(host)))
                .collect();
            let joined = reads.into_iter().map(|read| match read.join() {
                Ok(time) => time,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.collect()
        });
        let idle = Processors::read()?.idle_since(began);
        let mut times = times.into_iter().collect::<Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        Ok(self.summary(times, cluster.registry.tally()?.total.body_bytes, idle))
    }

    /// Lets all hosts start a BitTorrent client in the same moment.
    fn torrent(&self, cluster: &Cluster, blob: &[u8]) -> Result<Run> {
        let hosts: Vec<_> = cluster.nodes().iter().map(|node| node.host()).collect();
        let origin = cluster.registry.host();
        self.warm_memory()?;
        let mut torrent = Torrent::start(origin, &hosts, blob, self.transport())?;
        let (sent, began) = (torrent::sent_bytes(origin)?, Processors::read()?);
        let mut times = torrent.run(&hosts, self.limit())?;
        let idle = Processors::read()?.idle_since(began);
        torrent.check(&hosts, blob)?;
        times.sort_by(f64::total_cmp);
        let sent = torrent::sent_bytes(origin)?.saturating_sub(sent);
        Ok(self.summary(times, sent, idle))
    }

    fn transport(&self) -> Transport {
        match self.plain {
            true => Transport::Plain,
            false => Transport::Tls,
        }
    }

    /// Every host keeps the blob in memory.
    fn warm_memory(&self) -> Result<()> {
        warm_memory((u64::from(self.hosts) + 2) * self.size * 5 / 4)
    }

    /// Longer than everybody straight from the registry takes.
    fn limit(&self) -> Duration {
        Duration::from_secs_f64(60.0 + 4.0 * self.bound() * f64::from(self.hosts))
    }

    fn summary(&self, times: Vec<f64>, registry_bytes: u64, idle: f64) -> Run {
        let bound = self.bound();
        let last = times.last().copied().unwrap_or_default();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        Run {
            times,
            bound,
            last_over_bound: last / bound,
            median_over_bound: median / bound,
            registry_bytes,
            registry_over_size: registry_bytes as f64 / self.size as f64,
            idle,
            is_void: idle < MIN_IDLE,
        }
    }

    /// The same swarm in virtual time; nothing when it does not finish there.
    fn simulate(&self) -> Option<f64> {
        let (seeds, nodes) = (usize::from(self.seeds), usize::from(self.hosts));
        let mbit = self.rate.bits_per_second() as f64 / 1e6 * PAYLOAD_SHARE;
        let mut scenario = Scenario::new(1, seeds, nodes, mbit, self.size);
        scenario.origin_rate = self.rate.bytes_per_second() * PAYLOAD_SHARE;
        let last = scenario.run().ok()?.last()?;
        Some(last.as_secs_f64() / self.bound())
    }

    /// No schedule finishes earlier: the blob must leave the registry once, reach each host once,
    /// and be sent N times by all who can send. All links are of one rate, so the first two are
    /// the largest: N·S over (registry + seeds + N) links is below S over one.
    fn bound(&self) -> f64 {
        self.size as f64 / self.rate.bytes_per_second()
    }
}

pub(super) fn noise(len: u64) -> Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(len).context("the blob is too large")?];
    StdRng::seed_from_u64(len).fill_bytes(&mut bytes);
    Ok(Bytes::from(bytes))
}

/// Reads the URL on the calling thread's host and compares every byte; returns the seconds it took.
pub(super) fn download(url: &str, blob: &[u8], limit: Duration) -> Result<f64> {
    let started = Instant::now();
    let mut rest = blob;
    let mut is_right = true;
    let answer = http::stream(url, limit, |data| match rest.split_at_checked(data.len()) {
        Some((expected, more)) => {
            is_right &= expected == data;
            rest = more;
        }
        None => is_right = false,
    })?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(
        answer.status.is_success(),
        "{url} answered {}",
        answer.status
    );
    ensure!(is_right && rest.is_empty(), "{url} gave wrong bytes");
    Ok(seconds)
}

fn daemons(cluster: &Cluster) -> Result<Vec<(String, std::sync::Arc<Process>)>> {
    let scheduler = [(
        "scheduler".to_owned(),
        std::sync::Arc::clone(cluster.scheduler()?),
    )];
    let members = cluster.seeds().iter().chain(cluster.nodes());
    let members = members.map(|it| Ok((it.name().to_owned(), it.hawkerd()?)));
    scheduler.into_iter().map(Ok).chain(members).collect()
}

fn usages(daemons: &[(String, std::sync::Arc<Process>)]) -> Result<Vec<Usage>> {
    daemons.iter().map(|(_, process)| process.usage()).collect()
}

impl Report {
    fn render(&self) -> String {
        let Self {
            hosts,
            seeds,
            transport,
            ..
        } = self;
        let rate = self.rate_bits / 1_000_000;
        let mut text = format!(
            "\n{hosts} hosts x {rate} Mbit/s, {seeds} seeds, {}, {transport}; bound {}\n\n",
            megabytes(self.size),
            seconds(self.hawker.bound),
        );
        let heads = [
            "",
            "last",
            "last/bound",
            "median/bound",
            "registry bytes/size",
            "cpu idle",
            "",
        ];
        let mut table = Table::new(&heads);
        for (name, run) in [
            ("hawker", Some(&self.hawker)),
            ("straight", self.straight.as_ref()),
            ("aria2", self.torrent.as_ref()),
        ] {
            let Some(run) = run else { continue };
            table.row([
                name.to_owned(),
                seconds(run.times.last().copied().unwrap_or_default()),
                format!("{:.2}", run.last_over_bound),
                format!("{:.2}", run.median_over_bound),
                format!("{:.3}", run.registry_over_size),
                format!("{:.0} %", run.idle * 100.0),
                if run.is_void {
                    "VOID: the machine was too busy"
                } else {
                    ""
                }
                .to_owned(),
            ]);
        }
        text += &table.render();
        if let Some(simulated) = self.simulated {
            let off = (self.hawker.last_over_bound / simulated - 1.0) * 100.0;
            text += &format!("simulator: last/bound {simulated:.2}; measured {off:+.0} %\n");
        }
        let mut table = Table::new(&["daemon", "cpu", "peak memory"]);
        for row in self.daemon_rows() {
            table.row(row);
        }
        text + "\n" + &table.render()
    }

    /// Scheduler and seeds each; of the nodes the mean and the largest.
    fn daemon_rows(&self) -> Vec<[String; 3]> {
        let row = |name: &str, cpu: f64, peak: u64| {
            [
                name.to_owned(),
                seconds(cpu),
                format!("{:.1} MiB", peak as f64 / f64::from(1 << 20)),
            ]
        };
        let (nodes, others): (Vec<_>, Vec<_>) = self
            .daemons
            .iter()
            .partition(|daemon| daemon.name.starts_with("node"));
        let mut rows: Vec<_> = others
            .iter()
            .map(|it| row(&it.name, it.cpu_seconds, it.peak_bytes))
            .collect();
        let count = nodes.len().max(1) as f64;
        let cpu: f64 = nodes.iter().map(|it| it.cpu_seconds).sum();
        let peaks = nodes.iter().map(|it| it.peak_bytes);
        rows.push(row(
            "node (mean)",
            cpu / count,
            peaks.clone().sum::<u64>() / count as u64,
        ));
        let most = nodes.iter().map(|it| it.cpu_seconds).fold(0.0, f64::max);
        rows.push(row("node (max)", most, peaks.max().unwrap_or_default()));
        rows
    }
}
