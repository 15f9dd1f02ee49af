//! How long the content store takes to say what it has.
//!
//! The one who asks comes before all else that runs on the machine: what is measured is how long an
//! answer takes, not how long the benchmark waits for a processor. containerd, registry and hawkerd,
//! but for its thread that answers, have the usual nice value.
//!
//! Between two questions a thread of the benchmark itself is asked to send back a byte, which has
//! the same precedence as the one of hawkerd that answers: what that takes is the machine's share.

use std::{
    collections::HashMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ::http::Request;
use anyhow::{Context, Result};
use bytes::Bytes;
use containerd_client::{
    services::v1::{InfoRequest, WriteAction, WriteContentRequest, content_client::ContentClient},
    tonic::{Request as Call, transport::Channel},
};
use futures::{StreamExt, TryStreamExt, stream};
use rand::RngExt;
use serde::Serialize;
use serde_json::json;

use crate::{
    bed::{Link, Place, Rate},
    cluster::{Client, Cluster, ContainerdVersion, Member, Profile, Topology},
    http,
    image::{Image, digest_of},
    progress::step,
    registry::{AUTHORITY, Registry},
    sys::take_precedence,
    table::Table,
};

const NAMESPACE: &str = "bench";
const LIMIT: Duration = Duration::from_secs(60);
/// How many blobs are written at a time.
const WRITERS: usize = 16;
/// Between two questions, so that they do not measure themselves.
const PACE: Duration = Duration::from_micros(500);
/// How long a phase takes whose end is not given by anything else.
const PHASE: Duration = Duration::from_secs(8);
/// Manifests and their layers, whose promises are recorded meanwhile.
const MANIFESTS: usize = 24;
const LAYERS: usize = 50;

#[derive(Debug, Serialize)]
pub(super) struct InfoReport {
    blobs: usize,
    promises: usize,
    phases: Vec<Phase>,
}

/// Milliseconds that answers took while something else went on.
#[derive(Debug, Serialize)]
struct Phase {
    meanwhile: &'static str,
    answers: usize,
    p50: f64,
    p99: f64,
    slowest: f64,
    /// Of a byte that is sent back at once.
    echo_p99: f64,
}

pub(super) fn measure(
    version: ContainerdVersion,
    blobs: usize,
    image: &Image,
) -> Result<InfoReport> {
    let cluster = Cluster::start(&Topology {
        seeds: 0,
        nodes: 1,
        has_scheduler: false,
        // A pull takes so long that there is something to measure.
        registry_link: Link::of_rate(Rate::mbit(200)),
        containerd: version,
        profile: Profile::FullOverlayfs,
        place: Place::Disk,
        log_level: "warn".to_owned(),
        ..Topology::default()
    })?;
    let node = &cluster.nodes()[0];
    let socket = node.host().path("/run/hawker/containerd.sock");
    let containerd = node.host().path("/run/containerd/containerd.sock");
    let digests = step(&format!("write {blobs} blobs"), || fill(&containerd, blobs))?;
    let promised = step("push images of many layers", || promises(&cluster.registry))?;
    let names = ["one", "two"];
    let images = names.map(|name| {
        cluster
            .registry
            .push(&image.renamed(&format!("info/{name}"), "1"))
    });
    let [one, two] = images.map(|it| it.unwrap_or_default());
    let (first, second) = promised.split_at(promised.len() / 2);
    let mut phases = Vec::new();
    let mut measure = |meanwhile, work: &(dyn Fn() -> Result<()> + Sync)| -> Result<()> {
        let phase = step(&format!("ask for blobs: {meanwhile}"), || {
            ask_while(&socket, &digests, meanwhile, work)
        })?;
        phases.push(phase);
        Ok(())
    };
    measure("nothing else", &|| {
        thread::sleep(PHASE);
        Ok(())
    })?;
    measure("a pull runs", &|| pull(node, &one))?;
    measure("promises are recorded", &|| fetch(node, first))?;
    remove(node, &one)?;
    measure("both", &|| {
        thread::scope(|scope| {
            let fetched = scope.spawn(|| fetch(node, second));
            pull(node, &two)?;
            fetched
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    Ok(InfoReport {
        blobs,
        promises: MANIFESTS * LAYERS,
        phases,
    })
}

fn pull(node: &Member, reference: &str) -> Result<()> {
    node.containerd()?.pull(reference).map(drop)
}

/// Its bytes stay in the cache; the second pull unpacks again.
fn remove(node: &Member, reference: &str) -> Result<()> {
    let session = node.containerd()?.client(Client::Crictl);
    session.remove_image(reference)
}

/// Has the mirror pass manifests by, as a pull does.
fn fetch(node: &Member, manifests: &[String]) -> Result<()> {
    for path in manifests {
        let url = format!("http://127.0.0.1:65001{path}?ns={AUTHORITY}");
        let request = Request::get(url).header("accept", MANIFEST);
        let request = request.body(Bytes::new())?;
        node.host()
            .enter(|| http::send(request, LIMIT))??
            .success()?;
    }
    Ok(())
}

/// Manifests of tiny layers that nobody has. Returns their paths.
fn promises(registry: &Registry) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for number in 0..MANIFESTS {
        let repository = format!("promises/{number}");
        let descriptor = |kind: &str, bytes: &[u8]| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": digest_of(bytes),
                "size": bytes.len(),
            })
        };
        let push = |kind: &str, bytes: Vec<u8>| -> Result<serde_json::Value> {
            let described = descriptor(kind, &bytes);
            registry.plant_blob(&repository, &digest_of(&bytes), &bytes)?;
            Ok(described)
        };
        let config = push(
            "config.v1+json",
            format!("{{\"number\":{number}}}").into_bytes(),
        )?;
        let layers: Vec<_> = (0..LAYERS)
            .map(|layer| {
                push(
                    "layer.v1.tar",
                    format!("{number}/{layer}").repeat(300).into_bytes(),
                )
            })
            .collect::<Result<_>>()?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
        });
        let bytes = serde_json::to_vec(&manifest)?;
        let digest = registry.plant_manifest(&repository, "1", &bytes)?;
        paths.push(format!("/v2/{repository}/manifests/{digest}"));
    }
    Ok(paths)
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

