//! What an origin says of a blob without sending it.

use std::time::{Duration, Instant};

use super::{
    super::OriginError,
    client,
    server::{Reply, Server},
    source, source_as,
};

#[tokio::test]
async fn a_head_tells_length_and_version() {
    let server = Server::start(|asked| {
        Reply::file(asked, b"layer")
            .with("ETag", "W/\"1\"")
            .with("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
            .with("Content-Type", "text/plain")
    })
    .await;
    let head = client().head(&source(server.url("/f"))).await.unwrap();
    assert_eq!(head.length, Some(5));
    assert_eq!(head.etag.as_deref(), Some("W/\"1\""));
    assert_eq!(
        head.last_modified.as_deref(),
        Some("Sun, 06 Nov 1994 08:49:37 GMT")
    );
    assert_eq!(head.content_type.as_deref(), Some("text/plain"));
    assert!(!head.redirected);
    assert_eq!(server.asked()[0].method, "HEAD");
}

#[tokio::test]
async fn servers_without_head_are_asked_for_a_byte() {
    for (status, file) in [(405, &b"layer"[..]), (501, b"layer"), (405, b"")] {
        let server = Server::start(move |asked| match asked.method.as_str() {
            "HEAD" => Reply::status(status),
            _ => Reply::file(asked, file),
        })
        .await;
        let head = client().head(&source(server.url("/f"))).await.unwrap();
        assert_eq!(head.length, Some(file.len() as u64));
        assert_eq!(server.asked()[1].header("range"), Some("bytes=0-0"));
    }
}

#[tokio::test]
async fn a_redirect_is_followed_for_the_length_without_credentials() {
    let store = Server::start(|asked| match asked.method.as_str() {
        // A URL signed for GET.
        "HEAD" => Reply::status(403),
        _ => Reply::file(asked, b"layer"),
    })
    .await;
    let to = store.url("/signed");
    let server = Server::start(move |_| Reply::redirect(307, &to)).await;
    let head = client()
        .head(&source_as(server.url("/f"), "Bearer mine"))
        .await
        .unwrap();
    assert_eq!((head.length, head.redirected), (Some(5), true));
    assert!(
        store
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[tokio::test]
async fn a_redirect_to_a_failing_server_leaves_the_length_open() {
    let store = Server::start(|_| Reply::status(500)).await;
    let to = store.url("/signed");
    let server = Server::start(move |_| Reply::redirect(307, &to)).await;
    let head = client().head(&source(server.url("/f"))).await.unwrap();
    assert_eq!((head.length, head.redirected), (None, true));
}

#[tokio::test]
async fn a_front_door_that_sends_everyone_on_grants_nothing() {
    for status in [401, 403, 404] {
        let registry = Server::start(move |_| Reply::status(status)).await;
        let to = registry.url("/v2/a/blobs/x");
        let front = Server::start(move |_| Reply::redirect(307, &to)).await;
        let error = client()
            .head(&source(front.url("/v2/a/blobs/x")))
            .await
            .unwrap_err();
        assert_eq!(error.status().as_u16(), status, "{error}");
    }
}

#[tokio::test]
async fn refusals_are_told_at_once() {
    for status in [401, 403, 404, 410] {
        let server = Server::start(move |_| Reply::status(status)).await;
        let error = client().head(&source(server.url("/f"))).await.unwrap_err();
        assert_eq!(error.status().as_u16(), status, "{error}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_busy_server_is_not_waited_for_long() {
    let server = Server::start(|_| Reply::status(429).with("Retry-After", "20")).await;
    let started = Instant::now();
    let error = client().head(&source(server.url("/f"))).await.unwrap_err();
    let OriginError::TooManyRequests { retry_after, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*retry_after, Some(Duration::from_secs(20)));
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_momentary_failure_is_asked_past_once() {
    let server = Server::start(|_| Reply::status(502)).await;
    assert!(client().head(&source(server.url("/f"))).await.is_err());
    assert_eq!(server.asked().len(), 2);
}
