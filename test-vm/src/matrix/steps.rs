//! The steps of the matrix, with one client on one node.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Outcome, Step};
use crate::{
    cluster::{Client, Cluster, Containerd, Member, Profile, Session},
    image::{self, Image},
};

const LIMIT: Duration = Duration::from_secs(60);
/// How often a kubelet or a person tries once more when hawkerd was away.
const RETRIES: usize = 4;
/// What a container's start may take longer than thrice the usual before it counts as stalled: a
/// pull keeps the machine busy, and one that is waited for takes many seconds.
const STALL: f64 = 1.0;
/// Where the testbed itself does what must not touch the client's images.
const ASIDE: &str = "testbed";

/// Seconds that starting a container took, without and with a pull in which garbage collection
/// waits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Stall {
    pub alone: f64,
    pub slowest: f64,
    /// How many were started meanwhile.
    pub starts: usize,
    /// How many collections ran meanwhile, and how long the slowest took.
    pub collections: usize,
    pub slowest_collection: f64,
}

impl Stall {
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.slowest > 3.0 * self.alone + STALL
    }
}

/// One client on the node of a cluster, and the image it works with.
pub(super) struct Workbench<'a> {
    cluster: &'a Cluster,
    node: &'a Member,
    containerd: Containerd,
    session: Session,
    reference: String,
}

impl<'a> Workbench<'a> {
    pub(super) fn new(cluster: &'a Cluster, client: Client) -> Result<Self> {
        let node = &cluster.nodes()[0];
        let image = image::python()?.renamed(&format!("matrix/{}", client.slug()), "1");
        let reference = cluster.registry.push(&image)?;
        let containerd = node.containerd()?;
        let mut session = containerd.client(client);
        if client == Client::Docker {
            node.start_docker_on_containerd()?;
        } else if client != Client::Crictl {
            // What a killed client leaves is kept for a day: not beside another client's.
            session = session.in_namespace(&format!("matrix-{}", client.slug()));
        }
        Ok(Self {
            cluster,
            node,
            containerd,
            session,
            reference,
        })
    }

    /// Does one step and looks who fetched layers for it.
    pub(super) fn do_step(&self, step: Step, profile: Profile) -> Result<Outcome> {
        let before = self.node.bytes()?.served;
        let straight = self.cluster.registry.tally()?.bytes_past_hawker();
        let released = self.node.releases()?;
        let began = Instant::now();
        let mut stall = None;
        let done = match step {
            Step::Pull | Step::PullAgain => self.session.pull(&self.reference).map(drop),
            Step::Run => self.run_python(),
            Step::Commit => self.commit(),
            Step::Remove => self.remove(),
            Step::Prune => self.prune(),
            Step::TwoAtOnce => self.two_at_once(),
            Step::Cancel => self.cancel(),
            Step::Kill => self.restart(step, Self::kill),
            Step::Terminate => self.restart(step, Self::terminate),
            Step::Collect => self.collect().map(|measured| stall = Some(measured)),
            Step::Namespaces => self.namespaces(),
        };
        let served = self.node.bytes().unwrap_or_default().served;
        let straight = self.cluster.registry.tally()?.bytes_past_hawker() - straight;
        Ok(Outcome {
            profile,
            version: self.containerd.setup().version,
            client: self.session.client(),
            step,
            failure: done.err().map(|error| format!("{error:#}")),
            // A counter that starts anew counts from zero. No image's manifests and configs come
            // to this, and every layer is larger.
            has_fetched: served.checked_sub(before).unwrap_or(served) + straight > HEADS,
            has_released: self.node.releases().unwrap_or_default() > released,
            seconds: began.elapsed().as_secs_f64(),
            stall,
        })
    }

    fn run_python(&self) -> Result<()> {
        let output = self.session.run(&self.reference, image::PYTHON_COMMAND)?;
        ensure!(output.contains("numpy"), "it printed {output:?}");
        Ok(())
    }

