//! Ranges, and bodies that do not come as they should.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    super::{ByteRange, OriginClient, OriginConfig, OriginError},
    client, content, quick, read, read_all,
    server::{Reply, Server},
    source,
};

/// Counts the requests of a script.
#[derive(Default)]
struct Turn(AtomicUsize);

impl Turn {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_file_is_read_whole_and_in_ranges() {
    let file = content(100_000);
    let server = Server::of_file(&file).await;
    let (client, source) = (client(), source(server.url("/f?signature=s")));

    assert_eq!(read_all(&client, &source).await.unwrap(), file);
    assert_eq!(read(&client, &source, 10..20).await.unwrap(), file[10..20]);
    assert_eq!(
        read(&client, &source, ByteRange::from(99_990))
            .await
            .unwrap(),
        file[99_990..]
    );
    assert_eq!(
        read(&client, &source, 99_990..200_000).await.unwrap(),
        file[99_990..]
    );

    let body = client.fetch(&source, (5..6).into()).await.unwrap();
    assert_eq!(body.total_length(), Some(100_000));
    assert!(body.honours_ranges());

    let asked = server.asked();
    assert_eq!(asked[0].target, "/f?signature=s");
    assert_eq!(
        (asked[0].header("range"), asked[0].header("accept-encoding")),
        (None, Some("identity"))
    );
    assert_eq!(asked[1].header("range"), Some("bytes=10-19"));
}

#[tokio::test]
async fn ranges_outside_the_file_are_an_error() {
    let server = Server::of_file(b"0123456789").await;
    let source = source(server.url("/f"));
    for range in [
        ByteRange::from(10),
        (10..12).into(),
        ByteRange {
            start: 5,
            end: Some(5),
        },
    ] {
        let error = client().fetch(&source, range).await.unwrap_err();
        assert!(
            matches!(error, OriginError::RangeNotSatisfiable { .. }),
            "{error}"
        );
    }
    assert_eq!(server.asked().len(), 2, "an error of ours is not retried");
}

#[tokio::test]
async fn an_empty_file_is_read() {
    let server = Server::of_file(b"").await;
    let source = source(server.url("/f"));
    assert_eq!(read_all(&client(), &source).await.unwrap(), b"");
    assert_eq!(read(&client(), &source, 0..5).await.unwrap(), b"");
}

#[tokio::test]
async fn ignored_ranges_are_made_up_for_within_the_limit() {
    let file = content(50_000);
    let all = file.clone();
    let server = Server::start(move |_| Reply::body(all.clone())).await;
    let source = source(server.url("/f"));

    let mut body = client()
        .fetch(&source, (40_000..40_010).into())
        .await
        .unwrap();
    assert!(!body.honours_ranges());
    assert_eq!(body.next().await.unwrap().unwrap(), file[40_000..40_010]);
    assert_eq!(body.next().await.unwrap(), None);
    assert_eq!(read(&client(), &source, 0..10).await.unwrap(), file[..10]);

    let strict = OriginClient::new(OriginConfig {
        discard_limit: Some(1000),
        ..quick()
    })
    .unwrap();
    let error = strict
        .fetch(&source, (40_000..40_010).into())
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::RangeIgnored { offset: 40_000, .. }),
        "{error}"
    );
    assert_eq!(
        read(&strict, &source, 900..910).await.unwrap(),
        file[900..910]
    );
}

#[tokio::test]
async fn a_body_cut_every_few_bytes_is_read_whole() {
    let file = content(2000);
    let all = file.clone();
    let server = Server::start(move |asked| {
        Reply::file(asked, &all)
            .with("ETag", "\"v1\"")
            .cut_after(37)
    })
    .await;
    let source = source(server.url("/f"));

    assert_eq!(read_all(&client(), &source).await.unwrap(), file);
    let asked = server.asked();
    assert_eq!(asked.len(), 2000usize.div_ceil(37));
    assert_eq!(
        (asked[1].header("range"), asked[1].header("if-range")),
        (Some("bytes=37-1999"), Some("\"v1\""))
    );
    assert_eq!(
        read(&client(), &source, 100..300).await.unwrap(),
        file[100..300]
    );
}

