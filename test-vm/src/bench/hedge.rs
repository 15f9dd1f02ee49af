//! `bench hedge`: one node pulls a blob while everything but the registry is dead, silent or slow;
//! each time ÷ the same pull straight from the registry.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use nix::sys::signal::Signal;
use serde::Serialize;

use super::{
    machine::{MIN_IDLE, Processors},
    swarm::{download, noise},
};
use crate::{
    bed::{Link, Rate},
    cluster::{Cluster, Member, Topology},
    image::digest_of,
    progress::step,
    registry::AUTHORITY,
    table::{Table, seconds},
};

const REPOSITORY: &str = "hedge";
const LIMIT: Duration = Duration::from_secs(30);
/// What slow peers send.
const SLOW: &str = "1Mbit/s";
const BAR: f64 = 1.1;

/// A pull with peers that are of no use.
#[derive(Debug, Clone, Args)]
pub struct Hedge {
    /// Rate of every link, the registry's included, both ways
    #[arg(long, default_value = "100mbit")]
    rate: Rate,
    /// The blob
    #[arg(long, default_value = "64MiB", value_parser = super::parse_len)]
    size: u64,
    #[arg(long)]
    json: bool,
}

/// One pull.
#[derive(Debug, Serialize)]
struct Pull {
    what: &'static str,
    seconds: f64,
    over_native: f64,
    /// What the registry sent ÷ the blob.
    registry_over_size: f64,
    idle: f64,
}

struct Bed {
    cluster: Cluster,
    size: u64,
    native: f64,
    pulls: Vec<Pull>,
}

impl Hedge {
    /// # Errors
    /// When a pull gives wrong bytes or none, or a bar is not kept.
    pub fn run(&self) -> Result<()> {
        let topology = Topology {
            seeds: 2,
            nodes: 3,
            link: Link::of_rate(self.rate),
            registry_link: Link::of_rate(self.rate),
            has_containerd: false,
            log_level: "warn".to_owned(),
            ..Topology::default()
        };
        let text = "start a registry, a scheduler, 2 seeds and 3 nodes";
        let cluster = step(text, || Cluster::start(&topology))?;
        let mut bed = Bed {
            cluster,
            size: self.size,
            native: 0.0,
            pulls: Vec::new(),
        };
        bed.play()?;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&bed.pulls)?),
            false => println!("{}", bed.table()),
        }
        let worst = bed.pulls.iter().filter(|pull| pull.idle >= MIN_IDLE);
        let worst = worst.map(|pull| pull.over_native).fold(0.0, f64::max);
        ensure!(worst <= BAR, "a pull took {worst:.2} of its native time");
        Ok(())
    }
}

impl Bed {
    /// What dies stays dead, but for what is cut off half-way: from all being well to nobody being there.
    fn play(&mut self) -> Result<()> {
        let (blob, path) = self.push(0)?;
        self.native = self.pull("straight from the registry", &blob, &path, Way::Straight)?;
        self.pull("all is well", &blob, &path, Way::Mirror)?;

        let (blob, path) = self.push(1)?;
        self.cut_off_half_way(&blob, &path)?;

        let (blob, path) = self.push(2)?;
        self.slow_down(&blob, &path)?;
        self.pull("seeds and peers give 1 Mbit/s", &blob, &path, Way::Mirror)?;

        self.cluster.seeds().iter().try_for_each(stop)?;
        self.cluster.nodes()[1..].iter().try_for_each(stop)?;
        let (blob, path) = self.push(3)?;
        self.pull("seeds accept and hang", &blob, &path, Way::Mirror)?;

        self.cluster.scheduler()?.signal(Signal::SIGSTOP)?;
        let (blob, path) = self.push(4)?;
        self.pull("the scheduler hangs as well", &blob, &path, Way::Mirror)?;

        self.cluster.scheduler()?.kill();
        for member in self.cluster.seeds() {
            member.kill_hawkerd()?;
        }
        let (blob, path) = self.push(5)?;
        self.pull("scheduler and seeds are dead", &blob, &path, Way::Mirror)?;

        self.cluster.nodes()[0].restart_with(|text| {
            let peers = text
                .split_once("[[p2p.seeds]]")
                .map_or(text, |(head, _)| head);
            let rest = text.find("[mirror]").map_or("", |at| &text[at..]);
            format!("{}{rest}", peers.replace("\"scheduler:8002\"", ""))
        })?;
        let (blob, path) = self.push(6)?;
        self.pull("neither scheduler nor seeds", &blob, &path, Way::Mirror)?;
        Ok(())
    }

