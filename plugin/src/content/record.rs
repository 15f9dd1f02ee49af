//! What is known of one digest, in memory and as it is saved (`docs/content.md`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hawker_model::{Digest, RegistryHost, Repository};
use serde::{Deserialize, Serialize};

use crate::layers::ImageName;

/// Whether its bytes must be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ContentState {
    /// All bytes were here, checked and pinned.
    Committed,
    /// They come, or can be had when they are read.
    Promised,
}

impl ContentState {
    pub(crate) const ALL: [Self; 2] = [Self::Committed, Self::Promised];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Promised => "promised",
        }
    }
}

/// A piece of content as its readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentInfo {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) state: ContentState,
    /// Where it can be fetched (again), where that is known.
    pub(crate) image: Option<ImageName>,
    pub(crate) labels: BTreeMap<String, String>,
    /// When it was committed or promised.
    pub(crate) created: SystemTime,
    /// When its labels changed; until then `created`.
    pub(crate) updated: SystemTime,
}

/// A saved record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) size: u64,
    pub(super) state: ContentState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<Image>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    created: u64,
    updated: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Image {
    registry: String,
    repository: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<Digest>,
}

impl Row {
    /// A row that begins now.
    pub(super) fn new(size: u64, state: ContentState) -> Self {
        Self::since(size, state, SystemTime::now())
    }

    pub(super) fn since(size: u64, state: ContentState, created: SystemTime) -> Self {
        let created = nanos(created);
        Self {
            size,
            state,
            image: None,
            labels: BTreeMap::new(),
            created,
            updated: created,
        }
    }

    pub(super) fn with_image(mut self, image: &ImageName) -> Self {
        self.image = Some(Image {
            registry: image.registry.as_str().to_owned(),
            repository: image.repository.as_str().to_owned(),
            manifest: image.manifest,
        });
        self
    }

    /// The same with other labels. For containerd a label without a value is no label.
    pub(super) fn with_labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.labels = labels;
        self.labels.retain(|_, value| !value.is_empty());
        self
    }

    /// The same, with labels that changed now. Time never runs backwards for one piece of content.
    pub(super) fn relabelled(mut self, labels: BTreeMap<String, String>) -> Self {
        self.updated = nanos(SystemTime::now()).max(self.updated);
        self.with_labels(labels)
    }

    pub(super) fn committed(mut self) -> Self {
        self.state = ContentState::Committed;
        self
    }

    pub(super) fn image(&self) -> Option<ImageName> {
        let image = self.image.as_ref()?;
        Some(ImageName {
            registry: RegistryHost::parse(&image.registry).ok()?,
            repository: Repository::parse(&image.repository).ok()?,
            manifest: image.manifest,
        })
    }
}

/// A row in memory.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) row: Row,
    /// containerd may know of it: it committed it, or was told that it has it.
    is_told: Arc<AtomicBool>,
    /// When a manifest that names it last passed; `None`: not since the start.
    promised: Option<Instant>,
    /// containerd has asked since.
    is_asked: Arc<AtomicBool>,
}

impl Record {
    /// What containerd has, or may have: of what was saved before the start nobody knows any more
    /// whether it was told.
    pub(super) fn told(row: Row) -> Self {
        Self {
            row,
            is_told: flag(true),
            promised: None,
            is_asked: flag(true),
        }
    }

    /// A promise that nobody has asked for.
    pub(super) fn promised(row: Row, now: Instant) -> Self {
        Self {
            row,
            is_told: flag(false),
            promised: Some(now),
            is_asked: flag(false),
        }
    }

    /// The same record with another row. What containerd is told of this one in the meantime it is
    /// told of that one as well.
    pub(super) fn with_row(&self, row: Row) -> Self {
        Self {
            row,
            is_told: Arc::clone(&self.is_told),
            promised: self.promised,
            is_asked: Arc::clone(&self.is_asked),
        }
    }

    /// The same, named by a manifest that passes now.
    pub(super) fn promised_again(self, now: Instant) -> Self {
        Self {
            promised: Some(now),
            is_asked: flag(false),
            ..self
        }
    }

    /// The same, of which containerd wants to know no more.
    pub(super) fn untold(&self) -> Self {
        Self {
            is_told: flag(false),
            ..self.with_row(self.row.clone())
        }
    }

    /// containerd has committed it: it is listed from now on. Who is about to ask is so still.
    pub(super) fn list(&self) {
        self.is_told.store(true, Relaxed);
    }

    /// containerd has asked, and is told of it.
    pub(super) fn tell(&self) {
        self.is_told.store(true, Relaxed);
        self.is_asked.store(true, Relaxed);
    }

    /// Whether containerd may rely on it, and is to say when it no longer does.
    pub(super) fn is_told(&self) -> bool {
        self.is_told.load(Relaxed)
    }

    /// Whether a manifest passed within the time `keep`, and the pull that it belongs to has not
    /// asked yet.
    pub(super) fn is_awaited(&self, now: Instant, keep: Duration) -> bool {
        let is_fresh = |at| now.saturating_duration_since(at) < keep;
        self.promised.is_some_and(is_fresh) && !self.is_asked.load(Relaxed)
    }

    pub(super) fn info(&self, digest: Digest) -> ContentInfo {
        let time = |nanos| UNIX_EPOCH + Duration::from_nanos(nanos);
        ContentInfo {
            digest,
            size: self.row.size,
            state: self.row.state,
            image: self.row.image(),
            labels: self.row.labels.clone(),
            created: time(self.row.created),
            updated: time(self.row.updated),
        }
    }
}

fn flag(value: bool) -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(value))
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
