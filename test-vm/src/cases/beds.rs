//! The testbed itself: links are as told, beds are apart, nothing stays.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    bed::{Bed, Host, Link, Rate},
    http,
    image::digest_of,
    registry::Registry,
};

pub(super) const CASES: &[Case] = &[
    Case::new("bed_limits_rate_in_both_directions", 60, limits_rate),
    Case::new("bed_delays_and_loses_frames", 60, delays_and_loses),
    Case::new("beds_run_side_by_side", 60, side_by_side),
    Case::new("bed_leaves_nothing", 60, leaves_nothing),
    Case::new(
        "bed_of_a_killed_testbed_vanishes",
        60,
        vanishes_with_its_owner,
    ),
];

const LIMIT: Duration = Duration::from_secs(50);

fn limits_rate() -> Result<()> {
    let bed = Bed::start()?;
    let registry = Registry::start(&bed, &Link::default())?;
    let slow = bed.add_host("slow", &Link::of_rate(Rate::mbit(80)))?;
    let blob = vec![7; 10_000_000];
    let digest = digest_of(&blob);
    let path = registry.push_bytes("blob", &digest, blob.into())?;

    let started = Instant::now();
    let url = format!("http://registry:5000{path}");
    slow.enter(|| http::get(&url, LIMIT))??.success()?;
    let seconds = started.elapsed().as_secs_f64();

    ensure!(
        (0.95..1.5).contains(&seconds),
        "80 Mbit over 80 Mbit/s took {seconds} s"
    );
    Ok(())
}

fn delays_and_loses() -> Result<()> {
    let bed = Bed::start()?;
    println!("{}", bed.emulation());
    let near = bed.add_host("near", &Link::default())?;
    let delay = Duration::from_millis(40);
    bed.add_host(
        "far",
        &Link {
            delay,
            ..Link::default()
        },
    )?;
    let lossy = bed.add_host(
        "lossy",
        &Link {
            delay: Duration::ZERO,
            loss: 0.3,
            ..Link::default()
        },
    )?;
    for host in [&near, &lossy] {
        trust_neighbours(host)?;
    }

    // Until a neighbour is resolved every ping waits, whatever the delay and the loss.
    for host in ["far", "lossy"] {
        while ping(&near, host, 3)?.1 > 99.0 {}
    }
    let (far, _) = ping(&near, "far", 10)?;
    let (_, lost) = ping(&near, "lossy", 300)?;

    ensure!(
        (80.0..120.0).contains(&far),
        "round trip over 2 × 40 ms took {far} ms"
    );
    // 30 % each way: 51 % of the round trips; five standard deviations either side.
    ensure!(
        (36.0..66.0).contains(&lost),
        "{lost} % of the pings were lost"
    );
    Ok(())
}

/// A neighbour that was found is not asked for again while the case runs: all three questions may
/// be lost, and then every frame to it is, for seconds.
fn trust_neighbours(host: &Host) -> Result<()> {
    let mut command = Command::new("sh");
    let key = "/proc/sys/net/ipv4/neigh/eth0/delay_first_probe_time";
    command.args(["-c", &format!("echo 60 > {key}")]);
    host.run(&mut command, LIMIT)?.success().map(drop)
}

/// Mean round trip in milliseconds and lost share in percent, by busybox.
fn ping(from: &Host, to: &str, count: u32) -> Result<(f64, f64)> {
    let mut command = Command::new("busybox");
    command.args([
        "ping",
        "-q",
        "-i",
        "0.02",
        "-W",
        "1",
        "-c",
        &count.to_string(),
        to,
    ]);
    let text = from.run(&mut command, LIMIT)?.stdout;
    let lost = text
        .split(", ")
        .find_map(|it| it.split_once("% packet loss"))
        .context("no loss")?
        .0;
    let mean = text
        .rsplit_once("= ")
        .and_then(|(_, times)| times.split('/').nth(1))
        .unwrap_or("0");
    Ok((mean.parse()?, lost.trim().parse()?))
}

fn side_by_side() -> Result<()> {
    let (one, two) = (Bed::start()?, Bed::start()?);
    let (first, second) = (
        Registry::start(&one, &Link::default())?,
        Registry::start(&two, &Link::default())?,
    );

    let digest = digest_of(b"only in the first");
    let path = first.push_bytes("blob", &digest, "only in the first".into())?;
    let url = format!("http://registry:5000{path}");
    let there = first.host().enter(|| http::get(&url, LIMIT))??;
    let elsewhere = second.host().enter(|| http::get(&url, LIMIT))??;

    ensure!(
        there.status == 200 && elsewhere.status == 404,
        "one bed sees the other"
    );
    ensure!(one.id() != two.id() && first.host().address() == second.host().address());
    Ok(())
}

fn leaves_nothing() -> Result<()> {
    let bed = Bed::start()?;
    let host = bed.add_host("host", &Link::default())?;
    let mut command = Command::new("sh");
    command.args(["-c", "setsid sleep 1000 & setsid sleep 1000"]);
    let process = host.spawn("sleeps", &mut command)?;
    let (dir, pid) = (bed.dir().to_owned(), process.pid());
    ensure!(dir.exists() && process.is_running());

    drop((host, process, bed));

    ensure!(!dir.exists(), "{} is still there", dir.display());
    ensure!(!is_running(pid), "process {pid} runs on");
    Ok(())
}

fn vanishes_with_its_owner() -> Result<()> {
    let mut owner = Command::new(std::env::current_exe()?);
    let mut owner = owner
        .args(["hold", "--print-dir"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = owner.stdout.take().context("no output")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    let dir = PathBuf::from(line.trim());
    ensure!(dir.is_absolute() && dir.exists(), "no bed came up");

    owner.kill()?;
    owner.wait()?;

    let deadline = Instant::now() + Duration::from_secs(20);
    while dir.exists() {
        ensure!(
            Instant::now() < deadline,
            "{} outlived its testbed",
            dir.display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn is_running(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}
