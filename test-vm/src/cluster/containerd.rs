//! A containerd on a host, and what the testbed asks of it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{ContainerdVersion, Profile, settings};
use crate::{
    bed::{Host, Output, Process},
    tools::CRICTL,
};

const START_LIMIT: Duration = Duration::from_secs(30);
const PULL_LIMIT: Duration = Duration::from_secs(280);
const LIMIT: Duration = Duration::from_secs(60);
const SOCKET: &str = "unix:///run/containerd/containerd.sock";

/// A running containerd.
#[derive(Debug, Clone)]
pub struct Containerd {
    host: Arc<Host>,
    process: Arc<Process>,
    cgroup: String,
    setup: ContainerdSetup,
}

/// Which containerd, and what of Hawker it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerdSetup {
    pub version: ContainerdVersion,
    /// Nothing: it goes straight to the registry and knows no Hawker.
    pub profile: Option<Profile>,
    /// Whether it may decompress with `unpigz` where the machine has that.
    pub has_pigz: bool,
    /// Whether CRI gives up the layers' content once they are unpacked.
    pub discards_layers: bool,
    /// Whether no namespace sees the content of another.
    pub is_isolated: bool,
}

impl Containerd {
    /// # Errors
    /// When it cannot be built, or does not answer in time.
    pub fn launch(host: &Arc<Host>, cgroup: &str, setup: ContainerdSetup) -> Result<Self> {
        let certs = "/etc/containerd/certs.d";
        if setup.profile.is_some() {
            host.write(&format!("{certs}/_default/hosts.toml"), settings::ALL_HOSTS)?;
        }
        let hosts = match setup.profile {
            Some(_) => settings::registry_hosts(),
            None => settings::straight_hosts(),
        };
        host.write(&format!("{certs}/registry:5000/hosts.toml"), hosts)?;
        let config = setup.version.settings(&setup);
        host.write("/etc/containerd/config.toml", config)?;
        if let Some(programs) = setup.version.programs()? {
            host.prefer(&programs);
        }
        let mut command = Command::new("containerd");
        if !setup.has_pigz {
            command.env("CONTAINERD_DISABLE_PIGZ", "1");
        }
        let this = Self {
            host: Arc::clone(host),
            process: host.spawn("containerd", &mut command)?,
            cgroup: cgroup.to_owned(),
            setup,
        };
        let is_up = || {
            this.crictl(&["version"])
                .is_ok_and(|output| output.status.success())
        };
        this.process.wait_until(START_LIMIT, is_up)?;
        Ok(this)
    }

    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    #[must_use]
    pub fn setup(&self) -> ContainerdSetup {
        self.setup
    }

