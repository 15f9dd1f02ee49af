//! The registry endpoint on loopback that containerd and Docker pull from.
//!
//! A request is parsed whole ([`call`]), then answered by its kind. Manifests are had by the seed
//! that asks the origin for all hosts, where that may be ([`told`]); else they and everything small
//! go to the origin with the client's own request ([`manifest`], [`upstream`]). Blobs by SHA-256
//! digest come through the piece network once the client's right to them stands and its registry is
//! known to hold them ([`blob`], [`crate::access`]). Whatever the network cannot do is passed
//! through, and whatever the origin does not answer quickly is given up with a 5xx: the client then
//! goes on without us.
//!
//! Invariants: nothing is sent before the client's right stands, and nothing that its registry is not
//! shown to hold; nothing that is addressed by digest ends without its check; no credential is used
//! for another client's request or logged.

mod blob;
mod call;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod host;
mod manifest;
mod manifest_cache;
mod path;
mod range;
mod registry;
mod reply;
mod shown;
mod told;
mod upstream;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_config::{AllowedRegistry, ServedName};
use hawker_model::{Digest, RegistryHost, Target};
use hawker_p2p::Node;
use http::{Method, Request, Response, StatusCode};
use tracing::debug;

pub use self::registry::REGISTRY_HEADER;
use self::{
    call::Call, failure::Failure, manifest_cache::ManifestCache, path::Route, upstream::Upstream,
};
use crate::{
    body::{self, Body},
    layers::{ImageIndex, Layers},
    metrics::{MirrorMetrics, Served},
    noted::Noted,
    promiser::Promiser,
    verified::verified,
};

/// How long a manifest may take to its last byte: a registry that drips one must not hold it.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(60);

/// How the mirror behaves.
#[derive(Clone, Debug)]
pub struct MirrorSettings {
    /// The registry of requests that name none: Docker's.
    pub default_registry: RegistryHost,
    /// The registries that clients may ask for; none: any that is public or configured.
    pub registries: Vec<AllowedRegistry>,
    /// Names of hosts under which clients reach the mirror, besides localhost.
    pub names: Vec<ServedName>,
    /// How long the origin may take for the headers of its answer.
    pub origin_patience: Duration,
    /// How long the network may take to find out a blob's length, or for the next piece of one of which
    /// all has to be here first.
    pub network_patience: Duration,
    /// Whether a seed is believed what a tag names.
    pub tags_from_seeds: bool,
}

/// The mirror of one node.
#[derive(Debug)]
pub struct Mirror {
    node: Node,
    upstream: Upstream,
    layers: Layers,
    images: ImageIndex,
    promiser: Option<Promiser>,
    manifests: ManifestCache,
    /// Blobs whose bytes proved wrong a moment ago, each where it was asked for.
    doubted: Arc<Noted<(RegistryHost, Digest)>>,
    settings: MirrorSettings,
    metrics: MirrorMetrics,
}

impl Mirror {
    /// A mirror before `node`. What it learns of rights, credentials and images, `layers` and
    /// `images` learn too. `promiser` tells containerd what it need not fetch, where there is one.
    pub(crate) fn new(
        node: Node,
        layers: Layers,
        images: ImageIndex,
        promiser: Option<Promiser>,
        settings: MirrorSettings,
        metrics: MirrorMetrics,
    ) -> Self {
        let upstream = Upstream::new(node.origin().clone(), settings.origin_patience);
        Self {
            node,
            upstream,
            layers,
            images,
            promiser,
            manifests: ManifestCache::default(),
            doubted: Arc::default(),
            settings,
            metrics,
        }
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Body> {
        let started = Instant::now();
        let call = match Call::parse(&request, &self.settings) {
            Ok(call) => call,
            Err(refusal) => {
                let response = refusal.into_response();
                self.metrics.answered("refused", response.status());
                return response;
            }
        };
        // The request's own copy of the credential is not needed any more.
        drop(request);
        let answered = self.answer_call(&call).await;
        let response = answered.unwrap_or_else(Failure::into_response);
        self.metrics.answered(call.route.kind(), response.status());
        debug!(
            method = %call.method,
            registry = %call.registry,
            path = call.route.to_path(),
            range = call.range(),
            status = response.status().as_u16(),
            elapsed = ?started.elapsed(),
            "answered"
        );
        response
    }

    async fn answer_call(&self, call: &Call) -> Result<Response<Body>, Failure> {
        match &call.route {
            Route::Blob(repository, Target::Digest(digest)) => {
                self.blob(call, repository, *digest).await
            }
            Route::Manifest(repository, target) => {
                // Its blobs are asked for next.
                self.node.expect_tasks();
                let answering = self.manifest(call, repository, target);
                let answered = tokio::time::timeout(MANIFEST_PATIENCE, answering).await;
                answered.unwrap_or(Err(Failure::Slow))
            }
            Route::Base | Route::Blob(..) | Route::Tags(_) | Route::Referrers(..) => {
                self.pass(call).await
            }
        }
    }

    /// The origin's own answer. Whole blobs are checked on the way.
    async fn pass(&self, call: &Call) -> Result<Response<Body>, Failure> {
        let response = self.upstream.ask(call).await?;
        if let Route::Blob(repository, _) = &call.route {
            let access = self.layers.access();
            let visitor = access.visitor(&call.registry, repository, call.credential.as_ref())?;
            self.heed_refusal(&visitor, response.status());
        }
        let whole = call.method == Method::GET && response.status() == StatusCode::OK;
        let count = self.metrics.served(Served::Pass);
        Ok(response.map(|body| {
            let body = match &call.route {
                Route::Blob(_, Target::Digest(digest)) if whole => verified(body, *digest),
                _ => body,
            };
            body::counted(body, move |bytes| {
                count.inc_by(bytes);
            })
        }))
    }
}
