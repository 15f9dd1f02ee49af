//! A node whose content is Hawker's while hawkerd is away, for a while or killed in the middle of a
//! pull: containers go on, images start when it is back, no pull fails for good.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, afterwards::await_blobs};
use crate::{
    bed::{Link, Output, Rate},
    cluster::{Client, Cluster, Containerd, ContainerdVersion, Member, Profile, Session, Topology},
    image::{self, Image},
    matrix::{self, Step},
};

pub(super) const CASES: &[Case] = &[
    Case::new("full_pull_survives_kills_of_hawkerd", 200, || {
        killed(ContainerdVersion::V2, Profile::FullOverlayfs, 4)
    }),
    Case::new("full_pulls_survive_kills_at_many_moments", 3_000, || {
        for version in ContainerdVersion::ALL {
            killed(version, Profile::Full, 30)?;
            killed(version, Profile::FullOverlayfs, 30)?;
        }
        Ok(())
    })
    .long(),
    Case::new("garbage_is_collected_during_a_full_pull", 120, || {
        let clients = [Client::Crictl];
        let profile = Profile::FullOverlayfs;
        matrix::check(&matrix::run(
            ContainerdVersion::V2,
            profile,
            &clients,
            &[Step::Collect],
        )?)
    }),
    Case::new("node_with_full_profile_lives_without_hawkerd", 200, || {
        away(ContainerdVersion::V2, Profile::FullOverlayfs, SHORT)
    }),
    Case::new(
        "nodes_with_full_profile_live_ten_minutes_without_hawkerd",
        1_200,
        ten_minutes,
    )
    .long(),
];

const LIMIT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(8);
const TEN_MINUTES: Duration = Duration::from_secs(600);
/// How often a kubelet tries a pull once more before anybody would say that it fails for good.
const RETRIES: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// containerd tries again only three seconds after a connection was refused.
const REDIAL: Duration = Duration::from_secs(10);

/// One node on a link so slow that a pull of noise takes some seconds.
fn slow(version: ContainerdVersion, profile: Profile) -> Result<Cluster> {
    Cluster::start(&Topology {
        nodes: 1,
        registry_link: Link::of_rate(Rate::mbit(60)),
        containerd: version,
        profile,
        ..Topology::default()
    })
}

/// Kills hawkerd at so many moments, each of another pull, spread over the time that one takes.
fn killed(version: ContainerdVersion, profile: Profile, moments: u32) -> Result<()> {
    let cluster = slow(version, profile)?;
    cluster.registry.push(&image::pause()?)?;
    let node = &cluster.nodes()[0];
    let session = node.containerd()?.client(Client::Crictl);
    let push = |name: &str| -> Result<(Image, String)> {
        let image = image::noise(name)?;
        let reference = cluster.registry.push(&image)?;
        Ok((image, reference))
    };
    let (_, reference) = push("killed-never")?;
    let took = session.pull(&reference)?.elapsed;
    for moment in 1..=moments {
        let (image, reference) = push(&format!("killed-{moment}"))?;
        let after = took * moment / (moments + 1);
        let tries = pull_and_kill(node, &session, &reference, after)?;
        check_registered(&session, &image)?;
        run(&session, &image, &reference)?;
        println!("{profile:?}, killed after {after:.1?}: {tries} more tries, sound");
        session.remove_image(&reference)?;
    }
    Ok(())
}

