//! Links as they are between data centres: late, lossy, and broken now and then.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    Case,
    pulls::{pull_all, ratio},
};
use crate::{
    bed::{Link, Rate},
    cluster::{Cluster, Member, Topology},
    image,
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "pull_finishes_over_late_and_lossy_links",
        300,
        late_and_lossy,
    ),
    Case::new(
        "pull_goes_on_when_its_connections_break",
        180,
        broken_connections,
    ),
    Case::new("pull_goes_on_when_its_seed_falls_silent", 180, silent_seed),
    Case::new(
        "address_that_reaches_the_scheduler_is_advertised",
        60,
        advertised,
    ),
    Case::new(
        "wrong_advertised_address_is_said_by_both_sides",
        90,
        wrong_address,
    ),
];

const LIMIT: Duration = Duration::from_secs(30);
/// Where peers listen.
const PEER_PORT: u16 = 4005;

/// A node whose daemon is not started yet.
fn prepared() -> Result<Cluster> {
    Cluster::prepare(&Topology {
        nodes: 1,
        has_containerd: false,
        ..Topology::default()
    })
}

fn advertised() -> Result<()> {
    let cluster = prepared()?;
    let node = &cluster.nodes()[0];
    for words in [
        "link add other0 type veth peer name other1",
        "addr add 192.168.77.1/24 dev other0",
        "link set other0 up",
    ] {
        let mut command = Command::new("ip");
        node.host()
            .run(command.args(words.split(' ')), LIMIT)?
            .success()?;
    }

    node.start_hawkerd()?;
    node.wait_until_scheduled(LIMIT)?;

    let status = node.hawker(&["status"], LIMIT)?.success()?.stdout;
    let line = status.lines().find(|line| line.starts_with("advertised"));
    let line = line.with_context(|| format!("no address in {status}"))?;
    let right = [
        node.host().address().to_string(),
        node.host().address_v6().to_string(),
    ];
    ensure!(right.iter().any(|it| line.contains(it)), "{line}");
    ensure!(!line.contains("192.168.77.1"), "{line}");
    Ok(())
}

fn wrong_address() -> Result<()> {
    let cluster = prepared()?;
    let node = &cluster.nodes()[0];
    let path = "/etc/hawker/hawkerd.toml";
    let settings = fs::read_to_string(node.host().path(path))?;
    // Nobody has this address: seed users call this trap by name.
    node.host().write(
        path,
        settings + "[node]\nadvertise = \"10.77.200.200:4005\"\n",
    )?;

    let hawkerd = node.start_hawkerd()?;

    let scheduler = cluster.scheduler()?;
    let says = |text: &str| {
        text.lines()
            .any(|it| it.contains("WARN") && it.contains("10.77.200.200"))
    };
    hawkerd
        .wait_until(LIMIT, || says(&hawkerd.log_text()))
        .context("the node says nothing")?;
    scheduler
        .wait_until(LIMIT, || says(&scheduler.log_text()))
        .context("nor does the scheduler")
}