    fn commit(&self) -> Result<()> {
        let words = ["/bin/sh", "-c", "echo kept > /kept"];
        self.session
            .commit(&self.reference, &words, "committed:1")?;
        let output = self.session.run("committed:1", &["cat", "/kept"])?;
        ensure!(output == "kept\n", "it printed {output:?}");
        self.session.remove_image("committed:1")
    }

    fn remove(&self) -> Result<()> {
        self.session.remove_image(&self.reference)?;
        self.await_no_snapshots()
    }

    fn prune(&self) -> Result<()> {
        self.session.prune()?;
        let left = self.session.images()?;
        ensure!(left.iter().all(|it| !it.contains("matrix")), "{left:?}");
        self.await_no_snapshots()
    }

    /// Nothing but the pods' own image is left in the client's namespace.
    fn await_no_snapshots(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let left = self.ctr(
                self.session.namespace(),
                &[
                    "snapshots",
                    "--snapshotter",
                    self.containerd.snapshotter(),
                    "ls",
                ],
            )?;
            if left.lines().count() <= 2 {
                return Ok(());
            }
            ensure!(began.elapsed() < LIMIT, "snapshots are left:\n{left}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn two_at_once(&self) -> Result<()> {
        let (image, reference) = self.noise(Step::TwoAtOnce)?;
        thread::scope(|scope| {
            let pulls = [(); 2].map(|()| scope.spawn(|| self.session.pull(&reference)));
            pulls.into_iter().try_for_each(|pull| join(pull).map(drop))
        })?;
        self.look_at(&image, &reference)
    }

    fn cancel(&self) -> Result<()> {
        let (image, reference) = self.noise(Step::Cancel)?;
        let received = self.received()?;
        let mut command = self.session.pull_command(&reference)?;
        let pull = self.containerd.host().spawn("cancelled", &mut command)?;
        let part = received + image.blobs_len() / 4;
        self.node.wait_until_received(part, LIMIT)?;
        pull.kill();
        self.session.pull(&reference).context("the second pull")?;
        self.look_at(&image, &reference)
    }

    fn restart(&self, step: Step, end: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let (image, reference) = self.noise(step)?;
        let received = self.received()?;
        thread::scope(|scope| {
            let pull = scope.spawn(|| self.pull_with_retries(&reference));
            let part = received + image.blobs_len() / 4;
            self.node.wait_until_received(part, LIMIT)?;
            end(self)?;
            self.node.start_hawkerd()?;
            self.node.wait_until_healthy(LIMIT)?;
            join(pull)
        })?;
        self.look_at(&image, &reference)
    }

    fn kill(&self) -> Result<()> {
        self.node.kill_hawkerd()
    }

    fn terminate(&self) -> Result<()> {
        self.node.hawkerd()?.terminate(LIMIT).map(drop)
    }

    fn pull_with_retries(&self, reference: &str) -> Result<()> {
        for _ in 0..RETRIES {
            if self.session.pull(reference).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_secs(1));
        }
        self.session.pull(reference).map(drop)
    }

    /// Pulls while snapshots are collected all the time, and starts other containers meanwhile.
    fn collect(&self) -> Result<Stall> {
        let (image, reference) = self.noise(Step::Collect)?;
        let aside = self.containerd.client(Client::Ctr).in_namespace(ASIDE);
        let pause = "registry:5000/testbed/pause:1";
        aside.pull(pause)?;
        let start = || -> Result<f64> {
            let began = Instant::now();
            aside.run(pause, &["/sleep", "0"])?;
            Ok(began.elapsed().as_secs_f64())
        };
        let mut alone = (0..5).map(|_| start()).collect::<Result<Vec<_>>>()?;
        alone.sort_by(f64::total_cmp);
        let received = self.received()?;
        let is_done = AtomicBool::new(false);
        let (starts, collections) = thread::scope(|scope| {
            let pull = scope.spawn(|| {
                let pulled = self.session.pull(&reference);
                is_done.store(true, Ordering::Relaxed);
                pulled
            });
            let part = received + image.blobs_len() / 8;
            self.node.wait_until_received(part, LIMIT)?;
            let starts = scope.spawn(|| until(&is_done, start));
            let collections = until(&is_done, || self.collect_snapshots())?;
            join(pull)?;
            anyhow::Ok((join(starts)?, collections))
        })?;
        let slowest = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
        self.look_at(&image, &reference)?;
        Ok(Stall {
            alone: alone[alone.len() / 2],
            slowest: slowest(&starts),
            starts: starts.len(),
            collections: collections.len(),
            slowest_collection: slowest(&collections),
        })
    }

