//! What Hawker unpacks is what containerd unpacks: file by file, with all that a file has, seen
//! through the mounted image and in the directory of each layer.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    bed::{Link, Run},
    cluster::{Cluster, Containerd, ContainerdSetup, ContainerdVersion, Profile, Topology},
    image::{self, Image, Oddity, synthetic},
    tree::{self, Tree},
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "odd_images_unpack_as_they_do_straight_from_the_registry",
        300,
        || odd_images(ContainerdVersion::Debian, Profile::Mirror),
    ),
    Case::new(
        "odd_images_unpack_as_containerd_1_6_unpacks_them",
        300,
        || odd_images(ContainerdVersion::Debian, Profile::Snapshotter),
    ),
    Case::new(
        "odd_images_unpack_as_containerd_2_unpacks_them",
        300,
        || odd_images(ContainerdVersion::V2, Profile::Snapshotter),
    ),
    Case::new(
        "odd_images_unpack_by_the_diff_service_on_containerd_1_7",
        300,
        || odd_images(ContainerdVersion::V1_7, Profile::FullOverlayfs),
    )
    .long(),
    Case::new(
        "odd_images_unpack_by_the_diff_service_on_containerd_2",
        300,
        || odd_images(ContainerdVersion::V2, Profile::FullOverlayfs),
    ),
    Case::new(
        "real_images_unpack_as_containerd_unpacks_them",
        400,
        real_images,
    ),
];

fn odd_images(version: ContainerdVersion, profile: Profile) -> Result<()> {
    let images = (1..).zip(Oddity::ALL);
    let by = |oddity: Oddity| match profile {
        Profile::Mirror => By::Containerd,
        Profile::Snapshotter if oddity.is_left_to_containerd() => By::Containerd,
        // What is left to containerd, it reads out of its content store, which is Hawker's.
        _ => By::Hawker,
    };
    let images = images.map(|(seed, oddity)| Ok((synthetic(oddity, seed)?, by(oddity))));
    unpack_alike(version, profile, images)
}

fn real_images() -> Result<()> {
    let images = [image::python(), image::many_layers(), image::big_layer()];
    let images = images.into_iter().map(|image| Ok((image?, By::Hawker)));
    unpack_alike(ContainerdVersion::V2, Profile::Snapshotter, images)
}

/// Who has fetched an image's layers, and unpacked them where that is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Hawker,
    Containerd,
}

/// Pulls each image through Hawker and straight from the registry, and compares what came of it.
fn unpack_alike(
    version: ContainerdVersion,
    profile: Profile,
    images: impl Iterator<Item = Result<(Image, By)>>,
) -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 1,
        containerd: version,
        profile,
        ..Topology::default()
    })?;
    let bed = cluster.bed();
    let host = bed.add_host("straight", &Link::default())?;
    let setup = ContainerdSetup {
        version,
        ..ContainerdSetup::default()
    };
    let straight = Containerd::launch(&host, &Run::cgroup(bed.id()), setup)?;
    let node = &cluster.nodes()[0];
    let (hawker, mut unlike) = (node.containerd()?, Vec::new());
    for image in images {
        let (image, expected) = image?;
        let reference = cluster.registry.push(&image)?;
        cluster.registry.reset()?;
        let served = node.bytes()?.served;
        let alike = both_alike(&hawker, &straight, &image, &reference);
        let by = match node.bytes()?.served - served > image.head_len() {
            true => By::Containerd,
            false => By::Hawker,
        };
        let name = &image.repository;
        match alike {
            Ok(found) => println!("{name}: unpacked by {by:?}; {found}"),
            Err(error) => {
                println!("{name}: unpacked by {by:?}; UNLIKE: {error:#}");
                unlike.push(name.clone());
            }
        }
        if by != expected && image.layers_len() > 0 {
            unlike.push(format!("{name} is not unpacked by {expected:?}"));
        }
        let log = node.hawkerd()?.log_text();
        let left =
            |line: &&str| line.contains(name.as_str()) && line.contains("left to containerd");
        if let Some(line) = log.lines().find(left) {
            println!("  {line}");
        }
        let tally = cluster.registry.tally()?;
        ensure!(
            tally.blob_bytes() <= 2 * image.blobs_len(),
            "{reference}: more than once for each way: {:#?}",
            tally.by_digest
        );
    }
    ensure!(unlike.is_empty(), "not alike: {unlike:?}");
    Ok(())
}

/// What both made of an image, when it is the same.
fn both_alike(
    hawker: &Containerd,
    straight: &Containerd,
    image: &Image,
    reference: &str,
) -> Result<String> {
    let pulled = (hawker.pull(reference), straight.pull(reference));
    let (one, other) = (pulled.0.is_ok(), pulled.1.is_ok());
    ensure!(
        one >= other,
        "Hawker {:?}, straight {:?}",
        pulled.0,
        pulled.1
    );
    if let Err(error) = pulled.1 {
        let text = format!("{error:#}");
        let (_, why) = text.rsplit_once(": failed to").unwrap_or(("", &text));
        let who = if one {
            "containerd refuses, Hawker does not"
        } else {
            "both refuse"
        };
        return Ok(format!("{who}: {}", why.trim()));
    }
    if image.layers_len() == 0 {
        return Ok("no layers".to_owned());
    }
    let look = |mounted: &Path, layers: &[PathBuf]| -> Result<Vec<Tree>> {
        let dirs = [mounted]
            .into_iter()
            .chain(layers.iter().map(PathBuf::as_path));
        dirs.map(tree::describe).collect()
    };
    let one = hawker.with_tree(reference, look).context("Hawker")?;
    let other = straight.with_tree(reference, look).context("straight")?;
    ensure!(one.len() == other.len(), "the number of layers");
    for (number, (one, other)) in one.iter().zip(&other).enumerate() {
        tree::compare(one, other).with_context(|| match number {
            0 => "mounted".to_owned(),
            _ => format!("layer {} from the top", number - 1),
        })?;
    }
    let (files, layers) = (one[0].lines.len(), one.len() - 1);
    Ok(format!("{files} files, {layers} layers alike"))
}
