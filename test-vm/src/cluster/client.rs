//! What people and kubelets do with a containerd, through its clients.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Containerd, ContainerdVersion};
use crate::{
    bed::{Host, Output},
    tools::NERDCTL,
};

const PULL_LIMIT: Duration = Duration::from_secs(280);
const LIMIT: Duration = Duration::from_secs(60);
const HOSTS: &str = "/etc/containerd/certs.d";

/// A program that speaks to containerd.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
pub enum Client {
    /// Of the kubelet's interface.
    Crictl,
    /// As Docker's.
    Nerdctl,
    /// containerd's own.
    Ctr,
    /// The same that pulls by itself, as it did before containerd 2.0.
    CtrLocal,
    /// Docker's, with a daemon whose images are containerd's.
    Docker,
}

impl Client {
    pub const ALL: [Self; 5] = [
        Self::Crictl,
        Self::Nerdctl,
        Self::Ctr,
        Self::CtrLocal,
        Self::Docker,
    ];

    /// Those that there are with a version: only the newer `ctr` pulls in two ways, and the Docker
    /// that has its images in containerd wants a newer one than Debian's.
    #[must_use]
    pub fn all_of(version: ContainerdVersion) -> &'static [Self] {
        match version {
            ContainerdVersion::V2 => &Self::ALL,
            ContainerdVersion::V1_7 => &[Self::Crictl, Self::Nerdctl, Self::Ctr, Self::Docker],
            ContainerdVersion::Debian => &[Self::Crictl, Self::Nerdctl, Self::Ctr],
        }
    }

    /// Whether it pulls without a word on the image in its requests for snapshots.
    #[must_use]
    pub fn is_mute_on(self, version: ContainerdVersion) -> bool {
        match self {
            Self::Crictl | Self::Nerdctl | Self::Docker => false,
            Self::Ctr => version != ContainerdVersion::V2,
            Self::CtrLocal => true,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crictl => "crictl",
            Self::Nerdctl => "nerdctl",
            Self::Ctr => "ctr",
            Self::CtrLocal => "ctr --local",
            Self::Docker => "docker",
        }
    }

    /// The same in names of images and namespaces.
    #[must_use]
    pub fn slug(self) -> &'static str {
        match self {
            Self::CtrLocal => "ctr-local",
            _ => self.name(),
        }
    }

    /// Where its images and containers are when nobody says otherwise.
    #[must_use]
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Crictl => "k8s.io",
            Self::Nerdctl | Self::Ctr | Self::CtrLocal => "default",
            Self::Docker => "moby",
        }
    }
}

/// A client of one containerd in one namespace.
#[derive(Debug, Clone)]
pub struct Session {
    containerd: Containerd,
    client: Client,
    namespace: String,
    snapshotter: &'static str,
    /// `NAME:PASSWORD`.
    account: Option<String>,
}

impl Containerd {
    /// A client in its usual namespace.
    #[must_use]
    pub fn client(&self, client: Client) -> Session {
        Session {
            containerd: self.clone(),
            client,
            namespace: client.namespace().to_owned(),
            snapshotter: self.snapshotter(),
            account: None,
        }
    }
}

impl Session {
    /// In another namespace; crictl and docker have one alone.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// With another snapshotter than containerd's own; crictl and docker have no say in it.
    #[must_use]
    pub fn with_snapshotter(mut self, snapshotter: &'static str) -> Self {
        self.snapshotter = snapshotter;
        self
    }

    /// Pulls with an account, `NAME:PASSWORD`; nerdctl has it from a file.
    #[must_use]
    pub fn with_account(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    #[must_use]
    pub fn client(&self) -> Client {
        self.client
    }

    #[must_use]
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// Does something else with the client; returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        let output = self.host().run(self.command()?.args(words), PULL_LIMIT)?;
        Ok(output.success()?.stdout)
    }

    /// # Errors
    /// When the pull fails.
    pub fn pull(&self, reference: &str) -> Result<Output> {
        self.try_pull(reference)?.success()
    }

