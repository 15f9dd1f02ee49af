//! The mirror before registries of every kind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hawker_model::Digest;
use http::Method;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use crate::{
    client::{fetch, get, send},
    daemon::Daemon,
    origin::{Origin, Part, Reply, Seen, noise},
};

const MIB: usize = 1 << 20;

fn blob_path(bytes: &Bytes) -> String {
    format!("/v2/a/blobs/{}", Digest::of(bytes))
}

/// A registry with one blob for everybody.
async fn with_blob(bytes: &Bytes) -> Origin {
    let (path, bytes) = (blob_path(bytes), bytes.clone());
    Origin::start(move |seen| match seen.path == path {
        true => Reply::file(seen, &bytes),
        false => Reply::status(404),
    })
    .await
}

#[tokio::test]
async fn challenge_of_the_registry_reaches_the_client() {
    let origin = Origin::start(|_| Reply::challenge()).await;
    let daemon = Daemon::start(origin.address).await;
    for path in ["/v2/", "/v2/a/manifests/t", &blob_path(&Bytes::new())] {
        let answer = get(daemon.mirror(), path).await;
        assert_eq!(answer.status, 401, "{path}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer realm="), "{challenge}");
        assert_eq!(
            answer.header("docker-distribution-api-version"),
            Some("registry/2.0")
        );
    }
}

#[tokio::test]
async fn manifest_comes_as_the_registry_gives_it() {
    let origin = Origin::start(|_| {
        Reply::bytes("{}")
            .with("content-type", "application/vnd.oci.image.manifest.v1+json")
            .with("docker-content-digest", &Digest::of(b"{}").to_string())
            .with("set-cookie", "no")
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let accept = [
        ("accept", "a/b"),
        ("accept", "c/d"),
        ("user-agent", "containerd/2"),
    ];
    for target in ["t".to_owned(), Digest::of(b"{}").to_string()] {
        let path = format!("/v2/a/manifests/{target}?ns={}", origin.address);
        let answer = fetch(daemon.mirror(), "GET", &path, &accept).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body.as_deref(), Some(&b"{}"[..]));
        assert_eq!(answer.header("content-length"), Some("2"));
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .contains("oci.image.manifest")
        );
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(&*Digest::of(b"{}").to_string())
        );
        assert_eq!(answer.header("set-cookie"), None);
        let head = fetch(daemon.mirror(), "HEAD", &path, &accept).await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("2"))
        );
    }
    let seen = origin.seen();
    assert_eq!(seen[0].path, "/v2/a/manifests/t");
    assert_eq!(seen[0].header("accept"), Some("a/b, c/d"));
    assert_eq!(seen[0].header("accept-encoding"), Some("identity"));
    assert_eq!(seen[0].header("user-agent"), Some("containerd/2"));
}