/// Every half second all connections between the seed and its nodes are reset.
fn broken_connections() -> Result<()> {
    let link = Link::of_rate(Rate::mbit(60));
    let cluster = Cluster::start(&Topology {
        seeds: 1,
        nodes: 2,
        link,
        registry_link: link,
        ..Topology::default()
    })?;
    let image = image::python()?;
    let reference = cluster.registry.push(&image)?;
    let (seed, mut broken) = (&cluster.seeds()[0], 0);
    let begun = Instant::now();

    thread::scope(|scope| {
        let pulls = scope.spawn(|| pull_all(cluster.nodes(), &reference, 0));
        while !pulls.is_finished() {
            thread::sleep(Duration::from_millis(500));
            broken += break_connections(seed)?;
        }
        pulls
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;

    let ratio = ratio(&cluster, &image)?;
    println!(
        "{broken} connections broken in {:.1} s; registry bytes / image bytes = {ratio:.3}",
        begun.elapsed().as_secs_f64()
    );
    ensure!(
        broken >= 6,
        "no more than {broken} connections were broken: has the kernel CONFIG_INET_DIAG_DESTROY?"
    );
    ensure!(ratio <= 1.5, "the registry sent {ratio} times the image");
    Ok(())
}

/// Half-way the seed's power is gone: its connections stand, and nothing comes.
fn silent_seed() -> Result<()> {
    let link = Link::of_rate(Rate::mbit(60));
    let cluster = Cluster::start(&Topology {
        seeds: 1,
        nodes: 3,
        link,
        registry_link: link,
        ..Topology::default()
    })?;
    let image = image::python()?;
    let reference = cluster.registry.push(&image)?;
    let begun = Instant::now();
    let (before, mut pauses) = (received(cluster.nodes())?, Pauses::default());
    // What comes after is unpacked, or nearly all of it has come.
    let all = before + image.blobs_len() * cluster.nodes().len() as u64;

    thread::scope(|scope| {
        let pulls = scope.spawn(|| pull_all(cluster.nodes(), &reference, 0));
        thread::sleep(Duration::from_secs(3));
        ensure!(!pulls.is_finished(), "it was over before the seed was gone");
        cluster.bed().unplug(cluster.seeds()[0].host())?;
        while !pulls.is_finished() {
            let bytes = received(cluster.nodes())?;
            if bytes < all {
                pauses.note(bytes);
            }
            thread::sleep(Duration::from_millis(50));
        }
        pulls
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;

    let (took, ratio) = (begun.elapsed().as_secs_f64(), ratio(&cluster, &image)?);
    let pause = pauses.longest.as_secs_f64();
    println!("{took:.1} s, {pause:.2} of them nothing came; registry bytes / image = {ratio:.3}");
    // Clocks that wait for progress alone, as for a seed that waits for the registry, take three.
    ensure!(pause < 2.5, "nothing came for {pause:.1} s");
    ensure!(ratio <= 2.0, "the registry sent {ratio} times the image");
    Ok(())
}

/// How long nothing came.
#[derive(Default)]
struct Pauses {
    last: Option<(u64, Instant)>,
    longest: Duration,
}

impl Pauses {
    /// So many bytes have come in all. Signs of life and acknowledgements are no progress.
    fn note(&mut self, bytes: u64) {
        const LITTLE: u64 = 64 << 10;
        let (before, at) = *self.last.get_or_insert_with(|| (bytes, Instant::now()));
        self.longest = self.longest.max(at.elapsed());
        if bytes >= before + LITTLE {
            self.last = Some((bytes, Instant::now()));
        }
    }
}

/// Bytes that have come to all these hosts.
fn received(members: &[Member]) -> Result<u64> {
    let mut sum = 0;
    for member in members {
        let mut command = Command::new("cat");
        let output = member.host().run(command.arg("/proc/net/dev"), LIMIT)?;
        // Name, then bytes received first.
        for line in output.success()?.stdout.lines().skip(2) {
            let (name, counters) = line.split_once(':').context("no name of a device")?;
            if name.trim() != "lo" {
                let bytes = counters.split_whitespace().next();
                sum += bytes.context("no counter")?.parse::<u64>()?;
            }
        }
    }
    Ok(sum)
}

/// Resets a member's connections to peers; says how many those were.
fn break_connections(member: &Member) -> Result<usize> {
    let mut command = Command::new("ss");
    command.args(["-K", "-H", "-t", "-n", "state", "established"]);
    command.arg(format!("( sport = :{PEER_PORT} or dport = :{PEER_PORT} )"));
    let output = member.host().run(&mut command, LIMIT)?.success()?;
    Ok(output.stdout.lines().count())
}

fn late_and_lossy() -> Result<()> {
    let link = Link {
        rate: Some(Rate::mbit(200)),
        delay: Duration::from_millis(10),
        loss: 0.002,
    };
    let topology = Topology {
        seeds: 1,
        nodes: 3,
        link,
        ..Topology::default()
    };
    let cluster = Cluster::start(&topology)?;
    println!("{}", cluster.bed().emulation());
    let image = image::python()?;
    let reference = cluster.registry.push(&image)?;

    pull_all(cluster.nodes(), &reference, 0)?;

    let ratio = ratio(&cluster, &image)?;
    println!("registry bytes / image bytes = {ratio:.3}");
    // A node that waits too long may go to the registry; the image must not go out for each.
    ensure!(ratio < 2.0, "the registry sent {ratio} times the image");
    Ok(())
}