async fn connect(socket: &PathBuf) -> Result<ContentClient<Channel>> {
    let channel = containerd_client::connect(socket).await;
    let channel = channel.with_context(|| format!("cannot connect {}", socket.display()))?;
    Ok(ContentClient::new(channel))
}

/// Has containerd write blobs, which it keeps. Returns their digests.
fn fill(socket: &PathBuf, blobs: usize) -> Result<Arc<Vec<String>>> {
    runtime()?.block_on(async {
        let client = connect(socket).await?;
        let writes = stream::iter(0..blobs).map(|number| write(client.clone(), number));
        let digests = writes.buffer_unordered(WRITERS).try_collect().await?;
        Ok(Arc::new(digests))
    })
}

async fn write(mut client: ContentClient<Channel>, number: usize) -> Result<String> {
    let mut data = vec![0; 2_000];
    rand::rng().fill(&mut data[..]);
    let (digest, len) = (digest_of(&data), i64::try_from(data.len())?);
    let message = |action: WriteAction, data: Vec<u8>, offset| WriteContentRequest {
        action: action.into(),
        r#ref: format!("blob-{number}"),
        total: len,
        offset,
        data,
        ..WriteContentRequest::default()
    };
    let messages = [
        message(WriteAction::Stat, Vec::new(), 0),
        message(WriteAction::Write, data, 0),
        WriteContentRequest {
            expected: digest.clone(),
            // Or a collection takes it away at once.
            labels: HashMap::from([("containerd.io/gc.root".to_owned(), "now".to_owned())]),
            ..message(WriteAction::Commit, Vec::new(), len)
        },
    ];
    let mut call = Call::new(stream::iter(messages));
    let metadata = call.metadata_mut();
    metadata.insert("containerd-namespace", NAMESPACE.parse()?);
    let mut answers = client.write(call).await?.into_inner();
    let mut last = String::new();
    while let Some(answer) = answers.message().await? {
        last = answer.digest;
    }
    anyhow::ensure!(last == digest, "it was written as {last:?}");
    Ok(digest)
}

