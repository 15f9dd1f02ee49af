//! Registries that accept and say nothing, or stop half-way.

use std::{
    num::NonZeroU16,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use hawker_model::RegistryHost;

use super::{
    super::{Budget, ByteRange, OriginClient, OriginConfig, RegistryEndpoint},
    content, quick, read_all,
    server::{Reply, Server},
    source,
};

/// Long before any limit of `patient`.
const SOON: Duration = Duration::from_secs(10);

/// Notices silence at once, and gives up on nothing.
fn patient() -> OriginConfig {
    OriginConfig {
        endpoint_timeout: Duration::from_millis(50),
        header_timeout: Duration::from_secs(60),
        read_timeout: Duration::from_secs(60),
        ..quick()
    }
}

async fn whole(config: OriginConfig, server: &Server, file: &[u8]) {
    let client = OriginClient::new(config).unwrap();
    let source = source(server.url("/f"));
    let read = tokio::time::timeout(SOON, read_all(&client, &source)).await;
    assert!(read.expect("in time").unwrap() == file);
}

/// A server of `file` whose first answers are another's.
async fn server(
    file: &[u8],
    first: impl Fn(usize, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    let (file, turn) = (file.to_vec(), AtomicUsize::new(0));
    Server::start(move |asked| first(turn.fetch_add(1, Relaxed), Reply::file(asked, &file))).await
}

#[tokio::test]
async fn a_lone_registry_that_does_not_answer_is_asked_by_another_connection() {
    let file = content(100_000);
    let server = server(&file, |turn, reply| match turn {
        0 => Reply::silence(),
        _ => reply,
    })
    .await;
    whole(patient(), &server, &file).await;
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_body_that_stops_half_way_goes_on_by_another_connection() {
    let file = content(200_000);
    let server = server(&file, |turn, reply| match turn {
        0 => reply.stalled_after(120_000),
        _ => reply,
    })
    .await;
    whole(patient(), &server, &file).await;
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("range"), Some("bytes=120000-199999"));
}

#[tokio::test]
async fn connections_that_hang_one_after_the_other_are_replaced() {
    let file = content(200_000);
    let server = server(&file, |turn, reply| match turn {
        0 => reply.stalled_after(60_000),
        1 => Reply::silence(),
        2 => reply.stalled_after(0),
        _ => reply,
    })
    .await;
    whole(patient(), &server, &file).await;
}

#[tokio::test]
async fn the_first_answer_is_taken_when_it_comes_after_all() {
    let file = content(100_000);
    let server = server(&file, |turn, reply| match turn {
        0 => reply.late(Duration::from_millis(300)),
        _ => Reply::silence(),
    })
    .await;
    whole(patient(), &server, &file).await;
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn what_is_refused_where_a_registry_is_silent_ends_nothing() {
    let file = content(100_000);
    let server = server(&file, |turn, reply| match turn {
        0 => reply.late(Duration::from_millis(300)),
        _ => Reply::status(503),
    })
    .await;
    whole(patient(), &server, &file).await;
}

#[tokio::test]
async fn other_bytes_do_not_take_the_place_of_a_body_that_is_silent() {
    let file = content(100_000);
    let other = server(&file, |turn, reply| match turn {
        0 => reply.with("ETag", "\"1\"").stalled_after(50_000),
        _ => Reply::body([7; 90_000]).with("ETag", "\"2\""),
    })
    .await;
    let config = OriginConfig {
        read_timeout: Duration::from_millis(400),
        retries: 0,
        ..patient()
    };
    let client = OriginClient::new(config).unwrap();
    let error = read_all(&client, &source(other.url("/f"))).await;
    assert!(error.unwrap_err().is_retryable(), "it is just silent");
    assert!(other.asked().len() > 1);
}

#[tokio::test]
async fn a_body_that_stops_goes_on_at_another_endpoint() {
    let file = content(200_000);
    let stops = server(&file, |_, reply| reply.stalled_after(80_000)).await;
    let works = Server::of_file(&file).await;
    let mut config = patient();
    let endpoints = [&stops, &works].map(|server| server.url("").parse().unwrap());
    let endpoint = RegistryEndpoint {
        endpoints: endpoints.to_vec(),
        ..RegistryEndpoint::default()
    };
    let registry = RegistryHost::parse("r.io").unwrap();
    config.registries.insert(registry.clone(), endpoint);
    let client = OriginClient::new(config).unwrap();
    let url = client
        .base_url(&registry)
        .unwrap()
        .join("/v2/a/blobs/x")
        .unwrap();
    let read = tokio::time::timeout(SOON, read_all(&client, &source(url))).await;
    assert!(read.expect("in time").unwrap() == file);
    assert_eq!((stops.asked().len(), works.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_registry_that_is_silent_for_many_is_asked_little_more() {
    let server = Server::start(|_| Reply::silence()).await;
    let client = OriginClient::new(patient()).unwrap();
    let source = source(server.url("/f"));
    let many = (0..20).map(|_| client.fetch(&source, ByteRange::ALL));
    let many = futures::future::join_all(many);
    let ended = tokio::time::timeout(Duration::from_secs(1), many).await;
    assert!(ended.is_err());
    let asked = server.asked().len();
    assert!((21..=24).contains(&asked), "{asked}");
}

#[tokio::test]
async fn no_more_connections_are_made_than_a_limit_permits() {
    let server = Server::start(|_| Reply::body([1; 100]).stalled_after(50)).await;
    let budget = Budget {
        connections: NonZeroU16::new(1),
        ..Budget::default()
    };
    let client = OriginClient::new(OriginConfig {
        budget,
        ..patient()
    })
    .unwrap();
    let source = source(server.url("/f"));
    let read = read_all(&client, &source);
    let ended = tokio::time::timeout(Duration::from_millis(600), read).await;
    assert!(ended.is_err());
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_question_is_asked_again_as_well() {
    let file = content(1000);
    let server = server(&file, |turn, reply| match turn {
        0 => Reply::silence(),
        _ => reply,
    })
    .await;
    let client = OriginClient::new(patient()).unwrap();
    let began = Instant::now();
    let head = client.head(&source(server.url("/f"))).await.unwrap();
    assert_eq!(head.length, Some(1000));
    assert!(began.elapsed() < SOON);
}
