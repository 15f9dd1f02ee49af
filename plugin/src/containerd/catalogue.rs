//! What containerd itself has: manifests and configs in its content store, and the names of its
//! images. Asked when nothing that passed hawkerd tells which layers a stack has: it was not the
//! mirror that a client pulled through, or hawkerd was not there then.
//!
//! containerd's clients write a manifest and its config, and say at both where they came from,
//! before the first layer is wanted. Of the registry they say the host alone, without its port: the
//! names of images and the registries that the mirror knows tell that.
//!
//! Only reads: they take none of containerd's locks and are answered while one of its transactions
//! goes on. All that comes is checked against its digest, and is a hint: what containerd's garbage
//! collection takes away meanwhile is as if it had never been there.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use containerd_client::services::v1::Info;
use hawker_model::Digest;
use tokio::time::timeout;
use tonic::Status;
use tracing::debug;

use super::client::ContainerdClient;
use crate::layers::{ImageIndex, ImageName};

/// How long one look at a namespace may take: a pull waits for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// The newest manifests of a namespace that are looked at.
const MOST_MANIFESTS: usize = 32;
/// Places of one manifest that are taken over.
const MOST_PLACES: usize = 8;
/// Longest blob that is read: a config.
const MAX_LEN: u64 = 8 << 20;
/// Namespaces that are remembered to have been looked at.
const MOST_NAMESPACES: usize = 64;

/// What manifests of images have in common: a config that they refer to.
const CONFIG: &str = "containerd.io/gc.ref.content.config";
const SOURCE: &str = "containerd.io/distribution.source.";

/// The way to what containerd has. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Catalogue {
    client: ContainerdClient,
    looks: Arc<Mutex<Looks>>,
}

/// One look at a time at each namespace; when the last one began.
type Looks = HashMap<String, Arc<tokio::sync::Mutex<Option<Instant>>>>;

impl Catalogue {
    pub(crate) fn new(client: ContainerdClient) -> Self {
        Self {
            client,
            looks: Arc::default(),
        }
    }

    /// Has `images` learn what is new in a namespace. Cancel-safe. When several ask at once, one
    /// look answers all who asked before it began.
    pub(crate) async fn learn(&self, namespace: &str, images: &ImageIndex) {
        let asked = Instant::now();
        let look = self.look(namespace);
        let mut last = look.lock().await;
        if last.is_some_and(|last| last > asked) {
            return;
        }
        *last = Some(Instant::now());
        match timeout(PATIENCE, self.learn_all(namespace, images)).await {
            Ok(Ok(learnt)) => debug!(namespace, learnt, "asked containerd for its manifests"),
            Ok(Err(status)) => debug!(
                namespace,
                why = status.message(),
                "containerd does not tell"
            ),
            Err(_) => debug!(namespace, "containerd takes too long to tell"),
        }
    }

    fn look(&self, namespace: &str) -> Arc<tokio::sync::Mutex<Option<Instant>>> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() >= MOST_NAMESPACES && !looks.contains_key(namespace) {
            looks.clear();
        }
        Arc::clone(looks.entry(namespace.to_owned()).or_default())
    }

    async fn learn_all(&self, namespace: &str, images: &ImageIndex) -> Result<usize, Status> {
        let filter = format!("labels.\"{CONFIG}\"");
        let mut manifests = self.client.list_content(namespace, &[filter]).await?;
        manifests.sort_by_key(|info| std::cmp::Reverse(when(info)));
        manifests.truncate(MOST_MANIFESTS);
        let named = Parents::of(manifests).unknown(images);
        if named.is_empty() {
            return Ok(0);
        }
        let registries = self.registries(namespace, images).await;
        let mut learnt = 0;
        // The newest last, so that it counts as such.
        for manifest in named.into_iter().rev() {
            let places = places(&manifest.labels, &registries);
            for (digest, places) in [(manifest.digest, &places[..]), (manifest.config, &[])] {
                match self.client.read_content(namespace, &digest, MAX_LEN).await {
                    Ok(bytes) if Digest::of(&bytes) == digest => {
                        images.note_content(digest, &bytes, places);
                    }
                    Ok(_) => debug!(%digest, "containerd's content has another digest"),
                    // Deleted meanwhile.
                    Err(status) => debug!(%digest, why = status.message(), "not read"),
                }
            }
            learnt += 1;
        }
        Ok(learnt)
    }

    /// The registries that images of the namespace, or those that passed the mirror, are called
    /// after: by host, with their ports.
    async fn registries(&self, namespace: &str, images: &ImageIndex) -> Registries {
        let names = self.client.list_images(namespace).await;
        let names = names.unwrap_or_else(|status| {
            debug!(
                namespace,
                why = status.message(),
                "containerd does not tell its images"
            );
            Vec::new()
        });
        let mut registries = images.registries();
        let named = names.iter().filter_map(|name| ImageName::parse(name).ok());
        registries.extend(named.map(|name| name.registry.to_string()));
        let mut by_host = Registries::new();
        for registry in registries {
            let host = host_of(&registry).to_owned();
            by_host.entry(host).or_default().push(registry);
        }
        by_host
    }
}

/// Registries by host.
type Registries = BTreeMap<String, Vec<String>>;

/// Manifests, by what their labels say.
struct Parents(Vec<Parent>);

struct Parent {
    digest: Digest,
    config: Digest,
    labels: HashMap<String, String>,
}

impl Parents {
    fn of(infos: Vec<Info>) -> Self {
        let parent = |info: Info| {
            // Imported and built images are nowhere else.
            info.labels.keys().find(|label| label.starts_with(SOURCE))?;
            Some(Parent {
                digest: Digest::parse(&info.digest).ok()?,
                config: Digest::parse(info.labels.get(CONFIG)?).ok()?,
                labels: info.labels,
            })
        };
        Self(infos.into_iter().filter_map(parent).collect())
    }

    fn unknown(mut self, images: &ImageIndex) -> Vec<Parent> {
        self.0
            .retain(|parent| !images.knows(&parent.digest, &parent.config));
        self.0
    }
}

/// When it was last touched: containerd before 1.7 tells the year 1 of what was never updated.
fn when(info: &Info) -> Option<(i64, i32)> {
    let times = [&info.created_at, &info.updated_at].into_iter().flatten();
    times.map(|at| (at.seconds, at.nanos)).max()
}

/// Where a blob came from: each host under its own name, and under those with a port.
fn places(labels: &HashMap<String, String>, registries: &Registries) -> Vec<ImageName> {
    let mut places = Vec::new();
    for (label, repositories) in labels {
        let Some(host) = label.strip_prefix(SOURCE) else {
            continue;
        };
        let known = registries.get(host).map(Vec::as_slice).unwrap_or_default();
        let own = host.to_owned();
        let names = known.iter().chain((!known.contains(&own)).then_some(&own));
        for name in names {
            for repository in repositories.split(',') {
                let place = ImageName::parse(&format!("{name}/{repository}"));
                places.extend(place.ok());
            }
        }
    }
    places.truncate(MOST_PLACES);
    places
}

/// A registry's name without its port.
pub(super) fn host_of(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    }
}