    /// # Errors
    /// When the pull cannot be started or hangs; whether it failed is in its status.
    pub fn try_pull(&self, reference: &str) -> Result<Output> {
        let mut command = self.pull_command(reference)?;
        self.host().run(&mut command, PULL_LIMIT)
    }

    /// The pull as a command, for those who want to kill it.
    ///
    /// # Errors
    /// When the client cannot be built.
    pub fn pull_command(&self, reference: &str) -> Result<Command> {
        let mut command = self.command()?;
        match self.client {
            Client::Crictl => command.arg("pull"),
            Client::Nerdctl | Client::Docker => command.args(["pull", "-q"]),
            Client::Ctr => command.args(["images", "pull", "--hosts-dir", HOSTS]),
            Client::CtrLocal => command.args(["images", "pull", "--local", "--hosts-dir", HOSTS]),
        };
        if self.is_ctr() {
            command.args(["--snapshotter", self.snapshotter]);
        }
        if let Some(account) = &self.account {
            let option = match self.client {
                Client::Crictl => "--creds",
                Client::Ctr | Client::CtrLocal => "--user",
                Client::Nerdctl | Client::Docker => {
                    bail!("it pulls with the accounts of its file alone")
                }
            };
            command.args([option, account]);
        }
        command.arg(reference);
        Ok(command)
    }

    /// Runs a container to its end; returns what it printed. With crictl it is one of a pod.
    ///
    /// # Errors
    /// When it does not start, or does not exit with 0.
    pub fn run(&self, reference: &str, words: &[&str]) -> Result<String> {
        let name = format!("c{:08x}", rand::random::<u32>());
        let mut command = self.command()?;
        match self.client {
            Client::Crictl => return self.run_in_pod(&name, reference, words),
            Client::Nerdctl => {
                command.args(["run", "--rm", "--net", "host", "--name", &name]);
                self.add_group(&mut command);
                command.arg(reference);
            }
            Client::Docker => {
                command.args(["run", "--rm", "--network", "host", reference]);
            }
            Client::Ctr | Client::CtrLocal => {
                command.args(["run", "--rm", "--net-host"]);
                command.args(["--snapshotter", self.snapshotter]);
                command.args(["--cgroup", &self.containerd.cgroup()]);
                command.args([reference, &name]);
            }
        }
        let output = self.host().run(command.args(words), LIMIT)?.success()?;
        Ok(output.stdout)
    }

    /// Makes an image of a container in which `words` have run; nerdctl and docker can.
    ///
    /// # Errors
    /// When the container or the image cannot be made.
    pub fn commit(&self, reference: &str, words: &[&str], into: &str) -> Result<()> {
        let name = format!("c{:08x}", rand::random::<u32>());
        let mut command = self.command()?;
        command.args(["run", "--net", "host", "--name", &name]);
        match self.client {
            Client::Nerdctl => self.add_group(&mut command),
            Client::Docker => {}
            _ => bail!("{} does not commit", self.client.name()),
        }
        command.arg(reference).args(words);
        self.host().run(&mut command, LIMIT)?.success()?;
        self.ask(&["commit", &name, into])?;
        self.ask(&["rm", "-f", &name]).map(drop)
    }

    /// # Errors
    /// When the image is not there or in use.
    pub fn remove_image(&self, reference: &str) -> Result<()> {
        let mut command = self.command()?;
        match self.client {
            Client::Crictl => command.args(["rmi", reference]),
            Client::Nerdctl | Client::Docker => command.args(["rmi", "-f", reference]),
            Client::Ctr | Client::CtrLocal => command.args(["images", "rm", "--sync", reference]),
        };
        self.host().run(&mut command, LIMIT)?.success().map(drop)
    }

    /// Removes every image that nothing uses. The `ctr` of 1.6 cannot: it removes all.
    ///
    /// # Errors
    /// When the client fails.
    pub fn prune(&self) -> Result<()> {
        let mut command = self.command()?;
        match self.client {
            Client::Crictl => {
                command.args(["rmi", "--prune"]);
            }
            Client::Nerdctl | Client::Docker => {
                command.args(["image", "prune", "-a", "-f"]);
            }
            Client::Ctr | Client::CtrLocal => {
                command.args(["images", "rm", "--sync"]);
                command.args(self.images()?);
            }
        }
        self.host().run(&mut command, LIMIT)?.success().map(drop)
    }