    /// The seeds' power is gone when half of the time has passed; they are there again after the pull.
    fn cut_off_half_way(&mut self, blob: &[u8], path: &str) -> Result<()> {
        let half = Duration::from_secs_f64(self.native / 2.0);
        let (bed, seeds) = (self.cluster.bed(), self.cluster.seeds());
        let pull = thread::scope(|scope| {
            let cutting = scope.spawn(move || {
                thread::sleep(half);
                seeds.iter().try_for_each(|seed| bed.unplug(seed.host()))
            });
            let pull = self.measure("seeds lose their power half-way", blob, path, Way::Mirror);
            let cut = cutting.join();
            cut.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            pull
        })?;
        self.pulls.push(pull);
        for seed in seeds {
            bed.plug_in(seed.host())?;
            seed.restart_with(str::to_owned)?;
            seed.wait_until_scheduled(LIMIT)?;
        }
        Ok(())
    }

    /// Seeds and the other nodes have the blob, and give it slowly from now on.
    fn slow_down(&self, blob: &Bytes, path: &str) -> Result<()> {
        let others = &self.cluster.nodes()[1..];
        for node in others {
            step("a peer takes the blob", || read(node, &mirror(path), blob))?;
        }
        for member in self.cluster.seeds().iter().chain(others) {
            member
                .hawker(&["limits", "--upload", SLOW], LIMIT)?
                .success()?;
        }
        Ok(())
    }

    fn push(&self, number: u64) -> Result<(Bytes, String)> {
        let blob = noise(self.size + number)?;
        let digest = digest_of(&blob);
        let registry = &self.cluster.registry;
        let path = registry.push_bytes(REPOSITORY, &digest, blob.clone())?;
        Ok((blob, path))
    }

    fn pull(&mut self, what: &'static str, blob: &[u8], path: &str, way: Way) -> Result<f64> {
        let pull = self.measure(what, blob, path, way)?;
        let time = pull.seconds;
        self.pulls.push(pull);
        Ok(time)
    }

    fn measure(&self, what: &'static str, blob: &[u8], path: &str, way: Way) -> Result<Pull> {
        let url = match way {
            Way::Straight => format!("http://{AUTHORITY}{path}"),
            Way::Mirror => mirror(path),
        };
        self.cluster.registry.reset()?;
        let began = Processors::read()?;
        let time = step(what, || read(&self.cluster.nodes()[0], &url, blob))?;
        let idle = Processors::read()?.idle_since(began);
        let sent = self.cluster.registry.tally()?.total.body_bytes;
        let native = if self.native > 0.0 { self.native } else { time };
        Ok(Pull {
            what,
            seconds: time,
            over_native: time / native,
            registry_over_size: sent as f64 / self.size as f64,
            idle,
        })
    }

    fn table(&self) -> String {
        let heads = ["", "time", "/native", "registry bytes/size", "cpu idle", ""];
        let mut table = Table::new(&heads);
        for pull in &self.pulls {
            let void = pull.idle < MIN_IDLE;
            table.row([
                pull.what.to_owned(),
                seconds(pull.seconds),
                format!("{:.2}", pull.over_native),
                format!("{:.3}", pull.registry_over_size),
                format!("{:.0} %", pull.idle * 100.0),
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
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Straight,
    Mirror,
}

fn mirror(path: &str) -> String {
    format!("http://127.0.0.1:65001{path}?ns={AUTHORITY}")
}

fn read(node: &Member, url: &str, blob: &[u8]) -> Result<f64> {
    let limit = Duration::from_secs(600);
    let done = node.host().enter(|| download(url, blob, limit)).flatten();
    done.with_context(|| format!("the pull on {} failed", node.name()))
}

/// It takes connections, but says nothing any more.
fn stop(member: &Member) -> Result<()> {
    member.hawkerd()?.signal(Signal::SIGSTOP)
}
