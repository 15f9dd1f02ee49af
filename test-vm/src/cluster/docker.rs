//! Docker daemons on a host: Debian's, which uses the mirror by `registry-mirrors` alone, and a newer
//! one whose images are containerd's.

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::settings;
use crate::{
    bed::{Host, Output, Process},
    tools::DOCKERD,
};

const START_LIMIT: Duration = Duration::from_secs(60);
const PULL_LIMIT: Duration = Duration::from_secs(280);

/// What `docker login` would have written.
#[derive(Debug, Clone)]
pub struct Login {
    /// The registry; Docker Hub is "https://index.docker.io/v1/".
    pub registry: String,
    /// `NAME:PASSWORD`.
    pub account: String,
}

impl Login {
    fn config(&self) -> String {
        let auth = STANDARD.encode(&self.account);
        json!({"auths": {&self.registry: {"auth": auth}}}).to_string()
    }
}

/// A running dockerd.
#[derive(Debug, Clone)]
pub struct Docker {
    host: Arc<Host>,
    process: Arc<Process>,
}

impl Docker {
    /// Debian's, with images of its own.
    pub(super) fn start(host: &Arc<Host>, cgroup: &str) -> Result<Self> {
        let settings = settings::docker(cgroup);
        Self::launch(host, &settings, "dockerd".into())
    }

    /// A newer one, with its images in containerd, unpacked by one of its snapshotters.
    pub(super) fn start_on_containerd(
        host: &Arc<Host>,
        cgroup: &str,
        snapshotter: &str,
    ) -> Result<Self> {
        let hosts = settings::registry_hosts();
        host.write("/etc/docker/certs.d/registry:5000/hosts.toml", hosts)?;
        let mut settings = settings::docker(cgroup);
        // Debian's runc knows no namespaces of time.
        settings["features"] = json!({"containerd-snapshotter": true, "time-namespaces": false});
        settings["storage-driver"] = snapshotter.into();
        Self::launch(host, &settings, DOCKERD.path()?)
    }

    fn launch(host: &Arc<Host>, settings: &serde_json::Value, program: PathBuf) -> Result<Self> {
        host.write("/etc/docker/daemon.json", settings.to_string())?;
        let process = host.spawn("dockerd", &mut Command::new(program))?;
        let this = Self {
            host: Arc::clone(host),
            process,
        };
        let is_up = || {
            this.docker(&["version"])
                .is_ok_and(|output| output.status.success())
        };
        this.process.wait_until(START_LIMIT, is_up)?;
        Ok(this)
    }

    /// # Errors
    /// When the pull fails.
    pub fn pull(&self, reference: &str) -> Result<Output> {
        self.docker(&["pull", reference])?.success()
    }

    /// A pull with an account of a registry, or with none.
    ///
    /// # Errors
    /// When the pull cannot be started or hangs; whether it failed is in its status.
    pub fn try_pull(&self, reference: &str, login: Option<&Login>) -> Result<Output> {
        let Some(login) = login else {
            return self.docker(&["pull", reference]);
        };
        let dir = format!("/run/testbed-docker/{:08x}", rand::random::<u32>());
        self.host
            .write(&format!("{dir}/config.json"), login.config())?;
        self.docker(&["--config", &dir, "pull", reference])
    }

    /// Its daemon.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
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
