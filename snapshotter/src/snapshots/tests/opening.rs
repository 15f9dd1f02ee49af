//! What a store finds when it is opened.

use super::*;

#[test]
fn two_cannot_open_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let error = Snapshots::open(&store(&dir), config()).unwrap_err();
    assert!(
        matches!(error, OpenSnapshotsError::InUse { pid: Some(pid), .. } if pid == std::process::id())
    );
    assert!(error.to_string().contains(store(&dir).to_str().unwrap()));
    drop(snapshots);
    drop(open(&dir));
}

#[test]
fn an_overlay_is_no_place_for_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    committed(&snapshots, "base", "");
    let mounts = snapshots.prepare("a", "base", plain()).unwrap();
    let mounted = mounted::Mounted::new(&mounts);
    let inner = mounted.path().join("inner");
    let error = Snapshots::open(&inner, config()).unwrap_err();
    assert!(matches!(error, OpenSnapshotsError::Unsupported { .. }));
    let text = error.to_string();
    assert!(
        text.contains(inner.to_str().unwrap()) && text.contains("overlay"),
        "{text}"
    );
}

#[test]
fn a_file_in_the_way_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(store(&dir), "").unwrap();
    let error = Snapshots::open(&store(&dir), config()).unwrap_err();
    assert!(
        error.to_string().contains(store(&dir).to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_newer_format_and_a_damaged_database_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir));
    let path = store(&dir).join("metadata.redb");
    {
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
        transaction
            .open_table(meta)
            .unwrap()
            .insert("version", 2)
            .unwrap();
        transaction.commit().unwrap();
    }
    let error = Snapshots::open(&store(&dir), config()).unwrap_err();
    assert!(
        matches!(
            error,
            OpenSnapshotsError::Newer {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    fs::write(&path, b"no database at all").unwrap();
    let error = Snapshots::open(&store(&dir), config()).unwrap_err();
    assert!(
        matches!(error, OpenSnapshotsError::Damaged { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_database_that_rotted_is_refused_or_right_and_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    for number in 0..20 {
        committed(&snapshots, &format!("c{number}"), "");
    }
    let before = names(&snapshots);
    drop(snapshots);
    let path = store(&dir).join("metadata.redb");
    let sound = fs::read(&path).unwrap();
    for at in (0..sound.len()).step_by(sound.len() / 60) {
        let mut rotten = sound.clone();
        rotten[at] ^= 0x55;
        fs::write(&path, rotten).unwrap();
        if let Ok(snapshots) = Snapshots::open(&store(&dir), config()) {
            assert_eq!(names(&snapshots), before, "byte {at}");
        }
    }
}

#[test]
fn a_snapshot_whose_files_are_gone_is_refused_and_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let base = snapshots
        .commit_layer(staged(&snapshots, "low"), &chain("base"), "", plain())
        .unwrap();
    let top = snapshots
        .commit_layer(staged(&snapshots, "high"), &chain("top"), &base, plain())
        .unwrap();
    snapshots.prepare("container", &top, plain()).unwrap();
    let gone = files(&snapshots, &base);
    drop(snapshots);
    fs::remove_dir_all(gone).unwrap();

    let snapshots = open(&dir);
    assert_eq!(snapshots.find_layer(&chain("base"), ""), None);
    assert_eq!(snapshots.find_layer(&chain("top"), &base), None);
    assert_eq!(snapshots.usage(&base).unwrap(), Usage::default());
    for refused in [
        snapshots.mounts("container"),
        snapshots.prepare("x", &top, plain()),
        snapshots.view("x", &base, plain()),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, SnapshotError::FailedPrecondition { .. }));
        assert!(error.to_string().contains(&base), "{error}");
    }
    // A new copy may come beside it.
    let again = snapshots
        .commit_layer(staged(&snapshots, "low"), &chain("base"), "", plain())
        .unwrap();
    assert_eq!(
        snapshots.find_layer(&chain("base"), ""),
        Some(again.clone())
    );
    for key in ["container", &top, &base] {
        snapshots.remove(key).unwrap();
    }
    assert_eq!(names(&snapshots), [again]);
    assert_tidy(&snapshots);
}

#[test]
fn threads_end_with_the_last_handle() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let stage = snapshots.stage().unwrap();
    let core = Arc::downgrade(&snapshots.inner.core);
    drop(snapshots);
    assert!(core.upgrade().is_some(), "the stage holds it");
    drop(stage);
    assert!(core.upgrade().is_none());
    assert_tidy(&open(&dir));
}
