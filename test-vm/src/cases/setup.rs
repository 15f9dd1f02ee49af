//! `hawker setup` and `hawker doctor` on a host whose containerd has settings of its own.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    bed::{Bed, Output},
    cluster::{Cluster, ContainerdVersion, Member, Topology},
    image,
    registry::Registry,
    tools::CRICTL,
};

pub(super) const CASES: &[Case] = &[
    Case::new("setup_on_containerd_1_6_is_taken_back", 180, || {
        set_up_and_undo(ContainerdVersion::Debian)
    }),
    Case::new("setup_on_containerd_2_is_taken_back", 180, || {
        set_up_and_undo(ContainerdVersion::V2)
    }),
    Case::new("setup_that_cannot_be_verified_changes_nothing", 180, || {
        [ContainerdVersion::Debian, ContainerdVersion::V2]
            .into_iter()
            .try_for_each(set_up_in_vain)
    }),
];

const LIMIT: Duration = Duration::from_secs(90);
const SOCKET: &str = "unix:///run/containerd/containerd.sock";
pub(super) const RESTART: &str = "sh /run/restart-containerd";
/// More than the manifests and configs of an image of noise; every layer is larger.
const HEADS: u64 = 100_000;

/// What a service manager does: ends the old one and waits for it, then starts the new one.
const RESTART_SCRIPT: &str = "\
pid=/run/containerd.pid
if [ -e $pid ]; then
  kill $(cat $pid)
  while kill -0 $(cat $pid) 2>/dev/null; do sleep 0.05; done
fi
containerd </dev/null >>/run/containerd.log 2>&1 &
echo $! >$pid
";

/// As they were written long ago, with what later versions do not take any more.
const SETTINGS_1: &str = "\
# The settings of this rack; ask before you touch them.
version = 2

