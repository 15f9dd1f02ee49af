//! A process that is killed at every step of taking in a file.

use std::{
    fs,
    process::{Command, ExitStatus},
};

use super::{
    adopted::{adopt, adopt_from, foreign, ingest},
    *,
};

const DIR: &str = "HAWKER_TEST_ADOPT_DIR";
const CASE: &str = "HAWKER_TEST_ADOPT_CASE";
const NAME: &str = "store::tests::adopt_killed::whatever_step_it_is_killed_at_nothing_is_lost";
/// More than any case has.
const STEPS: usize = 40;

/// What the child does, from a store in the state that the parent has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// An ingest becomes a new blob.
    Move,
    /// An ingest completes a half-fetched blob.
    Fill,
    /// An ingest of a blob that was stored under a false list.
    Correct,
    /// Another program's file becomes a new blob.
    Link,
    /// Another program's file takes the place of our own.
    Exchange,
}

impl Case {
    const ALL: [Self; 5] = [
        Self::Move,
        Self::Fill,
        Self::Correct,
        Self::Link,
        Self::Exchange,
    ];

    fn prepare(self, dir: &Path, content: &Content) {
        let store = open(dir);
        match self {
            Self::Move | Self::Link => {}
            Self::Fill => drop(content.write(&store, 1..4)),
            Self::Correct => {
                let blob = store.create(content.task, content.geometry).unwrap();
                blob.add_batch(Content::new(9, LEN).batch(0..2)).unwrap();
            }
            Self::Exchange => drop(content.write(&store, 0..content.count())),
        }
        store.close().unwrap();
        drop(store);
        match self.is_move() {
            true => drop(ingest(dir, content)),
            false => drop(foreign(dir, content)),
        }
    }

    fn is_move(self) -> bool {
        matches!(self, Self::Move | Self::Fill | Self::Correct)
    }

    fn run(self, dir: &Path, content: &Content) {
        let store = open(dir);
        match self.is_move() {
            true => drop(adopt(&store, content, &ingest_path(dir, content), true).unwrap()),
            false => {
                let blob = adopt_from(&store, content, &foreign(dir, content));
                drop(blob.unwrap());
                store.set_pinned(&content.task, true).unwrap();
            }
        }
        println!("adopted");
    }
}

const LEN: usize = 400_000;

fn ingest_path(dir: &Path, content: &Content) -> std::path::PathBuf {
    dir.join(format!("ingest-{}", content.task.to_hex()))
}

fn run_child(dir: &Path, case: usize, kill_at: usize) -> (ExitStatus, bool) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", NAME])
        .env(DIR, dir)
        .env(CASE, case.to_string())
        .env("HAWKER_TEST_KILL_AT", kill_at.to_string())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).contains("adopted");
    (output.status, told)
}

/// What must be true after the child ended, and that it can be done again.
fn check(case: Case, dir: &Path, content: &Content, told: bool) {
    let other = foreign_or_ingest(case, dir, content);
    let store = open(dir);
    assert_eq!(fs::read_dir(dir.join("incoming")).unwrap().count(), 0);
    let found = store.find(&content.task);
    if let Some(blob) = &found {
        content.verify(blob);
    }
    let here = found.as_ref().is_some_and(|blob| blob.is_complete());
    drop(found);
    assert!(here || other, "{case:?}: the bytes are somewhere");
    if told {
        let summary = &store.blobs()[0];
        assert!(here && summary.durable && summary.pinned, "{case:?}");
    }
    if case == Case::Exchange {
        assert!(here, "our own was whole before");
    }
    if case.is_move() && other {
        drop(adopt(&store, content, &ingest_path(dir, content), true).unwrap());
    } else if !case.is_move() {
        assert_eq!(fs::read(foreign(dir, content)).unwrap(), content.data);
        drop(adopt_from(&store, content, &foreign(dir, content)).unwrap());
    }
    let blob = store.find(&content.task).unwrap();
    assert_eq!(content.verify(&blob), content.count());
    drop(blob);
    store.close().unwrap();
}

fn foreign_or_ingest(case: Case, dir: &Path, content: &Content) -> bool {
    match case.is_move() {
        true => ingest_path(dir, content).exists(),
        false => foreign(dir, content).exists(),
    }
}

#[test]
fn whatever_step_it_is_killed_at_nothing_is_lost() {
    let content = Content::new(1, LEN);
    if let Some(dir) = std::env::var_os(DIR) {
        let case: usize = std::env::var(CASE).unwrap().parse().unwrap();
        return Case::ALL[case].run(Path::new(&dir), &content);
    }
    for (number, case) in Case::ALL.into_iter().enumerate() {
        let mut steps = 0;
        for kill_at in 0..STEPS {
            let dir = tempfile::tempdir().unwrap();
            case.prepare(dir.path(), &content);
            let (status, told) = run_child(dir.path(), number, kill_at);
            check(case, dir.path(), &content, told);
            if status.success() {
                break;
            }
            assert_eq!(status.code(), Some(77), "{case:?} at {kill_at}");
            steps += 1;
        }
        assert!((3..STEPS).contains(&steps), "{case:?} has {steps} steps");
    }
}