/// How often the pull had to be tried again.
fn pull_and_kill(
    node: &Member,
    session: &Session,
    reference: &str,
    after: Duration,
) -> Result<usize> {
    thread::scope(|scope| {
        let pull = scope.spawn(|| pull_with_retries(session, reference));
        thread::sleep(after);
        node.kill_hawkerd()?;
        node.start_hawkerd()?;
        node.wait_until_healthy(LIMIT)?;
        pull.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn pull_with_retries(session: &Session, reference: &str) -> Result<usize> {
    for tries in 0..RETRIES {
        match session.pull(reference) {
            Ok(_) => return Ok(tries),
            Err(error) => println!("  {error:#}"),
        }
        thread::sleep(PAUSE);
    }
    session.pull(reference).map(|_| RETRIES)
}

/// Layers are registered after the pull. It may have ended before hawkerd was killed, so that
/// containerd has not reached it since.
fn check_registered(session: &Session, image: &Image) -> Result<()> {
    await_blobs(session, image, image.blobs().len()).context("layers as content")?;
    let began = Instant::now();
    loop {
        match session.check_content(image) {
            Err(error)
                if began.elapsed() < REDIAL
                    && format!("{error:#}").contains("connection refused") =>
            {
                thread::sleep(PAUSE);
            }
            checked => return checked,
        }
    }
}

/// The container reads a file of the lowest layer and one of the uppermost.
fn run(session: &Session, image: &Image, reference: &str) -> Result<()> {
    let script = "cat /name; wc -c < /3-5";
    let output = session.run(reference, &["/bin/busybox", "sh", "-c", script])?;
    let name = image.repository.trim_start_matches("noise/");
    ensure!(output.trim() == format!("{name}1048576"), "{output:?}");
    Ok(())
}

/// Every kind of node at once, since they do little but wait.
fn ten_minutes() -> Result<()> {
    thread::scope(|scope| {
        let mut all = Vec::new();
        for version in ContainerdVersion::ALL {
            for profile in [Profile::Full, Profile::FullOverlayfs] {
                all.push(scope.spawn(move || {
                    away(version, profile, TEN_MINUTES).with_context(|| label(version, profile))
                }));
            }
        }
        all.into_iter().try_for_each(|one| {
            one.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn label(version: ContainerdVersion, profile: Profile) -> String {
    format!("containerd {}, {}", version.name(), profile.name())
}

fn away(version: ContainerdVersion, profile: Profile, time: Duration) -> Result<()> {
    let cluster = slow(version, profile)?;
    cluster.registry.push(&image::pause()?)?;
    let node = &cluster.nodes()[0];
    let there = Present {
        label: label(version, profile),
        containerd: node.containerd()?,
        reference: cluster.registry.push(&image::python()?)?,
    };
    let containerd = &there.containerd;
    containerd.pull(&there.reference)?;
    let running = containerd.start(&there.reference, &["/bin/sleep", "100000"])?;
    let noise = image::noise("away")?;
    let wanted = cluster.registry.push(&noise)?;
    let session = containerd.client(Client::Crictl);

    node.kill_hawkerd()?;
    thread::scope(|scope| {
        let pull = scope.spawn(|| pull_with_retries(&session, &wanted));
        let lived = there.live_on(&running, time);
        node.start_hawkerd()?;
        node.wait_until_healthy(LIMIT)?;
        let back = Instant::now();
        lived?;
        there.start_again(back)?;
        let tries = pull.join();
        let tries = tries.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let took = back.elapsed();
        there.say(&format!(
            "the pull is done {took:.1?} after, with {tries} more tries"
        ));
        anyhow::Ok(())
    })?;
    check_registered(&session, &noise)?;
    run(&session, &noise, &wanted)?;
    containerd.end(&running)
}

/// An image that was there before hawkerd went away.
struct Present {
    label: String,
    containerd: Containerd,
    reference: String,
}

impl Present {
    /// What works meanwhile and what does not; what runs has to.
    fn live_on(&self, running: &str, time: Duration) -> Result<()> {
        let began = Instant::now();
        let start = self.try_start()?;
        let (how, took) = (start.status, start.elapsed);
        let why = start.stderr.lines().last().unwrap_or_default();
        self.say(&format!(
            "a container of an image that is there: {how} after {took:.1?}: {why}"
        ));
        let listed = self.containerd.client(Client::Crictl).images();
        self.say(&format!("listing images: {:?}", listed.map(|it| it.len())));
        let python = ["python3", "-c", "import json; print(json.__name__)"];
        while began.elapsed() < time {
            let output = self.containerd.execute(running, &python)?;
            ensure!(output == "json\n", "what runs printed {output:?}");
            thread::sleep((time / 12).min(time.saturating_sub(began.elapsed())));
        }
        self.say(&format!("what runs went on for {:.0?}", began.elapsed()));
        Ok(())
    }

    fn try_start(&self) -> Result<Output> {
        let by = ["--snapshotter", self.containerd.snapshotter()];
        let group = self.containerd.cgroup();
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "8", "ctr", "-n", "k8s.io", "run", "--rm"]);
        command.args(["--net-host", "--cgroup", &group]).args(by);
        command.args([&self.reference, "meanwhile", "/bin/true"]);
        self.containerd.host().run(&mut command, LIMIT)
    }

    /// What was pulled before starts again soon.
    fn start_again(&self, back: Instant) -> Result<()> {
        let another = loop {
            let run = self.containerd.run(&self.reference, image::PYTHON_COMMAND);
            if run.is_ok() || back.elapsed() > Duration::from_secs(15) {
                break run;
            }
            thread::sleep(Duration::from_millis(100));
        };
        let output = another.context("a container after hawkerd came back")?;
        ensure!(output.contains("numpy"), "{output}");
        self.say(&format!(
            "a new container {:.1?} after hawkerd came back",
            back.elapsed()
        ));
        Ok(())
    }

    fn say(&self, what: &str) {
        println!("{}: {what}", self.label);
    }
}
