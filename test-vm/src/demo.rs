//! The demo: a cluster pulls one image at once, runs it, pulls it with Docker, and shows where the
//! bytes came from.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    bed::{Link, Rate},
    cluster::{Bytes, Cluster, ContainerdVersion, Member, Profile, Topology},
    image::{self, Image},
    progress::{Bars, step},
    table::{Table, megabytes, seconds},
    tools::CRICTL,
};

/// How Docker calls the image, at what it takes for Docker Hub.
const DOCKER_NAME: &str = "library/hawker-demo";
const DOCKER_HOST: &str = "docker1";

/// What to show.
#[derive(Debug, Clone, clap::Args)]
pub struct Demo {
    /// How many nodes pull at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=60))]
    hosts: u16,
    /// Rate of each host's link, both ways.
    #[arg(long, default_value = "200mbit")]
    rate: Rate,
    /// "python" (a Debian tree, Python, numpy), "compilers" (one layer of some hundred MB), or a
    /// directory with an OCI layout.
    #[arg(long, default_value = "python")]
    image: String,
    /// How containerd goes through Hawker: by its snapshotter, or by its mirror alone.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Which containerd the nodes run; others than the distribution's are built once.
    #[arg(long, value_enum, default_value_t)]
    containerd: ContainerdVersion,
    /// Leave the cluster running; `hawker-test-vm clean --kept` ends it.
    #[arg(long)]
    keep: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    image: String,
    image_bytes: u64,
    registry_bytes: u64,
    /// Bytes that left the registry for each byte of the image.
    ratio: f64,
    hosts: Vec<HostReport>,
}

#[derive(Debug, Serialize)]
struct HostReport {
    host: String,
    client: &'static str,
    seconds: f64,
    output: String,
    bytes: Bytes,
}