#[tokio::test]
async fn manifest_with_wrong_bytes_is_refused() {
    let told = Digest::of(b"right").to_string();
    let header = told.clone();
    let origin =
        Origin::start(move |_| Reply::bytes("wrong").with("docker-content-digest", &header)).await;
    let daemon = Daemon::start(origin.address).await;
    for target in ["t", &told] {
        let answer = get(daemon.mirror(), &format!("/v2/a/manifests/{target}")).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (502, "UNAVAILABLE"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn refusals_and_failures_of_the_registry_are_told_as_they_are() {
    let origin = Origin::start(|seen| {
        let status = seen.path.split('/').nth(2).unwrap()[1..].parse().unwrap();
        Reply::status(status).with("retry-after", "7")
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let digest = Digest::of(b"x");
    for (status, as_blob, code) in [
        (403, 403, "DENIED"),
        (404, 404, "BLOB_UNKNOWN"),
        (500, 502, "UNAVAILABLE"),
        // The last: from here on the registry is left in peace for seven seconds.
        (429, 429, "TOOMANYREQUESTS"),
    ] {
        let manifest = get(daemon.mirror(), &format!("/v2/s{status}/manifests/t")).await;
        assert_eq!(manifest.status, status);
        assert_eq!(manifest.header("retry-after"), Some("7"));
        let blob = get(daemon.mirror(), &format!("/v2/s{status}/blobs/{digest}")).await;
        assert_eq!((blob.status, &*blob.code()), (as_blob, code));
    }
}

#[tokio::test]
async fn requests_that_are_no_pulls_are_refused_in_the_words_of_the_spec() {
    let origin = Origin::start(|_| Reply::status(200)).await;
    let daemon = Daemon::start(origin.address).await;
    for (method, path, status, code) in [
        ("POST", "/v2/a/blobs/uploads/", 405, "UNSUPPORTED"),
        ("DELETE", "/v2/a/manifests/t", 405, "UNSUPPORTED"),
        ("GET", "/v2/A/manifests/t", 400, "NAME_INVALID"),
        ("GET", "/v2/a/../b/manifests/t", 400, "NAME_INVALID"),
        ("GET", "/v2/a/blobs/sha256:12", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/manifests/%2e%2e", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/a/tags/list?ns=a%2fb", 400, "NAME_INVALID"),
        ("GET", "/anything", 404, "UNSUPPORTED"),
    ] {
        let answer = fetch(daemon.mirror(), method, path, &[]).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (status, code),
            "{method} {path}"
        );
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn private_registry_that_is_not_configured_is_refused() {
    let origin = Origin::start(|_| Reply::status(200)).await;
    let other = Origin::start(|_| Reply::status(200)).await;
    let daemon = Daemon::start(origin.address).await;
    let registry = other.address.to_string();
    let header = [("x-dragonfly-registry", registry.as_str())];
    for path in ["/v2/", &blob_path(&Bytes::new())] {
        let answer = fetch(daemon.mirror(), "GET", path, &header).await;
        assert_eq!((answer.status, &*answer.code()), (403, "DENIED"));
    }
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn blob_leaves_the_registry_once_and_then_comes_from_the_store() {
    let bytes = noise(3 * MIB + 17, 1);
    let path = blob_path(&bytes);
    let origin = with_blob(&bytes).await;
    let daemon = Daemon::start(origin.address).await;
    for _ in 0..2 {
        let answer = get(daemon.mirror(), &path).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.header("content-length"),
            Some(&*bytes.len().to_string())
        );
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(&*Digest::of(&bytes).to_string())
        );
        assert!(answer.body.unwrap() == bytes);
        daemon.has_stored(1).await;
    }
    assert_eq!(origin.count(Method::HEAD, &path), 1);
    let fetched: Vec<Seen> = origin
        .seen()
        .into_iter()
        .filter(|s| s.method == Method::GET)
        .collect();
    assert_eq!(fetched.len(), 1, "{fetched:?}");
    let metrics = daemon.metrics().await;
    for line in [
        format!(
            "hawker_mirror_served_bytes_total{{source=\"network\"}} {}",
            bytes.len()
        ),
        format!(
            "hawker_mirror_served_bytes_total{{source=\"local\"}} {}",
            bytes.len()
        ),
        "hawker_mirror_requests_total{kind=\"blob\",status=\"200\"} 2".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} not in\n{metrics}");
    }
}

#[tokio::test]
async fn empty_blob_is_a_blob() {
    let bytes = Bytes::new();
    let origin = with_blob(&bytes).await;
    let daemon = Daemon::start(origin.address).await;
    let answer = get(daemon.mirror(), &blob_path(&bytes)).await;
    assert_eq!((answer.status, answer.body), (200, Some(bytes)));
}

#[tokio::test]
async fn ranges_of_a_blob_are_served() {
    let bytes = noise(300_000, 2);
    let path = blob_path(&bytes);
    let origin = with_blob(&bytes).await;
    let daemon = Daemon::start(origin.address).await;
    for (range, status, wanted) in [
        ("bytes=0-", 206, 0..300_000),
        ("bytes=5-9", 206, 5..10),
        ("bytes=70000-200000", 206, 70_000..200_001),
        ("bytes=-10", 206, 299_990..300_000),
        ("bytes=299999-", 206, 299_999..300_000),
        ("bytes=0-1,5-6", 200, 0..300_000),
        ("nonsense", 200, 0..300_000),
        ("bytes=300000-", 416, 0..0),
    ] {
        let answer = fetch(daemon.mirror(), "GET", &path, &[("range", range)]).await;
        assert_eq!(answer.status, status, "{range}");
        assert!(
            answer.body.as_ref().unwrap() == &bytes[wanted.clone()],
            "{range}"
        );
        let told = match status {
            206 => Some(format!("bytes {}-{}/300000", wanted.start, wanted.end - 1)),
            416 => Some("bytes */300000".to_owned()),
            _ => None,
        };
        assert_eq!(answer.header("content-range"), told.as_deref(), "{range}");
    }
    let head = fetch(daemon.mirror(), "HEAD", &path, &[]).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("300000"))
    );
    assert_eq!(head.body, Some(Bytes::new()));
}

#[tokio::test]
async fn first_bytes_are_served_before_the_registry_has_sent_the_last() {
    let bytes = noise(2 * MIB, 3);
    let path = blob_path(&bytes);
    let gate = Arc::new(Semaphore::new(0));
    let (content, held) = (bytes.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |_| {
        let parts = vec![
            Part::Bytes(content.slice(..MIB)),
            Part::Wait(Arc::clone(&held)),
            Part::Bytes(content.slice(MIB..)),
        ];
        Reply::parts(content.len(), parts).with("etag", "\"1\"")
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let mut response = send(daemon.mirror(), "GET", &path, &[]).await;
    assert_eq!(response.status(), 200);
    let mut got = Vec::new();
    while got.len() < MIB / 2 {
        let frame = response.frame().await.unwrap().unwrap();
        got.extend_from_slice(&frame.into_data().unwrap());
    }
    gate.add_permits(100);
    got.extend_from_slice(&response.collect().await.unwrap().to_bytes());
    assert!(got == bytes);
}

#[tokio::test]
async fn blob_of_one_client_is_not_another_clients() {
    let bytes = noise(200_000, 4);
    let path = blob_path(&bytes);
    let (private, content) = (path.clone(), bytes.clone());
    let origin = Origin::start(move |seen| match seen.header("authorization") {
        Some("Bearer good") if seen.path == private => Reply::file(seen, &content),
        Some("Bearer good") => Reply::bytes("{}"),
        Some(_) => Reply::status(403),
        None => Reply::challenge(),
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let as_client = async |token: Option<&str>| {
        let headers: Vec<_> = token
            .iter()
            .map(|token| ("authorization", *token))
            .collect();
        fetch(daemon.mirror(), "GET", &path, &headers).await
    };
    assert_eq!(as_client(None).await.status, 401);
    assert_eq!(as_client(Some("Bearer good")).await.body.unwrap(), bytes);
    let stranger = as_client(None).await;
    assert_eq!((stranger.status, &*stranger.code()), (401, "UNAUTHORIZED"));
    assert!(stranger.header("www-authenticate").is_some());
    assert_eq!(as_client(Some("Bearer bad")).await.status, 403);
    assert_eq!(as_client(Some("Bearer good")).await.body.unwrap(), bytes);
    let stranger = fetch(daemon.mirror(), "HEAD", &path, &[]).await;
    assert_eq!(stranger.status, 401);
}

#[tokio::test]
async fn refusal_of_one_client_does_not_fail_another() {
    let bytes = noise(200_000, 5);
    let path = blob_path(&bytes);
    let content = bytes.clone();
    let origin = Origin::start(move |seen| match seen.header("authorization") {
        Some("Bearer good") if seen.path.contains("/blobs/") => Reply::file(seen, &content),
        Some("Bearer good") => Reply::bytes("{}"),
        _ => Reply::challenge(),
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let good = [("authorization", "Bearer good")];
    // From here on the blob is opened while the right is still being asked for.
    fetch(daemon.mirror(), "GET", "/v2/a/manifests/t", &good).await;
    let (refused, granted) = tokio::join!(
        fetch(daemon.mirror(), "GET", &path, &[]),
        fetch(daemon.mirror(), "GET", &path, &good),
    );
    assert_eq!(refused.status, 401);
    assert_eq!(granted.body.unwrap(), bytes);
}

#[tokio::test]
async fn wrong_bytes_never_make_a_whole_blob() {
    let right = noise(200_000, 6);
    let wrong = noise(200_000, 7);
    let path = blob_path(&right);
    let content = wrong.clone();
    let origin = Origin::start(move |seen| Reply::file(seen, &content)).await;
    let daemon = Daemon::start(origin.address).await;
    let answer = get(daemon.mirror(), &path).await;
    match answer.status {
        200 => assert_eq!(answer.body, None, "it must be cut"),
        status => assert_eq!(status, 502),
    }
}

#[tokio::test]
async fn client_that_tries_again_after_wrong_bytes_gets_none_before_all_are_right() {
    let right = noise(2 * MIB, 30);
    let path = blob_path(&right);
    let mut wrong = right.to_vec();
    wrong[2 * MIB - 1] ^= 1;
    let (wrong, content) = (Bytes::from(wrong), right.clone());
    let (gate, asked) = (Arc::new(Semaphore::new(0)), AtomicU32::new(0));
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |seen| {
        if seen.method == Method::HEAD {
            return Reply::file(seen, &content);
        }
        // What began while the registry was broken is wrong to its end.
        let bytes = match asked.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => wrong.clone(),
            _ => content.clone(),
        };
        let parts = vec![
            Part::Bytes(bytes.slice(..MIB)),
            Part::Wait(Arc::clone(&held)),
            Part::Bytes(bytes.slice(MIB..)),
        ];
        Reply::parts(bytes.len(), parts).with("etag", "\"1\"")
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let mut cut = send(daemon.mirror(), "GET", &path, &[]).await;
    assert!(cut.frame().await.unwrap().is_ok(), "it begins well");
    gate.add_permits(100);
    assert!(cut.collect().await.is_err(), "it must be cut");

    let again = get(daemon.mirror(), &path).await;
    assert_eq!(again.status, 200);
    assert!(again.body.is_some_and(|body| body == right), "wrong or cut");
}

#[tokio::test]
async fn after_wrong_bytes_a_slow_registry_is_asked_once_as_long_as_pieces_come() {
    let right = noise(2 * MIB, 31);
    let path = blob_path(&right);
    let mut wrong = right.to_vec();
    wrong[2 * MIB - 1] ^= 1;
    let (wrong, content) = (Bytes::from(wrong), right.clone());
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
    let (held, times) = (Arc::clone(&gate), Arc::clone(&asked));
    let origin = Origin::start(move |seen| {
        if seen.method == Method::HEAD {
            return Reply::file(seen, &content);
        }
        if times.fetch_add(1, Ordering::Relaxed) == 0 {
            return Reply::bytes(wrong.clone());
        }
        let quarters = (0..4).map(|at| content.slice(at * MIB / 2..(at + 1) * MIB / 2));
        let parts = quarters.flat_map(|part| [Part::Wait(Arc::clone(&held)), Part::Bytes(part)]);
        Reply::parts(content.len(), parts.collect()).with("etag", "\"1\"")
    })
    .await;
    let daemon = Daemon::start_impatient(origin.address).await;
    let cut = get(daemon.mirror(), &path).await;
    assert!(cut.status == 502 || cut.body.is_none());

    // Longer in all than the network may be silent.
    let dripping = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(800)).await;
            gate.add_permits(1);
        }
    };
    let (again, ()) = tokio::join!(get(daemon.mirror(), &path), dripping);
    assert_eq!(again.status, 200);
    assert!(again.body.is_some_and(|body| body == right), "wrong or cut");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn answer_is_cut_when_the_registry_fails_for_good() {
    let bytes = noise(2 * MIB, 8);
    let path = blob_path(&bytes);
    let content = bytes.clone();
    let origin = Origin::start(move |seen| {
        let first = vec![Part::Bytes(content.slice(..MIB)), Part::Cut];
        match seen.header("range") {
            None => Reply::parts(content.len(), first).with("etag", "\"1\""),
            Some(_) => Reply::status(500),
        }
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let answer = get(daemon.mirror(), &path).await;
    match answer.status {
        200 => assert_eq!(answer.body, None, "it must be cut"),
        status => assert_eq!(status, 502),
    }
}

#[tokio::test]
async fn registry_that_does_not_answer_is_given_up_quickly() {
    let never = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&never);
    let origin = Origin::start(move |_| Reply::status(200).after(&held)).await;
    let daemon = Daemon::start_impatient(origin.address).await;
    for path in ["/v2/", "/v2/a/manifests/t", &blob_path(&Bytes::new())] {
        let started = Instant::now();
        let answer = get(daemon.mirror(), path).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (504, "UNAVAILABLE"),
            "{path}"
        );
        assert!(started.elapsed() < Duration::from_secs(4), "{path}");
    }
}

#[tokio::test]
async fn registry_that_is_gone_is_told_at_once() {
    let origin = Origin::start(|_| Reply::status(200)).await;
    let address = origin.address;
    let daemon = Daemon::start(address).await;
    drop(origin);
    for path in ["/v2/", "/v2/a/manifests/t", &blob_path(&Bytes::new())] {
        let answer = get(daemon.mirror(), path).await;
        assert!(
            [502, 503, 504].contains(&answer.status),
            "{path}: {}",
            answer.status
        );
    }
}

#[tokio::test]
async fn stored_blob_is_served_while_the_registry_is_gone_and_the_right_is_fresh() {
    let bytes = noise(100_000, 11);
    let path = blob_path(&bytes);
    let origin = with_blob(&bytes).await;
    let daemon = Daemon::start(origin.address).await;
    assert_eq!(
        get(daemon.mirror(), &path).await.body.as_ref(),
        Some(&bytes)
    );
    daemon.has_stored(1).await;
    drop(origin);
    assert_eq!(get(daemon.mirror(), &path).await.body, Some(bytes));
    // Another client's right cannot be asked for now.
    let other = [("authorization", "Bearer other")];
    let answer = fetch(daemon.mirror(), "GET", &path, &other).await;
    assert!(
        [502, 503, 504].contains(&answer.status),
        "{}",
        answer.status
    );
}

#[tokio::test]
async fn what_the_network_cannot_carry_is_passed_through() {
    let bytes = noise(100_000, 9);
    let path = blob_path(&bytes);
    let content = bytes.clone();
    let origin = Origin::start(move |seen| {
        let reply = Reply::bytes(content.clone());
        match seen.path.contains("sha512") {
            true => reply,
            // Its length is not told.
            false => reply.without_length(),
        }
    })
    .await;
    let daemon = Daemon::start(origin.address).await;
    let other_algorithm = format!("/v2/a/blobs/sha512:{}", "ab".repeat(64));
    for path in [path, other_algorithm] {
        let answer = get(daemon.mirror(), &path).await;
        assert_eq!(
            (answer.status, answer.body.as_ref()),
            (200, Some(&bytes)),
            "{path}"
        );
    }
    let passed = format!(
        "hawker_mirror_served_bytes_total{{source=\"pass\"}} {}",
        2 * bytes.len()
    );
    assert!(daemon.metrics().await.contains(&passed));
}

#[tokio::test]
async fn passed_through_blob_with_wrong_bytes_is_cut() {
    let right = noise(100_000, 10);
    let origin = Origin::start(|_| Reply::bytes("wrong").without_length()).await;
    let daemon = Daemon::start(origin.address).await;
    let answer = get(daemon.mirror(), &blob_path(&right)).await;
    assert_eq!((answer.status, answer.body), (200, None));
}

#[tokio::test]
async fn tags_and_referrers_are_passed_through() {
    let origin = Origin::start(|seen| Reply::bytes(seen.path.clone()).with("link", "<x>")).await;
    let daemon = Daemon::start(origin.address).await;
    let referrers = format!("/v2/a/referrers/{}", Digest::of(b""));
    for path in ["/v2/a/tags/list", &referrers] {
        let asked = format!("{path}?n=5&ns={}", origin.address);
        let answer = get(daemon.mirror(), &asked).await;
        assert_eq!(answer.header("link"), Some("<x>"));
        assert_eq!(answer.body.unwrap(), format!("{path}?n=5"));
    }
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let origin = Origin::start(|_| Reply::status(200)).await;
    let daemon = Daemon::start(origin.address).await;
    let long = "x".repeat(70_000);
    let answer = fetch(daemon.mirror(), "GET", "/v2/", &[("x-long", &long)]).await;
    assert_eq!(answer.status, 431);
    assert!(origin.seen().is_empty());
}
