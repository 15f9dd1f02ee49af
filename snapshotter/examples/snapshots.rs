//! Measures what containerd waits for: `cargo run --release --example snapshots -- <directory>`.
//!
//! Makes a store in the directory, which must be empty, and prints latencies and the time that
//! listing and opening take with 10,000 snapshots.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use hawker_snapshotter::{Filter, SnapshotError, Snapshots, SnapshotsConfig};

const ROUNDS: usize = 500;
const MANY: usize = 10_000;
const DEPTH: usize = 20;

fn main() -> ExitCode {
    let Some(dir) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: snapshots <empty directory>");
        return ExitCode::from(2);
    };
    match measure(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    fs::create_dir_all(dir)?;
    let snapshots = Snapshots::open(dir, SnapshotsConfig::default())?;
    let parent = stack(&snapshots)?;
    operations(&snapshots, &parent)?;
    at_once(&snapshots, &parent);

    for number in 0..MANY {
        let key = format!("many/{number}");
        snapshots.view(&key, &parent, labels())?;
    }
    let filter = [Filter::parse("name==\"many/77\",kind==view")?];
    let mut all = Latency::new("list of 10,000");
    let mut one = Latency::new("list of 10,000, one matches");
    let mut stat = Latency::new("stat");
    let mut usage = Latency::new("usage");
    for round in 0..50 {
        all.time(|| snapshots.list(&[]).map(drop))?;
        one.time(|| snapshots.list(&filter).map(drop))?;
        let key = format!("many/{round}");
        stat.time(|| snapshots.stat(&key).map(drop))?;
        usage.time(|| snapshots.usage(&parent).map(drop))?;
    }
    for latency in [all, one, stat, usage] {
        latency.print();
    }
    drop(snapshots);
    let start = Instant::now();
    let snapshots = Snapshots::open(dir, SnapshotsConfig::default())?;
    println!("{:<32} {:>9.2?}", "open with 10,000", start.elapsed());
    drop(snapshots);
    Ok(())
}

/// An image of some layers.
fn stack(snapshots: &Snapshots) -> Result<String, SnapshotError> {
    let mut parent = String::new();
    for number in 0..DEPTH {
        let key = format!("layer/{number}");
        snapshots.prepare("layer", &parent, labels())?;
        snapshots.commit(&key, "layer", labels())?;
        parent = key;
    }
    Ok(parent)
}

fn operations(snapshots: &Snapshots, parent: &str) -> Result<(), SnapshotError> {
    let mut prepare = Latency::new("prepare on 20 layers");
    let mut mounts = Latency::new("mounts");
    let mut commit = Latency::new("commit");
    let mut remove = Latency::new("remove");
    for round in 0..ROUNDS {
        let key = format!("container/{round}");
        prepare.time(|| snapshots.prepare(&key, parent, labels()).map(drop))?;
        mounts.time(|| snapshots.mounts(&key).map(drop))?;
        commit.time(|| snapshots.commit("done", &key, labels()))?;
        remove.time(|| snapshots.remove("done"))?;
    }
    for latency in [prepare, mounts, commit, remove] {
        latency.print();
    }
    Ok(())
}

fn at_once(snapshots: &Snapshots, parent: &str) {
    let start = Instant::now();
    thread::scope(|scope| {
        for caller in 0..8 {
            scope.spawn(move || {
                for round in 0..ROUNDS / 8 {
                    let key = format!("{caller}/{round}");
                    if let Err(error) = snapshots.prepare(&key, parent, labels()) {
                        eprintln!("{error}");
                    }
                }
            });
        }
    });
    let each = start.elapsed() / (ROUNDS / 8 * 8) as u32;
    println!("{:<32} {each:>9.2?}", "prepare, 8 callers: one each");
}

fn labels() -> BTreeMap<String, String> {
    let label = (
        "containerd.io/snapshot/cri.image-ref",
        "docker.io/library/x:1",
    );
    BTreeMap::from([(label.0.to_owned(), label.1.to_owned())])
}

struct Latency {
    name: &'static str,
    took: Vec<Duration>,
}

impl Latency {
    fn new(name: &'static str) -> Self {
        let took = Vec::new();
        Self { name, took }
    }

    fn time(
        &mut self,
        action: impl FnOnce() -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let start = Instant::now();
        action()?;
        self.took.push(start.elapsed());
        Ok(())
    }

    fn print(mut self) {
        self.took.sort();
        let at = |part: usize| self.took[(self.took.len() - 1) * part / 100];
        println!(
            "{:<32} {:>9.2?} p50 {:>9.2?} p99 {:>9.2?} max",
            self.name,
            at(50),
            at(99),
            at(100)
        );
    }
}
