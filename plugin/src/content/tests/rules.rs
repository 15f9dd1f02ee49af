//! The rules of containerd's contract, one by one.

use super::*;

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let labels = labels.iter();
    labels
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_content_is_read_listed_and_pinned_also_after_a_restart() {
    let dir = temp();
    let blobs: Vec<Bytes> = (0..7).map(|i| noise(1 + 40_000 * i as usize, i)).collect();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    for bytes in &blobs {
        bed.write(&Digest::of(bytes).to_string(), bytes)
            .await
            .unwrap();
    }
    let digests: BTreeSet<Digest> = blobs.iter().map(|bytes| Digest::of(bytes)).collect();
    assert_eq!(bed.listed(), digests);
    bed.close().await;

    let bed = Bed::open(dir.path(), NOWHERE).await;
    assert!(bed.store.is_used());
    assert_eq!((bed.listed(), bed.pinned()), (digests.clone(), digests));
    for bytes in &blobs {
        let digest = Digest::of(bytes);
        let info = bed.store.info(&digest).unwrap();
        assert_eq!(
            (info.size, info.state),
            (bytes.len() as u64, ContentState::Committed)
        );
        assert_eq!(bed.read(&digest).await.unwrap(), *bytes);
        let middle = bytes.len() as u64 / 2;
        let part = bed.read_range(&digest, middle..middle + 10).await.unwrap();
        assert!(bytes[middle as usize..].starts_with(&part));
    }
    assert!(bed.store.statuses().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_content_is_unpinned_unknown_and_deleted_again_without_an_error() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let bytes = noise(100_000, 1);
    let digest = Digest::of(&bytes);
    bed.write("a", &bytes).await.unwrap();
    bed.store.delete(&digest).await;
    bed.store.delete(&digest).await;
    assert!(bed.store.info(&digest).is_none() && bed.listed().is_empty());
    bed.settle().await;
    assert!(bed.pinned().is_empty());
    assert!(matches!(
        bed.read(&digest).await,
        Err(ContentError::NotFound { .. })
    ));
    // The bytes are still there for the network, until their room is needed.
    assert!(bed.node.find(TaskId::Blob(digest)).await.unwrap().is_some());
    bed.write("b", &bytes).await.unwrap();
    assert_eq!(bed.pinned(), BTreeSet::from([digest]));
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_saved_while_one_of_the_digests_is_being_changed() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let blobs: Vec<Bytes> = (0..80).map(|i| noise(10 + i as usize, i)).collect();
    let digests: Vec<Digest> = blobs.iter().map(|bytes| Digest::of(bytes)).collect();
    for (bytes, digest) in blobs.iter().zip(&digests) {
        bed.write(&digest.to_string(), bytes).await.unwrap();
    }
    for digest in &digests {
        bed.store.delete(digest).await;
    }
    let changed = bed.store.0.turns.take(&digests[7]).await;
    let kept = BTreeSet::from([digests[7]]);
    eventually("the others are saved", || bed.pinned() == kept).await;
    drop(changed);
    bed.settle().await;
    assert!(bed.pinned().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_again_before_its_deletion_is_saved_stays() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let blobs: Vec<Bytes> = (0..80).map(|i| noise(10 + i as usize, i)).collect();
    for bytes in &blobs {
        bed.write(&Digest::of(bytes).to_string(), bytes)
            .await
            .unwrap();
    }
    for bytes in &blobs {
        bed.store.delete(&Digest::of(bytes)).await;
    }
    bed.write("again", &blobs[7]).await.unwrap();
    bed.settle().await;
    let kept = BTreeSet::from([Digest::of(&blobs[7])]);
    assert_eq!((bed.listed(), bed.pinned()), (kept.clone(), kept.clone()));
    bed.close().await;
    let bed = Bed::open(dir.path(), NOWHERE).await;
    assert_eq!((bed.listed(), bed.pinned()), (kept.clone(), kept));
    assert_eq!(bed.read(&Digest::of(&blobs[7])).await.unwrap(), blobs[7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_saved_without_being_asked_to() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let bytes = noise(1000, 8);
    bed.write("a", &bytes).await.unwrap();
    bed.store.delete(&Digest::of(&bytes)).await;
    eventually("it is unpinned", || bed.pinned().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_changed_as_the_mask_says_and_kept() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let digest = Digest::of(b"x");
    let unknown = bed.store.update(&digest, labels(&[]), &[]).await;
    assert!(matches!(unknown, Err(ContentError::NotFound { .. })));
    let mut writer = bed.store.write("a", 0).await.unwrap();
    writer.append(b"x").unwrap();
    let commit = Commit {
        labels: labels(&[("a", "1"), ("b.c/d", "2"), ("empty", "")]),
        ..Commit::default()
    };
    bed.store.commit(writer, commit).await.unwrap();
    let before = bed.store.info(&digest).unwrap();
    assert_eq!(before.labels, labels(&[("a", "1"), ("b.c/d", "2")]));

    let mask = ["labels.b.c/d".to_owned(), "labels.new".to_owned()];
    let update = labels(&[("new", "3"), ("a", "not named")]);
    let info = bed.store.update(&digest, update, &mask).await.unwrap();
    assert_eq!(info.labels, labels(&[("a", "1"), ("new", "3")]));
    assert!(info.updated > before.updated && info.created == before.created);
    let odd = bed
        .store
        .update(&digest, labels(&[]), &["size".to_owned()])
        .await;
    assert!(matches!(odd, Err(ContentError::InvalidArgument { .. })));
    let long = labels(&[("a", &"x".repeat(4096))]);
    let long = bed.store.update(&digest, long, &[]).await;
    assert!(matches!(long, Err(ContentError::InvalidArgument { .. })));
    bed.close().await;
    let bed = Bed::open(dir.path(), NOWHERE).await;
    assert_eq!(bed.store.info(&digest), Some(info));
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_of_what_is_there_is_refused_and_ends_the_upload() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    bed.write("a", b"same").await.unwrap();
    let again = bed.write("b", b"same").await;
    assert!(matches!(again, Err(ContentError::AlreadyExists(_))));
    assert!(bed.store.status("b").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_of_what_was_lost_brings_it_back() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let bytes = noise(200_000, 3);
    let digest = Digest::of(&bytes);
    bed.write("a", &bytes).await.unwrap();
    bed.store.0.node.set_pinned(digest, false).await.unwrap();
    assert!(bed.node.remove(digest).await.unwrap());
    let lost = bed.read(&digest).await;
    assert!(matches!(
        lost,
        Err(ContentError::Unavailable { .. } | ContentError::Layer { .. })
    ));
    bed.write("b", &bytes).await.unwrap();
    assert_eq!(bed.read(&digest).await.unwrap(), bytes);
    assert_eq!(bed.pinned(), BTreeSet::from([digest]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_is_had_again_from_its_image() {
    let dir = temp();
    let bytes = noise(300_000, 4);
    let digest = Digest::of(&bytes);
    let origin = registry(std::slice::from_ref(&bytes)).await;
    let origin = origin.address.to_string();
    let bed = Bed::open(dir.path(), &origin).await;
    bed.write("a", &bytes).await.unwrap();
    bed.promise(&origin, "team/app", &bytes).await.unwrap();
    bed.node.set_pinned(digest, false).await.unwrap();
    assert!(bed.node.remove(digest).await.unwrap());
    assert_eq!(bed.read(&digest).await.unwrap(), bytes);
    eventually("it is pinned again", || bed.pinned().contains(&digest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_are_rebuilt_from_what_is_pinned() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let bytes = noise(100_000, 5);
    bed.write("a", &bytes).await.unwrap();
    bed.close().await;
    let records = dir.path().join("store/content/content.redb");
    fs::write(&records, b"no database").unwrap();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    assert_eq!(bed.read(&Digest::of(&bytes)).await.unwrap(), bytes);
    assert_eq!(bed.listed(), BTreeSet::from([Digest::of(&bytes)]));
    assert!(records.with_extension("redb.damaged").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commit_the_same_at_once_and_one_wins() {
    let dir = temp();
    let bed = Arc::new(Bed::open(dir.path(), NOWHERE).await);
    let bytes = noise(150_000, 6);
    let writes = (0..8).map(|i| {
        let (bed, bytes) = (bed.clone(), bytes.clone());
        tokio::spawn(async move { bed.write(&format!("ref-{i}"), &bytes).await })
    });
    let mut won = 0;
    for write in writes.collect::<Vec<_>>() {
        match write.await.unwrap() {
            Ok(()) => won += 1,
            Err(error) => assert!(matches!(error, ContentError::AlreadyExists(_)), "{error}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(bed.read(&Digest::of(&bytes)).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_content_is_content() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    bed.write("a", b"").await.unwrap();
    assert_eq!(bed.read(&Digest::of(b"")).await.unwrap(), b"");
    bed.store.delete(&Digest::of(b"")).await;
}