/// Asks for blobs one after the other until `work` is done.
fn ask_while(
    socket: &PathBuf,
    digests: &[String],
    meanwhile: &'static str,
    work: &(dyn Fn() -> Result<()> + Sync),
) -> Result<Phase> {
    let is_done = AtomicBool::new(false);
    let (near, far) = UnixStream::pair()?;
    let times = thread::scope(|scope| {
        // It ends when the other end of its socket is gone.
        let echoing = scope.spawn(|| echo(far));
        let asking = scope.spawn(|| {
            take_precedence().context("cannot ask before all others")?;
            runtime()?.block_on(ask(socket, digests, near, &is_done))
        });
        let worked = work();
        is_done.store(true, Ordering::Relaxed);
        let (times, echoed) = (joined(asking), joined(echoing));
        worked.and(echoed)?;
        times
    })?;
    let [answers, echoes] = [times.answers, times.echoes].map(sorted);
    Ok(Phase {
        meanwhile,
        answers: answers.len(),
        p50: at(&answers, 0.5),
        p99: at(&answers, 0.99),
        slowest: at(&answers, 1.0),
        echo_p99: at(&echoes, 0.99),
    })
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    let ended = thread.join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

/// Milliseconds that this share of them did not take longer than.
fn at(sorted: &[Duration], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share) as usize;
    let time = sorted.get(index.min(sorted.len().saturating_sub(1)));
    time.copied().unwrap_or_default().as_secs_f64() * 1e3
}

/// Sends back what comes.
fn echo(mut socket: UnixStream) -> Result<()> {
    take_precedence().context("cannot send back before others")?;
    let mut byte = [0];
    while socket.read(&mut byte)? > 0 {
        socket.write_all(&byte)?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Times {
    answers: Vec<Duration>,
    echoes: Vec<Duration>,
}

async fn ask(
    socket: &PathBuf,
    digests: &[String],
    mut echo: UnixStream,
    is_done: &AtomicBool,
) -> Result<Times> {
    let mut client = connect(socket).await?;
    let (mut times, mut rng) = (Times::default(), rand::rng());
    while !is_done.load(Ordering::Relaxed) {
        let digest = digests[rng.random_range(0..digests.len())].clone();
        let began = Instant::now();
        client.info(InfoRequest { digest }).await?;
        times.answers.push(began.elapsed());
        tokio::time::sleep(PACE).await;
        let began = Instant::now();
        echo.write_all(&[0])?;
        echo.read_exact(&mut [0])?;
        times.echoes.push(began.elapsed());
        tokio::time::sleep(PACE).await;
    }
    Ok(times)
}

impl InfoReport {
    pub(super) fn slowest_p99(&self) -> f64 {
        self.phases.iter().map(|it| it.p99).fold(0.0, f64::max)
    }

    pub(super) fn render(&self) -> String {
        let mut text = format!(
            "\nInfo with {} blobs, asked over the socket, {} promises recorded\n\n",
            self.blobs, self.promises
        );
        let mut table = Table::new(&[
            "meanwhile",
            "answers",
            "median",
            "99 %",
            "slowest",
            "99 % of a byte sent back",
        ]);
        for phase in &self.phases {
            let ms = |it: f64| format!("{it:.3} ms");
            table.row([
                phase.meanwhile.to_owned(),
                phase.answers.to_string(),
                ms(phase.p50),
                ms(phase.p99),
                ms(phase.slowest),
                ms(phase.echo_p99),
            ]);
        }
        text += &table.render();
        text
    }
}
