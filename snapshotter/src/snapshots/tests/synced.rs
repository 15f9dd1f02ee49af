//! Layers and the loss of power.

use super::*;

fn open_syncing(dir: &tempfile::TempDir, after: Duration) -> Snapshots {
    let config = SnapshotsConfig {
        sync_after: Some(after),
        ..config()
    };
    Snapshots::open(&store(dir), config).unwrap()
}

fn unsynced(snapshots: &Snapshots) -> Vec<String> {
    let graph = snapshots.inner.core.graph();
    let rows = graph.iter().filter(|(_, row)| row.unsynced.is_some());
    rows.map(|(name, _)| name.to_owned()).collect()
}

/// As if the machine had been started since.
fn start_again(dir: &tempfile::TempDir) {
    let path = store(dir).join("metadata.redb");
    let (mut rows, saved) = Rows::open(&path).unwrap();
    for (name, mut row) in saved {
        if row.unsynced.is_some() {
            row.unsynced = Some("another boot".to_owned());
            let change = rows::Change::Put(&name, &row);
            rows.write(&[change], Save::Durably).unwrap();
        }
    }
}

/// Ends without the sync that comes with an orderly end.
fn kill(snapshots: Snapshots) {
    snapshots.inner.core.dirs.fuse.set(0);
    drop(snapshots);
}

const LATER: Duration = Duration::from_secs(3_600);

#[test]
fn what_is_committed_is_synced_some_time_later() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open_syncing(&dir, Duration::from_millis(50));
    committed(&snapshots, "one", "");
    let layer = staged(&snapshots, "layer");
    let layer = snapshots.commit_layer(layer, &chain("c"), "one", plain());
    assert_eq!(unsynced(&snapshots), [layer.unwrap().as_str(), "one"]);
    eventually("both are synced", || unsynced(&snapshots).is_empty());
    kill(snapshots);
    start_again(&dir);
    open(&dir).prepare("a", "one", plain()).unwrap();
}

#[test]
fn an_orderly_end_syncs_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open_syncing(&dir, LATER);
    committed(&snapshots, "one", "");
    drop(snapshots);
    let snapshots = open_syncing(&dir, LATER);
    assert_eq!(unsynced(&snapshots), Vec::<String>::new());
}

#[test]
fn what_a_killed_process_committed_is_whole_and_synced_later() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open_syncing(&dir, LATER);
    committed(&snapshots, "one", "");
    kill(snapshots);
    let snapshots = open_syncing(&dir, Duration::from_millis(50));
    snapshots.prepare("a", "one", plain()).unwrap();
    eventually("it is synced", || unsynced(&snapshots).is_empty());
}

#[test]
fn layers_that_were_not_on_the_disk_when_the_machine_went_down_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open_syncing(&dir, LATER);
    let layer = staged(&snapshots, "layer");
    let layer = snapshots
        .commit_layer(layer, &chain("c"), "", plain())
        .unwrap();
    snapshots.prepare("container", &layer, plain()).unwrap();
    kill(snapshots);
    start_again(&dir);

    let snapshots = open_syncing(&dir, Duration::ZERO);
    assert_eq!(snapshots.find_layer(&chain("c"), ""), None);
    for refused in [
        snapshots.mounts("container"),
        snapshots.view("v", &layer, plain()),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, SnapshotError::FailedPrecondition { .. }));
        assert!(error.to_string().contains("machine went down"), "{error}");
    }
    let again = staged(&snapshots, "layer");
    let again = snapshots
        .commit_layer(again, &chain("c"), "", plain())
        .unwrap();
    eventually("the new one is synced", || {
        unsynced(&snapshots) == [layer.as_str()]
    });
    // containerd takes the first one for the layer.
    assert_eq!(names(&snapshots), ["container", &again, &layer]);
    drop(snapshots);
    // It stays refused.
    let snapshots = open(&dir);
    assert!(snapshots.view("v", &layer, plain()).is_err());
    for key in ["container", &layer] {
        snapshots.remove(key).unwrap();
    }
    assert_eq!(names(&snapshots), [again]);
    assert_tidy(&snapshots);
}