#[tokio::test]
async fn a_cut_body_of_unknown_length_is_read_whole() {
    let file = content(2000);
    let all = file.clone();
    let turn = Turn::default();
    let server = Server::start(move |asked| match turn.next() {
        0 => Reply::file(asked, &all).chunked().cut_after(500),
        1 => Reply::body(all.clone()).chunked().cut_after(700),
        _ => Reply::file(asked, &all).chunked(),
    })
    .await;
    let mut body = client()
        .fetch(&source(server.url("/f")), ByteRange::ALL)
        .await
        .unwrap();
    assert_eq!(body.total_length(), None);
    let mut read = Vec::new();
    while let Some(bytes) = body.next().await.unwrap() {
        read.extend_from_slice(&bytes);
    }
    assert_eq!(read, file);
    assert_eq!(body.total_length(), Some(2000));
}

#[tokio::test]
async fn a_body_that_brings_nothing_ends_with_the_retries() {
    let file = content(1000);
    let turn = Turn::default();
    let server = Server::start(move |asked| {
        let reply = Reply::file(asked, &file);
        if turn.next() == 0 {
            reply.cut_after(400)
        } else {
            reply.cut_after(0)
        }
    })
    .await;
    let error = read_all(&client(), &source(server.url("/f")))
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::TooShort { .. }), "{error}");
    assert!(error.is_retryable());
    assert_eq!(server.asked().len(), 1 + 5);
}

#[tokio::test]
async fn a_stalled_body_goes_on_elsewhere() {
    let file = content(1000);
    let all = file.clone();
    let turn = Turn::default();
    let server = Server::start(move |asked| {
        let reply = Reply::file(asked, &all);
        if turn.next() < 2 {
            reply.stalled_after(300)
        } else {
            reply
        }
    })
    .await;
    let config = OriginConfig {
        read_timeout: Duration::from_millis(80),
        ..quick()
    };
    let client = OriginClient::new(config).unwrap();
    assert_eq!(
        read_all(&client, &source(server.url("/f"))).await.unwrap(),
        file
    );
    assert_eq!(server.asked()[2].header("range"), Some("bytes=600-999"));
}

#[tokio::test]
async fn a_server_that_never_answers_times_out() {
    let server = Server::start(|_| Reply::silence()).await;
    let header_timeout = Duration::from_millis(50);
    let config = OriginConfig {
        header_timeout,
        retries: 1,
        ..quick()
    };
    let client = OriginClient::new(config).unwrap();
    let error = read_all(&client, &source(server.url("/f?secret=1")))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} timed out: no answer within 50 ms", server.url("/f"))
    );
    assert_eq!(error.status(), 504);
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_body_longer_than_stated_is_an_error() {
    let server = Server::start(|asked| match asked.header("range") {
        Some(_) => {
            let range = "bytes 0-9/100";
            Reply::body([7; 20])
                .with("Content-Range", range)
                .chunked()
                .status_is(206)
        }
        None => Reply::body([7; 20]),
    })
    .await;
    let error = read(&client(), &source(server.url("/f")), 0..10)
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::TooLong { length: 10, .. }),
        "{error}"
    );
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn parts_that_were_not_asked_for_are_refused() {
    for said in [
        "bytes 1-10/100",
        "bytes 0-19/100",
        "bytes 0-9",
        "bytes 5-3/9",
        "bytes 0-8/100",
    ] {
        let reply = Reply::body([7; 10])
            .with("Content-Range", said)
            .status_is(206);
        let server = Server::start(move |_| reply.clone()).await;
        let error = read(&client(), &source(server.url("/f")), 0..10)
            .await
            .unwrap_err();
        assert!(
            matches!(error, OriginError::Malformed { .. }),
            "{said}: {error}"
        );
    }
}

