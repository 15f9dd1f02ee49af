//! A process that is killed at every step: what it had answered is so, and the rest can be done.

use std::process::Command;

use tokio::{runtime::Runtime, sync::mpsc};

use super::*;

const DIR: &str = "HAWKER_TEST_CONTENT_DIR";
const NAME: &str = "content::tests::killed::whatever_step_it_is_killed_at_what_it_answered_is_so";

fn blobs() -> Vec<Bytes> {
    vec![noise(70_000, 1), noise(5, 2), noise(200_000, 3)]
}

fn imported() -> Bytes {
    noise(90_000, 9)
}

/// All that a store goes through, told line by line.
async fn work(dir: &Path) {
    let bed = Bed::open(dir, NOWHERE).await;
    for (i, bytes) in blobs().iter().enumerate() {
        match bed.write(&format!("ref-{i}"), bytes).await {
            Ok(()) | Err(ContentError::AlreadyExists(_)) => println!("committed {i}"),
            Err(error) => panic!("{error}"),
        }
    }
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let digest = Digest::of(&blobs()[0]);
    bed.store.update(&digest, labels, &[]).await.unwrap();
    println!("labelled");
    bed.store.delete(&Digest::of(&blobs()[1])).await;
    println!("deleted");
    bed.settle().await;
    println!("released");
    let root = dir.join("containerd");
    let (listener, _progress) = mpsc::channel(10);
    bed.store.import(&root, listener).await.unwrap();
    println!("imported");
    let (listener, _progress) = mpsc::channel(10);
    bed.store.export(&dir.join("back"), listener).await.unwrap();
    println!("exported");
    drop(bed.store.write("left", 0).await.unwrap());
    bed.store.abort("left").await.unwrap();
    bed.close().await;
    println!("over");
}

async fn check(dir: &Path, answers: &str) {
    let bed = Bed::open(dir, NOWHERE).await;
    let known: BTreeMap<Digest, Bytes> = blobs()
        .into_iter()
        .chain([imported()])
        .map(|bytes| (Digest::of(&bytes), bytes))
        .collect();
    // What is listed is whole and pinned, and what is pinned is listed.
    assert_eq!(bed.listed(), bed.pinned(), "{answers}");
    for digest in bed.listed() {
        assert_eq!(
            bed.read(&digest).await.unwrap(),
            known[&digest],
            "{answers}"
        );
    }
    for (i, bytes) in blobs().iter().enumerate() {
        let digest = Digest::of(bytes);
        let is_deleted = i == 1 && answers.contains("labelled");
        if answers.contains(&format!("committed {i}")) && !is_deleted {
            assert!(bed.store.info(&digest).is_some(), "{answers}");
        }
    }
    if answers.contains("released") {
        assert!(!bed.listed().contains(&Digest::of(&blobs()[1])));
    }
    let first = bed.store.find(&Digest::of(&blobs()[0]));
    if answers.contains("labelled") {
        assert_eq!(first.unwrap().labels["a"], "b");
    }
    if answers.contains("imported") {
        assert!(bed.store.info(&Digest::of(&imported())).is_some());
    }
    let back = dir.join("back/blobs/sha256");
    for entry in fs::read_dir(&back).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if let Ok(digest) = Digest::parse(&format!("sha256:{name}")) {
            assert_eq!(fs::read(entry.path()).unwrap(), known[&digest], "{answers}");
        }
    }
    bed.close().await;
}

#[test]
fn whatever_step_it_is_killed_at_what_it_answered_is_so() {
    let runtime = Runtime::new().unwrap();
    if let Some(dir) = std::env::var_os(DIR) {
        runtime.block_on(work(Path::new(&dir)));
        return;
    }
    let mut steps = 0;
    loop {
        let dir = temp();
        let place = dir.path().join("containerd/blobs/sha256");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(Digest::of(&imported()).to_hex()), imported()).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", NAME])
            .env(DIR, dir.path())
            .env("HAWKER_TEST_CONTENT_KILL_AT", steps.to_string())
            .output()
            .unwrap();
        let answers = String::from_utf8_lossy(&output.stdout).into_owned();
        runtime.block_on(check(dir.path(), &answers));
        // The rest can be done.
        runtime.block_on(work(dir.path()));
        if output.status.code() != Some(77) {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{answers}{errors}");
            assert!(answers.contains("over"));
            break;
        }
        steps += 1;
    }
    println!("killed at {steps} steps");
    assert!(steps >= 40, "{steps} steps");
}
