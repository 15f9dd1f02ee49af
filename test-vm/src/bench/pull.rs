//! `bench pull`: one node without peers pulls and unpacks an image, with a profile of Hawker, and with
//! stock containerd and overlayfs straight from the registry, by turns, each time with nothing on the
//! node and nothing of the image in the page cache.

use std::{fs, path::Path, sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{
    machine::Processors,
    start::{StartCost, measure_starts},
};
use crate::{
    bed::{Host, Place, Run},
    cluster::{Cluster, Containerd, ContainerdSetup, ContainerdVersion, Member, Profile, Topology},
    image::{self, Image},
    progress::step,
    table::{Table, megabytes, seconds},
};

/// What a node may hold while it unpacks.
const MEMORY_LIMIT: u64 = 96 << 20;

/// From this share of the processors on a run says nothing about what is measured: registry, crictl
/// and the kernel's own writing take less.
const MAX_OTHERS: f64 = 0.5;

/// What to pull how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Pull {
    /// "many" (fourteen layers), "python" (three) or "compilers" (one of some hundred MB); all
    /// when none is named.
    #[arg(long)]
    image: Vec<String>,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=20))]
    runs: u16,
    #[arg(long, value_enum, default_value_t)]
    containerd: ContainerdVersion,
    /// How containerd goes through Hawker.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Let stock containerd decompress with unpigz.
    #[arg(long)]
    pigz: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    containerd: String,
    profile: Profile,
    unpigz: &'static str,
    /// Whether the page cache could be emptied before each pull.
    has_cold_cache: bool,
    images: Vec<ImageReport>,
    start: Option<StartCost>,
}

/// Pulls of one image.
#[derive(Debug, Serialize)]
pub(super) struct ImageReport {
    image: String,
    layers: usize,
    bytes: u64,
    hawker: Vec<Sample>,
    stock: Vec<Sample>,
    /// Median of Hawker's seconds ÷ median of stock's.
    ratio: f64,
}

/// One pull.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    seconds: f64,
    /// Of containerd, what it started, and hawkerd.
    cpu_seconds: f64,
    /// Highest resident memory of hawkerd.
    hawkerd_bytes: u64,
    /// Share of the machine's processors that did something else meanwhile, the testbed's registry
    /// and crictl among it.
    others: f64,
}

/// What pulls by turns.
#[derive(Debug, Clone, Copy)]
struct Turns {
    containerd: ContainerdVersion,
    profile: Profile,
    has_pigz: bool,
    runs: u16,
}

impl Pull {
    /// # Errors
    /// When a pull fails, or containerd had to fetch a layer where Hawker should have.
    pub fn run(&self) -> Result<()> {
        let images = step("build or find the images", || self.images())?;
        let turns = Turns {
            containerd: self.containerd,
            profile: self.profile,
            has_pigz: self.pigz,
            runs: self.runs,
        };
        let (images, start) = turns.pull(&images, self.profile.snapshotter() == "hawker")?;
        let report = Report {
            containerd: self.version()?,
            profile: self.profile,
            unpigz: self.unpigz(),
            has_cold_cache: drop_caches().is_ok(),
            images,
            start,
        };
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => println!("{}", report.render()),
        }
        Ok(())
    }

    fn images(&self) -> Result<Vec<Image>> {
        let all = ["many", "python", "compilers"].map(str::to_owned);
        let names = match self.image.as_slice() {
            [] => &all[..],
            named => named,
        };
        names.iter().map(|name| image_named(name)).collect()
    }

    fn version(&self) -> Result<String> {
        let program = match self.containerd.programs()? {
            Some(dir) => dir.join("containerd"),
            None => "/usr/bin/containerd".into(),
        };
        let output = std::process::Command::new(program)
            .arg("--version")
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_whitespace().nth(2);
        Ok(version.context("containerd tells no version")?.to_owned())
    }

    fn unpigz(&self) -> &'static str {
        match (self.pigz, Path::new("/usr/bin/unpigz").exists()) {
            (true, true) => "used by stock containerd",
            (true, false) => "asked for, but not installed",
            (false, _) => "not used",
        }
    }
}

/// "many", "python" or "compilers".
pub(super) fn image_named(name: &str) -> Result<Image> {
    match name {
        "many" => image::many_layers(),
        "python" => image::python(),
        "compilers" => image::big_layer(),
        _ => anyhow::bail!("no image {name}"),
    }
}

