//! Uploads: who may write, where they go on, what stays.

use std::sync::atomic::AtomicUsize;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn one_writes_at_a_time_and_others_may_try_again() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let writer = bed.store.write("a", 10).await.unwrap();
    let other = bed.store.write("a", 10).await;
    assert!(matches!(other, Err(ContentError::Unavailable { .. })));
    drop(writer);
    bed.store.write("a", 10).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_goes_on_after_a_restart_where_it_stopped() {
    let dir = temp();
    let bytes = noise(3_000_000, 1);
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let mut writer = bed.store.write("a", bytes.len() as u64).await.unwrap();
    writer.append(&bytes[..1_234_567]).unwrap();
    let before = writer.status();
    let digest = writer.digest();
    drop(writer);
    bed.close().await;

    let bed = Bed::open(dir.path(), NOWHERE).await;
    let status = bed.store.status("a").unwrap();
    assert_eq!((status.offset, status.total), (before.offset, before.total));
    assert_eq!(status.started, before.started);
    let writer = loop {
        match bed.store.write("a", bytes.len() as u64).await {
            Ok(writer) => break writer,
            // It is being hashed.
            Err(ContentError::Unavailable { .. }) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(writer.digest(), digest);
    drop(writer);
    bed.write("a", &bytes).await.unwrap();
    assert_eq!(bed.read(&Digest::of(&bytes)).await.unwrap(), bytes);
}

/// The check of what a restart left may come to an upload that its client has gone on with already.
#[test]
fn check_after_a_restart_never_locks_what_was_hashed() {
    let dir = temp();
    let open = || Ingests::open(dir.path().to_owned()).unwrap();
    let mut writer = open().write("a", 0).unwrap();
    writer.append(b"abc").unwrap();
    drop(writer);
    let ingests = open();
    let left = ingests.unhashed();
    drop(ingests.write("a", 0).unwrap());
    let (is_over, checks) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                left[0].check().unwrap();
                checks.fetch_add(1, Relaxed);
            }
        });
        while checks.load(Relaxed) == 0 {
            std::thread::yield_now();
        }
        let wrong = (0..1000)
            .map(|_| ingests.write("a", 0).map(|writer| writer.digest()))
            .find(|digest| !matches!(digest, Ok(digest) if *digest == Digest::of(b"abc")));
        is_over.store(true, Relaxed);
        assert!(wrong.is_none(), "{wrong:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_boot_may_have_lost_does_not_count() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let mut writer = bed.store.write("a", 0).await.unwrap();
    writer.append(&noise(50_000, 1)).unwrap();
    drop(writer);
    bed.close().await;
    let place = dir.path().join("store/content/ingest");
    let place = fs::read_dir(place).unwrap().next().unwrap().unwrap().path();
    let state = fs::read_to_string(place.join("state.json")).unwrap();
    let boot = ingest::boot();
    fs::write(place.join("state.json"), state.replace(&boot, "another")).unwrap();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    assert_eq!(bed.store.status("a").unwrap().offset, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_commit_leaves_the_upload_as_it_is() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let wrong = [
        Commit {
            total: 4,
            ..Commit::default()
        },
        Commit {
            expected: Some(Digest::of(b"other")),
            ..Commit::default()
        },
    ];
    let mut writer = bed.store.write("a", 0).await.unwrap();
    writer.append(b"abc").unwrap();
    for commit in wrong {
        let failed = bed.store.commit(writer, commit).await;
        assert!(matches!(
            failed,
            Err(ContentError::FailedPrecondition { .. })
        ));
        writer = bed.store.write("a", 0).await.unwrap();
        assert_eq!(writer.digest(), Digest::of(b"abc"));
    }
    let right = Commit {
        total: 3,
        expected: Some(Digest::of(b"abc")),
        ..Commit::default()
    };
    bed.store.commit(writer, right).await.unwrap();
    assert!(bed.store.statuses().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_upload_is_gone_whoever_writes_it() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let mut writer = bed.store.write("a", 0).await.unwrap();
    writer.append(b"abc").unwrap();
    bed.store.abort("a").await.unwrap();
    bed.store.abort("a").await.unwrap();
    assert!(matches!(
        writer.append(b"d"),
        Err(ContentError::Aborted { .. })
    ));
    let mut next = bed.store.write("a", 0).await.unwrap();
    next.append(b"xyz").unwrap();
    drop(writer);
    assert_eq!(next.status().offset, 3);
    bed.store.commit(next, Commit::default()).await.unwrap();
    assert_eq!(bed.read(&Digest::of(b"xyz")).await.unwrap(), b"xyz");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_total_is_another_upload() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let mut writer = bed.store.write("a", 10).await.unwrap();
    writer.append(b"abc").unwrap();
    drop(writer);
    assert_eq!(bed.store.write("a", 0).await.unwrap().status().offset, 3);
    let status = bed.store.write("a", 11).await.unwrap().status();
    assert_eq!((status.offset, status.total), (0, 11));
}

#[tokio::test(flavor = "multi_thread")]
async fn references_have_names_and_limits() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    for reference in [String::new(), "x".repeat(40_000)] {
        let refused = bed.store.write(&reference, 0).await;
        assert!(matches!(refused, Err(ContentError::InvalidArgument { .. })));
    }
    for reference in ["../../etc/passwd", "a\0b", "ü/\n", "."] {
        drop(bed.store.write(reference, 0).await.unwrap());
        assert_eq!(bed.store.status(reference).unwrap().reference, reference);
    }
    assert!(matches!(
        bed.store.status("b"),
        Err(ContentError::NotFound { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_upload_is_removed_at_the_start() {
    let dir = temp();
    let place = dir.path().join("store/content/ingest");
    fs::create_dir_all(place.join("half")).unwrap();
    fs::write(place.join("file"), "x").unwrap();
    fs::create_dir_all(place.join("odd")).unwrap();
    fs::write(place.join("odd/state.json"), "{\"format\":9}").unwrap();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    assert!(bed.store.statuses().is_empty());
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_that_became_a_blob_never_cuts_it_whatever_its_end_lost() {
    let dir = temp();
    let bytes = noise(50_000, 1);
    let digest = Digest::of(&bytes);
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let mut writer = bed.store.write("a", 0).await.unwrap();
    writer.append(&bytes).unwrap();
    drop(writer);
    let ingest = fs::read_dir(dir.path().join("store/content/ingest"));
    let ingest = ingest.unwrap().next().unwrap().unwrap().path();
    let state = fs::read_to_string(ingest.join("state.json")).unwrap();
    bed.write("a", &bytes).await.unwrap();
    bed.close().await;
    for boot in [ingest::boot(), "another".to_owned()] {
        // As if power had been lost before the upload's own name was gone.
        fs::create_dir_all(&ingest).unwrap();
        let hex = digest.to_hex();
        let blob = dir
            .path()
            .join(format!("store/blobs/sha256/{}/{hex}", &hex[..2]));
        fs::hard_link(&blob, ingest.join("data")).unwrap();
        let state = state.replace(&ingest::boot(), &boot);
        fs::write(ingest.join("state.json"), state).unwrap();
        let bed = Bed::open(dir.path(), NOWHERE).await;
        assert!(bed.store.statuses().is_empty(), "{boot}");
        drop(bed.store.write("a", 7).await.unwrap());
        assert_eq!(bed.read(&digest).await.unwrap(), bytes, "{boot}");
        bed.store.abort("a").await.unwrap();
        bed.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_became_a_blob_while_the_commit_failed_are_not_written_to() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let mut writer = bed.store.write("a", 0).await.unwrap();
    writer.append(b"abc").unwrap();
    drop(writer);
    let ingest = fs::read_dir(dir.path().join("store/content/ingest"));
    let ingest = ingest.unwrap().next().unwrap().unwrap().path();
    let elsewhere = dir.path().join("blob");
    fs::hard_link(ingest.join("data"), &elsewhere).unwrap();
    let mut writer = bed.store.write("a", 0).await.unwrap();
    assert_eq!(writer.status().offset, 0);
    writer.append(b"xyz").unwrap();
    assert_eq!(fs::read(elsewhere).unwrap(), b"abc");
    bed.store.commit(writer, Commit::default()).await.unwrap();
    assert_eq!(bed.read(&Digest::of(b"xyz")).await.unwrap(), b"xyz");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_upload_of_before_a_restart_makes_nobody_wait_while_it_is_hashed() {
    let dir = temp();
    let bytes = noise(20 << 20, 1);
    let bed = Bed::open(dir.path(), NOWHERE).await;
    for reference in ["a", "b"] {
        let mut writer = bed.store.write(reference, 0).await.unwrap();
        writer.append(&bytes).unwrap();
    }
    bed.close().await;
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let mut refused = 0;
    let digest = loop {
        match bed.store.write("b", 0).await {
            Ok(writer) => break writer.digest(),
            Err(ContentError::Unavailable { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(digest, Digest::of(&bytes));
    assert!(refused > 0, "the first question waits for no hashing");
}

#[tokio::test(flavor = "multi_thread")]
async fn name_of_an_upload_is_free_before_its_bytes_are_removed_and_a_start_removes_them() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    bed.store.write("a", 0).await.unwrap().append(b"x").unwrap();
    let aside = bed.store.0.ingests.retire("a").unwrap().unwrap();
    assert!(aside.join("data").exists());
    assert!(bed.store.status("a").is_err());
    bed.write("a", b"again").await.unwrap();
    bed.close().await;
    // As if it was killed before they were removed.
    assert!(aside.exists());
    let bed = Bed::open(dir.path(), NOWHERE).await;
    assert!(!aside.exists() && bed.store.statuses().is_empty());
}
