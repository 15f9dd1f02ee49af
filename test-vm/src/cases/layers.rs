//! Many blobs at once, as an image has them: none starves, and what is read comes first.
//!
//! The links that are short lead to hosts of Hawker. Where several connections to the registry share a
//! short link the kernels decide who gets how much of it, and one that loses frames in its first
//! moment goes without for seconds.

use std::{
    io::Write,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::Case;
use crate::{
    access::fixture::each,
    bed::Link,
    cluster::{Cluster, Member, Topology},
    http as client,
    image::digest_of,
    registry::AUTHORITY,
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "layers_that_are_all_waited_for_come_side_by_side",
        120,
        side_by_side,
    ),
    Case::new(
        "layer_that_is_read_comes_before_those_that_nobody_reads",
        120,
        read_first,
    ),
];

const LIMIT: Duration = Duration::from_secs(100);
const MIRROR: &str = "127.0.0.1:65001";

/// A layer at the registry.
struct Layer {
    /// At the registry and the mirror.
    path: String,
    digest: String,
}

impl Layer {
    fn push(cluster: &Cluster, len: usize) -> Result<Self> {
        let mut bytes = vec![0; len];
        rand::fill(&mut bytes[..]);
        let digest = digest_of(&bytes);
        let registry = &cluster.registry;
        let path = registry.push_bytes("layers", &digest, bytes.into())?;
        Ok(Self { path, digest })
    }

    /// At the mirror.
    fn target(&self) -> String {
        format!("{}?ns={AUTHORITY}", self.path)
    }

    /// Reads it as fast as it comes.
    fn read(&self, node: &Member) -> Result<()> {
        let url = format!("http://{MIRROR}{}", self.target());
        let answer = node.host().enter(|| client::get(&url, LIMIT))??.success()?;
        ensure!(digest_of(&answer.body) == self.digest, "wrong bytes");
        Ok(())
    }

    /// Asks for it and reads nothing of the answer.
    fn ask(&self, node: &Member) -> Result<TcpStream> {
        let mut stream = node.host().enter(|| TcpStream::connect(MIRROR))??;
        let target = self.target();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: {MIRROR}\r\n\r\n")?;
        Ok(stream)
    }
}

/// A cluster whose nodes have links of such a rate, and that many layers of that length at the registry.
/// What leads to the registry and to the seed is as fast as the machine.
fn start(nodes: usize, rate: &str, layers: usize, len: usize) -> Result<(Cluster, Vec<Layer>)> {
    let cluster = Cluster::start(&Topology {
        nodes,
        link: Link::of_rate(rate.parse()?),
        seed_link: Some(Link::default()),
        has_containerd: false,
        ..Topology::default()
    })?;
    let layers = (0..layers).map(|_| Layer::push(&cluster, len));
    let layers = layers.collect::<Result<_>>()?;
    Ok((cluster, layers))
}

/// When the first of all layers is whole on a host, each other one has a part of itself there.
fn side_by_side() -> Result<()> {
    let (cluster, layers) = start(3, "50mbit", 6, 6 << 20)?;
    let pull = |node: &Member| {
        thread::scope(|scope| {
            let reads = layers.iter().map(|it| scope.spawn(|| it.read(node)));
            let reads: Vec<_> = reads.collect();
            let least = least_at_first_whole(node, &layers)?;
            let name = node.name();
            println!("{name}: {least:.2} of the slowest layer");
            ensure!(
                least >= 0.1,
                "{name}: a layer starves, of which {least:.2} are there"
            );
            for read in reads {
                read.join().ok().context("a pull panicked")??;
            }
            Ok(())
        })
    };
    let nodes = cluster.nodes();
    each(nodes, nodes.len(), pull).map(drop)
}

/// Which part of the slowest layer is there when another one is whole.
fn least_at_first_whole(node: &Member, layers: &[Layer]) -> Result<f64> {
    let deadline = Instant::now() + LIMIT;
    let mut parts = vec![0.0; layers.len()];
    while Instant::now() < deadline {
        parts = self::parts(node, layers, &parts)?;
        if parts.iter().any(|part| *part >= 1.0) {
            return Ok(parts.iter().copied().fold(1.0, f64::min));
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("no layer is whole after {LIMIT:?}")
}

/// How much of each layer is there. One that is whole and read is no task any more.
fn parts(node: &Member, layers: &[Layer], before: &[f64]) -> Result<Vec<f64>> {
    let status = node.status()?;
    let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
    let part = |(layer, before): (&Layer, &f64)| {
        let task = tasks.iter().find(|task| task["id"] == layer.digest);
        let number = |name: &str| task.and_then(|task| task[name].as_f64());
        if task.is_none() && *before > 0.0 {
            return 1.0;
        }
        match (number("pieces"), number("total_pieces")) {
            (Some(pieces), Some(total)) if total > 0.0 => pieces / total,
            _ => 0.0,
        }
    };
    Ok(layers.iter().zip(before).map(part).collect())
}

/// Clients ask for four layers, and one of them reads: its layer is whole before half of all bytes have
/// come. The others, for which nobody waits once the clients' sockets are full (after a tenth of each),
/// have their part and come all the same.
fn read_first() -> Result<()> {
    const LEN: usize = 24 << 20;
    let (cluster, layers) = start(1, "80mbit", 4, LEN)?;
    warm(&cluster.seeds()[0], &layers)?;
    let node = &cluster.nodes()[0];
    let [read, others @ ..] = &layers[..] else {
        bail!("no layers")
    };
    let unread = others.iter().map(|layer| layer.ask(node));
    let unread: Vec<_> = unread.collect::<Result<_>>()?;
    read.read(node)?;
    let bytes = node.bytes()?;
    let parts = parts(node, others, &vec![0.0; others.len()])?;
    let came = bytes.origin + bytes.seed + bytes.parent;
    let all = (LEN * layers.len()) as u64;
    let share = came as f64 / all as f64;
    println!("{share:.2} of all bytes came, of the others {parts:.2?}");
    ensure!(
        share <= 0.5,
        "what is read waited for {share:.2} of all bytes"
    );
    let has_part = |part: &f64| (0.02..1.0).contains(part);
    ensure!(parts.iter().all(has_part), "the others have {parts:.2?}");
    node.wait_until_received(all, LIMIT)?;
    drop(unread);
    Ok(())
}

/// Lets a seed have all of them.
fn warm(seed: &Member, layers: &[Layer]) -> Result<()> {
    for Layer { path, digest } in layers {
        let url = format!("http://{AUTHORITY}{path}");
        let words = ["get", &url, "-o", "/run/layer", "--digest", digest];
        seed.hawker(&words, LIMIT)?.success()?;
    }
    Ok(())
}
