//! Who gets which bytes at the doors, and at what price: attacks by name, and what honest clients
//! cost.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::Engine as _;
use bytes::Bytes;
use hawker_model::Digest;
use http::Method;
use tokio::sync::Semaphore;

use crate::{
    client::{Answer, fetch},
    control,
    daemon::Daemon,
    origin::{Origin, Part, Reply, Seen, noise},
};

const MIB: usize = 1 << 20;
const GOOD: &str = "Bearer good";

fn blob_path(bytes: &Bytes) -> String {
    format!("/v2/a/blobs/{}", Digest::of(bytes))
}

/// A registry that gives `blobs`, and manifests of any name, to those who show one of `credentials`.
async fn private(blobs: Vec<Bytes>, credentials: &'static [&'static str]) -> Origin {
    Origin::start(move |seen| {
        let shown = seen.header("authorization").unwrap_or_default();
        if !credentials.contains(&shown) {
            return match shown {
                "" => Reply::challenge(),
                _ => Reply::status(403),
            };
        }
        give(seen, &blobs)
    })
    .await
}

fn give(seen: &Seen, blobs: &[Bytes]) -> Reply {
    let manifest = Bytes::from_static(b"{}");
    if seen.path.contains("/manifests/") {
        return Reply::bytes(manifest.clone())
            .with("content-type", "a/b")
            .with("docker-content-digest", &Digest::of(&manifest).to_string());
    }
    let path = seen.path.split('?').next().unwrap_or_default();
    let found = blobs.iter().find(|blob| blob_path(blob) == path);
    found.map_or_else(|| Reply::status(404), |blob| Reply::file(seen, blob))
}

/// A daemon that may ask all registries of this machine.
async fn daemon(registry: &Origin, mirror: &str) -> Daemon {
    let mirror = mirror.to_owned();
    Daemon::start_with(registry.address, |text| {
        let registry = registry.address;
        let only = format!("allow_private = [\"{registry}\"]");
        let all = format!("allow_private = [\"127.0.0.0/8\"]\n{mirror}");
        text.replace(&only, &all)
    })
    .await
}

async fn ask(daemon: &Daemon, method: &str, path: &str, shown: Option<&str>) -> Answer {
    let headers: Vec<_> = shown.iter().map(|text| ("authorization", *text)).collect();
    fetch(daemon.mirror(), method, path, &headers).await
}

async fn get(daemon: &Daemon, path: &str, shown: Option<&str>) -> Answer {
    ask(daemon, "GET", path, shown).await
}

/// The same path at another registry.
fn at(registry: &Origin, path: &str) -> String {
    format!("{path}?ns={}", registry.address)
}

fn ranges(origin: &Origin) -> usize {
    let seen = origin.seen();
    seen.iter()
        .filter(|seen| seen.header("range").is_some())
        .count()
}

/// A daemon with a private blob in its store.
async fn with_private(bytes: &Bytes) -> (Origin, Daemon) {
    let origin = private(vec![bytes.clone()], &[GOOD]).await;
    let daemon = daemon(&origin, "").await;
    let got = get(&daemon, &blob_path(bytes), Some(GOOD)).await;
    assert_eq!(got.body.as_ref(), Some(bytes));
    daemon.has_stored(1).await;
    (origin, daemon)
}

#[tokio::test]
async fn stolen_digest_at_the_mirror_gets_nothing() {
    let bytes = noise(MIB + 5, 1);
    let (_origin, daemon) = with_private(&bytes).await;
    let path = blob_path(&bytes);
    for (shown, status) in [
        (None, 401),
        (Some("Bearer bad"), 403),
        (Some("Basic YTpi"), 403),
    ] {
        for method in ["GET", "HEAD"] {
            for range in ["bytes=0-", "bytes=5-5"] {
                let mut headers = vec![("range", range)];
                headers.extend(shown.map(|text| ("authorization", text)));
                let answer = fetch(daemon.mirror(), method, &path, &headers).await;
                assert_eq!(answer.status, status, "{shown:?} {method} {range}");
                let told = answer.header("content-length").map(str::to_owned);
                assert_ne!(told, Some(bytes.len().to_string()));
                assert_eq!(answer.header("content-range"), None);
            }
        }
    }
    assert_eq!(get(&daemon, &path, Some(GOOD)).await.body, Some(bytes));
}