    /// Has containerd collect snapshots now, and waits for it. Returns how long it took.
    fn collect_snapshots(&self) -> Result<f64> {
        let by = ["snapshots", "--snapshotter", self.containerd.snapshotter()];
        // Snapshots are looked at only when one was removed.
        self.ctr(ASIDE, &[&by[..], &["prepare", "to-be-removed"]].concat())?;
        self.ctr(ASIDE, &[&by[..], &["rm", "to-be-removed"]].concat())?;
        let pause = "registry:5000/testbed/pause:1";
        self.ctr(ASIDE, &["images", "tag", "--force", pause, "collected:1"])?;
        let began = Instant::now();
        self.ctr(ASIDE, &["images", "rm", "--sync", "collected:1"])?;
        Ok(began.elapsed().as_secs_f64())
    }

    fn namespaces(&self) -> Result<()> {
        let (image, reference) = self.noise(Step::Namespaces)?;
        let one = self.session.clone();
        let two = match one.client() {
            // It has one alone; a person with nerdctl is in the other.
            Client::Crictl | Client::Docker => self.containerd.client(Client::Nerdctl),
            _ => self.session.clone().in_namespace("another"),
        };
        one.pull(&reference)?;
        two.pull(&reference)?;
        look(&one, &image, &reference)?;
        look(&two, &image, &reference)?;
        one.remove_image(&reference)?;
        look(&two, &image, &reference)?;
        two.remove_image(&reference)
    }

    /// An image that nobody has seen yet, in the registry.
    fn noise(&self, step: Step) -> Result<(Image, String)> {
        let name = format!("{}-{step:?}", self.session.client().slug()).to_lowercase();
        let image = image::noise(&name)?;
        let reference = self.cluster.registry.push(&image)?;
        Ok((image, reference))
    }

    /// Runs a container of an image of noise, then removes the image.
    fn look_at(&self, image: &Image, reference: &str) -> Result<()> {
        look(&self.session, image, reference)?;
        self.session.remove_image(reference)
    }

    fn received(&self) -> Result<u64> {
        let bytes = self.node.bytes()?;
        Ok(bytes.origin + bytes.seed + bytes.parent)
    }

    fn ctr(&self, namespace: &str, words: &[&str]) -> Result<String> {
        let mut command = Command::new("ctr");
        command.args(["-n", namespace]).args(words);
        let output = self.containerd.host().run(&mut command, LIMIT)?;
        Ok(output.success()?.stdout)
    }
}

/// More than the manifests and configs of all images of one step.
const HEADS: u64 = 100_000;

/// The container reads a file of the lowest layer and one of the uppermost.
fn look(session: &Session, image: &Image, reference: &str) -> Result<()> {
    let script = "cat /name; wc -c < /3-5";
    let output = session.run(reference, &["/bin/busybox", "sh", "-c", script])?;
    let name = image.repository.trim_start_matches("noise/");
    ensure!(
        output.trim() == format!("{name}1048576"),
        "{reference} printed {output:?}"
    );
    Ok(())
}

fn until<T>(is_done: &AtomicBool, work: impl Fn() -> Result<T>) -> Result<Vec<T>> {
    let mut done = Vec::new();
    while !is_done.load(Ordering::Relaxed) {
        done.push(work()?);
    }
    Ok(done)
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
