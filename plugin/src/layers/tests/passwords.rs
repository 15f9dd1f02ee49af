//! Passwords that clients show unasked: what becomes of them where they buy tokens, and where not.

use super::*;

/// A registry that takes ann's password and, where it `sells` them, the tokens that it buys.
async fn registry(image: Pushed, good: Arc<Mutex<String>>, sells: bool) -> Origin {
    let ann = format!("Basic {ANN}");
    Origin::start(move |seen| {
        let token = good.lock().unwrap().clone();
        let shown = seen.header("authorization").unwrap_or_default();
        if seen.path.starts_with("/token") {
            return match shown == ann {
                true => Reply::bytes(format!(r#"{{"token":"{token}","expires_in":300}}"#)),
                false => Reply::status(401),
            };
        }
        if shown == ann || sells && shown == format!("Bearer {token}") {
            return image.answer(seen).unwrap_or_else(|| Reply::status(404));
        }
        let challenge = match sells {
            true => r#"Bearer realm="/token",service="r""#,
            false => r#"Basic realm="r""#,
        };
        Reply::status(401).with("www-authenticate", challenge)
    })
    .await
}

fn good() -> Arc<Mutex<String>> {
    Arc::new(Mutex::new("t1".to_owned()))
}

/// What was shown for a path.
fn shown(origin: &Origin, path: &str) -> Vec<String> {
    let seen = origin.seen().into_iter().filter(|seen| seen.path == path);
    seen.map(|seen| seen.header("authorization").unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test]
async fn password_that_buys_a_token_is_not_what_the_network_is_told() {
    let layer = noise(300_000, 80);
    let image = || Pushed::single("a", &layer);
    let good = good();
    let origin = registry(image(), Arc::clone(&good), true).await;
    let bed = Bed::start(&origin, "").await;
    let (path, basic) = (image().blob_path(&layer), format!("Basic {ANN}"));
    for _ in 0..3 {
        assert_eq!(bed.get(&path, Some(&basic)).await, (200, layer.clone()));
    }
    // One question without, one with the token, and the bytes.
    assert_eq!(shown(&origin, &path), ["", "Bearer t1", "Bearer t1"]);
    let told = |authorization: &str| Source {
        url: format!("http://{}{path}", origin.address),
        authorization: Some(Secret::new(authorization)),
    };
    *good.lock().unwrap() = "t2".to_owned();
    let task = TaskId::Blob(Digest::of(&layer));
    assert_eq!(bed.layers.renew(task, &told(&basic)).await, None);
    let renewed = bed.layers.renew(task, &told("Bearer t1")).await.unwrap();
    assert_eq!(renewed.authorization, Some(Secret::new("Bearer t2")));
}

#[tokio::test]
async fn password_is_shown_to_a_registry_that_knows_nothing_else() {
    let (layer, other) = (noise(300_000, 81), noise(200_000, 82));
    let image = || Pushed::new("a", &[layer.clone(), other.clone()]);
    let origin = registry(image(), good(), false).await;
    let bed = Bed::start(&origin, "").await;
    let basic = format!("Basic {ANN}");
    for bytes in [&layer, &other, &layer] {
        let path = image().blob_path(bytes);
        assert_eq!(bed.get(&path, Some(&basic)).await, (200, bytes.clone()));
    }
    let first = shown(&origin, &image().blob_path(&layer));
    assert_eq!(first, ["", &*basic, &*basic]);
    let second = shown(&origin, &image().blob_path(&other));
    assert_eq!(second, [&*basic, &*basic], "what is wanted is known");
}

#[tokio::test]
async fn wrong_password_opens_nothing_that_a_right_one_opened() {
    for sells in [true, false] {
        let layer = noise(300_000, 83);
        let image = || Pushed::single("a", &layer);
        let origin = registry(image(), good(), sells).await;
        let bed = Bed::start(&origin, "").await;
        let path = image().blob_path(&layer);
        let basic = format!("Basic {ANN}");
        assert_eq!(bed.get(&path, Some(&basic)).await.0, 200);
        for wrong in ["Basic YW5uOm5v", "Basic Ym9iOnB3"] {
            let (status, bytes) = bed.get(&path, Some(wrong)).await;
            assert_eq!(status, 401, "{sells} {wrong}");
            assert!(bytes != layer);
        }
        assert_eq!(bed.get(&path, Some(&basic)).await, (200, layer));
    }
}
