//! What containerd may believe that it has.

use std::{sync::Arc, time::Instant};

use tokio::sync::Semaphore;

use super::{origin::Part, *};

/// A registry that gives one blob, and of its bytes nothing before the test says so.
async fn slow(bytes: &Bytes) -> (Origin, Arc<Semaphore>) {
    let (gate, bytes) = (Arc::new(Semaphore::new(0)), bytes.clone());
    let wait = Arc::clone(&gate);
    let origin = Origin::start(move |seen| match seen.method {
        http::Method::HEAD => Reply::bytes(bytes.clone()),
        _ => Reply::parts(
            bytes.len(),
            vec![Part::Wait(wait.clone()), Part::Bytes(bytes.clone())],
        ),
    });
    (origin.await, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_is_answered_for_before_its_bytes_and_committed_with_them() {
    let dir = temp();
    let bytes = noise(500_000, 1);
    let digest = Digest::of(&bytes);
    let (origin, gate) = slow(&bytes).await;
    let origin = origin_and_address(&origin);
    let bed = Bed::open(dir.path(), &origin).await;
    bed.promise(&origin, "a", &bytes).await.unwrap();
    assert!(bed.listed().is_empty(), "nobody was told");
    let info = bed.store.info(&digest).unwrap();
    assert_eq!((info.size, info.state), (500_000, ContentState::Promised));
    assert_eq!(bed.listed(), BTreeSet::from([digest]));
    let reading = async { bed.read(&digest).await.unwrap() };
    let opening = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        gate.add_permits(100);
    };
    let (read, ()) = tokio::join!(reading, opening);
    assert_eq!(read, bytes);
    let is_committed = || {
        let info = bed.store.find(&digest).unwrap();
        info.state == ContentState::Committed && bed.pinned().contains(&digest)
    };
    eventually("it is committed", is_committed).await;
}

fn origin_and_address(origin: &Origin) -> String {
    origin.address.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_outlives_a_restart_and_its_bytes_come_then() {
    let dir = temp();
    let bytes = noise(400_000, 2);
    let digest = Digest::of(&bytes);
    let (origin, gate) = slow(&bytes).await;
    let address = origin_and_address(&origin);
    let bed = Bed::open(dir.path(), &address).await;
    bed.promise(&address, "a", &bytes).await.unwrap();
    bed.close().await;
    gate.add_permits(1000);
    let bed = Bed::open(dir.path(), &address).await;
    assert_eq!(
        bed.listed(),
        BTreeSet::from([digest]),
        "nobody knows who was told"
    );
    assert_eq!(bed.store.info(&digest).unwrap().size, 400_000);
    assert_eq!(bed.read(&digest).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_promised_that_the_registry_does_not_grant_or_that_has_another_size() {
    let dir = temp();
    let bytes = noise(100_000, 3);
    let origin = registry(std::slice::from_ref(&bytes)).await;
    let address = origin_and_address(&origin);
    let bed = Bed::open(dir.path(), &address).await;
    let unknown = bed.promise(&address, "a", b"unknown").await;
    assert!(
        matches!(unknown, Err(ContentError::Layer { .. })),
        "{unknown:?}"
    );
    let promise = Promise {
        digest: Digest::of(&bytes),
        size: 99_999,
        image: image(&address, "a"),
    };
    let wrong = bed.store.promise(promise).await;
    assert!(
        matches!(wrong, Err(ContentError::FailedPrecondition { .. })),
        "{wrong:?}"
    );
    assert!(bed.store.info(&Digest::of(&bytes)).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_that_nobody_asks_for_ends_by_itself_and_a_told_one_does_not() {
    let dir = temp();
    let blobs = [noise(100_000, 4), noise(100_001, 5)];
    let [told, untold] = [0, 1].map(|i| Digest::of(&blobs[i]));
    let origin = registry(&blobs).await;
    let address = origin_and_address(&origin);
    let bed = Bed::open(dir.path(), &address).await;
    for bytes in &blobs {
        bed.promise(&address, "a", bytes).await.unwrap();
    }
    eventually("both are whole", || {
        blobs.iter().all(|bytes| bed.is_here(bytes))
    })
    .await;
    assert!(bed.pinned().is_empty(), "nobody relies on them");
    bed.store.info(&told).unwrap();
    let kept = BTreeSet::from([told]);
    eventually("the told one is kept", || bed.pinned() == kept).await;
    let keep = Duration::from_secs(3600);
    bed.store.end_forgotten(Instant::now(), keep).await;
    assert!(bed.store.find(&untold).is_some());
    bed.store.end_forgotten(Instant::now() + keep, keep).await;
    bed.settle().await;
    assert!(bed.store.find(&untold).is_none() && bed.store.find(&told).is_some());
    assert_eq!(bed.pinned(), BTreeSet::from([told]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pull_is_about_to_ask_for_survives_the_garbage_collection() {
    let dir = temp();
    let bytes = noise(100_000, 6);
    let digest = Digest::of(&bytes);
    let origin = registry(std::slice::from_ref(&bytes)).await;
    let address = origin_and_address(&origin);
    let bed = Bed::open(dir.path(), &address).await;
    // An image that was removed, and is pulled again before the garbage collection.
    bed.write("old", &bytes).await.unwrap();
    bed.promise(&address, "a", &bytes).await.unwrap();
    bed.store.delete(&digest).await;
    assert!(bed.listed().is_empty());
    assert!(bed.store.info(&digest).is_some());
    assert_eq!(bed.read(&digest).await.unwrap(), bytes);
    // The pull ended without it.
    bed.store.delete(&digest).await;
    bed.settle().await;
    assert!(bed.store.info(&digest).is_none() && bed.pinned().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_writes_what_was_promised_commits_it() {
    let dir = temp();
    let bytes = noise(100_000, 7);
    let (origin, _gate) = slow(&bytes).await;
    let address = origin_and_address(&origin);
    let bed = Bed::open(dir.path(), &address).await;
    bed.promise(&address, "a", &bytes).await.unwrap();
    bed.write("a", &bytes).await.unwrap();
    let info = bed.store.find(&Digest::of(&bytes)).unwrap();
    assert_eq!(info.state, ContentState::Committed);
    assert!(!info.images.is_empty());
    assert_eq!(bed.read(&Digest::of(&bytes)).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn layer_of_what_containerd_has_is_opened_without_a_further_right() {
    let dir = temp();
    let bytes = noise(100_000, 8);
    let digest = Digest::of(&bytes);
    let bed = Bed::open(dir.path(), NOWHERE).await;
    assert!(matches!(
        bed.store.open_layer(&digest).await,
        Err(LayerError::NotFound(_))
    ));
    bed.write("a", &bytes).await.unwrap();
    let mut layer = bed.store.open_layer(&digest).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        loop {
            let bytes = layer.source.next().unwrap();
            if bytes.is_empty() {
                layer.source.prove().unwrap();
                return all;
            }
            all.extend_from_slice(&bytes);
        }
    });
    assert_eq!(read.await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containerd_was_told_while_a_record_changed_stays_told() {
    let digest = Digest::of(b"x");
    let records = Records::default();
    let row = || Row::new(1, ContentState::Promised);
    records.put(digest, Arc::new(Record::promised(row(), Instant::now())));
    let before = records.get(&digest).unwrap();
    let changed = before
        .with_row(row().committed())
        .promised_again(Instant::now());
    assert!(!changed.is_told());
    records.tell(&digest).unwrap();
    records.put(digest, Arc::new(changed));
    assert!(records.get(&digest).unwrap().is_told());
    let keep = Duration::from_secs(1);
    assert!(!records.remove_forgotten(&digest, Instant::now() + 2 * keep, keep));
}

#[test]
fn download_that_fails_ends_only_the_promise_it_was_begun_for() {
    let (digest, keep) = (Digest::of(b"x"), Duration::from_secs(60));
    let now = Instant::now();
    let records = Records::default();
    let row = || Row::new(1, ContentState::Promised);
    let promise = || records.put(digest, Arc::new(Record::promised(row(), now)));
    let begun = || records.get(&digest).unwrap();
    promise();
    let forgotten = begun();
    assert!(records.remove_forgotten(&digest, now + keep, keep));
    promise();
    assert!(!records.remove_untold(&digest, &forgotten));
    let renewed = begun();
    assert!(records.promise_again(&digest, row(), now));
    assert!(!records.remove_untold(&digest, &renewed));
    assert!(records.remove_untold(&digest, &begun()));
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_by_one_pull_leaves_the_promise_to_another() {
    let dir = temp();
    let bytes = noise(100_000, 9);
    let digest = Digest::of(&bytes);
    let origin = registry(std::slice::from_ref(&bytes)).await;
    let address = origin.address.to_string();
    let bed = Bed::open(dir.path(), &address).await;
    for reference in ["first", "again"] {
        bed.promise(&address, "a", &bytes).await.unwrap();
        match bed.write(reference, &bytes).await {
            Ok(()) | Err(ContentError::AlreadyExists(_)) => {}
            Err(error) => panic!("{error}"),
        }
        // The one that wrote it was given up, and the other has not asked yet.
        bed.store.delete(&digest).await;
        assert!(bed.store.find(&digest).is_some());
    }
    bed.store.info(&digest).unwrap();
    bed.store.delete(&digest).await;
    bed.settle().await;
    assert!(bed.store.find(&digest).is_none() && bed.pinned().is_empty());
}

/// A registry that says to have a blob, and gives other bytes.
async fn liar(bytes: &Bytes) -> Origin {
    let (bytes, wrong) = (bytes.clone(), noise(bytes.len(), 99));
    Origin::start(move |seen| match seen.method {
        http::Method::HEAD => Reply::bytes(bytes.clone()),
        _ => Reply::file(seen, &wrong),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_image_cannot_give_is_had_for_another_that_was_granted_it() {
    let dir = temp();
    let bytes = noise(300_000, 10);
    let digest = Digest::of(&bytes);
    let (honest, gate) = slow(&bytes).await;
    let liar = liar(&bytes).await;
    let [honest, liar] = [&honest, &liar].map(origin_and_address);
    let bed = Box::pin(Bed::open(dir.path(), &honest)).await;
    Box::pin(bed.promise(&honest, "a", &bytes)).await.unwrap();
    Box::pin(bed.promise(&liar, "b", &bytes)).await.unwrap();
    let images = bed.store.find(&digest).unwrap().images;
    assert_eq!(images, [image(&liar, "b"), image(&honest, "a")]);
    bed.close().await;
    gate.add_permits(1000);
    let bed = Box::pin(Bed::open(dir.path(), &honest)).await;
    // Whoever reads what the liar gives is told so at its end, and tries again.
    let read = async {
        loop {
            match Box::pin(bed.read(&digest)).await {
                Ok(read) => return read,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(60), Box::pin(read)).await;
    assert!(read.unwrap() == bytes);
    let images = || bed.store.find(&digest).unwrap().images;
    eventually("the liar comes last", || {
        images() == [image(&honest, "a"), image(&liar, "b")]
    })
    .await;
}

#[test]
fn a_few_images_are_remembered_the_last_of_each_repository_first() {
    let row = Row::new(1, ContentState::Promised);
    let names = ["a", "b", "a", "c", "d", "e"];
    let row = names
        .into_iter()
        .fold(row, |row, name| row.with_image(&image("r.io", name)));
    let expected = ["e", "d", "c", "a"].map(|name| image("r.io", name));
    assert_eq!(row.images(), expected);
    let other = ImageName::parse("r.io/c:2").unwrap();
    let other = other.with_manifest(Digest::of(b"another"));
    let row = row.with_image(&other);
    assert_eq!(row.images()[..2], [other.clone(), image("r.io", "e")]);
    let row = row.with_last(&other);
    assert_eq!(row.images().len(), 4);
    assert_eq!(row.images()[3], other);
}

/// A registry that grants blobs, and when the test says so has none of them.
async fn fickle(blobs: &[Bytes; 2]) -> (Origin, Arc<Semaphore>) {
    let (gate, blobs) = (Arc::new(Semaphore::new(0)), blobs.clone());
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |seen| {
        let is_named = |bytes: &&Bytes| seen.path.contains(&Digest::of(bytes).to_string());
        match blobs.iter().find(is_named) {
            Some(bytes) if seen.method == http::Method::HEAD => Reply::bytes(bytes.clone()),
            _ => Reply::status(404).after(&held),
        }
    });
    (origin.await, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_that_cannot_be_kept_ends_unless_containerd_was_told_of_it() {
    let dir = temp();
    let blobs = [noise(100_000, 11), noise(100_001, 12)];
    let [told, untold] = [0, 1].map(|i| Digest::of(&blobs[i]));
    let (origin, gate) = fickle(&blobs).await;
    let address = origin_and_address(&origin);
    let bed = Bed::open(dir.path(), &address).await;
    for bytes in &blobs {
        bed.promise(&address, "a", bytes).await.unwrap();
    }
    bed.store.info(&told).unwrap();
    gate.add_permits(1000);
    eventually("it ends", || bed.store.find(&untold).is_none()).await;
    assert!(bed.store.info(&told).is_some());
    assert_eq!(bed.listed(), BTreeSet::from([told]));
}
