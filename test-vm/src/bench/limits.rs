//! `bench limits`: rates as set and as measured, of what a node sends, gets and fetches.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::{
    machine::{MIN_IDLE, Processors},
    swarm::{download, noise},
};
use crate::{
    cluster::{Bytes, Cluster, Member, Topology},
    image::digest_of,
    progress::step,
    registry::{AUTHORITY, Action, Fault},
    table::Table,
};

const REPOSITORY: &str = "limits";
const LIMIT: Duration = Duration::from_secs(30);
/// How far a rate may be from what was set.
const BAR: f64 = 0.05;

/// How well limits of the network are kept.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Rates in MiB/s
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    rates: Vec<u32>,
    /// How long each pull takes at its rate; what passes at once after a pause falls out of it
    #[arg(long, default_value_t = 16)]
    seconds: u32,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Figure {
    limit: &'static str,
    set_mib: f64,
    measured_mib: f64,
    error: f64,
    idle: f64,
}

/// Which limit, and of which node: the first has the blob, the second pulls it.
const KINDS: [(&str, usize); 6] = [
    ("back-to-source", 0),
    ("back-to-source-per-task", 0),
    ("upload", 0),
    ("upload-per-task", 0),
    ("download", 1),
    ("download-per-task", 1),
];

impl Limits {
    /// # Errors
    /// When a pull fails, or a rate is not kept.
    pub fn run(&self) -> Result<()> {
        let topology = Topology {
            seeds: 0,
            nodes: 2,
            has_containerd: false,
            log_level: "warn".to_owned(),
            ..Topology::default()
        };
        let text = "start a registry, a scheduler and 2 nodes";
        let cluster = step(text, || Cluster::start(&topology))?;
        let mut figures = Vec::new();
        for (limit, node) in KINDS {
            for rate in &self.rates {
                let number = figures.len() as u64;
                let text = format!("{limit} {rate} MiB/s");
                let measure = || self.measure(&cluster, (limit, node), *rate, number);
                figures.push(step(&text, measure)?);
            }
        }
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&figures)?),
            false => println!("{}", table(&figures)),
        }
        let quiet = figures.iter().filter(|it| it.idle >= MIN_IDLE);
        let worst = quiet.map(|it| it.error.abs()).fold(0.0, f64::max);
        ensure!(worst <= BAR, "a rate was missed by {:.1} %", worst * 100.0);
        Ok(())
    }

    fn measure(
        &self,
        cluster: &Cluster,
        (limit, limited): (&'static str, usize),
        rate: u32,
        number: u64,
    ) -> Result<Figure> {
        let size = u64::from(rate * self.seconds) << 20;
        let blob = noise(size + number)?;
        let path = cluster
            .registry
            .push_bytes(REPOSITORY, &digest_of(&blob), blob.clone())?;
        let nodes = cluster.nodes();
        let puller = if limit.starts_with("back") { 0 } else { 1 };
        if puller == 1 {
            read(&nodes[0], &path, &blob)?;
            // Nodes help themselves past a slow one: the registry says what it has, and gives none.
            let none = Fault::new(&path, Action::Stall { after_len: 0 });
            cluster.registry.set_faults(&[none])?;
        }
        let option = format!("--{limit}");
        let set = |rate: &str| {
            nodes[limited]
                .hawker(&["limits", &option, rate], LIMIT)?
                .success()
        };
        set(&format!("{rate}MiB/s"))?;
        let (before, began) = (nodes[puller].bytes()?, Processors::read()?);
        let seconds = read(&nodes[puller], &path, &blob)?;
        let idle = Processors::read()?.idle_since(began);
        let after = nodes[puller].bytes()?;
        set("none")?;
        cluster.registry.set_faults(&[])?;
        let way = |it: Bytes| if puller == 0 { it.origin } else { it.parent };
        let came = way(after) - way(before);
        ensure!(
            came >= blob.len() as u64,
            "only {came} of {} bytes came the way that is limited",
            blob.len()
        );
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let (set_mib, measured_mib) = (f64::from(rate), mib(blob.len() as f64) / seconds);
        Ok(Figure {
            limit,
            set_mib,
            measured_mib,
            error: measured_mib / set_mib - 1.0,
            idle,
        })
    }
}

fn read(node: &Member, path: &str, blob: &[u8]) -> Result<f64> {
    let url = format!("http://127.0.0.1:65001{path}?ns={AUTHORITY}");
    let limit = Duration::from_secs(600);
    let done = node.host().enter(|| download(&url, blob, limit)).flatten();
    done.with_context(|| format!("the pull on {} failed", node.name()))
}

fn table(figures: &[Figure]) -> String {
    let mut table = Table::new(&["limit", "set MiB/s", "measured", "error", "cpu idle", ""]);
    for figure in figures {
        let void = figure.idle < MIN_IDLE;
        table.row([
            figure.limit.to_owned(),
            format!("{:.1}", figure.set_mib),
            format!("{:.2}", figure.measured_mib),
            format!("{:+.1} %", figure.error * 100.0),
            format!("{:.0} %", figure.idle * 100.0),
            if void {
                "VOID: the machine was too busy"
            } else {
                ""
            }
            .to_owned(),
        ]);
    }
    table.render()
}