/// Pulls each image so many times with a profile and with stock containerd.
pub(super) fn pull_images(
    containerd: ContainerdVersion,
    profile: Profile,
    images: &[Image],
    runs: u16,
) -> Result<Vec<ImageReport>> {
    let turns = Turns {
        containerd,
        profile,
        has_pigz: false,
        runs,
    };
    Ok(turns.pull(images, false)?.0)
}

impl Turns {
    fn pull(
        &self,
        images: &[Image],
        has_starts: bool,
    ) -> Result<(Vec<ImageReport>, Option<StartCost>)> {
        step("build or find containerd", || self.containerd.programs())?;
        let runs = usize::from(self.runs);
        let topology = Topology {
            seeds: 0,
            nodes: images.len() * runs + 1,
            has_scheduler: false,
            has_containerd: false,
            containerd: self.containerd,
            profile: self.profile,
            place: Place::Disk,
            log_level: "warn".to_owned(),
            ..Topology::default()
        };
        let cluster = step("prepare a registry and nodes", || {
            Cluster::prepare(&topology)
        })?;
        let mut nodes = cluster.nodes().iter();
        let mut reports = Vec::new();
        for image in images {
            let reference = cluster.registry.push(image)?;
            let mut report = ImageReport::new(image);
            for run in 0..runs {
                let node = nodes.next().context("too few nodes")?;
                self.pull_by_turns(&cluster, node, image, &reference, &mut report, run)?;
            }
            report.ratio = median(&report.hawker) / median(&report.stock);
            reports.push(report);
        }
        let node = nodes.next().context("too few nodes")?;
        // There is a difference only between two snapshotters.
        let measure = || measure_starts(&cluster, node, &image::python()?);
        let start = has_starts.then(|| step("start containers by turns", measure));
        Ok((reports, start.transpose()?))
    }

    /// Both, in another order each time.
    fn pull_by_turns(
        &self,
        cluster: &Cluster,
        node: &Member,
        image: &Image,
        reference: &str,
        report: &mut ImageReport,
        run: usize,
    ) -> Result<()> {
        let (name, number) = (&image.repository, run + 1);
        let hawker = |report: &mut ImageReport| {
            let text = format!("{name}, run {number}: Hawker");
            let sample = step(&text, || pull_with_hawker(node, image, reference))?;
            report.hawker.push(sample);
            anyhow::Ok(())
        };
        let stock = |report: &mut ImageReport| {
            let text = format!("{name}, run {number}: stock");
            let sample = step(&text, || self.pull_with_stock(cluster, node, reference))?;
            report.stock.push(sample);
            anyhow::Ok(())
        };
        if run.is_multiple_of(2) {
            hawker(report)?;
            stock(report)
        } else {
            stock(report)?;
            hawker(report)
        }
    }

    fn pull_with_stock(&self, cluster: &Cluster, node: &Member, reference: &str) -> Result<Sample> {
        let bed = cluster.bed();
        let host = bed.add_host(&format!("stock-{}", node.name()), &Default::default())?;
        let setup = ContainerdSetup {
            version: self.containerd,
            has_pigz: self.has_pigz,
            ..ContainerdSetup::default()
        };
        let containerd = Containerd::launch(&host, &Run::cgroup(bed.id()), setup)?;
        let sample = measure(&containerd, None, reference)?;
        containerd.process().kill();
        clear(&host)?;
        Ok(sample)
    }
}

fn pull_with_hawker(node: &Member, image: &Image, reference: &str) -> Result<Sample> {
    let hawkerd = node.start_hawkerd()?;
    node.wait_until_healthy(std::time::Duration::from_secs(20))?;
    let containerd = node.start_containerd()?;
    let sample = measure(&containerd, Some(node), reference)?;
    let served = node.bytes()?.served;
    ensure!(
        containerd.setup().profile == Some(Profile::Mirror) || served <= 4 * image.head_len(),
        "containerd fetched {served} bytes itself\n{}",
        hawkerd.log_tail(30)
    );
    containerd.process().kill();
    hawkerd.kill();
    clear(node.host())?;
    Ok(sample)
}

