//! The client against real servers on loopback, whose answers are scripted.

mod access;
mod accounts;
mod addresses;
mod asking;
mod budgets;
mod endpoints;
mod others;
mod passing;
mod proxies;
mod proxy;
mod reading;
mod server;
mod silent;
mod tls;

use std::time::Duration;

use hawker_swarm::{Secret, Source};

use super::{ByteRange, OriginClient, OriginConfig, OriginError};

/// Settings that allow loopback and fail fast.
fn quick() -> OriginConfig {
    OriginConfig {
        allow_private: vec!["127.0.0.0/8".parse().unwrap()],
        connect_timeout: Duration::from_secs(2),
        header_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_secs(2),
        first_backoff: Duration::from_millis(2),
        longest_retry_after: Duration::from_millis(100),
        ..OriginConfig::default()
    }
}

fn client() -> OriginClient {
    OriginClient::new(quick()).unwrap()
}

fn source(url: impl Into<String>) -> Source {
    Source {
        url: url.into(),
        authorization: None,
    }
}

fn source_as(url: impl Into<String>, authorization: &str) -> Source {
    let mut source = source(url);
    source.authorization = Some(Secret::new(authorization));
    source
}

/// Reads all of `range`.
async fn read(
    client: &OriginClient,
    source: &Source,
    range: impl Into<ByteRange>,
) -> Result<Vec<u8>, OriginError> {
    let mut body = client.fetch(source, range.into()).await?;
    let mut all = Vec::new();
    while let Some(bytes) = body.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

async fn read_all(client: &OriginClient, source: &Source) -> Result<Vec<u8>, OriginError> {
    read(client, source, ByteRange::ALL).await
}

/// Bytes in which every place differs from its neighbours.
fn content(len: usize) -> Vec<u8> {
    (0..len as u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes())
        .take(len)
        .collect()
}

/// Drivers spawn these.
#[test]
fn futures_can_be_sent() {
    fn is_send<T: Send>(_: T) {}
    let (client, source) = (client(), source("http://r.io/"));
    is_send(client.head(&source));
    is_send(client.fetch(&source, ByteRange::ALL));
    is_send(read_all(&client, &source));
}
