//! What is known of a snapshot, as containerd asks for it.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// Says which chain of layers a committed snapshot holds.
pub(super) const REFERENCE_LABEL: &str = "containerd.io/snapshot.ref";

/// What may be done with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// May be written, and committed.
    Active,
    /// May be mounted to be read.
    View,
    /// Does not change any more, and may be a parent.
    Committed,
}

impl Kind {
    /// Its name in filters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::View => "view",
            Self::Committed => "committed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The key of an active snapshot or a view, the name of a committed one.
    pub name: String,
    /// The name of the committed snapshot below; empty: there is none.
    pub parent: String,
    pub kind: Kind,
    pub labels: BTreeMap<String, String>,
    /// When it was prepared, or committed.
    pub created: SystemTime,
    /// When its labels changed; until then `created`.
    pub updated: SystemTime,
}

/// What a snapshot takes on the disk without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes (blocks of 512 bytes), each inode once.
    pub size: u64,
    pub inodes: u64,
}

/// A snapshot as it is saved (`docs/snapshots.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    /// The name of its directory. Never used twice.
    pub(super) id: u64,
    pub(super) kind: Kind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) parent: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub(super) created: u64,
    pub(super) updated: u64,
    /// Of a committed snapshot, once it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
    /// Of a committed snapshot until its files are known to be on the disk: in which boot of the
    /// machine they were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unsynced: Option<String>,
    /// Its labels map ids, but the files below have the mapped ids already: a containerd that was
    /// not told that we map ids has changed their owners itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_shifted: bool,
}

impl Row {
    /// A row that begins now.
    pub(super) fn new(id: u64, kind: Kind, parent: &str, labels: BTreeMap<String, String>) -> Self {
        let now = now();
        Self {
            id,
            kind,
            parent: parent.to_owned(),
            labels: without_empty(labels),
            created: now,
            updated: now,
            usage: None,
            unsynced: None,
            is_shifted: false,
        }
    }

    pub(super) fn info(&self, name: &str) -> Info {
        Info {
            name: name.to_owned(),
            parent: self.parent.clone(),
            kind: self.kind,
            labels: self.labels.clone(),
            created: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.created),
            updated: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.updated),
        }
    }

    /// The same snapshot with other labels. Time never runs backwards for one snapshot.
    pub(super) fn relabelled(&self, labels: BTreeMap<String, String>) -> Self {
        Self {
            labels: without_empty(labels),
            updated: now().max(self.updated),
            ..self.clone()
        }
    }
}

/// For containerd a label without a value is no label.
fn without_empty(mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.retain(|_, value| !value.is_empty());
    labels
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
