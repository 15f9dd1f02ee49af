//! A URL's file through the piece network.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use hawker_config::{RateLimit, RateLimitError};
use hawker_model::{Digest, DigestError, TaskId};
use hawker_p2p::{Node, OpenError, OriginError};
use hawker_swarm::{Rate, Source, TaskFailure};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use tracing::info;
use url::{Url, form_urlencoded};

use super::credential::Credential;
use crate::{
    access::{Access, AccessError, Claim, PossessionError, ReadError, Recourse},
    body::{self, Body},
    limits, straight,
    url_task::Wish,
    verified::verified,
};

/// How long the network may take to find a file before it is fetched without it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The header that names the task a response is of; absent where the network was not used.
const TASK_HEADER: HeaderName = HeaderName::from_static("x-hawker-task");

/// What a query asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) wish: Wish,
    /// How fast it may come to this host.
    pub(super) rate: RateLimit,
}

/// Answers for the file that a query describes, to whoever shows `credential`. The origin is asked
/// first: whether it may be had, how long it is, which revision it is.
pub(super) async fn answer(
    node: &Node,
    access: &Access,
    query: &str,
    credential: Option<Credential>,
) -> Result<Response<Body>, FileError> {
    let Asked { wish, rate } = parse(query)?;
    let rate = limits::rate(rate);
    let claim = claim(access, &wish, credential);
    let right = match wish.digest {
        Some(_) => access.establish(&claim).await?,
        None => access.establish_anew(&claim).await?,
    };
    let source = access.source(&claim, &right);
    let Some(length) = right.length else {
        info!(
            host = wish.url.host_str(),
            "the origin tells no length: the network is not used"
        );
        return without_network(node, &wish, &source, rate).await;
    };
    if wish.digest.is_none() && right.revision.is_none() {
        // Nothing tells one version, or one asker's version, from another.
        info!(
            host = wish.url.host_str(),
            "the origin tells neither ETag nor date: the network is not used"
        );
        return without_network(node, &wish, &source, rate).await;
    }
    let task = wish.task(right.revision.as_deref().unwrap_or_default());
    // Before the blob is opened, so that it never comes faster.
    let held = rate.map(|rate| node.hold_to(task, rate));
    let blob = node.open(task, Some(source.clone())).await?;
    match tokio::time::timeout(PATIENCE, blob.geometry()).await {
        Ok(Err(TaskFailure::NoSource | TaskFailure::Store(_))) | Err(_) => {
            info!(%task, "the network cannot give the file: it is not used");
            return without_network(node, &wish, &source, rate).await;
        }
        Ok(Err(failure)) => return Err(failure.into()),
        Ok(Ok(geometry)) if geometry.length() != length => {
            info!(%task, "the network has another length: it is not used");
            return without_network(node, &wish, &source, rate).await;
        }
        Ok(Ok(_)) => {}
    }
    let mut bytes = access
        .read(
            claim.for_task(task),
            right,
            &blob,
            0..length,
            Recourse::Registry,
        )
        .boxed();
    // What is not handed out has a status of its own.
    let first = match bytes.next().await {
        Some(Err(ReadError::Possession(PossessionError::Unproven { reason, .. }))) => {
            info!(%task, %reason, "the origin is not shown to hold the file: the network is not used");
            return without_network(node, &wish, &source, rate).await;
        }
        Some(Err(error)) => return Err(error.into()),
        first => first,
    };
    let bytes = stream::iter(first).chain(bytes).inspect(move |_| {
        // Until the answer has ended.
        let _ = &held;
    });
    Ok(described(Some(length), Some(task), body::stream(bytes)))
}

fn claim(access: &Access, wish: &Wish, credential: Option<Credential>) -> Claim {
    let claim = |shown| Claim::file(access.origin(), &wish.url, wish.digest, shown);
    match credential {
        None => claim(None),
        Some(Credential::Header(secret)) => claim(Some(&secret)),
        Some(Credential::Account(account)) => claim(None).by(account),
    }
}

