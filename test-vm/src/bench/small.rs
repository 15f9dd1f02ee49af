//! `bench small`: how long a small blob takes, from the first byte of the request to the last of the
//! answer: new to the cluster, at a peer, and on connections that do not stand yet; and the same at
//! the registry.

mod timeline;

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use serde::Serialize;

use self::timeline::Timeline;
use super::{
    machine::{MIN_IDLE, Processors},
    parse_len,
};
use crate::{
    cluster::{Cluster, Member, Topology},
    http as client,
    image::digest_of,
    progress::step,
    registry::AUTHORITY,
    table::Table,
};

const REPOSITORY: &str = "bench/small";
const LIMIT: Duration = Duration::from_secs(30);
/// A scheduler holds lookups back for so long after its start (`swarm.settle_time`).
const SETTLE: Duration = Duration::from_millis(2500);
/// A size of which there are blobs enough.
const OTHER: u64 = 16;
/// Median of one byte that is new to the cluster, or at a peer.
const BAR: Duration = Duration::from_millis(10);

/// One round trip through scheduler, seed and peer.
#[derive(Debug, Clone, clap::Args)]
pub struct Small {
    /// 1 B, 4 KiB, 64 KiB and 1 MiB when none is named.
    #[arg(long, value_parser = parse_len)]
    size: Vec<u64>,
    /// Blobs of each size.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    runs: u16,
    /// Starts of a hawkerd whose first request is timed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(0..=50))]
    starts: u16,
    /// Log everything, which takes time, and print what the last new blob was waiting for.
    #[arg(long)]
    trace: bool,
    #[arg(long)]
    json: bool,
}

/// Milliseconds of requests.
#[derive(Debug, Clone, Copy, Serialize)]
struct Times {
    median_ms: f64,
    p99_ms: f64,
}

/// Requests for blobs of one size.
#[derive(Debug, Serialize)]
struct Row {
    size: u64,
    /// Straight from the registry.
    registry: Times,
    /// By a hawkerd that has just started; nothing where none was.
    first: Option<Times>,
    /// By a node that has had others; the blob is new to the cluster.
    cold: Times,
    /// By another node, after that.
    peer: Times,
    /// There again.
    local: Times,
}

#[derive(Debug, Serialize)]
struct Report {
    runs: u16,
    rows: Vec<Row>,
    /// GETs and HEADs at the registry for each blob.
    gets_per_blob: f64,
    heads_per_blob: f64,
    idle: f64,
    is_void: bool,
}

impl Small {
    /// # Errors
    /// When a node gets wrong bytes, or one byte takes longer than the bar.
    pub fn run(&self) -> Result<()> {
        let level = if self.trace { "trace" } else { "warn" };
        let topology = Topology {
            nodes: 3,
            has_containerd: false,
            log_level: level.to_owned(),
            ..Topology::default()
        };
        let cluster = step("start a registry, a scheduler, a seed and 3 nodes", || {
            Cluster::start(&topology)
        })?;
        thread::sleep(SETTLE);
        let report = step("ask for small blobs", || self.measure(&cluster));
        let report = report.inspect_err(|_| eprintln!("{}", cluster.bed().log_tails(10)))?;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => print!("{}", report.render()),
        }
        if self.trace {
            print!("{}", self.trace(&cluster)?);
        }
        report.check()
    }

    fn sizes(&self) -> &[u64] {
        match self.size.as_slice() {
            [] => &[1, 4 << 10, 64 << 10, 1 << 20],
            named => named,
        }
    }

    fn measure(&self, cluster: &Cluster) -> Result<Report> {
        for node in cluster.nodes() {
            // Connections, and whatever else is done once.
            ask(node, &plant(cluster, OTHER, 0)?)?;
        }
        let began = Processors::read()?;
        let rows = self.sizes().iter().map(|size| self.row(cluster, *size));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let idle = Processors::read()?.idle_since(began);
        let blobs = (0..self.runs).map(|number| plant(cluster, OTHER, number));
        let blobs = blobs.collect::<Result<Vec<_>>>()?;
        cluster.registry.reset()?;
        for blob in &blobs {
            ask(&cluster.nodes()[1], blob)?;
            ask(&cluster.nodes()[2], blob)?;
        }
        let asked = cluster.registry.tally()?.total;
        Ok(Report {
            runs: self.runs,
            rows,
            gets_per_blob: asked.gets as f64 / f64::from(self.runs),
            heads_per_blob: asked.heads as f64 / f64::from(self.runs),
            idle,
            is_void: idle < MIN_IDLE,
        })
    }

    fn row(&self, cluster: &Cluster, size: u64) -> Result<Row> {
        let [fresh, cold, peer] = cluster.nodes() else {
            anyhow::bail!("the cluster has other nodes");
        };
        let mut times = [const { Vec::new() }; 4];
        for number in 0..self.runs {
            let blob = plant(cluster, size, number)?;
            times[0].push(ask_registry(cold, &blob)?);
            times[1].push(ask(cold, &blob)?);
            times[2].push(ask(peer, &blob)?);
            times[3].push(ask(peer, &blob)?);
        }
        let mut first = Vec::new();
        for number in self.runs..self.runs + self.starts {
            restart(fresh)?;
            first.push(ask(fresh, &plant(cluster, size, number)?)?);
        }
        let [registry, cold, peer, local] = times.map(Times::of);
        Ok(Row {
            size,
            registry,
            first: (!first.is_empty()).then(|| Times::of(first)),
            cold,
            peer,
            local,
        })
    }

    /// What happened where while a node got a blob that is new to the cluster, and another after it.
    fn trace(&self, cluster: &Cluster) -> Result<String> {
        let mut text = String::new();
        let blob = plant(cluster, self.sizes()[0], self.runs + self.starts)?;
        for (node, what) in [(1, "new to the cluster"), (2, "at a peer")] {
            let mut timeline = Timeline::begin();
            let node = &cluster.nodes()[node];
            let elapsed = ask(node, &blob)?;
            timeline.add(node.name(), &node.hawkerd()?.log_text());
            for seed in cluster.seeds() {
                timeline.add(seed.name(), &seed.hawkerd()?.log_text());
            }
            timeline.add("scheduler", &cluster.scheduler()?.log_text());
            text += &format!("\n{what}: {:.2} ms\n", millis(elapsed));
            text += &timeline.render();
        }
        Ok(text)
    }
}

