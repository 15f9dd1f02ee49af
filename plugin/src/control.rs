//! What `hawker` asks of `hawkerd`, over a unix socket.
//!
//! `GET /v1/status` tells how the node stands. `GET /v1/blob?url=&digest=&tag=&application=&rate=`
//! gives a file through the piece network, to whoever the request's `Authorization` stands for.
//! `GET /v1/rights` tells what is remembered of clients' rights; `DELETE
//! /v1/rights?registry=&repository=` forgets it. `GET /v1/limits` tells the limits of the network,
//! `PUT /v1/limits?upload=&…` changes those that are named. `POST /v1/content/…` moves containerd's content
//! ([`content`]). Errors are `{"error": "…"}`.

mod content;
mod credential;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod report;

use std::{net::SocketAddr, path::PathBuf};

use hawker_p2p::Node;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde::Serialize;
use serde_json::json as object;
use tracing::{debug, info};
use url::form_urlencoded;

pub(crate) use self::report::{
    ContentReport, Forgotten, LayerReport, LayerState, RightsReport, StatusReport,
};
use self::{content::Way, credential::Credential};
use crate::{
    access::Access,
    body::{self, Body, BodyError},
    containerd::Containerd,
    content::{ContentState, ContentStore},
    limits::LimitDesk,
};

/// Answers on the control socket.
#[derive(Debug)]
pub(crate) struct Control {
    node: Node,
    access: Access,
    content: ContentStore,
    limits: LimitDesk,
    mirror: Vec<SocketAddr>,
    containerd: Option<(PathBuf, Containerd)>,
}

impl Control {
    /// Answers for `node` by the rules of `access`. Its mirror listens on `mirror`, and containerd finds
    /// its snapshotter where `containerd` says.
    pub(crate) fn new(
        node: Node,
        access: Access,
        content: ContentStore,
        limits: LimitDesk,
        mirror: Vec<SocketAddr>,
        containerd: Option<(PathBuf, Containerd)>,
    ) -> Self {
        Self {
            node,
            access,
            content,
            limits,
            mirror,
            containerd,
        }
    }

    /// Answers one request.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<BodyError>,
    {
        let (head, body) = request.into_parts();
        let (method, uri) = (&head.method, &head.uri);
        let response = match (method, uri.path()) {
            (&Method::GET, "/v1/status") => self.status().await,
            (&Method::GET, "/v1/blob") => {
                let credential = Credential::of(&head.headers);
                let query = uri.query().unwrap_or_default();
                let answered = file::answer(&self.node, &self.access, query, credential).await;
                answered.unwrap_or_else(|failure| error(failure.status(), &failure))
            }
            (&Method::GET, "/v1/rights") => json(&RightsReport {
                rights: self.access.report(),
            }),
            (&Method::DELETE, "/v1/rights") => self.forget(uri.query().unwrap_or_default()),
            (&Method::GET, "/v1/limits") => json(&self.limits.now()),
            (&Method::PUT, "/v1/limits") => self.limit(uri.query().unwrap_or_default()),
            (&Method::POST, "/v1/content/import") => {
                content::move_all(&self.content, Way::Import, body).await
            }
            (&Method::POST, "/v1/content/export") => {
                content::move_all(&self.content, Way::Export, body).await
            }
            (&Method::POST, "/v1/content/try") => content::try_export(&self.content, body).await,
            (&Method::POST, "/v1/content/release") => content::release(&self.content).await,
            (&Method::GET, _) => error(
                StatusCode::NOT_FOUND,
                &"there are /v1/status, /v1/blob, /v1/rights and /v1/limits",
            ),
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
        report.rights = self.access.len();
        report.limits = self.limits.now();
        report.content = self.content.is_used().then(|| {
            let [committed, promised] = ContentState::ALL.map(|state| self.content.total(state));
            ContentReport {
                committed,
                promised,
                uploads: self.content.statuses().len(),
            }
        });
        json(&report)
    }

    /// Limits are changed by command.
    fn limit(&self, query: &str) -> Response<Body> {
        let changes: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let changes = changes.iter().map(|(name, rate)| (&**name, &**rate));
        match self.limits.change(changes) {
            Ok(limits) => json(&limits),
            Err(failure) => error(StatusCode::BAD_REQUEST, &failure),
        }
    }

    /// Clients are asked for their rights anew.
    fn forget(&self, query: &str) -> Response<Body> {
        let (mut registry, mut repository) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "registry" => registry = Some(value.into_owned()),
                "repository" => repository = Some(value.into_owned()),
                other => {
                    let text = format!("the parameter {other:?} is unknown");
                    return error(StatusCode::BAD_REQUEST, &text);
                }
            }
        }
        let forgotten = self
            .access
            .forget(registry.as_deref(), repository.as_deref());
        info!(
            ?registry,
            ?repository,
            forgotten,
            "rights were forgotten by command"
        );
        json(&Forgotten { forgotten })
    }
}

fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(text) => json_response(StatusCode::OK, text),
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &failure),
    }
}

fn error(status: StatusCode, message: &dyn std::fmt::Display) -> Response<Body> {
    json_response(status, object!({"error": message.to_string()}).to_string())
}

fn json_response(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