[plugins]
  [plugins.\"io.containerd.grpc.v1.cri\"]
    sandbox_image = \"registry:5000/testbed/pause:1\" # ours
    max_concurrent_downloads = 5
    restrict_oom_score_adj = true
    [plugins.\"io.containerd.grpc.v1.cri\".registry]
      [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]
        [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"registry:5000\"]
          endpoint = [\"http://registry:5000\"]
";
const SETTINGS_2: &str = "\
# The settings of this rack; ask before you touch them.
version = 3

[plugins.'io.containerd.cri.v1.images']
  max_concurrent_downloads = 5
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = 'registry:5000/testbed/pause:1' # ours
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '/etc/containerd/certs.d'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
";
const HOSTS_2: &str = "\
# Has no TLS.
server = \"http://registry:5000\"

[host.\"http://registry:5000\"]
  capabilities = [\"pull\", \"resolve\"]
";

fn set_up_and_undo(version: ContainerdVersion) -> Result<()> {
    let site = Site::start(version)?;
    let before = site.files()?;
    site.pull_straight("setup-before")?;

    let verified = site.push("setup-verified")?;
    let arguments = ["--yes", "--restart-command", RESTART, "--verify", &verified];
    let shown = site.set_up(&["--dry-run"])?.success()?.stdout;
    ensure!(site.files()? == before, "a dry run changed files");
    let done = site.set_up(&arguments)?.success()?.stdout;
    println!("--- setup on containerd {} ---\n{done}", version.name());
    ensure!(shown.contains("hawker") && done.contains("pulled"));
    site.pull_through_hawker("setup-after")?;
    let after = site.files()?;
    let again = site.set_up(&["--yes"])?.success()?.stdout;
    ensure!(again.contains("nothing to change"), "{again}");
    ensure!(site.files()? == after, "a second setup changed files");
    site.consult_doctor()?;

    let arguments = ["--undo", "--restart-command", RESTART];
    site.set_up(&arguments)?.success()?;
    ensure!(site.files()? == before, "{:?}", site.files()?.keys());
    site.pull_straight("setup-undone")
}

fn set_up_in_vain(version: ContainerdVersion) -> Result<()> {
    let site = Site::start(version)?;
    let before = site.files()?;
    let image = site.push("setup-failed")?;
    site.node().hawkerd()?.terminate(LIMIT)?;

    let arguments = ["--yes", "--restart-command", RESTART, "--verify", &image];
    let output = site.set_up(&arguments)?;
    println!("{}{}", output.stdout, output.stderr);

    ensure!(output.status.code() == Some(1), "{:?}", output.status);
    ensure!(output.stderr.contains("everything is as it was before"));
    ensure!(site.files()? == before, "{:?}", site.files()?.keys());
    site.pull_straight("setup-failed")
        .context("with the old settings")
}

/// A cluster with one node, whose containerd was there before Hawker.
pub(super) struct Site(Cluster);

impl Site {
    pub(super) fn start(version: ContainerdVersion) -> Result<Self> {
        let site = Self(Cluster::start(&Topology {
            nodes: 1,
            has_containerd: false,
            ..Topology::default()
        })?);
        let host = site.node().host();
        let path = "/etc/containerd/config.toml";
        match version {
            ContainerdVersion::V2 => {
                host.write(path, SETTINGS_2)?;
                let hosts = "/etc/containerd/certs.d/registry:5000/hosts.toml";
                host.write(hosts, HOSTS_2)?;
            }
            _ => host.write(path, SETTINGS_1)?,
        }
        host.write("/run/restart-containerd", RESTART_SCRIPT)?;
        if let Some(programs) = version.programs()? {
            host.prefer(&programs);
        }
        host.prefer(&CRICTL.dir()?);
        host.run(Command::new("sh").args(["-c", RESTART]), LIMIT)?
            .success()?;
        site.wait_until_up()?;
        Ok(site)
    }

    pub(super) fn node(&self) -> &Member {
        &self.0.nodes()[0]
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(super) fn bed(&self) -> &Bed {
        self.0.bed()
    }

    /// `hawker setup containerd`, with its usual paths.
    pub(super) fn set_up(&self, arguments: &[&str]) -> Result<Output> {
        let words = [&["setup", "containerd"], arguments].concat();
        self.node().hawker(&words, LIMIT)
    }

    /// Every file below containerd's settings.
    pub(super) fn files(&self) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
        let mut files = BTreeMap::new();
        let mut left = vec![self.node().host().path("/etc/containerd")];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                match path.is_dir() {
                    true => left.push(path),
                    false => drop(files.insert(path.clone(), fs::read(&path)?)),
                }
            }
        }
        Ok(files)
    }

    /// An image that nobody has seen yet. Returns its reference.
    pub(super) fn push(&self, name: &str) -> Result<String> {
        self.0.registry.push(&image::noise(name)?)
    }

    /// Layers reach containerd's content store neither from the mirror nor from the registry.
    fn pull_through_hawker(&self, name: &str) -> Result<()> {
        let reference = self.push(name)?;
        let served = self.node().bytes()?.served;
        let straight = self.0.registry.tally()?.bytes_past_hawker();
        self.crictl(&["pull", &reference])?.success()?;
        let fetched = self.node().bytes()?.served - served;
        let straight = self.0.registry.tally()?.bytes_past_hawker() - straight;
        ensure!(fetched < HEADS, "the mirror served {fetched} bytes");
        ensure!(straight == 0, "the registry sent it {straight} bytes");
        ensure!(self.snapshots("hawker")? > 0, "hawker has no snapshots");
        Ok(())
    }

    /// containerd itself fetches every layer from the registry, into overlayfs.
    fn pull_straight(&self, name: &str) -> Result<()> {
        self.wait_until_up()?;
        let (reference, before) = (self.push(name)?, self.snapshots("overlayfs")?);
        let straight = self.0.registry.tally()?.bytes_past_hawker();
        self.crictl(&["pull", &reference])?.success()?;
        let straight = self.0.registry.tally()?.bytes_past_hawker() - straight;
        let len = image::noise(name)?.blobs_len();
        ensure!(straight >= len, "{straight} of {len} bytes");
        ensure!(self.snapshots("overlayfs")? > before, "not into overlayfs");
        Ok(())
    }

    /// Finds nothing wrong, and what is wrong when hawkerd is stopped.
    fn consult_doctor(&self) -> Result<()> {
        let well = self.node().hawker(&["doctor"], LIMIT)?;
        println!("--- doctor ---\n{}{}", well.stdout, well.stderr);
        self.node().hawkerd()?.terminate(LIMIT)?;
        let ill = self.node().hawker(&["doctor"], LIMIT)?;
        println!("--- without hawkerd ---\n{}{}", ill.stdout, ill.stderr);
        self.node().start_hawkerd()?;
        self.node().wait_until_healthy(LIMIT)?;
        ensure!(!well.success()?.stdout.contains("FAIL"));
        let names_hawkerd = |line: &str| line.starts_with("FAIL  hawkerd ");
        ensure!(ill.status.code() == Some(1), "{:?}", ill.status);
        ensure!(ill.stdout.lines().any(names_hawkerd));
        Ok(())
    }

    fn snapshots(&self, snapshotter: &str) -> Result<usize> {
        let mut command = Command::new("ctr");
        command.args(["-n", "k8s.io", "snapshots", "--snapshotter", snapshotter]);
        let output = self.node().host().run(command.arg("ls"), LIMIT)?;
        Ok(output.success()?.stdout.lines().skip(1).count())
    }

    /// Waits for a containerd that was just started.
    pub(super) fn wait_until_up(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let output = self.crictl(&["version"])?;
            if output.status.success() || Instant::now() > deadline {
                return output.success().map(drop);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(super) fn crictl(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(CRICTL.path()?);
        command.args(["--runtime-endpoint", SOCKET, "--image-endpoint", SOCKET]);
        command.args(["--timeout", "60s"]).args(words);
        self.node().host().run(&mut command, LIMIT)
    }
}
