//! Requests to `hawkerd` over its control socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use hawker_swarm::Secret;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// One connection to `hawkerd`, for one request.
pub(crate) struct Client {
    stream: UnixStream,
}

/// Why `hawkerd` does not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("hawkerd is not reachable at {path} ({source}){}", remedy(source))]
    Connect { path: PathBuf, source: io::Error },
    #[error("the conversation with hawkerd broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("hawkerd says: {message}")]
    Refused {
        status: http::StatusCode,
        message: String,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ": is it running? (systemctl status hawkerd; --socket names another)"
        }
        io::ErrorKind::PermissionDenied => ": only root and the daemon's group may use it",
        _ => "",
    }
}

impl Client {
    pub(crate) async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(|source| ClientError::Connect {
            path: socket.to_owned(),
            source,
        })?;
        Ok(Self { stream })
    }

    /// Asks for a path with its query; answers other than success are errors.
    pub(crate) async fn ask(self, target: &str) -> Result<Response<Incoming>, ClientError> {
        self.send(Method::GET, target, None).await
    }

    /// Sends JSON; answers other than success are errors.
    pub(crate) async fn post(
        self,
        target: &str,
        json: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(target)
            .header(header::HOST, "hawkerd")
            .header(header::CONTENT_TYPE, "application/json");
        self.exchange(request.body(Full::new(json))?).await
    }

    /// Sends a request, with a credential for the origin if there is one; answers other than
    /// success are errors.
    pub(crate) async fn send(
        self,
        method: Method,
        target: &str,
        authorization: Option<&Secret>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "hawkerd");
        if let Some(authorization) = authorization {
            let mut value =
                HeaderValue::from_str(authorization.expose()).map_err(http::Error::from)?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        self.exchange(request.body(Full::new(Bytes::new()))?).await
    }

    async fn exchange(
        self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.stream)).await?;
        // Ends with the response's body, or with this command.
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let message = serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|value| Some(value.get("error")?.as_str()?.to_owned()))
            .unwrap_or_else(|| format!("status {status}"));
        Err(ClientError::Refused { status, message })
    }
}
