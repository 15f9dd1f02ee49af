//! What `hawker` asks of `hawkerd`, over a unix socket.
//!
//! `GET /v1/status` tells how the node stands. `GET /v1/blob?url=&digest=&tag=&application=` gives
//! a file through the piece network. Errors are `{"error": "…"}`.

mod file;
mod report;

use std::{net::SocketAddr, path::PathBuf};

use hawker_p2p::Node;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::json;
use tracing::debug;

pub(crate) use self::report::{LayerReport, LayerState, StatusReport};
use crate::{
    body::{self, Body},
    containerd::Containerd,
};

/// Answers on the control socket.
#[derive(Debug)]
pub(crate) struct Control {
    node: Node,
    mirror: Vec<SocketAddr>,
    containerd: Option<(PathBuf, Containerd)>,
}

impl Control {
    /// Answers for `node`, whose mirror listens on `mirror`, and whose snapshotter containerd
    /// finds where `containerd` says.
    pub(crate) fn new(
        node: Node,
        mirror: Vec<SocketAddr>,
        containerd: Option<(PathBuf, Containerd)>,
    ) -> Self {
        Self {
            node,
            mirror,
            containerd,
        }
    }

    /// Answers one request.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<Body> {
        let (method, uri) = (request.method(), request.uri());
        let response = match (method, uri.path()) {
            (&Method::GET, "/v1/status") => self.status().await,
            (&Method::GET, "/v1/blob") => {
                let answered = file::answer(&self.node, uri.query().unwrap_or_default()).await;
                answered.unwrap_or_else(|failure| error(failure.status(), &failure))
            }
            (&Method::GET, _) => error(StatusCode::NOT_FOUND, &"there are /v1/status and /v1/blob"),
            _ => error(StatusCode::METHOD_NOT_ALLOWED, &"only GET is answered here"),
        };
        debug!(%method, path = uri.path(), status = response.status().as_u16(), "answered");
        response
    }

    async fn status(&self) -> Response<Body> {
        let status = match self.node.status().await {
            Ok(status) => status,
            Err(failure) => return error(StatusCode::SERVICE_UNAVAILABLE, &failure),
        };
        let mut report = StatusReport::new(status, self.mirror.clone());
        if let Some((path, containerd)) = &self.containerd {
            report.snapshotter = Some(path.clone());
            report.layers = containerd.layers();
        }
        match serde_json::to_string(&report) {
            Ok(text) => json_response(StatusCode::OK, text),
            Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &failure),
        }
    }
}

fn error(status: StatusCode, message: &dyn std::fmt::Display) -> Response<Body> {
    json_response(status, json!({"error": message.to_string()}).to_string())
}

fn json_response(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
