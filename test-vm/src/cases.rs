//! End-to-end cases and their runner.
//!
//! Each case runs in a process of its own, so that a hang, a panic or a kill ends that case alone,
//! and its beds with it. A case that cannot run is a failure: nothing is skipped.

mod access;
mod afterwards;
mod attacks;
mod beds;
mod certificates;
mod clients;
mod content;
mod deaths;
mod disks;
mod faults;
mod hostile;
mod layers;
mod limits;
mod links;
mod members;
mod oddities;
mod outage;
mod private;
mod pulls;
mod questions;
mod registries;
mod secrets;
mod setup;
mod sharing;
mod snapshotter;
mod stock;
mod switching;
mod tenants;

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// One thing that must hold.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    /// The case has failed when it takes longer.
    pub limit: Duration,
    /// Takes minutes: runs only when asked for.
    pub is_long: bool,
    run: fn() -> Result<()>,
}

impl Case {
    const fn long(self) -> Self {
        Self {
            is_long: true,
            ..self
        }
    }

    const fn new(name: &'static str, limit_seconds: u64, run: fn() -> Result<()>) -> Self {
        Self {
            name,
            limit: Duration::from_secs(limit_seconds),
            is_long: false,
            run,
        }
    }
}

/// Every case, in the order in which they run.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        beds::CASES,
        registries::CASES,
        access::CASES,
        attacks::CASES,
        tenants::CASES,
        private::CASES,
        secrets::CASES,
        members::CASES,
        stock::CASES,
        pulls::CASES,
        questions::CASES,
        oddities::CASES,
        faults::CASES,
        disks::CASES,
        hostile::CASES,
        certificates::CASES,
        deaths::CASES,
        limits::CASES,
        layers::CASES,
        links::CASES,
        snapshotter::CASES,
        content::CASES,
        outage::CASES,
        afterwards::CASES,
        sharing::CASES,
        switching::CASES,
        setup::CASES,
        clients::CASES,
    ]
    .concat()
}

/// Runs one case in this process.
///
/// # Errors
/// When there is no such case, or it fails.
pub fn run_here(name: &str) -> Result<()> {
    let case = all().into_iter().find(|case| case.name == name);
    (case.with_context(|| format!("no case {name}"))?.run)()
}

/// Runs the cases whose names contain one of the filters; all without a filter.
///
/// # Errors
/// When a case fails: names the failed.
pub fn run(filters: &[String], with_long: bool) -> Result<()> {
    let fits = |case: &Case| filters.is_empty() || filters.iter().any(|it| case.name.contains(it));
    let (chosen, left_out): (Vec<_>, Vec<_>) = all()
        .into_iter()
        .filter(fits)
        .partition(|case| !case.is_long || with_long || filters.iter().any(|it| it == case.name));
    if chosen.is_empty() {
        bail!("no case fits {filters:?}");
    }
    let started = Instant::now();
    let mut failed = Vec::new();
    for (number, case) in chosen.iter().enumerate() {
        eprint!("[{:>2}/{}] {} ... ", number + 1, chosen.len(), case.name);
        let began = Instant::now();
        match run_apart(case) {
            Ok(()) => eprintln!("ok ({:.1} s)", began.elapsed().as_secs_f64()),
            Err(error) => {
                eprintln!("FAILED ({:.1} s)\n{error:#}", began.elapsed().as_secs_f64());
                failed.push(case.name);
            }
        }
    }
    for case in &left_out {
        eprintln!("not run, since --long was not given: {}", case.name);
    }
    let passed = chosen.len() - failed.len();
    eprintln!(
        "{passed} of {} cases passed in {:.0} s",
        chosen.len(),
        started.elapsed().as_secs_f64()
    );
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs a case in a process of its own and keeps its output for the case that it fails.
fn run_apart(case: &Case) -> Result<()> {
    let path = std::env::temp_dir().join(format!(
        "hawker-case-{}-{}.log",
        case.name,
        std::process::id()
    ));
    let log = File::create(&path)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["case", case.name])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut child = command.spawn().context("failed to start the case")?;
    let deadline = Instant::now() + case.limit;
    let mut is_late = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline && !is_late {
            is_late = true;
            // It ends its beds, then itself.
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        }
        if Instant::now() > deadline + Duration::from_secs(60) {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let output = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    fs::remove_file(&path)?;
    if is_late {
        bail!("took longer than {:?}\n{output}", case.limit);
    }
    if !status.success() {
        bail!("{status}\n{output}");
    }
    Ok(())
}
