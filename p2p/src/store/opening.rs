//! What happens before a store is open: its database is opened, and made to agree with its files.

use std::{collections::BTreeMap, fs, io, sync::Arc};

use hawker_model::TaskId;

use super::{
    OpenStoreError, StateError,
    database::{FORMAT, Loaded, OpenDatabaseError, StateDatabase},
    layout::Layout,
    record::Record,
};

/// Opens the database, and gives the blobs that are really there.
pub(super) fn open(
    layout: &Layout,
) -> Result<(StateDatabase, BTreeMap<TaskId, Arc<Record>>), OpenStoreError> {
    let (database, loaded) = open_database(layout)?;
    let records = reconcile(layout, loaded, &database).map_err(|error| {
        let dir = layout.root().to_owned();
        match error {
            ReconcileError::Io(cause) => OpenStoreError::Directory { dir, cause },
            ReconcileError::State(cause) => OpenStoreError::State { dir, cause },
        }
    })?;
    Ok((database, records))
}

/// Opens the state database; one that cannot be read is moved aside.
fn open_database(layout: &Layout) -> Result<(StateDatabase, Loaded), OpenStoreError> {
    let dir = || layout.root().to_owned();
    let refused = |error| match error {
        OpenDatabaseError::Busy => OpenStoreError::InUse {
            dir: dir(),
            pid: None,
        },
        OpenDatabaseError::Newer(found) => OpenStoreError::Newer {
            dir: dir(),
            found,
            known: FORMAT,
        },
        OpenDatabaseError::Failed(cause) => OpenStoreError::State { dir: dir(), cause },
        OpenDatabaseError::Corrupt(reason) => OpenStoreError::Directory {
            dir: dir(),
            cause: io::Error::new(io::ErrorKind::InvalidData, reason),
        },
    };
    let path = layout.state();
    match StateDatabase::open(&path) {
        Err(OpenDatabaseError::Corrupt(reason)) => {
            let aside = layout.corrupt_state();
            tracing::warn!(
                path = %path.display(), aside = %aside.display(), reason,
                "state database is corrupt: moved aside, the store starts empty"
            );
            fs::rename(&path, &aside)
                .map_err(|cause| OpenStoreError::Directory { dir: dir(), cause })?;
            StateDatabase::open(&path).map_err(refused)
        }
        other => other.map_err(refused),
    }
}

enum ReconcileError {
    Io(io::Error),
    State(StateError),
}

/// Makes database and directory tell the same: a row without its file, or complete and of the
/// wrong length, goes, and so does a file without a row.
fn reconcile(
    layout: &Layout,
    loaded: Loaded,
    database: &StateDatabase,
) -> Result<BTreeMap<TaskId, Arc<Record>>, ReconcileError> {
    let mut files = layout.scan().map_err(ReconcileError::Io)?;
    let mut dropped = loaded.damaged;
    let mut records = BTreeMap::new();
    for saved in loaded.blobs {
        let (task, row) = (saved.task, saved.row);
        let found = files.get(&task).copied();
        let length = row.geometry.length();
        if found.is_none() || (row.complete && found != Some(length)) {
            tracing::warn!(%task, length, ?found, "blob file is gone or has the wrong length");
            dropped.push(task);
            continue;
        }
        files.remove(&task);
        let doubtful = !loaded.clean || found != Some(length);
        let record = Record::restore(saved);
        if doubtful && !row.complete {
            record.state().set_unchecked(true);
        }
        records.insert(task, Arc::new(record));
    }
    if !dropped.is_empty() {
        let delete = database.change(
            |tables| dropped.iter().try_for_each(|task| tables.delete(task)),
            |()| {},
        );
        delete.map_err(ReconcileError::State)?;
    }
    for task in files.into_keys() {
        tracing::debug!(%task, "removed a blob file without a row");
        layout.delete(&task).map_err(ReconcileError::Io)?;
    }
    Ok(records)
}
