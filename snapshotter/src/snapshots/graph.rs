//! The rows in memory, and the rules of what may follow what.
//!
//! Knows no file: [`super::Snapshots`] asks it whether a change is allowed, saves the change, and
//! then tells it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::{
    SnapshotError,
    info::{Kind, REFERENCE_LABEL, Row},
};
use crate::ChainId;

/// All snapshots by name. Children and layers follow from the rows.
#[derive(Debug, Default)]
pub(super) struct Graph {
    rows: BTreeMap<String, Arc<Row>>,
    names: BTreeMap<u64, String>,
    children: BTreeMap<String, usize>,
    /// Committed snapshots by the chain that they hold and their parent.
    layers: BTreeMap<(ChainId, String), BTreeSet<String>>,
    /// Those whose files cannot be used.
    lost: BTreeMap<u64, Loss>,
}

/// Why the files of a snapshot cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    Gone,
    /// The machine went down before all of them were on the disk.
    Unsynced,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "are gone",
            Self::Unsynced => "were not all on the disk when the machine went down",
        })
    }
}

impl Graph {
    pub(super) fn new(rows: impl IntoIterator<Item = (String, Row)>) -> Self {
        let mut graph = Self::default();
        for (name, row) in rows {
            graph.put(&name, Arc::new(row));
        }
        graph
    }

    pub(super) fn row(&self, name: &str) -> Result<&Arc<Row>, SnapshotError> {
        self.rows
            .get(name)
            .ok_or_else(|| SnapshotError::not_found(name))
    }

    /// The row with that id, and its name.
    pub(super) fn by_id(&self, id: u64) -> Option<(&str, &Arc<Row>)> {
        let name = self.names.get(&id)?;
        Some((name, self.rows.get(name)?))
    }

    /// In the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Row>)> {
        self.rows.iter().map(|(name, row)| (name.as_str(), row))
    }

    pub(super) fn has_id(&self, id: u64) -> bool {
        self.names.contains_key(&id)
    }

    pub(super) fn put(&mut self, name: &str, row: Arc<Row>) {
        self.take(name);
        if !row.parent.is_empty() {
            *self.children.entry(row.parent.clone()).or_default() += 1;
        }
        if let Some(key) = layer_key(&row) {
            let names = self.layers.entry(key).or_default();
            names.insert(name.to_owned());
        }
        self.names.insert(row.id, name.to_owned());
        self.rows.insert(name.to_owned(), row);
    }

    pub(super) fn take(&mut self, name: &str) {
        let Some(row) = self.rows.remove(name) else {
            return;
        };
        self.names.remove(&row.id);
        if let Some(count) = self.children.get_mut(&row.parent) {
            *count -= 1;
            if *count == 0 {
                self.children.remove(&row.parent);
            }
        }
        if let Some(key) = layer_key(&row)
            && let Some(names) = self.layers.get_mut(&key)
        {
            names.remove(name);
            if names.is_empty() {
                self.layers.remove(&key);
            }
        }
    }

    /// From now on nothing is mounted or built on the snapshot with that id.
    pub(super) fn lose(&mut self, id: u64, loss: Loss) {
        self.lost.insert(id, loss);
    }

    pub(super) fn is_lost(&self, id: u64) -> bool {
        self.lost.contains_key(&id)
    }

    /// A committed snapshot of that chain on that parent, whose files are there.
    pub(super) fn layer(&self, reference: &ChainId, parent: &str) -> Option<&str> {
        let names = self.layers.get(&(*reference, parent.to_owned()))?;
        let whole = |name: &&String| {
            let row = self.rows.get(*name);
            row.is_some_and(|row| self.chain(row, name).is_ok())
        };
        names.iter().find(whole).map(String::as_str)
    }

    /// Whether a new snapshot may have this key.
    pub(super) fn check_free(&self, key: &str) -> Result<(), SnapshotError> {
        if key.is_empty() {
            return Err(SnapshotError::invalid("a snapshot needs a key"));
        }
        match self.rows.contains_key(key) {
            true => Err(SnapshotError::exists(key)),
            false => Ok(()),
        }
    }

    /// The ids of a snapshot on this parent would stand on, nearest first.
    pub(super) fn lowers(&self, parent: &str) -> Result<Vec<u64>, SnapshotError> {
        if parent.is_empty() {
            return Ok(Vec::new());
        }
        let row = self.row(parent)?;
        if row.kind != Kind::Committed {
            let what = format!("parent {parent:?} is {}, not committed", row.kind);
            return Err(SnapshotError::invalid(what));
        }
        self.chain(row, parent)
    }

    /// The ids of a snapshot and everything below it, nearest first.
    fn chain(&self, row: &Row, name: &str) -> Result<Vec<u64>, SnapshotError> {
        let (mut row, mut name) = (row, name);
        let mut ids = Vec::new();
        loop {
            if let Some(loss) = self.lost.get(&row.id) {
                let what = format!(
                    "the files of snapshot {name:?} (directory {}) {loss}: remove what stands on \
                     it, and the image, and pull it again",
                    row.id
                );
                return Err(SnapshotError::precondition(what));
            }
            ids.push(row.id);
            if row.parent.is_empty() {
                return Ok(ids);
            }
            name = &row.parent;
            row = self.row(name)?;
            if ids.len() > self.rows.len() {
                let what = format!("snapshot {name:?} is its own ancestor");
                return Err(SnapshotError::precondition(what));
            }
        }
    }

    /// The active snapshot `key`, if it may be committed as `name`.
    pub(super) fn check_commit(&self, name: &str, key: &str) -> Result<&Arc<Row>, SnapshotError> {
        self.check_free(name)?;
        let row = self.row(key)?;
        if row.kind != Kind::Active {
            let what = format!("snapshot {key:?} is {}, not active", row.kind);
            return Err(SnapshotError::precondition(what));
        }
        self.chain(row, key)?;
        Ok(row)
    }

    /// The snapshot `key`, if it may go.
    pub(super) fn check_remove(&self, key: &str) -> Result<&Arc<Row>, SnapshotError> {
        let row = self.row(key)?;
        if let Some(count) = self.children.get(key) {
            let what = format!("cannot remove snapshot {key:?}: {count} snapshots stand on it");
            return Err(SnapshotError::precondition(what));
        }
        Ok(row)
    }

    /// The snapshot `key` with the ids below it, if it has mounts.
    pub(super) fn mountable(&self, key: &str) -> Result<(&Arc<Row>, Vec<u64>), SnapshotError> {
        let row = self.row(key)?;
        if row.kind == Kind::Committed {
            let what = format!("snapshot {key:?} is committed: only others on it are mounted");
            return Err(SnapshotError::precondition(what));
        }
        let mut ids = self.chain(row, key)?;
        ids.remove(0);
        Ok((row, ids))
    }
}

fn layer_key(row: &Row) -> Option<(ChainId, String)> {
    if row.kind != Kind::Committed {
        return None;
    }
    let reference = row.labels.get(REFERENCE_LABEL)?.parse().ok()?;
    Some((reference, row.parent.clone()))
}
