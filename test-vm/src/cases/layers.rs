//! Many blobs at once, as an image has them: none starves.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    bed::Link,
    cluster::{Cluster, Member, Topology},
    http as client,
    image::digest_of,
    registry::AUTHORITY,
};

pub(super) const CASES: &[Case] = &[Case::new(
    "layers_that_are_all_waited_for_come_side_by_side",
    120,
    side_by_side,
)];

const LIMIT: Duration = Duration::from_secs(100);
const MIRROR: &str = "127.0.0.1:65001";
const LAYERS: usize = 6;
const LEN: usize = 6 << 20;

/// Layers at the registry that no host has.
struct Image {
    /// Path at the mirror, and digest.
    layers: Vec<(String, String)>,
}

impl Image {
    fn push(cluster: &Cluster) -> Result<Self> {
        let push = |_| {
            let bytes: Vec<u8> = (0..LEN).map(|_| rand::random()).collect();
            let digest = digest_of(&bytes);
            let registry = &cluster.registry;
            let path = registry.push_bytes("layers", &digest, bytes.into())?;
            Ok((format!("{path}?ns={AUTHORITY}"), digest))
        };
        let layers = (0..LAYERS).map(push).collect::<Result<_>>()?;
        Ok(Self { layers })
    }
}

/// Links that let all layers take some seconds.
fn start() -> Result<(Cluster, Image)> {
    let link = Link::of_rate("50mbit".parse()?);
    let cluster = Cluster::start(&Topology {
        nodes: 3,
        link,
        registry_link: link,
        has_containerd: false,
        ..Topology::default()
    })?;
    let image = Image::push(&cluster)?;
    Ok((cluster, image))
}

/// When the first of all layers is whole on a host, each other one has a part of itself there.
fn side_by_side() -> Result<()> {
    let (cluster, image) = start()?;
    on_all(cluster.nodes(), |node| {
        thread::scope(|scope| {
            let read = |layer| read(node, layer);
            let reads: Vec<_> = image
                .layers
                .iter()
                .map(|layer| scope.spawn(move || read(layer)))
                .collect();
            let least = least_at_first_whole(node, &image)?;
            println!("{}: {least:.2} of the slowest layer", node.name());
            ensure!(least >= 0.1, "a layer starves: {least:.2} of it are there");
            for read in reads {
                let right = read.join().ok().context("a pull panicked")??;
                ensure!(right, "a layer is wrong");
            }
            Ok(())
        })
    })
}

fn on_all(nodes: &[Member], work: impl Fn(&Member) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let works: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(move || work(node).with_context(|| node.name().to_owned())))
            .collect();
        works.into_iter().try_for_each(|work| {
            let ended = work.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// Reads a layer as fast as it comes; whether it is right.
fn read(node: &Member, (path, digest): &(String, String)) -> Result<bool> {
    let url = format!("http://{MIRROR}{path}");
    let answer = node.host().enter(|| client::get(&url, LIMIT))??.success()?;
    Ok(digest_of(&answer.body) == *digest)
}

/// Which part of the slowest layer is there when another one is whole.
fn least_at_first_whole(node: &Member, image: &Image) -> Result<f64> {
    let deadline = Instant::now() + LIMIT;
    let mut parts = vec![0.0; LAYERS];
    while Instant::now() < deadline {
        parts = self::parts(node, image, &parts)?;
        if parts.iter().any(|part| *part >= 1.0) {
            return Ok(parts.iter().copied().fold(1.0, f64::min));
        }
        thread::sleep(Duration::from_millis(10));
    }
    anyhow::bail!("no layer is whole after {LIMIT:?}")
}

/// How much of each layer is there. One that is whole and read is no task any more.
fn parts(node: &Member, image: &Image, before: &[f64]) -> Result<Vec<f64>> {
    let status = node.status()?;
    let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
    let part = |((_, digest), before): (&(String, String), &f64)| {
        let task = tasks.iter().find(|task| task["id"] == digest.as_str());
        let number = |name: &str| task.and_then(|task| task[name].as_f64());
        if task.is_none() && *before > 0.0 {
            return 1.0;
        }
        match (number("pieces"), number("total_pieces")) {
            (Some(pieces), Some(total)) if total > 0.0 => pieces / total,
            _ => 0.0,
        }
    };
    Ok(image.layers.iter().zip(before).map(part).collect())
}
