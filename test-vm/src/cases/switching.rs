//! The profile full switched on, off and on again on a containerd with images and running containers.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    Case,
    setup::{RESTART, Site},
};
use crate::{
    bed::Run,
    cluster::ContainerdVersion,
    image::{self, Image, digest_of},
};

pub(super) const CASES: &[Case] = &[
    Case::new("full_profile_is_switched_on_off_and_on_again", 240, || {
        switch(ContainerdVersion::V2, Snapshots::Overlayfs)
    }),
    Case::new(
        "full_profile_is_switched_on_off_and_on_again_on_every_containerd",
        1_200,
        || {
            for version in ContainerdVersion::ALL {
                switch(version, Snapshots::Overlayfs)?;
                switch(version, Snapshots::Hawker)?;
            }
            Ok(())
        },
    )
    .long(),
];

const LIMIT: Duration = Duration::from_secs(60);
const OWN_STORE: &str = "/var/lib/containerd/io.containerd.content.v1.content/blobs";

/// Whose snapshots are used with the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshots {
    Overlayfs,
    Hawker,
}

impl Snapshots {
    fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Hawker => "hawker",
        }
    }
}

/// An image, and a container of it that goes on.
struct Running {
    image: Image,
    reference: String,
    snapshots: Snapshots,
}

fn switch(version: ContainerdVersion, snapshots: Snapshots) -> Result<()> {
    println!("--- containerd {}, {snapshots:?} ---", version.name());
    let site = Site::start(version)?;
    let before = site.files()?;
    let old = start(&site, "switched-before", Snapshots::Overlayfs)?;

    switch_on(&site, snapshots)?;
    look(&site, &[&old]).context("switched on")?;
    let new = start(&site, "switched-on", snapshots)?;
    look(&site, &[&old, &new]).context("in use")?;

    let undone = site.set_up(&["--undo", "--restart-command", RESTART])?;
    println!("--- off ---\n{}", undone.success()?.stdout);
    site.wait_until_up()?;
    site.node().hawkerd()?.terminate(LIMIT)?;
    ensure!(site.files()? == before, "{:?}", site.files()?.keys());
    for it in [&old, &new] {
        check_own_store(&site, &it.image).context("the store that was given back")?;
    }
    let all: Vec<_> = [&old, &new].into_iter().collect();
    let usable = all.iter().filter(|it| it.snapshots == Snapshots::Overlayfs);
    look(&site, &usable.copied().collect::<Vec<_>>()).context("switched off, no hawkerd")?;

    site.node().start_hawkerd()?;
    site.node().wait_until_healthy(LIMIT)?;
    switch_on(&site, snapshots)?;
    look(&site, &all).context("switched on again")?;
    let last = start(&site, "switched-again", snapshots)?;
    look(&site, &[&old, &new, &last]).context("in use again")
}

fn switch_on(site: &Site, snapshots: Snapshots) -> Result<()> {
    let mut words = vec!["--profile", "full", "--yes", "--restart-command", RESTART];
    words.extend((snapshots == Snapshots::Overlayfs).then_some("--keep-snapshotter"));
    let sent = site.registry().tally()?.blob_bytes();
    let done = site.set_up(&words)?.success()?;
    println!("--- on ---\n{}", done.stdout);
    site.wait_until_up()?;
    let sent = site.registry().tally()?.blob_bytes() - sent;
    ensure!(sent == 0, "the registry was asked for {sent} bytes");
    Ok(())
}

/// Pulls with crictl, and starts a container.
fn start(site: &Site, name: &str, snapshots: Snapshots) -> Result<Running> {
    let image = image::noise(name)?;
    let reference = site.push(name)?;
    site.crictl(&["pull", &reference])?.success()?;
    let (by, group) = (snapshots.name(), site.cgroup());
    let run = [
        "run",
        "-d",
        "--net-host",
        "--cgroup",
        &group,
        "--snapshotter",
        by,
    ];
    let words = ["/bin/busybox", "sleep", "100000"];
    ctr(site, &[&run[..], &[&reference, name], &words].concat())?;
    Ok(Running {
        image,
        reference,
        snapshots,
    })
}

/// Reads content until it is there: layers are registered a while after the pull.
fn await_content(site: &Site, digest: &str) -> Result<()> {
    let get = format!("ctr -n k8s.io content get {digest} | sha256sum");
    let mut read = String::new();
    for _ in 0..60 {
        let mut command = Command::new("sh");
        let output = site.node().host().run(command.args(["-c", &get]), LIMIT)?;
        read = format!("sha256:{}", output.success()?.stdout);
        if read.starts_with(digest) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(500));
    }
    anyhow::bail!("{digest} is {read}")
}

/// What runs goes on, what is there is sound and can be started.
fn look(site: &Site, all: &[&Running]) -> Result<()> {
    for it in all {
        let name = it.image.repository.trim_start_matches("noise/");
        let cat = ["/bin/busybox", "cat", "/name"];
        let output = execute(site, name, &cat).context("what runs")?;
        ensure!(output == name, "{name}, which runs, printed {output:?}");
        for blob in it.image.blobs() {
            await_content(site, &blob.digest)?;
        }
        let (by, group) = (it.snapshots.name(), site.cgroup());
        let run = [
            "run",
            "--rm",
            "--net-host",
            "--cgroup",
            &group,
            "--snapshotter",
            by,
        ];
        let words = [&run[..], &[&it.reference, "another"], &cat].concat();
        let output = ctr(site, &words).context("another container")?;
        ensure!(output == name, "another {name} printed {output:?}");
    }
    Ok(())
}

/// Runs a program in a container. `ctr` drops what it has not read when it hears of the exit: then
/// it is asked again.
fn execute(site: &Site, name: &str, words: &[&str]) -> Result<String> {
    let exec = ["tasks", "exec", "--exec-id", "look", name];
    let mut output = String::new();
    for _ in 0..3 {
        output = ctr(site, &[&exec[..], words].concat())?;
        if !output.is_empty() {
            break;
        }
    }
    Ok(output)
}

/// Every blob is a file of containerd's own store.
fn check_own_store(site: &Site, image: &Image) -> Result<()> {
    let digests = image.blobs().iter().map(|blob| &blob.digest);
    for digest in digests.chain([&image.manifest.digest]) {
        let path = format!("{OWN_STORE}/{}", digest.replace(':', "/"));
        let bytes = std::fs::read(site.node().host().path(&path)).with_context(|| path.clone())?;
        ensure!(digest_of(&bytes) == *digest, "{path} is something else");
    }
    Ok(())
}

fn ctr(site: &Site, words: &[&str]) -> Result<String> {
    let mut command = Command::new("ctr");
    command.args(["-n", "k8s.io"]).args(words);
    let output = site.node().host().run(&mut command, LIMIT)?;
    Ok(output.success()?.stdout)
}

impl Site {
    fn cgroup(&self) -> String {
        let bed = self.bed();
        format!("/{}/{}", Run::cgroup(bed.id()), self.node().name())
    }
}