/// Pulls once, from cold.
fn measure(containerd: &Containerd, node: Option<&Member>, reference: &str) -> Result<Sample> {
    let hawkerd = node.map(Member::hawkerd).transpose()?;
    drop_caches().ok();
    let cpu = || -> Result<f64> {
        let own = containerd.process().usage()?.cpu_seconds;
        let beside = hawkerd
            .as_ref()
            .map(|process| process.usage())
            .transpose()?;
        Ok(own + beside.map_or(0.0, |usage| usage.cpu_seconds))
    };
    let (before, machine) = (cpu()?, Processors::read()?);
    let began = Instant::now();
    containerd.pull(reference)?;
    let seconds = began.elapsed().as_secs_f64();
    let idle = Processors::read()?.idle_since(machine);
    let usage = hawkerd
        .as_ref()
        .map(|process| process.usage())
        .transpose()?;
    let cpu_seconds = cpu()? - before;
    let processors = std::thread::available_parallelism()?.get() as f64;
    let others = (1.0 - idle - cpu_seconds / (seconds * processors)).max(0.0);
    Ok(Sample {
        seconds,
        cpu_seconds,
        hawkerd_bytes: usage.map_or(0, |usage| usage.peak_memory_len),
        others,
    })
}

/// What is dirty is written, and what is read comes from the disk.
fn drop_caches() -> Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("the page cache cannot be emptied")
}

/// Removes what a node has pulled.
fn clear(host: &Arc<Host>) -> Result<()> {
    let lib = host.path("/var/lib");
    for entry in fs::read_dir(&lib)? {
        let path = entry?.path();
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn median(samples: &[Sample]) -> f64 {
    let mut all: Vec<_> = samples.iter().map(|sample| sample.seconds).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

impl ImageReport {
    fn new(image: &Image) -> Self {
        Self {
            image: image.repository.clone(),
            layers: image.layers_len(),
            bytes: image.blobs_len(),
            hawker: Vec::new(),
            stock: Vec::new(),
            ratio: f64::NAN,
        }
    }
}

impl Report {
    fn render(&self) -> String {
        let Self {
            containerd, unpigz, ..
        } = self;
        let profile = self.profile.name();
        let cold = match self.has_cold_cache {
            true => "cold page cache",
            false => "page cache could NOT be emptied",
        };
        let text = format!(
            "\nprofile {profile}, containerd {containerd}, unpigz {unpigz}, crictl, one node without \
             peers, {cold}\n\n"
        );
        let mut table = Table::new(&HEADS);
        for image in &self.images {
            table.row(image.cells());
        }
        let start = self.start.as_ref().map(StartCost::render);
        text + &table.render() + "\n" + &start.unwrap_or_default()
    }
}

const HEADS: [&str; 11] = [
    "image",
    "layers",
    "size",
    "hawker",
    "stock",
    "ratio",
    "cpu",
    "stock cpu",
    "hawkerd",
    "others",
    "",
];

impl ImageReport {
    pub(super) fn ratio(&self) -> f64 {
        self.ratio
    }

    /// A table of its own.
    pub(super) fn render(&self, profile: &str) -> String {
        let mut table = Table::new(&HEADS);
        table.row(self.cells());
        format!(
            "\nprofile {profile}, one node without peers\n\n{}",
            table.render()
        )
    }

    fn cells(&self) -> [String; 11] {
        let cpu = |samples: &[Sample]| {
            let sum: f64 = samples.iter().map(|sample| sample.cpu_seconds).sum();
            seconds(sum / samples.len().max(1) as f64)
        };
        let peak = self.hawker.iter().map(|sample| sample.hawkerd_bytes).max();
        let peak = peak.unwrap_or_default();
        let all = self.hawker.iter().chain(&self.stock);
        let others = all.map(|sample| sample.others).fold(0.0, f64::max);
        let mut remarks = Vec::new();
        if others > MAX_OTHERS {
            remarks.push("VOID: the machine was busy with something else");
        }
        if peak > MEMORY_LIMIT {
            remarks.push("hawkerd takes more than 96 MiB");
        }
        [
            self.image.clone(),
            self.layers.to_string(),
            megabytes(self.bytes),
            seconds(median(&self.hawker)),
            seconds(median(&self.stock)),
            format!("{:.2}", self.ratio),
            cpu(&self.hawker),
            cpu(&self.stock),
            format!("{:.1} MiB", peak as f64 / f64::from(1 << 20)),
            format!("{:.0} %", others * 100.0),
            remarks.join(", "),
        ]
    }
}