impl Demo {
    /// # Errors
    /// When something does not work as shown: with the tails of the logs.
    pub fn run(&self) -> Result<()> {
        let image = step("build or find the image", || self.image())?;
        step("build or find crictl", || CRICTL.path())?;
        if self.containerd != ContainerdVersion::Debian {
            step("build or find containerd", || self.containerd.programs())?;
        }
        let nodes = usize::from(self.hosts);
        let topology = Topology {
            seeds: 2,
            nodes,
            extra_nodes: vec![DOCKER_HOST.to_owned()],
            link: Link::of_rate(self.rate),
            registry_link: Link::of_rate(self.rate),
            profile: self.profile,
            containerd: self.containerd,
            ..Topology::default()
        };
        let text = format!("start a registry, a scheduler, 2 seeds and {nodes} nodes");
        let cluster = step(&text, || Cluster::start(&topology))?;
        let shown = self.show(&cluster, &image);
        if let Err(error) = &shown {
            eprintln!("{error:#}\n{}", cluster.bed().log_tails(20));
        }
        let report = shown?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{}", report.render());
        }
        if self.keep {
            print!("{}", keep(cluster)?);
        } else {
            step("clean up", || {
                drop(cluster);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn image(&self) -> Result<Image> {
        match self.image.as_str() {
            "python" => image::python(),
            "compilers" => image::big_layer(),
            path => Image::open(&PathBuf::from(path), "demo/image", "1"),
        }
    }

    fn show(&self, cluster: &Cluster, image: &Image) -> Result<Report> {
        let reference = step("push the image to the registry", || {
            cluster.registry.push(&image.renamed(DOCKER_NAME, "1"))?;
            cluster.registry.push(image)
        })?;
        cluster.registry.reset()?;
        let (nodes, docker) = cluster.nodes().split_at(usize::from(self.hosts));
        let docker = docker.first().context("no host for Docker")?;
        let text = format!(
            "pull {reference} on {} nodes at once with crictl",
            nodes.len()
        );
        let times = step(&text, || pull_at_once(nodes, &reference, image.blobs_len()))?;
        let outputs = step("run a container on each", || {
            let run = |node: &Member| node.containerd()?.run(&reference, self.command());
            nodes.iter().map(run).collect::<Result<Vec<_>>>()
        })?;
        let by_docker = step("pull and run it with Docker on another host", || {
            self.pull_with_docker(docker)
        })?;
        let registry_bytes = cluster.registry.tally()?.total.body_bytes;
        let mut hosts = Vec::new();
        for ((node, seconds), output) in nodes.iter().zip(times).zip(outputs) {
            hosts.push(HostReport::new(node, "containerd", seconds, output)?);
        }
        hosts.push(HostReport::new(docker, "docker", by_docker.0, by_docker.1)?);
        for seed in cluster.seeds() {
            hosts.push(HostReport::new(seed, "(seed)", 0.0, String::new())?);
        }
        let image_bytes = image.blobs_len();
        let ratio = registry_bytes as f64 / image_bytes as f64;
        Ok(Report {
            image: reference,
            image_bytes,
            registry_bytes,
            ratio,
            hosts,
        })
    }

    fn command(&self) -> &'static [&'static str] {
        match self.image.as_str() {
            "python" => image::PYTHON_COMMAND,
            "compilers" => &[
                "/bin/sh",
                "-c",
                "cat /etc/debian_version && clang --version",
            ],
            _ => &["/bin/sh", "-c", "echo it runs"],
        }
    }

    fn pull_with_docker(&self, member: &Member) -> Result<(f64, String)> {
        let docker = member.start_docker()?;
        let pulled = docker.pull("hawker-demo:1")?;
        let output = docker.run("hawker-demo:1", self.command())?;
        Ok((pulled.elapsed.as_secs_f64(), output))
    }
}

/// Pulls on all nodes in the same moment; returns how long each took, in seconds.
fn pull_at_once(nodes: &[Member], reference: &str, len: u64) -> Result<Vec<f64>> {
    let bars = Bars::new();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for node in nodes {
            let bar = bars.add(node.name(), len);
            let is_done = &is_done;
            scope.spawn(move || {
                while !is_done.load(Ordering::Relaxed) {
                    let bytes = node.bytes().unwrap_or_default();
                    bar.set_position(bytes.origin + bytes.seed + bytes.parent);
                    thread::sleep(Duration::from_millis(200));
                }
                bar.finish_and_clear();
            });
        }
        let pull = |node: &Member| -> Result<f64> {
            let started = Instant::now();
            let pulled = node.containerd()?.pull(reference);
            pulled.with_context(|| format!("the pull on {} failed", node.name()))?;
            Ok(started.elapsed().as_secs_f64())
        };
        let pulls: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(move || pull(node)))
            .collect();
        let times = pulls.into_iter().map(|pull| match pull.join() {
            Ok(time) => time,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let times = times.collect::<Vec<_>>();
        is_done.store(true, Ordering::Relaxed);
        times.into_iter().collect()
    })
}

fn keep(cluster: Cluster) -> Result<String> {
    let mut text = String::from("\nThe cluster goes on. To look around on a host:\n");
    for host in cluster.bed().hosts() {
        text += &format!(
            "  nsenter -t {} -a  # {} {}\n",
            host.pid(),
            host.name(),
            host.address()
        );
    }
    text += &format!("Logs: {}\n", cluster.bed().dir().join("logs").display());
    text += "To end it: hawker-test-vm clean --kept\n";
    cluster.bed().keep()?;
    Ok(text)
}

impl HostReport {
    fn new(member: &Member, client: &'static str, seconds: f64, output: String) -> Result<Self> {
        let (host, output) = (member.name().to_owned(), output.trim().to_owned());
        Ok(Self {
            host,
            client,
            seconds,
            output,
            bytes: member.bytes()?,
        })
    }
}

impl Report {
    fn render(&self) -> String {
        let mut text = String::from("\nOutput of the containers:\n");
        for host in self.hosts.iter().filter(|host| !host.output.is_empty()) {
            for line in host.output.lines() {
                text += &format!("  {:8} {line}\n", host.host);
            }
        }
        let heads = [
            "host",
            "client",
            "time",
            "from origin",
            "from seeds",
            "from peers",
            "local",
            "sent",
        ];
        let mut table = Table::new(&heads);
        for host in &self.hosts {
            let time = if host.seconds > 0.0 {
                seconds(host.seconds)
            } else {
                String::new()
            };
            let bytes = host.bytes;
            let lens = [
                bytes.origin,
                bytes.seed,
                bytes.parent,
                bytes.local,
                bytes.sent,
            ];
            let lens = lens.into_iter().map(megabytes);
            table.row(
                [host.host.clone(), host.client.to_owned(), time]
                    .into_iter()
                    .chain(lens),
            );
        }
        text += &format!("\n{}\n", table.render());
        let (sent, len) = (megabytes(self.registry_bytes), megabytes(self.image_bytes));
        text += &format!(
            "registry bytes / image bytes: {sent} / {len} = {:.3}",
            self.ratio
        );
        text
    }
}

/// # Errors
/// When the kernel cannot do what the demo needs.
pub fn check_machine() -> Result<()> {
    crate::require_root()?;
    for program in [
        "containerd",
        "runc",
        "dockerd",
        "docker-registry",
        "ip",
        "tc",
        "busybox",
    ] {
        let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"]
            .iter()
            .any(|dir| std::path::Path::new(dir).join(program).exists());
        ensure!(
            found,
            "{program} is missing: ./test-vm/demo and ./test-vm/test install it"
        );
    }
    Ok(())
}
