//! What people do with an image whose layers containerd never fetched: they push, save, commit and
//! convert it, and CRI may be told to give up layers that are unpacked.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    cluster::{Client, Cluster, ContainerdVersion, Profile, Session, Topology},
    image::{self, Image},
};

pub(super) const CASES: &[Case] = &[
    Case::new("remote_image_is_pushed_saved_and_converted", 200, || {
        used(ContainerdVersion::V2, Profile::Full)
    }),
    Case::new(
        "every_remote_image_is_pushed_saved_and_converted",
        1_200,
        || {
            for version in ContainerdVersion::ALL {
                used(version, Profile::Full)?;
                used(version, Profile::FullOverlayfs)?;
            }
            Ok(())
        },
    )
    .long(),
    Case::new("unpacked_layers_are_discarded_or_kept", 200, || {
        discarded(ContainerdVersion::V2)
    }),
    Case::new(
        "unpacked_layers_are_discarded_by_every_containerd",
        600,
        || ContainerdVersion::ALL.into_iter().try_for_each(discarded),
    )
    .long(),
];

const LIMIT: Duration = Duration::from_secs(60);
/// More than manifests and configs; every layer is larger.
const HEADS: u64 = 100_000;

fn used(version: ContainerdVersion, profile: Profile) -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 1,
        containerd: version,
        profile,
        ..Topology::default()
    })?;
    let node = &cluster.nodes()[0];
    let image = image::noise("used")?;
    let reference = cluster.registry.push(&image)?;
    let clients: &[Client] = match version {
        // nerdctl 2.3 tags and saves through the transfer service, which came with 1.7.
        ContainerdVersion::Debian => &[Client::Ctr],
        _ => &[Client::Nerdctl, Client::Ctr],
    };
    for client in clients.iter().copied() {
        let session = node.containerd()?.client(client);
        let session = session.in_namespace(client.slug());
        session.pull(&reference)?;
        use_all(&session, &image, &reference).with_context(|| {
            let (profile, version) = (profile.name(), version.name());
            format!("{} of containerd {version}, {profile}", client.name())
        })?;
    }
    let served = node.bytes()?.served;
    ensure!(served < HEADS, "containerd fetched {served} bytes itself");
    let straight = cluster.registry.tally()?.bytes_past_hawker();
    ensure!(
        straight == 0,
        "containerd fetched {straight} bytes past Hawker"
    );
    Ok(())
}

/// As soon as containerd knows that it has the layers.
fn use_all(session: &Session, image: &Image, reference: &str) -> Result<()> {
    let pushed = format!("registry:5000/pushed/{}:1", session.client().slug());
    let name = session.client().name();
    let began = Instant::now();
    await_blobs(session, image, image.blobs().len()).context("layers as content")?;
    println!(
        "{name}: layers are content {:.1?} after the pull",
        began.elapsed()
    );
    save(session, reference, "/run/saved.tar").context("save")?;
    check_saved(session, image).context("what was saved")?;
    push(session, reference, &pushed).context("push")?;
    convert(session, reference, "registry:5000/converted:1").context("convert")?;
    if session.client() == Client::Nerdctl {
        let words = ["/bin/busybox", "sh", "-c", "echo kept > /kept"];
        session
            .commit(reference, &words, "committed:1")
            .context("commit")?;
        let output = session.run("committed:1", &["/bin/busybox", "cat", "/kept"])?;
        ensure!(output == "kept\n", "it printed {output:?}");
    }
    session.check_content(image)?;
    session.remove_image(reference)?;
    session.remove_image(&pushed)?;
    session.pull(&pushed).context("what was pushed")?;
    let command = ["/bin/busybox", "cat", "/name"];
    let output = session.run(&pushed, &command)?;
    ensure!(output == "used", "{name} printed {output:?}");
    let output = session.run("registry:5000/converted:1", &command);
    ensure!(output.context("what was converted")? == "used");
    Ok(())
}

/// nerdctl has what is missing fetched, and then containerd send the archive as a stream, which
/// containerd 1.6 cannot.
const NO_STREAMS: &str = "unknown service containerd.services.streaming";