#[tokio::test]
async fn parts_shorter_than_asked_for_are_continued() {
    let file = content(1000);
    let all = file.clone();
    let server = Server::start(move |asked| {
        let range = asked.header("range").unwrap_or("bytes=0-");
        let first: usize = range[6..].split('-').next().unwrap().parse().unwrap();
        let end = all.len().min(first + 64);
        Reply::body(&all[first..end])
            .with(
                "Content-Range",
                format!("bytes {first}-{}/{}", end - 1, all.len()),
            )
            .status_is(206)
    })
    .await;
    assert_eq!(
        read_all(&client(), &source(server.url("/f")))
            .await
            .unwrap(),
        file
    );
}

#[tokio::test]
async fn encoded_bodies_are_refused() {
    let server = Server::start(|_| Reply::body("....").with("Content-Encoding", "gzip")).await;
    let source = source(server.url("/f"));
    let error = read_all(&client(), &source).await.unwrap_err();
    assert!(
        matches!(&error, OriginError::Encoded { encoding, .. } if encoding == "gzip"),
        "{error}"
    );
    assert_eq!(client().head(&source).await.unwrap().length, None);
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_file_that_changes_meanwhile_is_an_error() {
    for (first, second) in [
        ("ETag: \"1\"", "ETag: \"2\""),
        ("Last-Modified: a", "Last-Modified: b"),
    ] {
        let turn = Turn::default();
        let server = Server::start(move |_| {
            let turn = turn.next();
            let (name, value) = [first, second][turn.min(1)].split_once(": ").unwrap();
            let reply = Reply::body(content(1000)).with(name, value);
            if turn == 0 {
                reply.cut_after(300)
            } else {
                reply
            }
        })
        .await;
        let error = read_all(&client(), &source(server.url("/f")))
            .await
            .unwrap_err();
        assert!(matches!(error, OriginError::Changed { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_changes_its_length_meanwhile_is_an_error() {
    let turn = Turn::default();
    let server = Server::start(move |asked| match turn.next() {
        0 => Reply::file(asked, &content(1000)).cut_after(300),
        _ => Reply::file(asked, &content(1001)),
    })
    .await;
    let error = read_all(&client(), &source(server.url("/f")))
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Changed { .. }), "{error}");
}

#[tokio::test]
async fn a_later_answer_is_held_to_the_length_of_the_first() {
    for (second, kind) in [(900, "short"), (1100, "long")] {
        let turn = Turn::default();
        let server = Server::start(move |_| match turn.next() {
            0 => Reply::body(content(1000)).cut_after(300),
            _ => Reply::body(content(second)).chunked(),
        })
        .await;
        let error = read_all(&client(), &source(server.url("/f")))
            .await
            .unwrap_err();
        match kind {
            "short" => assert!(matches!(error, OriginError::TooShort { .. }), "{error}"),
            _ => assert!(matches!(error, OriginError::TooLong { .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn parts_of_an_unknown_whole_end_where_there_are_no_more() {
    let file = content(100);
    let all = file.clone();
    let server = Server::start(move |asked| {
        let range = asked.header("range").unwrap_or("bytes=0-");
        let first: usize = range[6..].split('-').next().unwrap().parse().unwrap();
        if first >= all.len() {
            return Reply::status(416).with("Content-Range", format!("bytes */{}", all.len()));
        }
        let end = all.len().min(first + 40);
        Reply::body(&all[first..end])
            .with("Content-Range", format!("bytes {first}-{}/*", end - 1))
            .status_is(206)
    })
    .await;
    let source = source(server.url("/f"));
    assert_eq!(read_all(&client(), &source).await.unwrap(), file);
    assert_eq!(read(&client(), &source, 30..200).await.unwrap(), file[30..]);
    assert!(
        read(&client(), &source, ByteRange::from(100))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_busy_server_is_given_the_time_it_asks_for() {
    for status in [429, 503] {
        let turn = Turn::default();
        let server = Server::start(move |asked| match turn.next() {
            0 => Reply::status(status).with("Retry-After", "1"),
            _ => Reply::file(asked, b"done"),
        })
        .await;
        let started = Instant::now();
        let config = OriginConfig {
            longest_retry_after: Duration::from_secs(60),
            ..quick()
        };
        let client = OriginClient::new(config).unwrap();
        let read = read_all(&client, &source(server.url("/f"))).await;
        assert_eq!(read.unwrap(), b"done");
        assert!(started.elapsed() >= Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_server_that_fails_for_a_moment_is_asked_again() {
    for status in [500, 502, 503, 504, 408] {
        let turn = Turn::default();
        let server = Server::start(move |asked| match turn.next() {
            0..3 => Reply::status(status),
            _ => Reply::file(asked, b"done"),
        })
        .await;
        assert_eq!(
            read_all(&client(), &source(server.url("/f")))
                .await
                .unwrap(),
            b"done"
        );
    }
}

#[tokio::test]
async fn a_server_that_fails_for_good_is_given_up() {
    for (status, requests) in [(500, 6), (429, 6), (501, 1), (403, 1), (404, 1), (400, 1)] {
        let server = Server::start(move |_| Reply::status(status)).await;
        let error = read_all(&client(), &source(server.url("/f")))
            .await
            .unwrap_err();
        assert_eq!(server.asked().len(), requests, "{status}: {error}");
        assert_eq!(error.is_retryable(), requests > 1, "{status}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let server = Server::of_file(b"").await;
    let url = server.url("/f");
    drop(server);
    // The listener is gone once its task has been polled for the last time.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let client = OriginClient::new(OriginConfig {
        retries: 1,
        ..quick()
    })
    .unwrap();
    let error = read_all(&client, &source(url)).await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_read_that_is_cancelled_loses_nothing() {
    let file = content(3000);
    let all = file.clone();
    let server = Server::start(move |asked| Reply::file(asked, &all).cut_after(100)).await;
    let mut body = client()
        .fetch(&source(server.url("/f")), ByteRange::ALL)
        .await
        .unwrap();
    let mut read = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_micros(300), body.next()).await {
            Ok(Ok(Some(bytes))) => read.extend_from_slice(&bytes),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => panic!("{error}"),
            Err(_cancelled) => tokio::time::sleep(Duration::from_micros(10)).await,
        }
    }
    assert_eq!(read, file);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever a server does that HTTP allows, the bytes are those of the file.
    #[test]
    fn bytes_are_those_of_the_file(
        start in 0u64..300,
        len in 1u64..400,
        script in prop::collection::vec((any::<bool>(), any::<bool>(), 0usize..200), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let file = content(400);
        let all = file.clone();
        let turn = Turn::default();
        let result = runtime.block_on(async move {
            let server = Server::start(move |asked| {
                let Some((ranges, chunked, cut)) = script.get(turn.next()) else {
                    return Reply::file(asked, &all);
                };
                let reply = if *ranges { Reply::file(asked, &all) } else { Reply::body(all.clone()) };
                let reply = if *chunked { reply.chunked() } else { reply };
                reply.cut_after(*cut)
            })
            .await;
            let config = OriginConfig { retries: 20, first_backoff: Duration::ZERO, ..quick() };
            let client = OriginClient::new(config).unwrap();
            read(&client, &source(server.url("/f")), start..start + len).await
        });
        let end = file.len().min((start + len) as usize);
        prop_assert_eq!(result.unwrap(), &file[start as usize..end]);
    }
}

#[tokio::test]
async fn what_is_looked_for_at_hand_asks_for_nothing_and_ends_as_it_should() {
    let file = content(100_000);
    let copy = file.clone();
    let server = Server::start(move |asked| match asked.header("range") {
        None => Reply::file(asked, &copy).cut_after(50_000),
        Some(_) => Reply::file(asked, &copy),
    })
    .await;
    let source = source(server.url("/f"));
    let mut body = client().fetch(&source, ByteRange::ALL).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 50_000 {
        got.extend(body.next().await.unwrap().unwrap());
    }
    for _ in 0..20 {
        assert_eq!(body.at_hand(), None);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(server.asked().len(), 1, "not before somebody waits for it");
    while let Some(bytes) = body.next().await.unwrap() {
        got.extend(bytes);
        while let Some(bytes) = body.at_hand() {
            got.extend(bytes);
        }
    }
    assert!(got == file);
    assert_eq!(server.asked().len(), 2);
}
