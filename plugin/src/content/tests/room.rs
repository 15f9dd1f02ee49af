//! What is promised has room, and what containerd was told of is had whether it has or not.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::*;

const MIB: usize = 1 << 20;

/// A registry that has these blobs, and gives nothing of them before the test says so.
async fn reluctant(blobs: &[Bytes]) -> (Origin, Arc<Semaphore>) {
    let (gate, blobs) = (Arc::new(Semaphore::new(0)), blobs.to_vec());
    let wait = Arc::clone(&gate);
    let origin = Origin::start(move |seen| {
        let is_named = |bytes: &&Bytes| seen.path.contains(&Digest::of(bytes).to_string());
        match blobs.iter().find(is_named) {
            Some(bytes) if seen.method == http::Method::HEAD => Reply::bytes(bytes.clone()),
            Some(bytes) => Reply::file(seen, bytes).after(&wait),
            None => Reply::status(404),
        }
    });
    (origin.await, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_not_promised() {
    let dir = temp();
    let (had, wanted) = (noise(900 << 10, 30), noise(500 << 10, 31));
    let origin = registry(std::slice::from_ref(&wanted)).await;
    let address = origin.address.to_string();
    let bed = Bed::open_within(dir.path(), &address, "1MiB").await;
    bed.write("had", &had).await.unwrap();
    bed.promise(&address, "a", &wanted).await.unwrap_err();
    assert!(bed.store.info(&Digest::of(&wanted)).is_none());
    // The client fetches it through the mirror then, and commits it.
    bed.write("wanted", &wanted).await.unwrap();
    assert!(bed.read(&Digest::of(&wanted)).await.unwrap() == wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_takes_room_and_leaves_half_of_it_to_others() {
    let dir = temp();
    let blobs: Vec<_> = (32..35).map(|seed| noise(MIB, seed)).collect();
    let (origin, _gate) = reluctant(&blobs).await;
    let address = origin.address.to_string();
    let bed = Bed::open_within(dir.path(), &address, "4MiB").await;
    let mut promised = Vec::new();
    for bytes in &blobs {
        promised.push(bed.promise(&address, "a", bytes).await.is_ok());
    }
    assert_eq!(promised, [true, true, false], "half of the quota");
    bed.store.info(&Digest::of(&blobs[0])).unwrap();
    bed.promise(&address, "a", &blobs[2]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn told_promise_is_had_beyond_the_quota() {
    let dir = temp();
    let (bytes, other) = (noise(MIB, 36), noise(7 * MIB / 2, 37));
    let digest = Digest::of(&bytes);
    let (origin, gate) = reluctant(std::slice::from_ref(&bytes)).await;
    let address = origin.address.to_string();
    let bed = Bed::open_within(dir.path(), &address, "4MiB").await;
    bed.promise(&address, "a", &bytes).await.unwrap();
    bed.store.info(&digest).unwrap();
    bed.close().await;
    // Meanwhile the quota is filled: nothing of the promise was here.
    let bed = Bed::open_within(dir.path(), NOWHERE, "4MiB").await;
    bed.write("other", &other).await.unwrap();
    bed.close().await;
    gate.add_permits(1000);
    let bed = Bed::open_within(dir.path(), &address, "3MiB").await;
    assert!(bed.read(&digest).await.unwrap() == bytes);
    let all = BTreeSet::from([digest, Digest::of(&other)]);
    eventually("both are kept", || bed.pinned() == all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_nobody_asked_for_make_room() {
    let dir = temp();
    let (forgotten, wanted) = (noise(3 * MIB / 2, 38), noise(3 * MIB, 39));
    let blobs = [forgotten.clone(), wanted.clone()];
    let origin = registry(&blobs).await;
    let address = origin.address.to_string();
    let bed = Bed::open_within(dir.path(), &address, "4MiB").await;
    bed.promise(&address, "a", &forgotten).await.unwrap();
    eventually("it is whole", || bed.is_here(&forgotten)).await;
    let source = hawker_swarm::Source {
        url: format!("http://{address}/v2/b/blobs/{}", Digest::of(&wanted)),
        authorization: None,
    };
    let task = TaskId::Blob(Digest::of(&wanted));
    // Whoever held the forgotten one has let go of it in a moment.
    let fetch = || async {
        let blob = bed.node.open(task, Some(source.clone())).await.unwrap();
        blob.complete().await
    };
    for _ in 0..200 {
        if fetch().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(bed.is_here(&wanted) && !bed.is_here(&forgotten));
    // Who asks after all is told so, and gets it again, beyond the quota if need be.
    bed.write("wanted", &wanted).await.unwrap();
    assert!(bed.store.info(&Digest::of(&forgotten)).is_some());
    assert!(bed.read(&Digest::of(&forgotten)).await.unwrap() == forgotten);
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_that_is_whole_is_kept_once_containerd_asks_though_the_registry_is_gone() {
    let dir = temp();
    let bytes = noise(300_000, 40);
    let digest = Digest::of(&bytes);
    let origin = registry(std::slice::from_ref(&bytes)).await;
    let address = origin.address.to_string();
    let bed = Bed::open(dir.path(), &address).await;
    bed.promise(&address, "a", &bytes).await.unwrap();
    let is_settled = || bed.store.0.records.get(&digest).unwrap().is_whole_promise();
    eventually("it is whole", is_settled).await;
    drop(origin);
    bed.store.0.layers.access().forget(None, None);
    bed.store.info(&digest).unwrap();
    assert!(bed.read(&digest).await.unwrap() == bytes);
    eventually("it is kept", || bed.pinned().contains(&digest)).await;
}

#[test]
fn who_is_told_while_containerd_deletes_is_told_before_or_after() {
    let (digest, keep) = (Digest::of(b"x"), Duration::from_secs(60));
    for _ in 0..5000 {
        let records = Records::default();
        let row = Row::new(1, ContentState::Promised);
        let now = std::time::Instant::now();
        records.put(digest, Arc::new(Record::promised(row, now)));
        std::thread::scope(|scope| {
            scope.spawn(|| records.tell(&digest));
            records.delete(&digest, now, keep);
        });
        let left = records.get(&digest);
        assert!(left.is_none_or(|record| record.is_told()));
    }
}