#[tokio::test]
async fn foreign_manifest_naming_a_private_digest_gets_nothing() {
    let bytes = noise(MIB + 5, 2);
    let (private, daemon) = with_private(&bytes).await;
    let length = bytes.len();
    // Says that it has the blob, and gives other bytes of the same length.
    let other = noise(length, 3);
    let foreign = Origin::start(move |seen| Reply::file(seen, &other)).await;
    let path = at(&foreign, &blob_path(&bytes));
    let asked = private.seen().len();
    for range in [None, Some("bytes=100-200"), Some("bytes=-1")] {
        let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
        let answer = fetch(daemon.mirror(), "GET", &path, &headers).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (403, "DENIED"),
            "{range:?}"
        );
        let text = String::from_utf8(answer.body.unwrap().to_vec()).unwrap();
        assert!(text.contains("trust_group"), "{text}");
    }
    assert_eq!(
        private.seen().len(),
        asked,
        "the private registry is not asked"
    );
    let metrics = daemon.metrics().await;
    let refuted = "hawker_possession_compared_total{outcome=\"refuted\"}";
    assert!(metrics.contains(refuted), "{metrics}");
    // The tenant is not touched.
    let tenant = get(&daemon, &blob_path(&bytes), Some(GOOD)).await;
    assert_eq!(tenant.body, Some(bytes));
}

#[tokio::test]
async fn registry_that_lies_about_ranges_gets_only_its_own_bytes_through() {
    let bytes = noise(MIB + 5, 4);
    let (private, daemon) = with_private(&bytes).await;
    let wrong = noise(bytes.len(), 5);
    let to = format!("http://{}{}", private.address, blob_path(&bytes));
    let length = bytes.len().to_string();
    type Lie = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;
    let lies: Vec<Lie> = vec![
        // Has nothing after all.
        Box::new(|_| Reply::status(404)),
        Box::new(|_| Reply::status(500)),
        // Gives no ranges.
        Box::new(move |_| Reply::bytes(wrong.clone())),
        // Sends us to whom it does not belong to.
        Box::new(move |_| Reply::status(307).with("location", &to)),
        // Gives nothing where something was asked for.
        Box::new(|_| Reply::status(206).with("content-range", "bytes 0-0/1")),
    ];
    for lie in lies {
        let told = length.clone();
        let foreign = Origin::start(move |seen| match seen.method {
            Method::HEAD => Reply::parts(told.parse().unwrap(), Vec::new()),
            _ => lie(seen),
        })
        .await;
        for range in [None, Some("bytes=0-10"), Some("bytes=70000-")] {
            let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
            let path = at(&foreign, &blob_path(&bytes));
            let answer = fetch(daemon.mirror(), "GET", &path, &headers).await;
            let got = answer.body.unwrap_or_default();
            let is_private = got.len() > 4 && bytes.windows(got.len()).any(|part| part == got);
            assert!(!is_private, "{} {range:?}", answer.status);
        }
    }
}

#[tokio::test]
async fn registry_that_lies_about_the_length_gets_nothing() {
    let bytes = noise(MIB + 5, 6);
    let (_private, daemon) = with_private(&bytes).await;
    let longer = noise(bytes.len() + 1, 7);
    let foreign = Origin::start(move |seen| Reply::file(seen, &longer)).await;
    let path = at(&foreign, &blob_path(&bytes));
    let head = ask(&daemon, "HEAD", &path, None).await;
    assert_eq!(
        head.header("content-length"),
        Some(&*(bytes.len() + 1).to_string())
    );
    let answer = get(&daemon, &path, None).await;
    assert_eq!(
        (answer.status, answer.body),
        (200, None),
        "its own bytes, cut"
    );
}

#[tokio::test]
async fn registry_that_holds_the_blob_proves_it_once() {
    let bytes = noise(3 * MIB, 8);
    let (_private, daemon) = with_private(&bytes).await;
    let content = bytes.clone();
    let other = Origin::start(move |seen| Reply::file(seen, &content)).await;
    let path = at(&other, &blob_path(&bytes));
    for _ in 0..2 {
        let answer = get(&daemon, &path, None).await;
        assert_eq!((answer.status, answer.body.as_ref()), (200, Some(&bytes)));
        assert_eq!(ranges(&other), 4);
        assert_eq!(other.seen().len(), 5, "one check, four small parts");
    }
    // Another client of it has to show only that it may have the blob.
    let answer = get(&daemon, &path, Some("Bearer x")).await;
    assert_eq!(answer.body, Some(bytes));
    assert_eq!(other.seen().len(), 6);
}

