//! Tells containerd that it has the layers which it did not fetch because their snapshots were there.
//!
//! Push, save, commit and convert want an image's layers as content. Where containerd keeps its
//! content in hawkerd, they are there at no cost: containerd only has to write down that a namespace
//! has them. It does so when a client of its API begins to write content that its store says to
//! have, and commits it without a byte.
//!
//! Nothing is registered that no manifest of the namespace holds (`gc.ref` labels): such content
//! would be collected at once, and a client that discards unpacked layers wants none. All this is
//! done in the background, after the calls that caused it: within them containerd would wait for
//! itself. It may be done twice, and be given up: whoever needs a layer then fetches it.

mod register;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use containerd_client::services::v1::Info;
use hawker_model::Digest;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use self::register::Registration;
use super::{catalogue::host_of, client::ContainerdClient};
use crate::{
    content::{ContentStore, Promise},
    layers::{ImageIndex, LayerStory},
};

/// So long after a layer, so that those of one pull are registered together; and so long at most a
/// push must wait that follows a pull.
const SETTLE: Duration = Duration::from_millis(250);
/// So long after one that failed it is tried again.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(20),
    Duration::from_secs(60),
];
/// After the start, and between two questions for what an earlier run left undone: containerd may be
/// starting too.
const AFTER_START: Duration = Duration::from_secs(10);
/// So long containerd may take to answer a question: it may wait for its own lock, but a call that
/// hangs must not hold up all other namespaces.
const PATIENCE: Duration = Duration::from_secs(60);
/// Namespaces that wait at a time; a further one is looked at after the next pull into it.
const MOST_WAITING: usize = 64;

/// What manifests say of their layers: a number follows.
const LAYER: &str = "containerd.io/gc.ref.content.l.";
/// What is said of layers, for whoever pushes them.
const SOURCE: &str = "containerd.io/distribution.source.";
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Takes the namespaces that got a snapshot without its content. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registrar(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    namespaces: Mutex<BTreeSet<String>>,
    changed: Notify,
}

/// When a namespace is looked at.
#[derive(Clone, Copy, Debug)]
struct Turn {
    at: Instant,
    /// How often it was in vain.
    failures: usize,
}

/// Registers what namespaces lack.
#[derive(Debug)]
struct Clerk {
    client: ContainerdClient,
    content: ContentStore,
    images: ImageIndex,
    patience: Duration,
}

/// Why a namespace is not complete yet.
#[derive(Debug, thiserror::Error)]
enum Incomplete {
    #[error("containerd does not tell: {0}")]
    Untold(Status),
    #[error("{0} layers could not be registered")]
    Layers(usize),
}

impl Registrar {
    /// The registrar, and its work until the stop.
    pub(crate) fn new(
        client: ContainerdClient,
        content: ContentStore,
        images: ImageIndex,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let registrar = Self::default();
        let clerk = Clerk {
            client,
            content,
            images,
            patience: PATIENCE,
        };
        let told = Arc::clone(&registrar.0);
        let working = async move {
            let work = async {
                sleep(AFTER_START).await;
                tokio::join!(clerk.recall(&told, AFTER_START), clerk.work(&told));
            };
            stop.run_until_cancelled(work).await;
        };
        (registrar, working)
    }

    /// A snapshot of the namespace was there before its layer was fetched. Never waits.
    pub(crate) fn note(&self, namespace: &str) {
        let mut namespaces = self.0.lock();
        if namespaces.len() < MOST_WAITING && namespaces.insert(namespace.to_owned()) {
            self.0.changed.notify_one();
        }
    }
}

impl Told {
    fn note_all(&self, known: Vec<String>) {
        self.lock().extend(known);
        self.changed.notify_one();
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    fn after(pause: Duration, failures: usize) -> Self {
        let at = Instant::now() + pause;
        Self { at, failures }
    }
}

impl Clerk {
    /// Notes all namespaces, as soon as containerd names them: an earlier run may have left
    /// something undone in any.
    async fn recall(&self, told: &Told, pause: Duration) {
        loop {
            match self.in_time(self.client.namespaces()).await {
                Ok(known) => return told.note_all(known),
                Err(status) => debug!(%status, "containerd does not name its namespaces yet"),
            }
            sleep(pause).await;
        }
    }

