//! Promised bytes that are here from elsewhere: the promise's own registry has to show that it holds
//! them, and nobody else is asked for them if it does not.

use std::{sync::Arc, time::Instant};

use hawker_swarm::Source;
use tokio::sync::Semaphore;

use super::{origin::Part, *};

/// A registry that gives a blob, and no ranges of it.
async fn without_ranges(bytes: &Bytes) -> Origin {
    let bytes = bytes.clone();
    Origin::start(move |_| Reply::bytes(bytes.clone())).await
}

async fn committed(bed: &Bed, digest: Digest) {
    eventually("it is committed", || {
        let info = bed.store.find(&digest);
        info.is_some_and(|info| info.state == ContentState::Committed)
            && bed.pinned().contains(&digest)
    })
    .await;
}

/// Bytes that are here, and nobody knows from where.
async fn leave_here(bed: &Bed, bytes: &Bytes) {
    bed.write("a", bytes).await.unwrap();
    bed.store.delete(&Digest::of(bytes)).await;
    bed.settle().await;
    assert!(bed.store.find(&Digest::of(bytes)).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_of_known_bytes_is_kept_by_a_registry_without_ranges() {
    let dir = temp();
    let bytes = noise(500_000, 20);
    let digest = Digest::of(&bytes);
    let origin = without_ranges(&bytes).await;
    let address = origin.address.to_string();
    let bed = Bed::open(dir.path(), &address).await;
    leave_here(&bed, &bytes).await;
    bed.promise(&address, "a", &bytes).await.unwrap();
    assert!(bed.store.info(&digest).is_some());
    assert!(bed.read(&digest).await.unwrap() == bytes);
    committed(&bed, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_that_gives_other_bytes_without_ranges_gets_nothing_of_ours() {
    let dir = temp();
    let bytes = noise(500_000, 21);
    let digest = Digest::of(&bytes);
    let origin = without_ranges(&noise(500_000, 22)).await;
    let address = origin.address.to_string();
    let bed = Bed::open(dir.path(), &address).await;
    leave_here(&bed, &bytes).await;
    bed.promise(&address, "a", &bytes).await.unwrap();
    assert!(bed.store.info(&digest).is_some());
    bed.read(&digest).await.unwrap_err();
    assert!(bed.pinned().is_empty());
}

/// A registry that gives the first half of a blob, and the rest when the test says so.
async fn half(bytes: &Bytes) -> (Origin, Arc<Semaphore>) {
    let (gate, bytes) = (Arc::new(Semaphore::new(0)), bytes.clone());
    let wait = Arc::clone(&gate);
    let origin = Origin::start(move |_| {
        let (first, rest) = (
            bytes.slice(..bytes.len() / 2),
            bytes.slice(bytes.len() / 2..),
        );
        let wait = Part::Wait(wait.clone());
        Reply::parts(
            bytes.len(),
            vec![Part::Bytes(first), wait, Part::Bytes(rest)],
        )
    });
    (origin.await, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_is_kept_while_its_bytes_come_for_another_registry() {
    let dir = temp();
    let bytes = noise(20 << 20, 23);
    let digest = Digest::of(&bytes);
    let (first, gate) = half(&bytes).await;
    let own = registry(std::slice::from_ref(&bytes)).await;
    let own = own.address.to_string();
    let bed = Bed::open(dir.path(), &own).await;
    // A client of the mirror gets it by another registry's name.
    let source = Source {
        url: format!("http://{}/v2/b/blobs/{digest}", first.address),
        authorization: None,
    };
    let coming = bed
        .node
        .open(TaskId::Blob(digest), Some(source))
        .await
        .unwrap();
    eventually("it begins", || coming.progress().0 > 0).await;
    bed.promise(&own, "a", &bytes).await.unwrap();
    assert!(bed.store.info(&digest).is_some());
    let reading = async {
        let read = bed.read(&digest).await;
        (read, Instant::now())
    };
    let opening = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        gate.add_permits(100);
        Instant::now()
    };
    let ((read, ended), opened) = tokio::join!(reading, opening);
    assert!(read.unwrap() == bytes);
    let after = ended.saturating_duration_since(opened);
    assert!(after < Duration::from_secs(2), "{after:?}");
    committed(&bed, digest).await;
}