#[tokio::test]
async fn registries_that_trust_each_other_prove_nothing() {
    let bytes = noise(MIB, 20);
    let private = private(vec![bytes.clone()], &[GOOD]).await;
    let content = bytes.clone();
    let other = Origin::start(move |seen| Reply::file(seen, &content)).await;
    let daemon = Daemon::start_with(private.address, |text| {
        let trusting = [private.address, other.address]
            .map(|registry| format!("[registries.\"{registry}\"]\ntrust_group = \"ours\"\n"));
        let only = format!("allow_private = [\"{}\"]", private.address);
        text.replace(&only, "allow_private = [\"127.0.0.0/8\"]") + &trusting.concat()
    })
    .await;
    let got = get(&daemon, &blob_path(&bytes), Some(GOOD)).await;
    assert_eq!(got.body.as_ref(), Some(&bytes));
    daemon.has_stored(1).await;
    let answer = get(&daemon, &at(&other, &blob_path(&bytes)), None).await;
    assert_eq!(answer.body, Some(bytes));
    assert_eq!(other.seen().len(), 1, "one check of the right");
}

#[tokio::test]
async fn small_blob_is_compared_whole() {
    for length in [0, 1, 4096, 16_384] {
        let bytes = noise(length, 9);
        let (_private, daemon) = with_private(&bytes).await;
        let mut wrong = bytes.to_vec();
        if let Some(last) = wrong.last_mut() {
            *last ^= 1;
        }
        for (content, status) in [(bytes.clone(), 200), (wrong.into(), 403)] {
            let content: Bytes = content;
            let is_empty = content.is_empty();
            let other = Origin::start(move |seen| Reply::file(seen, &content)).await;
            let answer = get(&daemon, &at(&other, &blob_path(&bytes)), None).await;
            assert!(
                answer.status == status || is_empty,
                "{length}: {}",
                answer.status
            );
        }
    }
}

#[tokio::test]
async fn half_that_came_from_elsewhere_is_not_handed_out_unproven() {
    let bytes = noise(4 * MIB, 10);
    let path = blob_path(&bytes);
    let content = bytes.clone();
    let failing = Origin::start(move |seen| {
        let half = vec![Part::Bytes(content.slice(..2 * MIB)), Part::Cut];
        match (seen.method == Method::HEAD, seen.header("range")) {
            (true, _) | (_, None) => Reply::parts(content.len(), half).with("etag", "\"1\""),
            (false, Some(_)) => Reply::status(500),
        }
    })
    .await;
    let daemon = daemon(&failing, "").await;
    let first = get(&daemon, &path, None).await;
    assert_eq!(
        (first.status, first.body),
        (200, None),
        "the registry fails half-way"
    );
    let content = bytes.clone();
    let whole = Origin::start(move |seen| Reply::file(seen, &content)).await;
    let answer = get(&daemon, &at(&whole, &path), None).await;
    assert_eq!(answer.body.as_ref(), Some(&bytes));
    daemon.has_stored(1).await;
    // The one never gave the second half.
    let again = get(&daemon, &path, None).await;
    assert_ne!(again.body, Some(bytes));
}

/// A client that tries once more, as containerd and Docker do.
async fn get_twice(daemon: &Daemon, path: &str) -> Option<Bytes> {
    let first = get(daemon, path, None).await;
    match first.body {
        Some(body) => Some(body),
        None => get(daemon, path, None).await.body,
    }
}

#[tokio::test]
async fn blob_that_still_arrives_from_elsewhere_delays_no_client_of_another_registry() {
    let bytes = noise(4 * MIB, 20);
    let path = blob_path(&bytes);
    let (content, held) = (bytes.clone(), Arc::new(Semaphore::new(0)));
    let waits = Arc::clone(&held);
    let slow = Origin::start(move |seen| match seen.method == Method::HEAD {
        true => Reply::file(seen, &content),
        false => {
            let half = Part::Bytes(content.slice(..2 * MIB));
            Reply::parts(content.len(), vec![half, Part::Wait(Arc::clone(&waits))])
        }
    })
    .await;
    let daemon = daemon(&slow, "").await;
    let content = bytes.clone();
    let whole = Origin::start(move |seen| Reply::file(seen, &content)).await;
    let (waiting, got) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(20), get(&daemon, &path, None)),
        async {
            while slow.count(Method::GET, &path) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let got = get_twice(&daemon, &at(&whole, &path)).await;
            held.close();
            got
        }
    );
    assert_eq!(got, Some(bytes));
    assert!(waiting.is_ok());
}

