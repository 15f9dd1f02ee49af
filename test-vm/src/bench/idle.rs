//! `bench idle`: what a `hawkerd` costs that does nothing.

use std::{thread, time::Duration};

use anyhow::{Result, bail};
use serde_json::json;

use crate::{
    cluster::{Cluster, Topology},
    progress::step,
};

/// What a node may take: 24 MiB.
const LIMIT: u64 = 24 << 20;

/// Resident memory and processor time of an idle hawkerd in a cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct Idle {
    /// For how long it does nothing before it is looked at.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    #[arg(long)]
    json: bool,
}

impl Idle {
    /// # Errors
    /// When the cluster does not come up, or a node takes more than 24 MiB.
    pub fn run(&self) -> Result<()> {
        let topology = Topology {
            nodes: 2,
            has_containerd: false,
            ..Topology::default()
        };
        let cluster = step("start a scheduler, a seed and 2 nodes", || {
            Cluster::start(&topology)
        })?;
        let before = cluster.nodes()[0].hawkerd()?.usage()?;
        step(&format!("wait {} s", self.seconds), || {
            thread::sleep(Duration::from_secs(self.seconds));
            Ok(())
        })?;
        let node = cluster.nodes()[0].hawkerd()?.usage()?;
        let scheduler = cluster.scheduler()?.usage()?;
        let cpu = (node.cpu_seconds - before.cpu_seconds) / self.seconds as f64;
        if self.json {
            let (node, scheduler) = (node.memory_len, scheduler.memory_len);
            println!(
                "{}",
                json!({"hawkerd_bytes": node, "scheduler_bytes": scheduler, "cpu": cpu})
            );
        } else {
            let mib = |len: u64| len as f64 / f64::from(1 << 20);
            println!(
                "idle hawkerd: {:.1} MiB resident, {:.2} % of a processor",
                mib(node.memory_len),
                cpu * 100.0
            );
            println!(
                "idle hawker-scheduler: {:.1} MiB resident",
                mib(scheduler.memory_len)
            );
        }
        if node.memory_len > LIMIT {
            bail!("an idle hawkerd takes more than 24 MiB");
        }
        Ok(())
    }
}