async fn without_network(
    node: &Node,
    wish: &Wish,
    source: &Source,
    rate: Option<Rate>,
) -> Result<Response<Body>, FileError> {
    let (length, bytes) = straight::fetch(node.origin(), source).await?;
    let bytes = straight::paced(bytes, rate);
    let body = match wish.digest {
        Some(digest) => verified(body::stream(bytes), digest),
        None => body::stream(bytes),
    };
    Ok(described(length, None, body))
}

fn described(length: Option<u64>, task: Option<TaskId>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let bytes = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, bytes);
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    // An id is hex digits: always a header value.
    if let Some(Ok(task)) = task.map(|task| HeaderValue::try_from(task.to_string())) {
        headers.insert(TASK_HEADER, task);
    }
    response
}

pub(super) fn parse(query: &str) -> Result<Asked, FileError> {
    let (mut url, mut digest) = (None, None);
    let mut rate = RateLimit::Unlimited;
    let (mut tag, mut application) = (String::new(), String::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "url" => url = Some(Url::parse(&value)?),
            "digest" => digest = Some(Digest::parse(&value)?),
            "tag" => tag = value.into_owned(),
            "application" => application = value.into_owned(),
            "rate" => rate = value.parse()?,
            other => return Err(FileError::Parameter(other.to_owned())),
        }
    }
    let url = url.ok_or(FileError::NoUrl)?;
    match url.scheme() {
        "http" | "https" => {
            let wish = Wish {
                url,
                digest,
                tag,
                application,
            };
            Ok(Asked { wish, rate })
        }
        other => Err(FileError::Scheme(other.to_owned())),
    }
}

/// Why a file cannot be given.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("the parameter url is missing")]
    NoUrl,
    #[error("the URL is wrong: {0}")]
    Url(#[from] url::ParseError),
    #[error("the scheme {0:?} is neither http nor https")]
    Scheme(String),
    #[error("the parameter {0:?} is unknown")]
    Parameter(String),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(transparent)]
    Rate(#[from] RateLimitError),
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Task(#[from] TaskFailure),
}

impl FileError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoUrl
            | Self::Url(_)
            | Self::Scheme(_)
            | Self::Parameter(_)
            | Self::Digest(_)
            | Self::Rate(_) => StatusCode::BAD_REQUEST,
            Self::Origin(error) => error.status(),
            Self::Access(error) => status_of(error),
            Self::Open(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Read(ReadError::Possession(error)) => match error {
                PossessionError::Refuted { .. } => StatusCode::FORBIDDEN,
                PossessionError::Unproven { .. } | PossessionError::FalseList { .. } => {
                    StatusCode::BAD_GATEWAY
                }
                PossessionError::Refused(error) => status_of(error),
            },
            Self::Task(failure) | Self::Read(ReadError::Network(failure)) => match failure {
                TaskFailure::Denied(_) => StatusCode::FORBIDDEN,
                TaskFailure::NotFound(_) => StatusCode::NOT_FOUND,
                _ => StatusCode::BAD_GATEWAY,
            },
        }
    }
}

fn status_of(error: &AccessError) -> StatusCode {
    match error {
        AccessError::Slow => StatusCode::GATEWAY_TIMEOUT,
        AccessError::Refused { status, .. } => {
            StatusCode::from_u16(*status).unwrap_or(StatusCode::FORBIDDEN)
        }
        AccessError::Origin(error) => error.status(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn query_is_read_whole_or_refused() {
        let digest = Digest::of(b"x");
        let Asked { wish, rate } = parse(&format!(
            "url=http%3A%2F%2Fh%2Ff%3Fa%3Db&digest={digest}&tag=t&rate=1MiB%2Fs"
        ))
        .unwrap();
        assert_eq!(rate, RateLimit::from_bytes(1 << 20));
        assert_eq!(wish.url.as_str(), "http://h/f?a=b");
        assert_eq!((wish.digest, wish.tag.as_str()), (Some(digest), "t"));
        for bad in [
            "",
            "url=f",
            "url=file:///etc/passwd",
            "url=http://h/&x=1",
            "url=http://h/&digest=md5:1",
            "url=http://h/&rate=fast",
        ] {
            assert_eq!(parse(bad).unwrap_err().status(), 400, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_survived(query in "\\PC{0,80}") {
            let _ = parse(&query);
        }
    }
}