#[tokio::test]
async fn registry_that_is_slow_and_gives_no_ranges_still_serves_its_clients() {
    let bytes = noise(MIB, 21);
    let path = blob_path(&bytes);
    let (_first, daemon) = {
        let content = bytes.clone();
        let origin = Origin::start(move |seen| Reply::file(seen, &content)).await;
        let daemon = Daemon::start_with(origin.address, |text| {
            let text = text.replace("origin_timeout = \"1s\"", "origin_timeout = \"5s\"");
            let only = format!("allow_private = [\"{}\"]", origin.address);
            text.replace(&only, "allow_private = [\"127.0.0.0/8\"]")
        })
        .await;
        assert_eq!(get(&daemon, &path, None).await.body, Some(bytes.clone()));
        daemon.has_stored(1).await;
        (origin, daemon)
    };
    let content = bytes.clone();
    let plain = Origin::start(move |_| {
        let late = Arc::new(Semaphore::new(0));
        let permits = Arc::clone(&late);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            permits.add_permits(1);
        });
        Reply::bytes(content.clone()).after(&late)
    })
    .await;
    let answer = get(&daemon, &at(&plain, &path), None).await;
    assert_eq!(answer.body, Some(bytes));
}

#[tokio::test]
async fn registry_names_the_type_of_its_own_manifests_alone() {
    let manifest = Bytes::from_static(b"{\"schemaVersion\":2}");
    let of_type = |kind: &'static str| {
        let manifest = manifest.clone();
        Origin::start(move |_| Reply::bytes(manifest.clone()).with("content-type", kind))
    };
    let (ours, theirs) = (
        of_type("application/a").await,
        of_type("application/b").await,
    );
    let daemon = daemon(&ours, "").await;
    let path = format!("/v2/a/manifests/{}", Digest::of(&manifest));
    for _ in 0..2 {
        let answer = get(&daemon, &path, None).await;
        assert_eq!(answer.header("content-type"), Some("application/a"));
        let answer = get(&daemon, &at(&theirs, &path), None).await;
        assert_eq!(answer.header("content-type"), Some("application/b"));
    }
    assert_eq!(
        ours.count(Method::GET, &path),
        1,
        "the second was remembered"
    );
}

