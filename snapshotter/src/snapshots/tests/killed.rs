//! A process that is killed while it works.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use super::*;

const DIR: &str = "HAWKER_TEST_SNAPSHOTS_DIR";
const NAME: &str = "snapshots::tests::killed::a_killed_process_leaves_whole_snapshots";

/// The child: works without end from several threads, and tells what was committed.
fn work_for_ever(dir: &Path) {
    let snapshots = Snapshots::open(dir, config()).unwrap();
    thread::scope(|scope| {
        for worker in 0..3 {
            let snapshots = &snapshots;
            scope.spawn(move || {
                for round in 0.. {
                    let name = format!("{}-{worker}-{round}", std::process::id());
                    let layer = staged(snapshots, &name);
                    let chain = chain(&name);
                    let layer = snapshots.commit_layer(layer, &chain, "", plain()).unwrap();
                    snapshots.prepare(&name, &layer, plain()).unwrap();
                    fs::write(files(snapshots, &name).join("file"), "x").unwrap();
                    let done = format!("{name}-done");
                    snapshots.commit(&done, &name, plain()).unwrap();
                    snapshots.usage(&done).unwrap();
                    println!("done {done}");
                    if round % 2 == 0 {
                        snapshots.remove(&done).unwrap();
                        snapshots.remove(&layer).unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn a_killed_process_leaves_whole_snapshots() {
    if let Some(dir) = std::env::var_os(DIR) {
        work_for_ever(Path::new(&dir));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut found = 0;
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", NAME])
            .env(DIR, store(&dir))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("done "));
        thread::sleep(Duration::from_millis(5 * round));
        child.kill().unwrap();
        child.wait().unwrap();

        let snapshots = open(&dir);
        assert_tidy(&snapshots);
        for info in snapshots.list(&[]).unwrap() {
            let files = entries(&files(&snapshots, &info.name));
            if info.kind == Kind::Committed {
                assert_eq!(files.len(), 1, "{}", info.name);
                assert_eq!(snapshots.usage(&info.name).unwrap().inodes, 2);
                found += 1;
            }
        }
    }
    assert!(found > 0);
}
