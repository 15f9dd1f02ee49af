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
    /// Where it can be fetched (again), as far as that is known; who granted it last comes first.
    pub(crate) images: Vec<ImageName>,
    pub(crate) labels: BTreeMap<String, String>,
    /// When it was committed or promised.
    pub(crate) created: SystemTime,
    /// When its labels changed; until then `created`.
    pub(crate) updated: SystemTime,
}

/// Images remembered for one piece of content at most.
const MOST_IMAGES: usize = 4;

/// A saved record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) size: u64,
    pub(super) state: ContentState,
    /// Who granted it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<Image>,
    /// Who granted it before, the last first; of other repositories than `image`, and each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<Image>,
    /// containerd was not told of it when that was last saved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) untold: bool,
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
            others: Vec::new(),
            untold: false,
            labels: BTreeMap::new(),
            created,
            updated: created,
        }
    }

    /// The same, granted for an image just now. Of a repository only the last manifest is kept: a
    /// right is the repository's.
    pub(super) fn with_image(mut self, image: &ImageName) -> Self {
        let image = Image::of(image);
        let before = self.image.take().into_iter().chain(self.others);
        self.others = before.filter(|other| !other.is_beside(&image)).collect();
        self.others.truncate(MOST_IMAGES - 1);
        self.image = Some(image);
        self
    }

    /// The same, with an image after all others.
    pub(super) fn with_last(mut self, image: &ImageName) -> Self {
        let image = Image::of(image);
        let all = self.image.take().into_iter().chain(self.others);
        let (last, mut first): (Vec<_>, Vec<_>) = all.partition(|known| *known == image);
        first.extend(last);
        let mut all = first.into_iter();
        self.image = all.next();
        self.others = all.collect();
        self
    }

    /// The same, with the images of another record of the same content.
    pub(super) fn with_images_of(mut self, other: &Self) -> Self {
        self.image.clone_from(&other.image);
        self.others.clone_from(&other.others);
        self
    }

    /// The same, of which containerd was not told.
    pub(super) fn untold(mut self) -> Self {
        self.untold = true;
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

    /// The same, of which containerd was told.
    pub(super) fn told(mut self) -> Self {
        self.untold = false;
        self
    }

    pub(super) fn committed(mut self) -> Self {
        self.state = ContentState::Committed;
        self
    }

    /// Who granted it, the last first.
    pub(super) fn images(&self) -> Vec<ImageName> {
        let images = self.image.iter().chain(&self.others);
        images.filter_map(Image::name).collect()
    }
}

impl Image {
    fn of(image: &ImageName) -> Self {
        Self {
            registry: image.registry.as_str().to_owned(),
            repository: image.repository.as_str().to_owned(),
            manifest: image.manifest,
        }
    }

    fn name(&self) -> Option<ImageName> {
        Some(ImageName {
            registry: RegistryHost::parse(&self.registry).ok()?,
            repository: Repository::parse(&self.repository).ok()?,
            manifest: self.manifest,
        })
    }

    /// Whether both are of one repository.
    fn is_beside(&self, other: &Self) -> bool {
        (&self.registry, &self.repository) == (&other.registry, &other.repository)
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
    /// containerd has asked since. Each promise has its own flag, and is known by it.
    is_asked: Arc<AtomicBool>,
    /// That containerd was told is saved, or will be soon. Not so of a promise that an earlier
    /// process left untold: containerd may know of it, since telling comes before saving.
    is_sure: Arc<AtomicBool>,
    /// Promised, all bytes have been here and its registry is shown to hold them; nobody relied on
    /// them then, so that they may have gone since.
    is_whole: Arc<AtomicBool>,
}

impl Record {
    /// What containerd has, or may have: also what an earlier process saved as untold, since nobody
    /// knows what it told before it ended.
    pub(super) fn told(row: Row) -> Self {
        let is_sure = flag(!row.untold);
        Self {
            row,
            is_told: flag(true),
            promised: None,
            is_asked: flag(true),
            is_sure,
            is_whole: flag(false),
        }
    }

    /// A promise that nobody has asked for.
    pub(super) fn promised(row: Row, now: Instant) -> Self {
        Self {
            row,
            is_told: flag(false),
            promised: Some(now),
            is_asked: flag(false),
            is_sure: flag(false),
            is_whole: flag(false),
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
            is_sure: Arc::clone(&self.is_sure),
            is_whole: Arc::clone(&self.is_whole),
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

    /// containerd has committed it: it is listed from now on. Who is about to ask is so still. Says
    /// whether that is news to be saved.
    pub(super) fn list(&self) -> bool {
        self.is_told.store(true, Relaxed);
        !self.is_sure.swap(true, Relaxed)
    }

    /// containerd has asked, and is told of it. Says whether that is news to be saved.
    pub(super) fn tell(&self) -> bool {
        self.is_asked.store(true, Relaxed);
        self.list()
    }

    /// Whether no manifest that names it has passed between the two.
    pub(super) fn is_same_promise(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.is_asked, &other.is_asked)
    }

    /// All its bytes are here, or not any more.
    pub(super) fn note_whole(&self, is_whole: bool) {
        self.is_whole.store(is_whole, Relaxed);
    }

    /// Whether it is a promise whose bytes have all been here.
    pub(super) fn is_whole_promise(&self) -> bool {
        self.row.state == ContentState::Promised && self.is_whole.load(Relaxed)
    }

    /// Whether containerd is known to have been told of it, now or by an earlier process.
    pub(super) fn is_sure(&self) -> bool {
        self.is_sure.load(Relaxed)
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
            images: self.row.images(),
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
