//! What containerd is promised while a manifest passes the mirror.

use std::time::Instant;

use tokio::sync::Semaphore;

use super::*;
use crate::content::ContentState;

fn sizes(content: &ContentStore, image: &Pushed) -> Vec<Option<u64>> {
    let blobs = image.layers.iter().chain([&image.config]);
    let found = blobs.map(|blob| content.find(&Digest::of(blob)));
    found.map(|found| Some(found?.size)).collect()
}

fn all(image: &Pushed) -> Vec<Option<u64>> {
    let blobs = image.layers.iter().chain([&image.config]);
    blobs.map(|blob| Some(blob.len() as u64)).collect()
}

#[tokio::test]
async fn all_that_a_manifest_names_is_promised_before_the_client_has_it() {
    let layers: Vec<_> = (0..5).map(|seed| noise(200_000, 70 + seed)).collect();
    let pushed = || Pushed::new("a", &layers);
    let origin = registry(vec![("Bearer a", pushed())]).await;
    let (bed, content) = Bed::promising(&origin).await;
    content.note_used();
    let image = pushed();
    let path = image.manifest_path();
    assert_eq!(bed.get(&path, Some("Bearer a")).await.0, 200);
    assert_eq!(sizes(&content, &image), all(&image));
    // And it can be had, with no further word of the client's.
    for layer in &layers {
        let mut reader = content.read(&Digest::of(layer), 0..u64::MAX).await.unwrap();
        let mut read = Vec::new();
        loop {
            let bytes = reader.next().await.unwrap();
            if bytes.is_empty() {
                break;
            }
            read.extend_from_slice(&bytes);
        }
        assert_eq!(&read, layer);
    }
}

#[tokio::test]
async fn nothing_is_promised_where_containerd_keeps_its_content_itself() {
    let image = Pushed::single("a", &noise(1000, 75));
    let (path, blob) = (image.manifest_path(), image.blob_path(&image.layers[0]));
    let copy = Pushed::single("a", &noise(1000, 75));
    let origin = registry(vec![("", image)]).await;
    let (bed, content) = Bed::promising(&origin).await;
    assert_eq!(bed.get(&path, None).await.0, 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(sizes(&content, &copy), [None, None]);
    assert!(shown(&origin, &blob).is_empty(), "nobody is asked");
}

#[tokio::test]
async fn head_and_what_was_refused_promise_nothing() {
    let image = Pushed::single("a", &noise(1000, 76));
    let copy = Pushed::single("a", &noise(1000, 76));
    let origin = registry(vec![("Bearer a", image)]).await;
    let (bed, content) = Bed::promising(&origin).await;
    content.note_used();
    let path = copy.manifest_path();
    let head = bed.ask(Method::HEAD, &path, Some("Bearer a")).await;
    assert_eq!(head.0, 200);
    assert_eq!(bed.get(&path, Some("Bearer b")).await.0, 401);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(sizes(&content, &copy), [None, None]);
}

#[tokio::test]
async fn blobs_that_the_registry_does_not_give_are_not_promised() {
    let [good, denied, other, foreign] = [80, 81, 82, 83].map(|seed| noise(1000, seed));
    let layers = [good.clone(), denied.clone(), other.clone(), foreign.clone()];
    let mut image = Pushed::new("a", &layers);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][2]["size"] = 999.into();
    manifest["layers"][3]["urls"] = json!(["https://example.com/layer"]);
    image.manifest = manifest.to_string().into();
    let (path, of_denied) = (image.manifest_path(), image.blob_path(&denied));
    let origin = Origin::start(move |seen| match seen.path == of_denied {
        true => Reply::status(403),
        false => image.answer(seen).unwrap_or_else(|| Reply::status(404)),
    })
    .await;
    let (bed, content) = Bed::promising(&origin).await;
    content.note_used();
    assert_eq!(bed.get(&path, None).await.0, 200);
    let is_promised = |layer: &Bytes| content.find(&Digest::of(layer)).is_some();
    let promised = [&good, &denied, &other, &foreign].map(is_promised);
    assert_eq!(promised, [true, false, false, false]);
}

#[tokio::test]
async fn registry_that_is_slow_with_its_blobs_delays_the_manifest_by_a_second_at_most() {
    let layer = noise(1000, 84);
    let image = Pushed::single("a", &layer);
    let copy = Pushed::single("a", &layer);
    let path = image.manifest_path();
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |seen| {
        let answer = image.answer(seen).unwrap_or_else(|| Reply::status(404));
        match seen.path.contains("/blobs/") {
            true => answer.after(&held),
            false => answer,
        }
    })
    .await;
    let (bed, content) = Bed::promising(&origin).await;
    content.note_used();
    let began = Instant::now();
    let asks = (0..8).map(|_| bed.get(&path, None));
    for (code, _) in futures::future::join_all(asks).await {
        assert_eq!(code, 200);
    }
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(900), "{waited:?}");
    assert!(waited < Duration::from_millis(1900), "{waited:?}");
    assert_eq!(sizes(&content, &copy), [None, None]);
    let of_layer = shown(&origin, &copy.blob_path(&layer)).len();
    assert!(of_layer <= 2, "those who ask at once share: {of_layer}");
    gate.add_permits(100);
    let is_promised = async {
        while sizes(&content, &copy) != all(&copy) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let promised = tokio::time::timeout(Duration::from_secs(5), is_promised);
    promised.await.expect("it goes on in the background");
}

#[tokio::test]
async fn promise_is_kept_and_becomes_content() {
    let layer = noise(300_000, 85);
    let image = Pushed::single("a", &layer);
    let path = image.manifest_path();
    let origin = registry(vec![("", image)]).await;
    let (bed, content) = Bed::promising(&origin).await;
    content.note_used();
    assert_eq!(bed.get(&path, None).await.0, 200);
    let digest = Digest::of(&layer);
    assert!(content.info(&digest).is_some());
    let is_whole = async {
        while content.find(&digest).unwrap().state != ContentState::Committed {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let whole = tokio::time::timeout(Duration::from_secs(10), is_whole);
    whole.await.expect("it is fetched without being read");
}

/// A manifest passes the mirror, and what it names is promised and read.
async fn pull(bed: Arc<Bed>, content: ContentStore, path: String, layer: Bytes) {
    content.note_used();
    assert_eq!(bed.get(&path, None).await.0, 200);
    let digest = Digest::of(&layer);
    assert_eq!(content.info(&digest).unwrap().size, layer.len() as u64);
    let mut reader = content.read(&digest, 0..u64::MAX).await.unwrap();
    let mut len = 0;
    while len < layer.len() {
        len += reader.next().await.unwrap().len();
    }
}

#[test]
fn promises_are_made_and_read_on_half_the_stack_of_a_worker() {
    let half = 1 << 20;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime
        .thread_stack_size(half)
        .enable_all()
        .build()
        .unwrap();
    let set_up = async {
        let layer = noise(200_000, 86);
        let image = Pushed::single("a", &layer);
        let path = image.manifest_path();
        let origin = registry(vec![("", image)]).await;
        let (bed, content) = Box::pin(Bed::promising(&origin)).await;
        tokio::spawn(pull(Arc::new(bed), content, path, layer))
            .await
            .unwrap();
    };
    runtime.block_on(Box::pin(set_up));
}
