//! A process that stops at every step of every operation: what it finds afterwards is the state
//! before or after the operation, and nothing is left over.

use super::*;

/// Everything that a caller can see of a store, but times.
type Seen = Vec<(String, Kind, String, BTreeMap<String, String>, Vec<String>)>;

fn seen(snapshots: &Snapshots) -> Seen {
    let infos = snapshots.list(&[]).unwrap();
    let look = |info: Info| {
        let files = entries(&files(snapshots, &info.name));
        (info.name, info.kind, info.parent, info.labels, files)
    };
    infos.into_iter().map(look).collect()
}

type Operation = fn(&Snapshots) -> Result<(), SnapshotError>;

fn layer_name() -> String {
    format!("hawker/2/{}", chain("layer"))
}

/// Each stands on those before it.
const OPERATIONS: [Operation; 11] = [
    |snapshots| snapshots.prepare("a", "", plain()).map(drop),
    |snapshots| snapshots.update("a", labels(&[("x", "y")]), &[]).map(drop),
    |snapshots| snapshots.commit("one", "a", labels(&[("l", "1")])),
    |snapshots| {
        let stage = snapshots.stage()?;
        fs::create_dir(stage.path().join("dir")).unwrap();
        let layer = StagedLayer {
            stage,
            implied: vec![PathBuf::new(), "dir".into()],
        };
        let done = snapshots.commit_layer(layer, &chain("layer"), "one", plain());
        done.map(drop)
    },
    |snapshots| snapshots.view("v", &layer_name(), plain()).map(drop),
    |snapshots| snapshots.prepare("b", &layer_name(), plain()).map(drop),
    |snapshots| snapshots.remove("v"),
    |snapshots| snapshots.remove("b"),
    |snapshots| snapshots.remove(&layer_name()),
    |snapshots| snapshots.cleanup(),
    |snapshots| snapshots.remove("one"),
];

/// What is to be seen after each of the operations, when nothing stops them.
fn unstopped() -> Vec<Seen> {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let after = |operation: &Operation| {
        operation(&snapshots).unwrap();
        seen(&snapshots)
    };
    OPERATIONS.iter().map(after).collect()
}

/// Stops at step `step` of operation `at`, after all before were done. Whether it got there.
fn stop_at(at: usize, step: i64, after: &Seen) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let mut snapshots = open(&dir);
    for operation in &OPERATIONS[..at] {
        operation(&snapshots).unwrap();
    }
    let before = seen(&snapshots);
    // The background has nothing to save any more.
    for (name, ..) in &before {
        snapshots.usage(name).unwrap();
    }
    let fuse = snapshots.inner.core.dirs.fuse.clone();
    fuse.set(step);
    let outcome = OPERATIONS[at](&snapshots);
    let was_stopped = fuse.is_out();
    drop(snapshots);

    snapshots = open(&dir);
    assert_tidy(&snapshots);
    let found = seen(&snapshots);
    if found == before {
        // Not half done: it can be done now.
        assert!(outcome.is_err() || at == 9, "operation {at} step {step}");
        OPERATIONS[at](&snapshots).unwrap();
        assert!(seen(&snapshots) != before || at == 9);
    } else {
        assert_eq!(&found, after, "operation {at} step {step}");
    }
    was_stopped
}

#[test]
fn after_a_stop_at_any_step_the_operation_was_done_or_not() {
    let mut stops = 0;
    for (at, after) in unstopped().iter().enumerate() {
        let mut step = 0;
        while stop_at(at, step, after) {
            step += 1;
            stops += 1;
        }
    }
    assert!(stops >= 20, "{stops} steps");
}

#[test]
fn opening_may_be_stopped_as_well() {
    for step in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = open(&dir);
        committed(&snapshots, "one", "");
        snapshots.prepare("a", "one", plain()).unwrap();
        let before = seen(&snapshots);
        let dirs = snapshots.inner.core.dirs.clone();
        drop(snapshots);
        // As three kills leave them.
        for orphan in [
            dirs.snapshot(99),
            dirs.snapshots().join("odd"),
            dirs.staging().join("7"),
        ] {
            fs::create_dir_all(orphan.join("fs/dir")).unwrap();
        }
        let mut fuse = None;
        let outcome = Snapshots::open_with(&store(&dir), config(), |dirs| {
            dirs.fuse.set(step);
            fuse = Some(dirs.fuse.clone());
        });
        drop(outcome);
        let snapshots = open(&dir);
        assert_tidy(&snapshots);
        assert_eq!(seen(&snapshots), before);
        if !fuse.unwrap().is_out() {
            assert!(step >= 3);
            return;
        }
    }
}