#[tokio::test]
async fn credential_longer_than_any_seed_takes_is_refused() {
    let (bytes, long) = (noise(1000, 23), format!("Bearer {}", "x".repeat(20_000)));
    let origin = private(vec![bytes.clone()], &[GOOD]).await;
    let daemon = daemon(&origin, "").await;
    let answer = get(&daemon, &blob_path(&bytes), Some(&long)).await;
    assert_eq!(answer.status, 400);
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn failing_repository_lengthens_no_right_at_its_neighbour() {
    let bytes = noise(50_000, 22);
    let path = blob_path(&bytes);
    let revoked = Arc::new(AtomicBool::new(false));
    let (content, is_revoked) = (bytes.clone(), Arc::clone(&revoked));
    let origin = Origin::start(move |seen| {
        if seen.path.starts_with("/v2/broken/") {
            return Reply::status(503);
        }
        match seen.header("authorization") == Some(GOOD) && !is_revoked.load(Ordering::Relaxed) {
            true => give(seen, std::slice::from_ref(&content)),
            false => Reply::status(403),
        }
    })
    .await;
    let daemon = daemon(&origin, "keep_rights = \"1ms\"\nrights_grace = \"1m\"").await;
    assert_eq!(get(&daemon, &path, Some(GOOD)).await.status, 200);
    revoked.store(true, Ordering::Relaxed);
    let broken = path.replace("/v2/a/", "/v2/broken/");
    assert!(get(&daemon, &broken, Some(GOOD)).await.status >= 500);
    assert_eq!(get(&daemon, &path, Some(GOOD)).await.status, 403);
}

#[tokio::test]
async fn right_outlives_the_origin_only_for_its_grace() {
    let bytes = noise(100_000, 11);
    let path = blob_path(&bytes);
    for (settings, is_served) in [
        ("keep_rights = \"0s\"\nrights_grace = \"1m\"", true),
        ("keep_rights = \"0s\"\nrights_grace = \"0s\"", false),
        ("keep_rights = \"1m\"\nrights_grace = \"0s\"", true),
    ] {
        let origin = private(vec![bytes.clone()], &[GOOD, "Bearer other"]).await;
        let daemon = daemon(&origin, settings).await;
        for path in [&*path, "/v2/a/manifests/t"] {
            assert_eq!(get(&daemon, path, Some(GOOD)).await.status, 200);
        }
        daemon.has_stored(1).await;
        drop(origin);
        let answer = get(&daemon, &path, Some(GOOD)).await;
        match is_served {
            true => assert_eq!(answer.body.as_ref(), Some(&bytes), "{settings}"),
            false => assert!(answer.status >= 500, "{settings}: {}", answer.status),
        }
        let manifest = get(&daemon, "/v2/a/manifests/t", Some(GOOD)).await;
        assert_eq!(manifest.status == 200, is_served, "{settings}");
        for other in [None, Some("Bearer other")] {
            for path in [&*path, "/v2/a/manifests/t"] {
                assert!(get(&daemon, path, other).await.status >= 500, "{other:?}");
            }
        }
    }
}

#[tokio::test]
async fn revoked_credential_loses_all_its_rights_of_the_repository() {
    let blobs = vec![noise(50_000, 12), noise(50_000, 13)];
    let paths: Vec<_> = blobs.iter().map(blob_path).collect();
    let revoked = Arc::new(AtomicBool::new(false));
    let (content, is_revoked) = (blobs.clone(), Arc::clone(&revoked));
    let origin = Origin::start(move |seen| match seen.header("authorization") {
        Some("Bearer b") => give(seen, &content),
        Some(GOOD) if !is_revoked.load(Ordering::Relaxed) => give(seen, &content),
        _ => Reply::challenge(),
    })
    .await;
    let daemon = daemon(&origin, "rights_grace = \"1m\"").await;
    let both = [Some(GOOD), Some("Bearer b")];
    for shown in both {
        for path in &paths {
            assert_eq!(get(&daemon, path, shown).await.status, 200);
        }
    }
    daemon.has_stored(2).await;
    revoked.store(true, Ordering::Relaxed);
    // It shows at the first question that reaches the registry.
    assert_eq!(
        get(&daemon, "/v2/a/manifests/t", Some(GOOD)).await.status,
        401
    );
    for path in &paths {
        assert_eq!(get(&daemon, path, Some(GOOD)).await.status, 401);
    }
    let asked = origin.seen().len();
    for (path, bytes) in paths.iter().zip(&blobs) {
        assert_eq!(
            get(&daemon, path, Some("Bearer b")).await.body.as_ref(),
            Some(bytes)
        );
    }
    assert_eq!(origin.seen().len(), asked, "another's rights stay");
    drop(origin);
    let after = get(&daemon, &paths[0], Some(GOOD)).await;
    assert!(
        after.status >= 500,
        "no grace after a refusal: {}",
        after.status
    );
}

#[tokio::test]
async fn expired_token_is_asked_for_again() {
    let bytes = noise(50_000, 14);
    let path = blob_path(&bytes);
    let content = bytes.clone();
    let origin = Origin::start(move |seen| Reply::file(seen, &content)).await;
    let daemon = daemon(&origin, "").await;
    let token = |exp: u64| {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let payload = encode(&format!("{{\"exp\":{exp}}}"));
        format!("Bearer {}.{payload}.sig", encode("{}"))
    };
    for (exp, checks) in [(1_000, 3), (100_000_000_000, 1)] {
        let before = origin.count(Method::HEAD, &path);
        for _ in 0..3 {
            assert_eq!(get(&daemon, &path, Some(&token(exp))).await.status, 200);
        }
        assert_eq!(origin.count(Method::HEAD, &path) - before, checks, "{exp}");
    }
}

#[tokio::test]
async fn two_tenants_cost_one_fetch_and_two_checks() {
    let bytes = noise(2 * MIB, 15);
    let path = blob_path(&bytes);
    let origin = private(vec![bytes.clone()], &["Bearer a", "Bearer b"]).await;
    let daemon = daemon(&origin, "").await;
    for _ in 0..3 {
        let (a, b) = tokio::join!(
            get(&daemon, &path, Some("Bearer a")),
            get(&daemon, &path, Some("Bearer b"))
        );
        assert_eq!(
            (a.body.as_ref(), b.body.as_ref()),
            (Some(&bytes), Some(&bytes))
        );
    }
    assert_eq!(origin.count(Method::HEAD, &path), 2);
    assert_eq!(origin.count(Method::GET, &path), 1);
}

#[tokio::test]
async fn manifest_by_digest_comes_from_memory_for_whom_the_registry_gave_it() {
    let origin = private(Vec::new(), &["Bearer a", "Bearer b"]).await;
    let daemon = daemon(&origin, "").await;
    let path = format!("/v2/a/manifests/{}", Digest::of(b"{}"));
    for _ in 0..3 {
        let answer = get(&daemon, &path, Some("Bearer a")).await;
        assert_eq!(
            (answer.status, answer.body.as_deref()),
            (200, Some(&b"{}"[..]))
        );
        assert_eq!(answer.header("content-type"), Some("a/b"));
        let head = ask(&daemon, "HEAD", &path, Some("Bearer a")).await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("2"))
        );
    }
    assert_eq!(origin.seen().len(), 1);
    for (shown, status) in [
        (Some("Bearer b"), 200),
        (Some("Bearer c"), 403),
        (None, 401),
    ] {
        assert_eq!(get(&daemon, &path, shown).await.status, status);
    }
    assert_eq!(origin.seen().len(), 4, "each by the registry");
    for _ in 0..2 {
        get(&daemon, "/v2/a/manifests/t", Some("Bearer a")).await;
    }
    assert_eq!(origin.seen().len(), 6, "a tag may have moved");
    // A HEAD says nothing of what a registry holds.
    let liar = Origin::start(|seen| match seen.method {
        Method::HEAD => Reply::bytes("{}").with("content-type", "a/b"),
        _ => Reply::status(404),
    })
    .await;
    assert_eq!(
        ask(&daemon, "HEAD", &at(&liar, &path), None).await.status,
        200
    );
    assert_eq!(get(&daemon, &at(&liar, &path), None).await.status, 404);
}

