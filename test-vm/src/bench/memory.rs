//! `bench memory`: how much memory a hawkerd takes while it receives and serves much, with many peers
//! connected.
//!
//! A seed fetches blobs, one after the other, from a real registry and hands each piece to one of the
//! peers, which are this program: they speak the protocol and keep nothing. The store is smaller than
//! all that passes, so that a machine's memory disk is enough.

mod peer;

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hawker_identity::{Identity, TlsFiles};
use serde::Serialize;

use self::peer::{Peers, Wanted};
use super::parse_len;
use crate::{
    cluster::{Cluster, Topology},
    image::digest_of,
    progress::step,
    registry::AUTHORITY,
    table::{Table, megabytes, seconds},
};

/// What a hawkerd may take: 64 MiB.
const LIMIT: u64 = 64 << 20;
const REPOSITORY: &str = "bench/memory";
const HOST: &str = "peers";
/// How long one blob may take: the registry and its counter share the machine.
const BLOB_LIMIT: Duration = Duration::from_secs(900);

/// Resident memory of a hawkerd with many peers.
#[derive(Debug, Clone, clap::Args)]
pub struct Memory {
    /// What it receives, and what it sends.
    #[arg(long, default_value = "10GiB", value_parser = parse_len)]
    size: u64,
    /// Of one blob; so much is in the registry, and twice as much in the store.
    #[arg(long, default_value = "1GiB", value_parser = parse_len)]
    blob: u64,
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    peers: u16,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    peers: u16,
    received_bytes: u64,
    sent_bytes: u64,
    seconds: f64,
    cpu_seconds: f64,
    idle_memory: u64,
    /// The largest at any time.
    peak_memory: u64,
    /// After all was done, with the peers still connected.
    last_memory: u64,
}

impl Memory {
    /// # Errors
    /// When a peer gets less than its share, or hawkerd takes more than 64 MiB.
    pub fn run(&self) -> Result<()> {
        let quota = format!("[store]\nquota = \"{}\"\n", self.blob * 2 + (64 << 20));
        let topology = Topology {
            nodes: 0,
            extra_nodes: vec![HOST.to_owned()],
            has_containerd: false,
            log_level: "warn".to_owned(),
            settings: quota,
            ..Topology::default()
        };
        let cluster = step("start a registry, a scheduler and a seed", || {
            let cluster = Cluster::prepare(&topology)?;
            cluster.seeds()[0].start_hawkerd()?;
            cluster.seeds()[0].wait_until_healthy(BLOB_LIMIT)?;
            cluster.seeds()[0].wait_until_scheduled(BLOB_LIMIT)?;
            anyhow::Ok(cluster)
        })?;
        let report = self.measure(&cluster);
        let report = report.inspect_err(|_| eprintln!("{}", cluster.bed().log_tails(10)))?;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => print!("{}", report.render()),
        }
        let peak = report.peak_memory;
        ensure!(
            peak <= LIMIT,
            "hawkerd took {} of at most {}",
            mebibytes(peak),
            mebibytes(LIMIT)
        );
        Ok(())
    }

    fn measure(&self, cluster: &Cluster) -> Result<Report> {
        let seed = &cluster.seeds()[0];
        let hawkerd = seed.hawkerd()?;
        let identities = (1..=self.peers).map(|number| identity(cluster, number));
        let identities = identities.collect::<Result<Vec<_>>>()?;
        let before = hawkerd.usage()?;
        let address = (seed.host().address(), 4005).into();
        let mut peers = Peers::default();
        let host = cluster.bed().host(HOST).context("the bed has no peers")?;
        host.enter(|| peers.connect(seed.name(), address, identities))??;
        let (mut peak, began) = (0, Instant::now());
        let blobs = self.size.div_ceil(self.blob);
        for number in 1..=blobs {
            let text = format!("blob {number} of {blobs}");
            step(&text, || self.pass(cluster, number, &mut peers, &mut peak))?;
        }
        let seconds = began.elapsed().as_secs_f64();
        let (bytes, after) = (seed.bytes()?, hawkerd.usage()?);
        Ok(Report {
            peers: self.peers,
            received_bytes: bytes.origin,
            sent_bytes: bytes.sent,
            seconds,
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            idle_memory: before.memory_len,
            peak_memory: peak.max(after.peak_memory_len),
            last_memory: after.memory_len,
        })
    }

    /// The next blob from the registry through the seed to the peers.
    fn pass(
        &self,
        cluster: &Cluster,
        number: u64,
        peers: &mut Peers,
        peak: &mut u64,
    ) -> Result<()> {
        let hawkerd = cluster.seeds()[0].hawkerd()?;
        let mut blob = vec![0; usize::try_from(self.blob)?];
        rand::fill(blob.as_mut_slice());
        let blob = Bytes::from(blob);
        let digest = digest_of(&blob);
        let registry = &cluster.registry;
        registry.plant_blob(REPOSITORY, &digest, &blob)?;
        drop(blob);
        let url = format!("http://{AUTHORITY}/v2/{REPOSITORY}/blobs/{digest}");
        peers.want(&Wanted::new(&digest, url, self.blob, self.peers)?);
        let limit = Instant::now() + BLOB_LIMIT;
        while !peers.have_all()? {
            ensure!(Instant::now() < limit, "the peers wait for their pieces");
            *peak = (*peak).max(hawkerd.usage()?.memory_len);
            thread::sleep(Duration::from_millis(50));
        }
        // What the peers left to it.
        let seed = &cluster.seeds()[0];
        seed.wait_until_received(number * self.blob, BLOB_LIMIT)?;
        registry.unplant_blob(&digest)
    }
}

fn identity(cluster: &Cluster, number: u16) -> Result<Identity> {
    let name = format!("peer{number}");
    let dir = cluster.authority().issue("node", &name, &[])?;
    let identity = Identity::load(&TlsFiles::in_dir(&dir))?;
    fs::remove_dir_all(&dir)?;
    Ok(identity)
}

fn mebibytes(len: u64) -> String {
    format!("{:.1} MiB", len as f64 / f64::from(1 << 20))
}

impl Report {
    fn render(&self) -> String {
        let mut table = Table::new(&["hawkerd", ""]);
        for (what, value) in [
            ("peers", self.peers.to_string()),
            ("received", megabytes(self.received_bytes)),
            ("sent", megabytes(self.sent_bytes)),
            ("time", seconds(self.seconds)),
            ("processor time", seconds(self.cpu_seconds)),
            ("resident before", mebibytes(self.idle_memory)),
            ("resident, most", mebibytes(self.peak_memory)),
            ("resident at the end", mebibytes(self.last_memory)),
        ] {
            table.row([what.to_owned(), value]);
        }
        format!("\n{}", table.render())
    }
}
