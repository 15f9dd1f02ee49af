//! Switching on and off.

use tokio::sync::mpsc;

use super::*;

/// A content store as containerd's own is.
fn containerds(dir: &Path, blobs: &[Bytes]) -> PathBuf {
    let root = dir.join("containerd");
    let place = root.join("blobs/sha256");
    fs::create_dir_all(&place).unwrap();
    for bytes in blobs {
        fs::write(place.join(Digest::of(bytes).to_hex()), bytes).unwrap();
    }
    root
}

async fn import(bed: &Bed, dir: &Path) -> Result<Moved, ContentError> {
    let (listener, mut progress) = mpsc::channel(1);
    let listening = async { while progress.recv().await.is_some() {} };
    let (moved, ()) = tokio::join!(bed.store.import(dir, listener), listening);
    moved
}

async fn export(bed: &Bed, dir: &Path) -> Result<Moved, ContentError> {
    let (listener, mut progress) = mpsc::channel(1);
    let listening = async { while progress.recv().await.is_some() {} };
    let (moved, ()) = tokio::join!(bed.store.export(dir, listener), listening);
    moved
}

#[tokio::test(flavor = "multi_thread")]
async fn store_is_taken_over_given_back_and_released() {
    let dir = temp();
    let blobs: Vec<Bytes> = (0..5).map(|i| noise(30_000 * i as usize, i)).collect();
    let root = containerds(dir.path(), &blobs);
    let place = root.join("blobs/sha256");
    fs::write(place.join("0".repeat(64)), "not that").unwrap();
    fs::write(place.join("no digest"), "").unwrap();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let moved = import(&bed, &root).await.unwrap();
    assert_eq!(
        (moved.blobs + moved.known, moved.skipped.len()),
        (5, 2),
        "{moved:?}"
    );
    let again = import(&bed, &root).await.unwrap();
    assert_eq!((again.blobs, again.known), (0, 5));
    let digests: BTreeSet<Digest> = blobs.iter().map(|bytes| Digest::of(bytes)).collect();
    assert_eq!((bed.listed(), bed.pinned()), (digests.clone(), digests));
    assert!(bed.store.is_used());

    // containerd's own files go; ours stay.
    fs::remove_dir_all(&root).unwrap();
    for bytes in &blobs {
        assert_eq!(bed.read(&Digest::of(bytes)).await.unwrap(), *bytes);
    }
    let back = dir.path().join("back");
    let moved = export(&bed, &back).await.unwrap();
    assert_eq!((moved.blobs, moved.known), (5, 0), "{moved:?}");
    assert_eq!(export(&bed, &back).await.unwrap().known, 5);
    for bytes in &blobs {
        let file = back.join("blobs/sha256").join(Digest::of(bytes).to_hex());
        assert_eq!(fs::read(file).unwrap(), *bytes);
    }
    assert_eq!(bed.store.release_all().await.unwrap(), 5);
    assert!(!bed.store.is_used() && bed.listed().is_empty() && bed.pinned().is_empty());
    bed.close().await;
    let bed = Bed::open(dir.path(), NOWHERE).await;
    assert!(!bed.store.is_used() && bed.listed().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_without_content_is_taken_over_at_once() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let moved = import(&bed, &dir.path().join("none")).await.unwrap();
    assert_eq!(moved, Moved::default());
    assert!(bed.store.is_used());
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_is_fetched_before_it_is_given_back() {
    let dir = temp();
    let bytes = noise(200_000, 1);
    let origin = registry(std::slice::from_ref(&bytes)).await;
    let address = origin.address.to_string();
    let bed = Bed::open(dir.path(), &address).await;
    bed.promise(&address, "a", &bytes).await.unwrap();
    bed.store.info(&Digest::of(&bytes)).unwrap();
    let back = dir.path().join("back");
    export(&bed, &back).await.unwrap();
    let file = back.join("blobs/sha256").join(Digest::of(&bytes).to_hex());
    assert_eq!(fs::read(file).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_given_back_is_named_and_the_rest_is_given() {
    let dir = temp();
    let blobs = [noise(100_000, 1), noise(100_000, 2)];
    let bed = Bed::open(dir.path(), NOWHERE).await;
    for (i, bytes) in blobs.iter().enumerate() {
        bed.write(&i.to_string(), bytes).await.unwrap();
    }
    let lost = Digest::of(&blobs[0]);
    bed.node.set_pinned(lost, false).await.unwrap();
    assert!(bed.node.remove(lost).await.unwrap());
    let back = dir.path().join("back");
    let error = export(&bed, &back).await.unwrap_err().to_string();
    assert!(error.contains(&lost.to_string()), "{error}");
    let given = back
        .join("blobs/sha256")
        .join(Digest::of(&blobs[1]).to_hex());
    assert_eq!(fs::read(given).unwrap(), blobs[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_that_nobody_was_told_of_and_nobody_keeps_hinders_no_giving_back() {
    let dir = temp();
    let blobs = [noise(100_000, 3), noise(100_001, 4)];
    let [told, untold] = [0, 1].map(|i| Digest::of(&blobs[i]));
    let origin = origin_without_bytes(&blobs).await;
    let address = origin.address.to_string();
    let bed = Bed::open(dir.path(), &address).await;
    for bytes in &blobs {
        bed.promise(&address, "a", bytes).await.unwrap();
    }
    bed.close().await;
    drop(origin);
    // A process that is killed has told what it did not save: both are listed.
    let bed = Bed::open(dir.path(), &address).await;
    assert_eq!(bed.listed(), BTreeSet::from([told, untold]));
    let back = dir.path().join("back");
    let moved = export(&bed, &back).await.unwrap();
    assert_eq!((moved.blobs, moved.skipped.len()), (0, 2));
    bed.store.info(&told).unwrap();
    bed.close().await;
    let bed = Bed::open(dir.path(), &address).await;
    let error = export(&bed, &back).await.unwrap_err().to_string();
    assert!(error.contains(&told.to_string()), "{error}");
}

/// A registry that grants blobs and never sends any of their bytes.
async fn origin_without_bytes(blobs: &[Bytes; 2]) -> Origin {
    let (gate, blobs) = (Arc::new(tokio::sync::Semaphore::new(0)), blobs.clone());
    Origin::start(move |seen| {
        let is_named = |bytes: &&Bytes| seen.path.contains(&Digest::of(bytes).to_string());
        match (blobs.iter().find(is_named), &seen.method) {
            (Some(bytes), &http::Method::HEAD) => Reply::bytes(bytes.clone()),
            (Some(bytes), _) => {
                let parts = vec![origin::Part::Wait(gate.clone())];
                Reply::parts(bytes.len(), parts)
            }
            (None, _) => Reply::status(404),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_algorithms_name_is_left_out_and_named() {
    let dir = temp();
    let blob = noise(1000, 1);
    let root = containerds(dir.path(), std::slice::from_ref(&blob));
    let other = root.join("blobs/sha512");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("00ff"), "x").unwrap();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let moved = import(&bed, &root).await.unwrap();
    assert_eq!(bed.listed(), BTreeSet::from([Digest::of(&blob)]));
    let [left_out] = &moved.skipped[..] else {
        panic!("{moved:?}")
    };
    assert!(left_out.starts_with("sha512:00ff: "), "{left_out}");
}

#[tokio::test]
async fn place_that_cannot_be_written_to_is_known_before_anything_is_given_back() {
    let dir = temp();
    let bed = Bed::open(dir.path(), NOWHERE).await;
    let root = dir.path().join("containerd/none/yet");
    bed.store.try_export(&root).await.unwrap();
    assert!(!dir.path().join("containerd").exists());
    // Even root makes no files there.
    let error = bed.store.try_export(Path::new("/proc/none")).await;
    assert!(error.unwrap_err().to_string().contains("/proc"));
    assert_eq!(bed.listed(), BTreeSet::new());
}

#[test]
fn names_of_what_was_left_out_fit_into_one_line_of_an_answer() {
    let mut moved = Moved::default();
    for number in 0..1000 {
        moved.skip(&number.to_string(), &"\"\u{1}why".repeat(200));
    }
    let line = serde_json::to_string(&moved).unwrap();
    assert!(line.len() < 60 << 10, "{}", line.len());
    assert!(line.contains("99: ") && line.contains("hawkerd's log"));
    moved = Moved::default();
    moved.skip("a", &"b".repeat(100));
    assert_eq!(moved.skipped, [format!("a: {}", "b".repeat(100))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_while_content_is_released_is_promised_to_nobody() {
    let dir = temp();
    let bytes = noise(1000, 60);
    let bed = Bed::open(dir.path(), NOWHERE).await;
    bed.store.note_used();
    bed.write("a", &bytes).await.unwrap();
    let turn = bed.store.0.turns.take(&Digest::of(&bytes)).await;
    let looking = async {
        let is_unused = || !bed.store.is_used();
        eventually("it is known before anything is released", is_unused).await;
        drop(turn);
    };
    let (released, ()) = tokio::join!(bed.store.release_all(), looking);
    assert_eq!(released.unwrap(), 1);
}