/// A blob that the cluster has never seen: its path at the registry.
#[derive(Debug)]
struct Planted(String);

/// Of so few bytes that two might be the same by chance, one after the other is taken.
fn plant(cluster: &Cluster, size: u64, number: u16) -> Result<Planted> {
    let mut bytes: Vec<u8> = vec![0; usize::try_from(size)?];
    match bytes.as_mut_slice() {
        [byte] => *byte = u8::try_from(number)?,
        bytes => rand::fill(bytes),
    }
    let digest = digest_of(&bytes);
    cluster.registry.plant_blob(REPOSITORY, &digest, &bytes)?;
    Ok(Planted(format!("/v2/{REPOSITORY}/blobs/{digest}")))
}

fn ask(node: &Member, blob: &Planted) -> Result<Duration> {
    get(
        node,
        &format!("http://127.0.0.1:65001{}?ns={AUTHORITY}", blob.0),
    )
}

fn ask_registry(node: &Member, blob: &Planted) -> Result<Duration> {
    get(node, &format!("http://{AUTHORITY}{}", blob.0))
}

/// On a connection that stands: how long a client takes to make one is its own affair.
fn get(node: &Member, url: &str) -> Result<Duration> {
    let asked = node.host().enter(|| client::repeat("GET", url, &[], 1))??;
    let [answer] = asked.as_slice() else {
        anyhow::bail!("no answer for {url}");
    };
    ensure!(answer.status.is_success(), "{}: {url}", answer.status);
    Ok(answer.elapsed)
}

fn restart(node: &Member) -> Result<()> {
    node.kill_hawkerd()?;
    node.start_hawkerd()?;
    node.wait_until_healthy(LIMIT)?;
    node.wait_until_scheduled(LIMIT)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Times {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort();
        let at = |part: f64| {
            let place = (all.len() as f64 * part) as usize;
            all.get(place.min(all.len().saturating_sub(1)))
        };
        let at = |part| at(part).map_or(f64::NAN, |time| millis(*time));
        Self {
            median_ms: at(0.5),
            p99_ms: at(0.99),
        }
    }

    fn cell(self) -> String {
        format!("{:.2} / {:.2}", self.median_ms, self.p99_ms)
    }
}

impl Report {
    fn render(&self) -> String {
        let heads = [
            "ms, median / p99",
            "registry",
            "first contact",
            "new blob",
            "at a peer",
            "local",
        ];
        let mut table = Table::new(&heads);
        for row in &self.rows {
            table.row([
                format!("{} bytes", row.size),
                row.registry.cell(),
                row.first.map_or_else(String::new, Times::cell),
                row.cold.cell(),
                row.peer.cell(),
                row.local.cell(),
            ]);
        }
        let void = match self.is_void {
            true => " VOID: the machine was too busy",
            false => "",
        };
        format!(
            "\n{}at the registry for each blob that two nodes get: {:.2} GETs, {:.2} HEADs; cpu idle {:.0} %{void}\n",
            table.render(),
            self.gets_per_blob,
            self.heads_per_blob,
            self.idle * 100.0,
        )
    }

    fn check(&self) -> Result<()> {
        let bar = millis(BAR);
        for row in self.rows.iter().filter(|row| row.size == 1) {
            for (what, times) in [("new", row.cold), ("at a peer", row.peer)] {
                let median = times.median_ms;
                ensure!(
                    median <= bar,
                    "one byte that is {what} takes {median:.2} ms of at most {bar:.0}"
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_in_the_middle_and_near_the_end() {
        let all = (1..=200).rev().map(Duration::from_millis).collect();
        let times = Times::of(all);
        assert_eq!((times.median_ms, times.p99_ms), (101.0, 199.0));
        assert!(Times::of(Vec::new()).median_ms.is_nan());
    }
}
