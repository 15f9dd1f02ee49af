//! A process that is killed at every step: what it had answered is so, and the rest can be done.

use std::{process::Command, time::Instant};

use tokio::{runtime::Runtime, sync::mpsc};

use super::*;

const DIR: &str = "HAWKER_TEST_CONTENT_DIR";
const ORIGIN: &str = "HAWKER_TEST_CONTENT_ORIGIN";
const NAME: &str = "content::tests::killed::whatever_step_it_is_killed_at_what_it_answered_is_so";

fn blobs() -> Vec<Bytes> {
    vec![noise(70_000, 1), noise(5, 2), noise(200_000, 3)]
}

fn imported() -> Bytes {
    noise(90_000, 9)
}

/// What a registry has: containerd asks for the first, for the second nobody does.
fn promised() -> [Bytes; 2] {
    [noise(120_000, 10), noise(80_000, 11)]
}

/// Promises and what becomes of them.
async fn promise(bed: &Bed, origin: &str) {
    let [asked, forgotten] = promised();
    let digest = Digest::of(&asked);
    for repository in ["b", "a"] {
        bed.promise(origin, repository, &asked).await.unwrap();
    }
    bed.promise(origin, "a", &forgotten).await.unwrap();
    println!("promised");
    bed.store.info(&digest).unwrap();
    // What was told is saved with whatever is saved next.
    bed.store.0.journal.save(Change::Used(true)).await.unwrap();
    println!("told");
    let is_committed = || {
        let found = bed.store.find(&digest);
        found.is_some_and(|info| info.state == ContentState::Committed)
    };
    eventually("it is whole", is_committed).await;
    bed.store.put_last(digest, &image(origin, "a")).await;
    bed.promise(origin, "c", &asked).await.unwrap();
    println!("whole");
    let keep = Duration::from_secs(3600);
    bed.store.end_forgotten(Instant::now() + keep, keep).await;
    bed.settle().await;
    println!("forgotten");
}

/// All that a store goes through, told line by line.
async fn work(dir: &Path, origin: &str) {
    let bed = Bed::open(dir, origin).await;
    promise(&bed, origin).await;
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
    println!("giving up");
    bed.store.release_all().await.unwrap();
    println!("given up");
    bed.close().await;
    println!("over");
}

/// What was answered before anything was given up.
fn check_content(bed: &Bed, answers: &str) {
    check_promises(bed, answers);
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
}

fn check_promises(bed: &Bed, answers: &str) {
    let [asked, forgotten] = promised().map(|bytes| Digest::of(&bytes));
    if answers.contains("promised") {
        assert!(bed.store.find(&asked).is_some(), "{answers}");
        let is_known = bed.store.find(&forgotten).is_some();
        assert!(is_known || answers.contains("whole"), "{answers}");
        assert!(!is_known || !answers.contains("forgotten"), "{answers}");
    }
    if answers.contains("told") {
        assert!(
            bed.store.0.records.get(&asked).unwrap().is_sure(),
            "{answers}"
        );
    }
}

async fn check(dir: &Path, origin: &str, answers: &str) {
    let bed = Bed::open(dir, origin).await;
    let known: BTreeMap<Digest, Bytes> = blobs()
        .into_iter()
        .chain([imported()])
        .chain(promised())
        .map(|bytes| (Digest::of(&bytes), bytes))
        .collect();
    // What is listed is whole and pinned, and what is pinned is listed.
    let is_settled = || bed.listed() == bed.pinned();
    eventually(&format!("promises are kept: {answers}"), is_settled).await;
    for digest in bed.listed() {
        assert_eq!(
            bed.read(&digest).await.unwrap(),
            known[&digest],
            "{answers}"
        );
    }
    match answers.contains("giving up") {
        false => check_content(&bed, answers),
        true if answers.contains("given up") => {
            assert!(bed.listed().is_empty() && !bed.store.is_used(), "{answers}");
        }
        true => {}
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
        let origin = std::env::var(ORIGIN).unwrap();
        runtime.block_on(work(Path::new(&dir), &origin));
        return;
    }
    let registry = runtime.block_on(registry(&promised()));
    let origin = registry.address.to_string();
    let mut steps = 0;
    loop {
        let dir = temp();
        let place = dir.path().join("containerd/blobs/sha256");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(Digest::of(&imported()).to_hex()), imported()).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", NAME])
            .env(DIR, dir.path())
            .env(ORIGIN, &origin)
            .env("HAWKER_TEST_CONTENT_KILL_AT", steps.to_string())
            .output()
            .unwrap();
        let answers = String::from_utf8_lossy(&output.stdout).into_owned();
        runtime.block_on(check(dir.path(), &origin, &answers));
        // The rest can be done.
        runtime.block_on(work(dir.path(), &origin));
        if output.status.code() != Some(77) {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{answers}{errors}");
            assert!(answers.contains("over"));
            break;
        }
        steps += 1;
    }
    println!("killed at {steps} steps");
    assert!(steps >= 60, "{steps} steps");
}