#[tokio::test]
async fn digest_that_a_user_states_is_no_right_to_another_file() {
    let secret = noise(MIB, 16);
    let public = noise(MIB, 17);
    let contents = (secret.clone(), public);
    let origin = Origin::start(move |seen| match &*seen.path {
        "/secret" if seen.header("authorization") != Some(GOOD) => Reply::status(401),
        "/secret" => Reply::file(seen, &contents.0),
        _ => Reply::file(seen, &contents.1),
    })
    .await;
    let daemon = daemon(&origin, "").await;
    let digest = Digest::of(&secret);
    let of = |path: &str| {
        format!(
            "/v1/blob?url=http://{}{path}&digest={digest}",
            origin.address
        )
    };
    let as_good = [("authorization", GOOD)];
    let own = control::ask_as(&daemon, &of("/secret"), &as_good).await;
    assert_eq!((own.status, own.body.as_ref()), (200, Some(&secret)));
    daemon.has_stored(1).await;
    assert_eq!(control::ask(&daemon, &of("/secret")).await.status, 401);
    // The same server, and a file that anybody may have.
    for path in ["/public", "/v2/x/blobs/y"] {
        let other = control::ask(&daemon, &of(path)).await;
        assert_eq!(other.status, 403, "{path}");
    }
    let registry = format!("/v2/a/blobs/{digest}");
    let by_mirror = get(&daemon, &registry, None).await;
    assert_ne!(by_mirror.body, Some(secret), "{}", by_mirror.status);
}

