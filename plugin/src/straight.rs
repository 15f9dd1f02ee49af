//! A file straight from where it is, without the piece network.

use bytes::Bytes;
use futures::{Stream, stream};
use hawker_p2p::{
    Account, AllowPrivate, ByteRange, OriginClient, OriginConfig, OriginConfigError, OriginError,
    UsualProxies,
};
use hawker_swarm::Source;

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