    async fn work(&self, told: &Told) {
        let mut turns: BTreeMap<String, Turn> = BTreeMap::new();
        loop {
            for namespace in told.take() {
                turns.insert(namespace, Turn::after(SETTLE, 0));
            }
            let next = turns.iter().min_by_key(|(_, turn)| turn.at);
            let Some((namespace, turn)) = next.map(|(namespace, turn)| (namespace.clone(), *turn))
            else {
                told.changed.notified().await;
                continue;
            };
            if timeout_at(turn.at, told.changed.notified()).await.is_ok() {
                continue;
            }
            turns.remove(&namespace);
            if self.content.is_used()
                && let Some(again) = self.complete(&namespace, turn).await
            {
                turns.insert(namespace, again);
            }
        }
    }

    /// What containerd answers, unless it takes too long.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let answered = timeout(self.patience, call).await;
        answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
    }

    /// Registers what a namespace lacks; when to try again.
    async fn complete(&self, namespace: &str, turn: Turn) -> Option<Turn> {
        let incomplete = self.complete_once(namespace).await.err()?;
        let Some(pause) = PAUSES.get(turn.failures) else {
            warn!(namespace, %incomplete, "given up: whoever needs these layers fetches them");
            return None;
        };
        debug!(namespace, %incomplete, "tried again");
        Some(Turn::after(*pause, turn.failures + 1))
    }

    async fn complete_once(&self, namespace: &str) -> Result<(), Incomplete> {
        let infos = self.in_time(self.client.list_content(namespace, &[])).await;
        let missing = missing(&infos.map_err(Incomplete::Untold)?);
        let (mut registered, mut failed) = (0, 0);
        for digest in missing {
            match self.register(namespace, digest).await {
                Ok(true) => registered += 1,
                Ok(false) => {}
                Err(error) => {
                    debug!(namespace, %digest, error, "not registered");
                    failed += 1;
                }
            }
        }
        if registered > 0 {
            info!(
                namespace,
                layers = registered,
                "containerd knows that it has these layers"
            );
        }
        match failed {
            0 => Ok(()),
            failed => Err(Incomplete::Layers(failed)),
        }
    }

    /// `false`: it is not one of ours.
    async fn register(&self, namespace: &str, digest: Digest) -> Result<bool, String> {
        let story = self.images.story(&digest);
        let Some(size) = self.size(digest, story.as_ref()).await? else {
            return Ok(false);
        };
        let registration = Registration {
            digest,
            size,
            labels: story.map_or_else(HashMap::new, |story| labels(&story)),
        };
        let registering = self.client.register(namespace, registration);
        match self.in_time(registering).await {
            Err(status) if status.code() != Code::AlreadyExists => Err(status.message().to_owned()),
            _ => Ok(true),
        }
    }

    /// How long it is, once it is content or promised as such. `None`: nothing is known of it.
    async fn size(
        &self,
        digest: Digest,
        story: Option<&LayerStory>,
    ) -> Result<Option<u64>, String> {
        if let Some(known) = self.content.find(&digest) {
            return Ok(Some(known.size));
        }
        let named = story.and_then(|story| Some((story.images.first()?.clone(), story.size?)));
        let Some((image, size)) = named else {
            return Ok(None);
        };
        // It would have to be fetched for it.
        if !self.images.is_here(digest).await {
            return Ok(None);
        }
        let promise = Promise {
            digest,
            size,
            image,
        };
        let promised = self.content.promise(promise).await;
        promised
            .map(|()| Some(size))
            .map_err(|error| error.to_string())
    }
}

/// The layers that manifests of a namespace hold and that are not there.
fn missing(infos: &[Info]) -> BTreeSet<Digest> {
    let present: BTreeSet<&str> = infos.iter().map(|info| info.digest.as_str()).collect();
    let labels = infos.iter().flat_map(|info| &info.labels);
    let held = labels.filter(|(label, _)| label.starts_with(LAYER));
    let missing = held.filter(|(_, digest)| !present.contains(digest.as_str()));
    let parsed = missing.filter_map(|(_, digest)| Digest::parse(digest).ok());
    parsed.collect()
}

/// As containerd's clients label what they fetch and unpack.
fn labels(story: &LayerStory) -> HashMap<String, String> {
    let mut sources: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for image in &story.images {
        let host = host_of(image.registry.as_str());
        let repositories = sources.entry(format!("{SOURCE}{host}")).or_default();
        repositories.insert(image.repository.to_string());
    }
    let joined = |repositories: BTreeSet<String>| Vec::from_iter(repositories).join(",");
    let sources = sources.into_iter();
    let mut labels: HashMap<_, _> = sources.map(|(key, all)| (key, joined(all))).collect();
    if let Some(diff_id) = &story.diff_id {
        labels.insert(UNCOMPRESSED.to_owned(), diff_id.to_string());
    }
    labels
}
