//! What happens before a store is open: its database is opened, and made to agree with its files.

use std::{collections::BTreeMap, io, sync::Arc};

use hawker_model::TaskId;

use super::{
    OpenStoreError, StateError,
    database::{FORMAT, Loaded, OpenDatabaseError, Saved, StateDatabase},
    kin::{Found, Kin, Stamp},
    layout::Layout,
    record::Record,
    upgrade::upgrade,
};

/// Opens the database, and gives the blobs that are really there.
pub(super) fn open(
    layout: &Layout,
) -> Result<(StateDatabase, BTreeMap<TaskId, Arc<Record>>), OpenStoreError> {
    let (database, loaded) = open_database(layout)?;
    let dir = || layout.root().to_owned();
    let failed = |cause| OpenStoreError::State { dir: dir(), cause };
    let mut records = reconcile(layout, loaded, &database).map_err(|error| match error {
        ReconcileError::Io(cause) => OpenStoreError::Directory { dir: dir(), cause },
        ReconcileError::State(cause) => failed(cause),
    })?;
    upgrade(layout, &database, &mut records).map_err(failed)?;
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
    match StateDatabase::open(layout) {
        Err(OpenDatabaseError::Corrupt(reason)) => {
            let aside = layout.corrupt_state();
            tracing::warn!(
                path = %path.display(), aside = %aside.display(), reason,
                "state database is corrupt: moved aside, the store starts empty"
            );
            layout
                .disk
                .rename(&path, &aside)
                .map_err(|cause| OpenStoreError::Directory { dir: dir(), cause })?;
            StateDatabase::open(layout).map_err(refused)
        }
        other => other.map_err(refused),
    }
}

enum ReconcileError {
    Io(io::Error),
    State(StateError),
}

/// Makes database and directory tell the same: a row without the file that it speaks of goes, and so
/// does a file without a row.
fn reconcile(
    layout: &Layout,
    loaded: Loaded,
    database: &StateDatabase,
) -> Result<BTreeMap<TaskId, Arc<Record>>, ReconcileError> {
    layout.clear_incoming().map_err(ReconcileError::Io)?;
    let mut files = layout.scan().map_err(ReconcileError::Io)?;
    let mut dropped = loaded.damaged;
    let mut records = BTreeMap::new();
    for saved in loaded.blobs {
        let (task, found) = (saved.task, files.get(&saved.task).copied());
        let Some(record) = found.and_then(|found| restore(saved, found, loaded.clean)) else {
            tracing::warn!(%task, ?found, "blob file is gone or not the one that was stored");
            dropped.push(task);
            continue;
        };
        files.remove(&task);
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

/// The blob that a row tells of and whose file was found; `None` if it is not the row's.
fn restore(saved: Saved, found: Found, clean: bool) -> Option<Record> {
    let row = saved.row;
    let right_length = found.length == row.geometry.length();
    if row.complete && !right_length {
        return None;
    }
    let linked = row.kin.and_then(Kin::linked);
    let record = Record::restore(saved);
    let doubtful = !clean || !right_length;
    {
        let mut state = record.state();
        match linked.map(|stamp| (stamp == found.stamp, found.links)) {
            None if doubtful && !row.complete => state.set_unchecked(true),
            None => {}
            Some((true, 2..)) if row.complete => {}
            // The other program let go of it: it is ours alone, if someone wants it.
            Some((true, _)) if row.complete && row.pinned => state.set_kin(None),
            // Our own, which was about to be exchanged for the other program's.
            Some((false, 0..=1)) if stamp_differs(linked, found) => {
                state.set_kin(None);
                state.doubt();
            }
            Some(_) => return None,
        }
    }
    Some(record)
}

/// Whether it is another file than the one that was linked, rather than the same one changed.
fn stamp_differs(linked: Option<Stamp>, found: Found) -> bool {
    linked.is_some_and(|stamp| stamp.inode != found.stamp.inode)
}
