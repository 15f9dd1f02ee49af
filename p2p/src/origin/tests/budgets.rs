//! How much registries are asked, and when they are left in peace.

use std::{num::NonZeroU16, time::Duration};

use hawker_swarm::Rate;

use super::{
    super::{Budget, ByteRange, OriginClient, OriginConfig, OriginError},
    client, content, quick, read_all,
    server::{Reply, Server},
    source,
};

fn with_budget(budget: Budget) -> OriginClient {
    let config = OriginConfig { budget, ..quick() };
    OriginClient::new(config).unwrap()
}

#[tokio::test]
async fn a_registry_that_wants_peace_is_asked_by_nobody_and_others_are_asked_at_once() {
    let busy = Server::start(|_| Reply::status(429).with("Retry-After", "20")).await;
    let ready = Server::of_file(b"layer").await;
    let client = client();
    for _ in 0..3 {
        let error = client.head(&source(busy.url("/f"))).await.unwrap_err();
        let OriginError::TooManyRequests { retry_after, .. } = &error else {
            panic!("{error}")
        };
        assert!(retry_after.unwrap() > Duration::from_secs(15));
    }
    assert_eq!(busy.asked().len(), 1);
    let head = client.head(&source(ready.url("/f"))).await.unwrap();
    assert_eq!(head.length, Some(5));
}

#[tokio::test]
async fn a_longer_wait_than_is_allowed_ends_a_fetch() {
    let server = Server::start(|_| Reply::status(503).with("Retry-After", "30")).await;
    let error = read_all(&client(), &source(server.url("/f"))).await;
    assert!(error.unwrap_err().retry_after().is_some());
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_body_under_all_limits_is_the_whole_body() {
    let file = content(300_000);
    let server = Server::of_file(&file).await;
    let client = with_budget(Budget {
        rate: Rate::new(3_000_000),
        connections: NonZeroU16::new(1),
        requests: NonZeroU16::new(100),
    });
    for _ in 0..3 {
        let read = read_all(&client, &source(server.url("/f"))).await;
        assert!(read.unwrap() == file);
    }
}

#[tokio::test]
async fn a_cut_body_goes_on_with_the_only_connection_that_is_allowed() {
    let file = content(200_000);
    let copy = file.clone();
    let server = Server::start(move |asked| match asked.header("range") {
        None => Reply::file(asked, &copy).cut_after(100_000),
        Some(_) => Reply::file(asked, &copy),
    })
    .await;
    let client = with_budget(Budget {
        connections: NonZeroU16::new(1),
        ..Budget::default()
    });
    let read = read_all(&client, &source(server.url("/f"))).await;
    assert!(read.unwrap() == file);
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_right_is_asked_for_while_layers_take_all_connections() {
    let file = content(200_000);
    let copy = file.clone();
    let server = Server::start(move |asked| match asked.method.as_str() {
        "GET" => Reply::file(asked, &copy).stalled_after(100_000),
        _ => Reply::file(asked, &copy),
    })
    .await;
    let client = with_budget(Budget {
        connections: NonZeroU16::new(1),
        ..Budget::default()
    });
    let source = source(server.url("/f"));
    let layer = client.fetch(&source, ByteRange::ALL).await.unwrap();
    let head = client.head(&source).await.unwrap();
    assert_eq!(head.length, Some(200_000));
    drop(layer);
}

#[tokio::test]
async fn a_question_that_our_limit_holds_up_names_the_setting() {
    let server = Server::of_file(b"layer").await;
    let client = with_budget(Budget {
        requests: NonZeroU16::new(1),
        ..Budget::default()
    });
    let source = source(server.url("/f"));
    let asked = (0..9).map(|_| client.head(&source));
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().any(Result::is_ok));
    let error = answers.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(error, OriginError::OwnLimit { .. }), "{error}");
    assert!(error.to_string().contains("origin.registry_requests"));
}