    /// Where its images are unpacked to.
    #[must_use]
    pub fn snapshotter(&self) -> &'static str {
        self.setup.profile.map_or("overlayfs", Profile::snapshotter)
    }

    /// The control group of what runs on this host.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("/{}/{}", self.cgroup, self.host.name())
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
        self.host
            .run(self.crictl_command()?.args(arguments), PULL_LIMIT)
    }

    pub(super) fn crictl_command(&self) -> Result<Command> {
        let mut command = Command::new(CRICTL.path()?);
        command.args(["--runtime-endpoint", SOCKET, "--image-endpoint", SOCKET]);
        command.args(["--timeout", "270s"]);
        Ok(command)
    }

    /// Runs a container of a pulled image to its end and returns what it printed.
    ///
    /// # Errors
    /// When it does not start or does not exit with 0.
    pub fn run(&self, reference: &str, words: &[&str]) -> Result<String> {
        let mut command = Command::new("ctr");
        command.args(["-n", "k8s.io", "run", "--rm", "--net-host", "--cgroup"]);
        command.args([&self.cgroup(), "--snapshotter", self.snapshotter()]);
        command.arg(reference).arg("testbed").args(words);
        Ok(self.host.run(&mut command, LIMIT)?.success()?.stdout)
    }

    /// Starts a container of a pulled image, which goes on. Returns its name.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self, reference: &str, words: &[&str]) -> Result<String> {
        let name = format!("c{:08x}", rand::random::<u32>());
        let by = ["--snapshotter", self.snapshotter()];
        let group = ["--net-host", "--cgroup", &self.cgroup()];
        let run = [&["run", "-d"], &by[..], &group, &[reference, &name], words];
        self.ctr(&run.concat())?;
        Ok(name)
    }

    /// Runs another program in a container and returns what it printed.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn execute(&self, container: &str, words: &[&str]) -> Result<String> {
        let by = ["tasks", "exec", "--exec-id", "testbed", container];
        self.ctr(&[&by[..], words].concat())
    }

    /// Kills and removes a container.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn end(&self, container: &str) -> Result<()> {
        self.ctr(&["tasks", "rm", "--force", container])?;
        self.ctr(&["containers", "rm", container]).map(drop)
    }

    /// Runs `work` in the host with the image's tree mounted as that of a container, for looking at
    /// its files. It also gets the directories of the layers, the uppermost first.
    ///
    /// # Errors
    /// When the image cannot be mounted.
    pub fn with_tree<T: Send>(
        &self,
        reference: &str,
        work: impl FnOnce(&Path, &[PathBuf]) -> Result<T> + Send,
    ) -> Result<T> {
        let name = format!("tree-{:08x}", rand::random::<u32>());
        let at = format!("/run/testbed-{name}");
        std::fs::create_dir_all(self.host.path(&at))?;
        let by = ["--snapshotter", self.snapshotter()];
        // The container keeps its snapshot from being collected; it never runs.
        self.ctr(&[&["containers", "create"], &by[..], &[reference, &name]].concat())?;
        let mount = self.ctr(&[&["snapshots"], &by[..], &["mounts", &at, &name]].concat())?;
        let layers = layers(&mount).context("no directories of layers")?;
        let mut command = Command::new("sh");
        command.args(["-c", &shortened(&mount, &layers)]);
        let mounted = self.host.run(&mut command, LIMIT)?;
        mounted.success().context("failed to mount the image")?;
        let done = self.host.enter(|| work(Path::new(&at), &layers))?;
        let mut command = Command::new("umount");
        self.host.run(command.arg(&at), LIMIT)?.success()?;
        self.ctr(&["containers", "rm", &name])?;
        done
    }

    /// `ctr` in the namespace of CRI.
    fn ctr(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("ctr");
        command.args(["-n", "k8s.io"]).args(words);
        Ok(self.host.run(&mut command, LIMIT)?.success()?.stdout)
    }
}

/// The lower directories that `ctr snapshots mounts` names.
fn layers(mount: &str) -> Option<Vec<PathBuf>> {
    let mut options = mount.split([' ', ',', '\n']);
    let lower = options.find_map(|option| option.strip_prefix("lowerdir="))?;
    Some(lower.split(':').map(PathBuf::from).collect())
}

/// The same mount from within the directory of all snapshots: the kernel takes a page of options.
fn shortened(mount: &str, layers: &[PathBuf]) -> String {
    let all = layers.first().and_then(|layer| layer.ancestors().nth(2));
    let all = all.unwrap_or_else(|| Path::new("/")).display();
    format!("cd {all} && {}", mount.replace(&format!("{all}/"), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_from_a_mount() {
        let mount = "mount -t overlay overlay /at -o index=off,lowerdir=/s/2/fs:/s/1/fs,x=y\n";
        let paths = ["/s/2/fs", "/s/1/fs"].map(PathBuf::from);
        assert_eq!(layers(mount), Some(paths.to_vec()));
        let short = "cd /s && mount -t overlay overlay /at -o index=off,lowerdir=2/fs:1/fs,x=y\n";
        assert_eq!(shortened(mount, &paths), short);
        assert_eq!(layers("mount -t bind /s/1/fs /at -o rbind"), None);
    }
}
