//! A URL's file through the piece network.

use std::time::Duration;

use hawker_model::{Digest, DigestError, TaskId};
use hawker_p2p::{Node, OpenError, OriginError};
use hawker_swarm::{Source, TaskFailure};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use tracing::info;
use url::{Url, form_urlencoded};

use crate::{
    body::{self, Body},
    straight,
    url_task::Wish,
    verified::verified,
};

/// How long the network may take to find a file before it is fetched without it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The header that names the task a response is of; absent where the network was not used.
const TASK_HEADER: HeaderName = HeaderName::from_static("x-hawker-task");

/// Answers for the file that a query describes. The origin is asked first: whether it may be had,
/// how long it is, which revision it is.
pub(super) async fn answer(node: &Node, query: &str) -> Result<Response<Body>, FileError> {
    let wish = parse(query)?;
    let source = Source {
        url: wish.url.to_string(),
        authorization: None,
    };
    let head = node.origin().head(&source).await?;
    let Some(length) = head.length else {
        info!(
            host = wish.url.host_str(),
            "the origin tells no length: the network is not used"
        );
        return without_network(node, &wish, &source).await;
    };
    let revision = head.etag.or(head.last_modified).unwrap_or_default();
    let task = wish.task(&revision);
    let blob = node.open(task, Some(source.clone())).await?;
    match tokio::time::timeout(PATIENCE, blob.geometry()).await {
        Ok(Err(TaskFailure::NoSource | TaskFailure::Store(_))) | Err(_) => {
            info!(%task, "the network cannot give the file: it is not used");
            without_network(node, &wish, &source).await
        }
        Ok(Err(failure)) => Err(failure.into()),
        Ok(Ok(geometry)) if geometry.length() != length => {
            info!(%task, "the network has another length: it is not used");
            without_network(node, &wish, &source).await
        }
        Ok(Ok(_)) => Ok(described(
            Some(length),
            Some(task),
            body::stream(blob.read(0..length)),
        )),
    }
}

async fn without_network(
    node: &Node,
    wish: &Wish,
    source: &Source,
) -> Result<Response<Body>, FileError> {
    let (length, bytes) = straight::fetch(node.origin(), source).await?;
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

fn parse(query: &str) -> Result<Wish, FileError> {
    let (mut url, mut digest) = (None, None);
    let (mut tag, mut application) = (String::new(), String::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "url" => url = Some(Url::parse(&value)?),
            "digest" => digest = Some(Digest::parse(&value)?),
            "tag" => tag = value.into_owned(),
            "application" => application = value.into_owned(),
            other => return Err(FileError::Parameter(other.to_owned())),
        }
    }
    let url = url.ok_or(FileError::NoUrl)?;
    match url.scheme() {
        "http" | "https" => Ok(Wish {
            url,
            digest,
            tag,
            application,
        }),
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
    Origin(#[from] OriginError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Task(#[from] TaskFailure),
}

impl FileError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoUrl | Self::Url(_) | Self::Scheme(_) | Self::Parameter(_) | Self::Digest(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Origin(error) => error.status(),
            Self::Open(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Task(TaskFailure::Denied(_)) => StatusCode::FORBIDDEN,
            Self::Task(TaskFailure::NotFound(_)) => StatusCode::NOT_FOUND,
            Self::Task(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn query_is_read_whole_or_refused() {
        let digest = Digest::of(b"x");
        let wish = parse(&format!(
            "url=http%3A%2F%2Fh%2Ff%3Fa%3Db&digest={digest}&tag=t"
        ))
        .unwrap();
        assert_eq!(wish.url.as_str(), "http://h/f?a=b");
        assert_eq!((wish.digest, wish.tag.as_str()), (Some(digest), "t"));
        for bad in [
            "",
            "url=f",
            "url=file:///etc/passwd",
            "url=http://h/&x=1",
            "url=http://h/&digest=md5:1",
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
