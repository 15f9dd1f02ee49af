//! A process that is killed while it writes.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use super::*;

const DIR: &str = "HAWKER_TEST_STORE_DIR";
const NAME: &str = "store::tests::killed::whatever_a_killed_process_claimed_is_right";
const BLOBS: u8 = 6;

fn contents() -> Vec<Content> {
    (0..BLOBS)
        .map(|seed| Content::new(seed, 900_000 + usize::from(seed) * 10_000))
        .collect()
}

/// The child: writes, checkpoints and removes without end from several threads.
fn write_for_ever(dir: &Path) {
    let store = open(dir);
    let contents = contents();
    thread::scope(|scope| {
        for worker in 0..3u8 {
            let (store, contents) = (&store, &contents);
            scope.spawn(move || {
                for round in 0.. {
                    let content = &contents[usize::from(worker * 2) + round % 2];
                    let blob = content.create(store);
                    for piece in 0..content.count() {
                        blob.write_piece(PieceIndex(piece), content.piece(piece))
                            .unwrap();
                        if piece % 5 == 0 {
                            store.checkpoint().unwrap();
                        }
                    }
                    if blob.is_complete() {
                        println!("{}", content.task);
                    }
                    if round % 3 == 2 {
                        store.remove(&contents[usize::from(worker * 2)].task).ok();
                    }
                }
            });
        }
    });
}

#[test]
fn whatever_a_killed_process_claimed_is_right() {
    if let Some(dir) = std::env::var_os(DIR) {
        write_for_ever(Path::new(&dir));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = contents();
    let mut found = 0;
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", NAME])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It works once it tells of a first complete blob.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("sha256:"));
        thread::sleep(Duration::from_millis(7 * round));
        child.kill().unwrap();
        child.wait().unwrap();

        let store = open(dir.path());
        assert!(!dir.path().join("state.redb.corrupt").exists());
        for summary in store.blobs() {
            let content = contents
                .iter()
                .find(|content| content.task == summary.task)
                .unwrap();
            let blob = store.find(&summary.task).unwrap();
            let sound = content.verify(&blob);
            assert_eq!(sound, summary.pieces, "the page cache outlives a process");
            assert!(!summary.complete || sound == content.count());
            found += sound;
        }
    }
    assert!(found > 0);
}
