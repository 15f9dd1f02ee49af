//! A stock Docker daemon on a host that uses the mirror by `registry-mirrors` alone.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::Result;

use super::settings;
use crate::bed::{Host, Output};

const START_LIMIT: Duration = Duration::from_secs(60);
const PULL_LIMIT: Duration = Duration::from_secs(280);

/// A running dockerd.
#[derive(Debug, Clone)]
pub struct Docker {
    host: Arc<Host>,
}

impl Docker {
    pub(super) fn start(host: &Arc<Host>, cgroup: &str) -> Result<Self> {
        host.write(
            "/etc/docker/daemon.json",
            settings::docker(cgroup).to_string(),
        )?;
        let process = host.spawn("dockerd", &mut Command::new("dockerd"))?;
        let this = Self {
            host: Arc::clone(host),
        };
        let is_up = || {
            this.docker(&["version"])
                .is_ok_and(|output| output.status.success())
        };
        process.wait_until(START_LIMIT, is_up)?;
        Ok(this)
    }

    /// # Errors
    /// When the pull fails.
    pub fn pull(&self, reference: &str) -> Result<Output> {
        self.docker(&["pull", reference])?.success()
    }

    /// Runs a container to its end and returns what it printed.
    ///
    /// # Errors
    /// When it does not start or does not exit with 0.
    pub fn run(&self, reference: &str, words: &[&str]) -> Result<String> {
        let arguments = ["run", "--rm", "--network", "host", reference];
        Ok(self
            .docker(&[&arguments[..], words].concat())?
            .success()?
            .stdout)
    }

    fn docker(&self, arguments: &[&str]) -> Result<Output> {
        self.host
            .run(Command::new("docker").args(arguments), PULL_LIMIT)
    }
}
