//! A host with a `hawkerd`: a node or a seed.

use std::{
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{Binaries, Containerd, ContainerdSetup, Docker, authority};
use crate::{
    bed::{Host, Process, Run},
    http,
};

const LIMIT: Duration = Duration::from_secs(5);
const START_LIMIT: Duration = Duration::from_secs(30);
const METRICS: &str = "http://127.0.0.1:4002";

/// Bytes by where they came from, as a member's `/metrics` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Bytes {
    pub origin: u64,
    pub seed: u64,
    pub parent: u64,
    /// Served by the mirror from the own store.
    pub local: u64,
    pub sent: u64,
    /// Served by the mirror past the network, straight from the origin.
    pub passed: u64,
    /// Served by the mirror, wherever it came from: what containerd itself has fetched.
    pub served: u64,
}

/// A node or a seed.
#[derive(Debug)]
pub struct Member {
    host: Arc<Host>,
    binaries: Binaries,
    cgroup: String,
    setup: ContainerdSetup,
    hawkerd: Mutex<Option<Arc<Process>>>,
    containerd: Mutex<Option<Containerd>>,
}

impl Member {
    pub(super) fn new(
        host: Arc<Host>,
        binaries: Binaries,
        bed: &str,
        setup: ContainerdSetup,
    ) -> Self {
        let cgroup = Run::cgroup(bed);
        Self {
            host,
            binaries,
            cgroup,
            setup,
            hawkerd: Mutex::default(),
            containerd: Mutex::default(),
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        self.host.name()
    }

    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Starts `hawkerd`, without waiting until it is healthy. Its log goes on in the same file.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_hawkerd(&self) -> Result<Arc<Process>> {
        let process = self
            .host
            .spawn("hawkerd", &mut Command::new(self.binaries.hawkerd()))?;
        *self.hawkerd.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&process));
        Ok(process)
    }

    /// # Errors
    /// When it was never started.
    pub fn hawkerd(&self) -> Result<Arc<Process>> {
        let process = self
            .hawkerd
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        process.with_context(|| format!("{} has no hawkerd", self.name()))
    }

    /// # Errors
    /// When it ends or is not healthy at the limit: with the tail of its log.
    pub fn wait_until_healthy(&self, limit: Duration) -> Result<()> {
        let url = format!("{METRICS}/healthy");
        let is_healthy = || {
            let answer = self.host.enter(|| http::get(&url, LIMIT));
            matches!(answer, Ok(Ok(answer)) if answer.status.is_success())
        };
        self.hawkerd()?.wait_until(limit, is_healthy)
    }

    /// Waits until the member's scheduler session is up.
    ///
    /// # Errors
    /// When it ends or has no scheduler at the limit.
    pub fn wait_until_scheduled(&self, limit: Duration) -> Result<()> {
        let is_up = || {
            let status = self.status().unwrap_or_default();
            let schedulers = status
                .get("schedulers")
                .and_then(|it| it.as_array())
                .cloned();
            schedulers.is_some_and(|all| all.iter().any(|it| it["connected"] == true))
        };
        self.hawkerd()?.wait_until(limit, is_up)
    }

    /// Kills `hawkerd` without a warning.
    ///
    /// # Errors
    /// When it was never started.
    pub fn kill_hawkerd(&self) -> Result<()> {
        self.hawkerd()?.kill();
        Ok(())
    }

    /// Changes the settings of `hawkerd` and starts it again.
    ///
    /// # Errors
    /// When it does not come up with them.
    pub fn restart_with(&self, change: impl FnOnce(&str) -> String) -> Result<()> {
        const SETTINGS: &str = "/etc/hawker/hawkerd.toml";
        let text = std::fs::read_to_string(self.host.path(SETTINGS))?;
        self.host.write(SETTINGS, change(&text))?;
        self.kill_hawkerd()?;
        self.start_hawkerd()?;
        self.wait_until_healthy(START_LIMIT)
    }

    /// `hawker status --json`.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        let output = self.hawker(&["status", "--json"], LIMIT)?.success()?;
        Ok(serde_json::from_str(&output.stdout)?)
    }

    /// Runs the command line program.
    ///
    /// # Errors
    /// When it takes longer than the limit.
    pub fn hawker(&self, arguments: &[&str], limit: Duration) -> Result<crate::bed::Output> {
        self.host
            .run(Command::new(self.binaries.hawker()).args(arguments), limit)
    }

    /// What `/metrics` says of bytes.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn bytes(&self) -> Result<Bytes> {
        let url = format!("{METRICS}/metrics");
        let text = self
            .host
            .enter(|| http::get(&url, LIMIT))??
            .success()?
            .text();
        let received = |source| value(&text, "hawker_piece_received_bytes_total", source);
        let served = |source| value(&text, "hawker_mirror_served_bytes_total", source);
        Ok(Bytes {
            origin: received("origin"),
            seed: received("seed"),
            parent: received("parent"),
            local: served("local"),
            passed: served("pass"),
            served: value(&text, "hawker_mirror_served_bytes_total", ""),
            sent: value(&text, "hawker_piece_sent_bytes_total", ""),
        })
    }

    /// What `/metrics` says under a name with these labels, in their order.
    ///
    /// # Errors
    /// When the daemon does not answer, or says nothing of it.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let url = format!("{METRICS}/metrics");
        let answer = self.host.enter(|| http::get(&url, LIMIT))??.success()?;
        let labels = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""));
        let head = format!("{name}{{{}}} ", labels.collect::<Vec<_>>().join(","));
        let text = answer.text();
        let value = text.lines().find_map(|line| line.strip_prefix(&head));
        let value = value.and_then(|value| value.parse().ok());
        value.with_context(|| format!("{} tells nothing of {head}", self.name()))
    }

    /// How many layers hawkerd has left to containerd because its garbage collection waited.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn releases(&self) -> Result<u64> {
        let url = format!("{METRICS}/metrics");
        let answer = self.host.enter(|| http::get(&url, LIMIT))??.success()?;
        Ok(value(&answer.text(), "hawker_prepare_released_total", "gc"))
    }

    /// Gives the host other certificate files: `ca.pem`, `cert.pem`, `key.pem` of a directory.
    ///
    /// # Errors
    /// When a file is missing.
    pub fn install_certificates(&self, from: &std::path::Path) -> Result<()> {
        authority::install(&self.host, from)
    }

    /// Starts containerd with Hawker in front of every registry.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_containerd(&self) -> Result<Containerd> {
        let containerd = Containerd::launch(&self.host, &self.cgroup, self.setup)?;
        let mut slot = self
            .containerd
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(slot.insert(containerd).clone())
    }

    /// # Errors
    /// When it was never started.
    pub fn containerd(&self) -> Result<Containerd> {
        let containerd = self
            .containerd
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        containerd.with_context(|| format!("{} has no containerd", self.name()))
    }

    /// Starts Docker beside containerd.
    ///
    /// # Errors
    /// When it does not come up, or the member has no containerd.
    pub fn start_docker(&self) -> Result<Docker> {
        self.containerd()?;
        Docker::start(&self.host, &self.cgroup)
    }

    /// Starts a newer Docker, whose images are in the member's containerd.
    ///
    /// # Errors
    /// When it does not come up, or the member has no containerd.
    pub fn start_docker_on_containerd(&self) -> Result<Docker> {
        let snapshotter = self.containerd()?.snapshotter();
        Docker::start_on_containerd(&self.host, &self.cgroup, snapshotter)
    }

    /// Waits until the member has received so many bytes of pieces.
    ///
    /// # Errors
    /// When it has not at the limit.
    pub fn wait_until_received(&self, len: u64, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let bytes = self.bytes()?;
            if bytes.origin + bytes.seed + bytes.parent >= len {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} has only {bytes:?} after {limit:?}", self.name());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Sum of the samples of a metric that carry this label value; of all for "".
fn value(text: &str, name: &str, label: &str) -> u64 {
    let label = format!("\"{label}\"");
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, number) = rest.rsplit_once(' ')?;
        let fits = labels.is_empty() || (labels.starts_with('{') && labels.contains(&label));
        let fits = fits || (label == "\"\"" && labels.starts_with('{'));
        fits.then(|| number.parse::<f64>().ok()).flatten()
    });
    samples.sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_label() {
        let text = "# TYPE x counter\nx_total{source=\"seed\",a=\"b\"} 5\nx_total{source=\"origin\"} 7\n\
                    x_total_more 9\ny_total 3\n";
        assert_eq!(value(text, "x_total", "seed"), 5);
        assert_eq!(value(text, "x_total", ""), 12);
        assert_eq!(value(text, "y_total", ""), 3);
        assert_eq!(value(text, "z_total", ""), 0);
    }
}
