//! A file straight from where it is, without the piece network.

use std::time::Instant;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use hawker_p2p::{
    Account, AllowPrivate, ByteRange, OriginClient, OriginConfig, OriginConfigError, OriginError,
    UsualProxies,
};
use hawker_swarm::{Bucket, Rate, Source};

use crate::url_task::Wish;

/// Downloads for a user who named the URL: private addresses are theirs to name. `account` is who
/// they are there.
pub(crate) async fn download(
    wish: &Wish,
    account: Option<&Account>,
) -> Result<
    (
        Option<u64>,
        impl Stream<Item = Result<Bytes, OriginError>> + use<>,
    ),
    StraightError,
> {
    let anywhere = ["0.0.0.0/0", "::/0"].map(str::parse::<AllowPrivate>);
    let config = OriginConfig {
        allow_private: anywhere.into_iter().flatten().collect(),
        proxies: UsualProxies::of_environment(|name| std::env::var(name).ok()),
        ..OriginConfig::default()
    };
    let origin = OriginClient::new(config)?;
    let authorization = match account {
        Some(account) => origin.head_as(&wish.url, account).await?.1,
        None => None,
    };
    let source = Source {
        url: wish.url.to_string(),
        authorization,
    };
    Ok(fetch(&origin, &source).await?)
}

/// Why a download does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StraightError {
    #[error(transparent)]
    Config(#[from] OriginConfigError),
    #[error(transparent)]
    Origin(#[from] OriginError),
}

/// The same bytes, no faster: whoever sends them has to wait.
pub(crate) fn paced<S>(
    bytes: S,
    rate: Option<Rate>,
) -> impl Stream<Item = Result<Bytes, OriginError>> + use<S>
where
    S: Stream<Item = Result<Bytes, OriginError>>,
{
    let mut bucket = Bucket::new(rate);
    bytes.then(move |item| {
        let now = Instant::now();
        let at = bucket.ready_at(now);
        bucket.take(item.as_ref().map_or(0, Bytes::len) as u64, now);
        async move {
            if let Some(at) = at {
                tokio::time::sleep_until(at.into()).await;
            }
            item
        }
    })
}

/// The whole of a source: its length, if the origin tells it, and its bytes.
pub(crate) async fn fetch(
    origin: &OriginClient,
    source: &Source,
) -> Result<
    (
        Option<u64>,
        impl Stream<Item = Result<Bytes, OriginError>> + use<>,
    ),
    OriginError,
> {
    let body = origin.fetch(source, ByteRange::ALL).await?;
    let length = body.total_length();
    let bytes = stream::try_unfold(body, |mut body| async move {
        Ok(body.next().await?.map(|bytes| (bytes, body)))
    });
    Ok((length, bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn bytes_come_no_faster_than_the_rate() {
        let part = || Ok(Bytes::from(vec![0; 1000]));
        let parts = stream::iter([part(), part(), part()]);
        let rate = Rate::new(20_000).map(|rate| rate.with_burst(1));
        let began = Instant::now();
        let came: Vec<_> = paced(parts, rate).collect().await;
        assert_eq!(came.len(), 3);
        assert!(began.elapsed() >= Duration::from_millis(100));
        let unlimited: Vec<_> = paced(stream::iter([part()]), None).collect().await;
        assert_eq!(unlimited.len(), 1);
    }
}
