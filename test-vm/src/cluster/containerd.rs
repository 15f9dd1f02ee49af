//! A stock containerd on a host, and its two clients: crictl and ctr.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result};

use super::settings;
use crate::{
    bed::{Host, Output, Process},
    tools::CRICTL,
};

const START_LIMIT: Duration = Duration::from_secs(30);
const PULL_LIMIT: Duration = Duration::from_secs(280);
const SOCKET: &str = "unix:///run/containerd/containerd.sock";

/// A running containerd.
#[derive(Debug, Clone)]
pub struct Containerd {
    host: Arc<Host>,
    process: Arc<Process>,
    cgroup: String,
}

impl Containerd {
    /// Starts it with Hawker's mirror in front of every registry.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn start(host: &Arc<Host>, cgroup: &str) -> Result<Self> {
        host.write(
            "/etc/containerd/certs.d/_default/hosts.toml",
            settings::ALL_HOSTS,
        )?;
        Self::start_with(host, cgroup, &settings::registry_hosts())
    }

    /// Starts it without a mirror.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn start_straight(host: &Arc<Host>, cgroup: &str) -> Result<Self> {
        Self::start_with(host, cgroup, &settings::straight_hosts())
    }

    fn start_with(host: &Arc<Host>, cgroup: &str, hosts: &str) -> Result<Self> {
        host.write("/etc/containerd/config.toml", settings::CONTAINERD)?;
        host.write("/etc/containerd/certs.d/registry:5000/hosts.toml", hosts)?;
        let process = host.spawn("containerd", &mut Command::new("containerd"))?;
        let this = Self {
            host: Arc::clone(host),
            process,
            cgroup: cgroup.to_owned(),
        };
        let is_up = || {
            this.crictl(&["version"])
                .is_ok_and(|output| output.status.success())
        };
        this.process.wait_until(START_LIMIT, is_up)?;
        Ok(this)
    }

    /// `crictl pull`, as the kubelet does it.
    ///
    /// # Errors
    /// When the pull fails.
    pub fn pull(&self, reference: &str) -> Result<Output> {
        self.crictl(&["pull", reference])?.success()
    }

    /// `crictl pull` with an account, as the kubelet does with a pull secret.
    ///
    /// # Errors
    /// When the pull fails.
    pub fn pull_with(&self, reference: &str, account: &str) -> Result<Output> {
        self.crictl(&["pull", "--creds", account, reference])?
            .success()
    }

    /// # Errors
    /// When crictl cannot be started, or hangs.
    pub fn crictl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(CRICTL.path()?);
        command.args([
            "--runtime-endpoint",
            SOCKET,
            "--image-endpoint",
            SOCKET,
            "--timeout",
            "270s",
        ]);
        self.host.run(command.args(arguments), PULL_LIMIT)
    }

    /// Runs a container of a pulled image to its end and returns what it printed.
    ///
    /// # Errors
    /// When it does not start or does not exit with 0.
    pub fn run(&self, reference: &str, words: &[&str]) -> Result<String> {
        let cgroup = format!("/{}/{}", self.cgroup, self.host.name());
        let mut command = Command::new("ctr");
        command.args([
            "-n",
            "k8s.io",
            "run",
            "--rm",
            "--net-host",
            "--cgroup",
            &cgroup,
        ]);
        command.arg(reference).arg("testbed").args(words);
        Ok(self
            .host
            .run(&mut command, Duration::from_secs(60))?
            .success()?
            .stdout)
    }

    /// Runs `work` in the host with the image's tree mounted, for looking at its files.
    ///
    /// # Errors
    /// When the image cannot be mounted.
    pub fn with_tree<T: Send>(
        &self,
        reference: &str,
        work: impl FnOnce(&std::path::Path) -> Result<T> + Send,
    ) -> Result<T> {
        const AT: &str = "/run/testbed-tree";
        let ctr = |words: &[&str]| {
            let mut command = Command::new("ctr");
            command.args(["-n", "k8s.io", "images"]).args(words);
            self.host
                .run(&mut command, Duration::from_secs(60))?
                .success()
        };
        std::fs::create_dir_all(self.host.path(AT))?;
        ctr(&["mount", reference, AT]).context("failed to mount the image")?;
        let done = self.host.enter(|| work(std::path::Path::new(AT)))?;
        ctr(&["unmount", "--rm", AT])?;
        done
    }
}