fn save(session: &Session, reference: &str, file: &str) -> Result<()> {
    let export = ["images", "export", file, reference];
    if session.client() != Client::Nerdctl {
        return session.ask(&export).map(drop);
    }
    match session.ask(&["save", "-o", file, reference]) {
        Err(error) if format!("{error:#}").contains(NO_STREAMS) => {
            let ctr = session.containerd().client(Client::Ctr);
            let ctr = ctr.in_namespace(session.namespace());
            ctr.ask(&export).context("by ctr").map(drop)
        }
        saved => saved.map(drop),
    }
}

/// Every blob is in the archive as it was.
fn check_saved(session: &Session, image: &Image) -> Result<()> {
    let host = session.containerd().host();
    for blob in image.blobs() {
        let name = blob.digest.replace(':', "/");
        let script = format!("tar -xOf /run/saved.tar blobs/{name} | sha256sum");
        let output = host.run(Command::new("sh").args(["-c", &script]), LIMIT)?;
        let sum = output.success()?.stdout;
        let read = sum
            .split_whitespace()
            .next()
            .map(|it| format!("sha256:{it}"));
        ensure!(read.as_ref() == Some(&blob.digest), "{name}: {read:?}");
    }
    Ok(())
}

fn push(session: &Session, reference: &str, into: &str) -> Result<()> {
    let hosts = ["--hosts-dir", "/etc/containerd/certs.d"];
    match session.client() {
        Client::Nerdctl => {
            session.ask(&["tag", reference, into])?;
            session.ask(&["push", into]).map(drop)
        }
        _ => {
            session.ask(&["images", "tag", reference, into])?;
            let words = [&["images", "push"], &hosts[..], &["--plain-http", into]];
            session.ask(&words.concat()).map(drop)
        }
    }
}

fn convert(session: &Session, reference: &str, into: &str) -> Result<()> {
    let words = match session.client() {
        Client::Nerdctl => vec!["image", "convert", "--uncompress", "--oci", reference, into],
        _ => vec![
            "images",
            "convert",
            "--uncompress",
            "--oci",
            reference,
            into,
        ],
    };
    session.ask(&words).map(drop)
}

/// With layers given up once they are unpacked, and kept: the image works, and what is wanted again
/// is not fetched from the registry again.
fn discarded(version: ContainerdVersion) -> Result<()> {
    for discards_layers in [true, false] {
        let cluster = Cluster::start(&Topology {
            nodes: 1,
            containerd: version,
            profile: Profile::FullOverlayfs,
            discards_layers,
            ..Topology::default()
        })?;
        cluster.registry.push(&image::pause()?)?;
        let session = cluster.nodes()[0].containerd()?.client(Client::Crictl);
        let image = image::noise("discarded")?;
        let reference = cluster.registry.push(&image)?;
        session.pull(&reference)?;
        let (kept, expected) = match discards_layers {
            true => (1, "config alone"),
            false => (image.blobs().len(), "config and layers"),
        };
        await_blobs(&session, &image, kept).context(expected)?;
        let output = session.run(&reference, &["/bin/busybox", "cat", "/name"])?;
        ensure!(output == "discarded", "it printed {output:?}");
        // nerdctl has what is missing fetched before it saves.
        let nerdctl = session.containerd().client(Client::Nerdctl);
        let nerdctl = nerdctl.in_namespace("k8s.io");
        save(&nerdctl, &reference, "/run/saved.tar").context("save")?;
        check_saved(&nerdctl, &image)?;
        let sent = cluster.registry.tally()?.blob_bytes();
        let len = image.blobs_len() + image::pause()?.blobs_len();
        println!("discards: {discards_layers}; the registry sent {sent} of {len} bytes");
        ensure!(sent <= len, "the registry sent {sent} of {len} bytes");
    }
    Ok(())
}

/// Waits until so many of the image's blobs are containerd's.
pub(super) fn await_blobs(session: &Session, image: &Image, count: usize) -> Result<()> {
    let mut there = 0;
    for _ in 0..300 {
        let content = session.containerd().content(session.namespace())?;
        let blobs = image.blobs().iter();
        there = blobs.filter(|blob| content.contains(&blob.digest)).count();
        if there == count {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("containerd has {there} of the blobs, not {count}")
}