#[tokio::test]
async fn file_of_which_no_version_is_told_is_shared_with_nobody() {
    let origin = Origin::start(|seen| match seen.header("authorization") {
        Some(GOOD) => Reply::bytes("one's own"),
        Some(_) => Reply::bytes("another's"),
        None => Reply::status(401),
    })
    .await;
    let daemon = daemon(&origin, "").await;
    let path = format!("/v1/blob?url=http://{}/me", origin.address);
    for (shown, body) in [(GOOD, "one's own"), ("Bearer other", "another's")] {
        let answer = control::ask_as(&daemon, &path, &[("authorization", shown)]).await;
        assert_eq!(answer.body, Some(Bytes::from(body)));
    }
}

#[tokio::test]
async fn registry_is_forgotten_under_all_its_names() {
    let bytes = noise(50_000, 24);
    let path = blob_path(&bytes);
    let origin = private(vec![bytes.clone()], &[GOOD]).await;
    let address = origin.address;
    let daemon = Daemon::start_with(address, |text| {
        let text = text.replace("[origin]", &format!("[registries.\"r.test\"]\nendpoint = \"http://{address}\"\n[registries.\"s.test\"]\nendpoint = \"http://{address}\"\n[origin]"));
        text.replace(&format!("default_registry = \"{address}\""), "default_registry = \"r.test\"")
    })
    .await;
    assert_eq!(get(&daemon, &path, Some(GOOD)).await.status, 200);
    let target = "/v1/rights?registry=s.test";
    let answer = control::send(&daemon, "DELETE", target, &[]).await;
    let answer: serde_json::Value = serde_json::from_slice(&answer.body.unwrap()).unwrap();
    assert_eq!(answer["forgotten"], 1);
}

#[tokio::test]
async fn operator_sees_and_forgets_rights() {
    let bytes = noise(50_000, 18);
    let path = blob_path(&bytes);
    let origin = private(vec![bytes.clone()], &[GOOD]).await;
    let daemon = daemon(&origin, "").await;
    get(&daemon, &path, Some(GOOD)).await;
    let json = |answer: Answer| -> serde_json::Value {
        serde_json::from_slice(&answer.body.unwrap()).unwrap()
    };
    let report = json(control::ask(&daemon, "/v1/rights").await);
    assert_eq!(report["rights"][0]["repository"], "a");
    assert_eq!(report["rights"][0]["fresh"], 1);
    assert_eq!(json(control::ask(&daemon, "/v1/status").await)["rights"], 1);
    for (target, forgotten) in [
        ("/v1/rights?registry=elsewhere".to_owned(), 0),
        (
            format!("/v1/rights?registry={}&repository=b", origin.address),
            0,
        ),
        (
            format!("/v1/rights?registry={}&repository=a", origin.address),
            1,
        ),
    ] {
        let answer = control::send(&daemon, "DELETE", &target, &[]).await;
        assert_eq!(json(answer)["forgotten"], forgotten, "{target}");
    }
    get(&daemon, &path, Some(GOOD)).await;
    assert_eq!(origin.count(Method::HEAD, &path), 2);
}

#[tokio::test]
async fn configured_login_is_exchanged_for_a_token_for_clients_that_show_nothing() {
    let bytes = noise(200_000, 19);
    let (path, content) = (blob_path(&bytes), bytes.clone());
    let shown = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&shown);
    let origin = Origin::start(move |seen| {
        if seen.path.starts_with("/token") {
            // ann:pw
            return match seen.header("authorization") {
                Some("Basic YW5uOnB3") => Reply::bytes(r#"{"token":"short","expires_in":300}"#),
                _ => Reply::status(401),
            };
        }
        let authorization = seen.header("authorization").unwrap_or_default().to_owned();
        log.lock().unwrap().push(authorization.clone());
        match &*authorization {
            "Bearer short" => Reply::file(seen, &content),
            _ => Reply::status(401).with(
                "www-authenticate",
                "Bearer realm=\"/token\",service=\"r\",scope=\"repository:a:pull\"",
            ),
        }
    })
    .await;
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "pw\n").unwrap();
    let (registry, file) = (origin.address, password.path().display().to_string());
    let daemon = Daemon::start_with(registry, |text| {
        text + &format!(
            "[registries.\"{registry}\"]\nusername = \"ann\"\npassword_file = \"{file}\"\n"
        )
    })
    .await;
    assert_eq!(get(&daemon, &path, None).await.body, Some(bytes));
    let shown = shown.lock().unwrap();
    assert!(
        shown.iter().all(|shown| !shown.starts_with("Basic")),
        "{shown:?}"
    );
}