    /// References of the images of the namespace.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub fn images(&self) -> Result<Vec<String>> {
        let mut command = Command::new("ctr");
        command.args(["-n", &self.namespace, "images", "ls", "-q"]);
        let output = self.host().run(&mut command, LIMIT)?.success()?;
        Ok(output.stdout.lines().map(str::to_owned).collect())
    }

    fn is_ctr(&self) -> bool {
        matches!(self.client, Client::Ctr | Client::CtrLocal)
    }

    fn host(&self) -> &Host {
        self.containerd.host()
    }

    /// The program with what it has to know of this containerd.
    fn command(&self) -> Result<Command> {
        let namespace = ["-n", self.namespace.as_str()];
        Ok(match self.client {
            Client::Crictl => self.containerd.crictl_command()?,
            Client::Nerdctl => {
                let mut command = Command::new(NERDCTL.path()?);
                command.args(namespace).args(["--hosts-dir", HOSTS]);
                command.args(["--cgroup-manager", "cgroupfs"]);
                command.args(["--snapshotter", self.snapshotter]);
                command
            }
            Client::Docker => Command::new("docker"),
            Client::Ctr | Client::CtrLocal => {
                let mut command = Command::new("ctr");
                command.args(namespace);
                command
            }
        })
    }

    fn add_group(&self, command: &mut Command) {
        command.args(["--cgroup-parent", &self.containerd.cgroup()]);
    }

    fn run_in_pod(&self, name: &str, reference: &str, words: &[&str]) -> Result<String> {
        let crictl = |words: &[&str]| -> Result<String> {
            let output = self.containerd.crictl(words)?.success()?;
            Ok(output.stdout.trim().to_owned())
        };
        let dir = format!("/run/testbed-pods/{name}");
        let (pod_file, container_file) = (format!("{dir}/pod.json"), format!("{dir}/it.json"));
        self.host().write(&pod_file, self.pod(name, &dir))?;
        self.host()
            .write(&container_file, container(reference, words))?;
        let pod = crictl(&["runp", &pod_file]).context("the pod does not start")?;
        let container = crictl(&["create", &pod, &container_file, &pod_file])?;
        crictl(&["start", &container])?;
        let printed = self.await_exit(&container);
        crictl(&["rmp", "-f", &pod])?;
        printed
    }

    /// What a pod's container has printed when it has exited with 0.
    fn await_exit(&self, container: &str) -> Result<String> {
        let began = Instant::now();
        loop {
            let text = self.containerd.crictl(&["inspect", container])?.success()?;
            let status: serde_json::Value = serde_json::from_str(&text.stdout)?;
            let status = &status["status"];
            if status["state"] == "CONTAINER_EXITED" {
                let output = self.containerd.crictl(&["logs", container])?.success()?;
                let code = &status["exitCode"];
                ensure!(
                    *code == 0,
                    "it exited with {code}: {}{}",
                    output.stdout,
                    output.stderr
                );
                return Ok(output.stdout);
            }
            if began.elapsed() > LIMIT {
                bail!("the pod's container is {} after {LIMIT:?}", status["state"]);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn pod(&self, name: &str, dir: &str) -> String {
        json!({
            "metadata": {"name": name, "uid": name, "namespace": "default", "attempt": 0},
            "log_directory": dir,
            "linux": {
                "cgroup_parent": self.containerd.cgroup(),
                "security_context": {"namespace_options": {"network": NODE}},
            },
        })
        .to_string()
    }
}

/// The host's network, as CRI numbers it: no plugin has to give the pod another.
const NODE: u32 = 2;

fn container(reference: &str, words: &[&str]) -> String {
    json!({
        "metadata": {"name": "it"},
        "image": {"image": reference},
        "command": words,
        "log_path": "it.log",
        "linux": {"security_context": {"namespace_options": {"network": NODE}}},
    })
    .to_string()
}
