//! Questions to the mirror and to Docker, over plain HTTP.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use url::Url;

/// How long a connection, or an answer's head, may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a body may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// The most that an answer may hold that is kept in memory.
const MOST_BYTES: usize = 8 << 20;
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{0} is no address for this")]
    Address(String),
    #[error("{at} is not reachable: {why}")]
    Unreachable { at: String, why: String },
    #[error("{at} broke off: {why}")]
    Broken { at: String, why: String },
    #[error("{at} answered {status}")]
    Status { at: String, status: StatusCode },
}

/// A short answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// When the other side says that it is.
    pub(crate) date: Option<String>,
    pub(crate) body: Bytes,
}

/// Gets a short answer, whatever its status.
pub(crate) async fn get(url: &Url) -> Result<Answer, AskError> {
    answer(url.as_str(), start(url).await?).await
}

/// Gets a short answer over a unix socket.
pub(crate) async fn get_unix(socket: &Path, path: &str) -> Result<Answer, AskError> {
    let at = socket.display().to_string();
    let connection = in_time(&at, UnixStream::connect(socket)).await?;
    let response = ask(&at, connection, "localhost", path).await?;
    answer(&at, response).await
}

/// Gets a blob of any length and says its sha256 in hex.
pub(crate) async fn digest(url: &Url) -> Result<(String, u64), AskError> {
    let at = url.as_str();
    let mut response = start(url).await?;
    if !response.status().is_success() {
        return Err(AskError::Status {
            at: at.to_owned(),
            status: response.status(),
        });
    }
    let (mut hash, mut length) = (Sha256::new(), 0_u64);
    while let Some(data) = next(at, response.body_mut()).await? {
        hash.update(&data);
        length += data.len() as u64;
    }
    let hex = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok((hex, length))
}

async fn start(url: &Url) -> Result<Response<Incoming>, AskError> {
    let at = url.as_str();
    let (Some(host), Some(port), "http") =
        (url.host_str(), url.port_or_known_default(), url.scheme())
    else {
        return Err(AskError::Address(at.to_owned()));
    };
    let connecting = TcpStream::connect((host.trim_matches(['[', ']']), port));
    let connection = in_time(at, connecting).await?;
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    ask(at, connection, authority, path).await
}

async fn in_time<T>(
    at: &str,
    connecting: impl Future<Output = std::io::Result<T>>,
) -> Result<T, AskError> {
    let unreachable = |why: String| AskError::Unreachable {
        at: at.to_owned(),
        why,
    };
    match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(connected) => connected.map_err(|error| unreachable(error.to_string())),
        Err(_) => Err(unreachable("no answer within 30 s".to_owned())),
    }
}

async fn ask(
    at: &str,
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    path: &str,
) -> Result<Response<Incoming>, AskError> {
    let broken = |why: String| AskError::Broken {
        at: at.to_owned(),
        why,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(connection))
        .await
        .map_err(|error| broken(error.to_string()))?;
    // Ends with the response's body.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, ACCEPT)
        .header(
            header::USER_AGENT,
            concat!("hawker/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(error.to_string()))?;
    match tokio::time::timeout(PATIENCE, sender.send_request(request)).await {
        Ok(response) => response.map_err(|error| broken(error.to_string())),
        Err(_) => Err(broken("no answer within 30 s".to_owned())),
    }
}

async fn answer(at: &str, mut response: Response<Incoming>) -> Result<Answer, AskError> {
    let mut body = Vec::new();
    while let Some(data) = next(at, response.body_mut()).await? {
        if body.len() + data.len() > MOST_BYTES {
            return Err(AskError::Broken {
                at: at.to_owned(),
                why: "the answer is longer than 8 MiB".to_owned(),
            });
        }
        body.extend_from_slice(&data);
    }
    let date = response.headers().get(header::DATE);
    Ok(Answer {
        status: response.status(),
        date: date.and_then(|date| Some(date.to_str().ok()?.to_owned())),
        body: body.into(),
    })
}

async fn next(at: &str, body: &mut Incoming) -> Result<Option<Bytes>, AskError> {
    let broken = |why: String| AskError::Broken {
        at: at.to_owned(),
        why,
    };
    loop {
        match tokio::time::timeout(SILENCE, body.frame()).await {
            Err(_) => return Err(broken("silent for 60 s".to_owned())),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(broken(error.to_string())),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
