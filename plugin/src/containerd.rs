//! What containerd talks to: the remote snapshotter `hawker` on a unix socket of its own.
//!
//! containerd calls the snapshots service ([`service`]) through a `[proxy_plugins]` entry. All calls
//! but one are what its overlayfs snapshotter does, over [`hawker_snapshotter::Snapshots`]. The one
//! is `Prepare` of an image's layer ([`prepare`]): from its labels ([`labels`]) or the index of
//! images follows which blob it is ([`supply`]); that and all layers above it are unpacked at once
//! ([`stager`]), and when it is there, containerd is told so instead of being given an empty
//! directory. While it is waited for, containerd's garbage collection is watched ([`gc_probe`]).
//!
//! Where containerd's settings name it, the diff service ([`diff`]) fills the directories of other
//! snapshotters as well.

mod apart;
pub(crate) mod api;
mod catalogue;
mod client;
mod content;
mod diff;
#[cfg(test)]
mod doubles;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gc_probe;
mod labels;
mod message;
mod metrics;
mod prepare;
mod registrar;
mod service;
mod stager;
mod supply;

use std::{
    io, os::unix::net::UnixListener as StdUnixListener, path::PathBuf, sync::Arc, time::Duration,
};

use futures::{Stream, stream};
use hawker_snapshotter::Snapshots;
use tokio::{
    net::{UnixListener, UnixStream},
    runtime::Handle,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tower::layer::layer_fn;
use tracing::{error, warn};

use self::{
    apart::Apart,
    api::{ContentServer, DiffServer, SnapshotsServer},
    content::ContentService,
    diff::DiffService,
    gc_probe::GcProbe,
    prepare::Preparer,
    service::SnapshotService,
    stager::Stager,
};
pub(crate) use self::{
    catalogue::Catalogue,
    client::ContainerdClient,
    content::ContentMetrics,
    diff::DiffMetrics,
    metrics::SnapshotMetrics,
    registrar::Registrar,
    stager::StagerSettings,
    supply::{LayerSupply, NodeSupply, OpenLayer},
};

use crate::{content::ContentStore, control::LayerReport};

/// Who may use the socket: root alone. It mounts and removes what containers run on.
pub(crate) const SOCKET_MODE: u32 = 0o600;

/// What containerd's own server and clients take and send.
const MAX_MESSAGE_LEN: usize = 16 << 20;

/// Wait after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How containerd is served.
#[derive(Clone, Debug)]
pub(crate) struct ContainerdSettings {
    /// Where containerd itself answers.
    pub(crate) address: PathBuf,
    /// How long one `Prepare` may wait for its layer; zero leaves all layers to containerd.
    pub(crate) patience: Duration,
    /// How layers are unpacked.
    pub(crate) stager: StagerSettings,
    /// How long calls may go on after the stop.
    pub(crate) grace: Duration,
}

/// containerd's side of one node.
#[derive(Clone, Debug)]
pub(crate) struct Containerd {
    service: SnapshotService,
    diff: DiffService,
    content: Option<ContentService>,
    stager: Stager,
    grace: Duration,
    stop: CancellationToken,
}

impl Containerd {
    /// Over `snapshots`, with layers from `supply`, until `stop`. Must be called within a runtime.
    pub(crate) fn new(
        snapshots: Snapshots,
        supply: Arc<dyn LayerSupply>,
        settings: ContainerdSettings,
        (metrics, diff_metrics): (SnapshotMetrics, DiffMetrics),
        registrar: Option<Registrar>,
        stop: CancellationToken,
    ) -> Self {
        let stager = Stager::new(
            snapshots.clone(),
            Arc::clone(&supply),
            settings.stager,
            metrics.clone(),
            stop.clone(),
        );
        let client = ContainerdClient::new(&settings.address);
        let diff = DiffService::new(
            snapshots.clone(),
            Arc::clone(&supply),
            stager.clone(),
            client.clone(),
            diff_metrics,
        );
        let preparer = Preparer {
            snapshots: snapshots.clone(),
            supply,
            stager: stager.clone(),
            probe: GcProbe::new(client),
            patience: settings.patience,
            metrics: metrics.clone(),
            registrar,
            stop: stop.clone(),
        };
        Self {
            service: SnapshotService::new(snapshots, preparer, metrics),
            diff,
            content: None,
            stager,
            grace: settings.grace,
            stop,
        }
    }

    /// The same with containerd's content as well.
    pub(crate) fn with_content(self, store: ContentStore, metrics: ContentMetrics) -> Self {
        Self {
            content: Some(ContentService::new(store, metrics)),
            ..self
        }
    }

    /// The layers on their way into snapshots, for people.
    pub(crate) fn layers(&self) -> Vec<LayerReport> {
        self.stager.report()
    }

    /// Answers on `listener` until the stop; then takes no more calls, lets running ones end within
    /// the grace period, and cuts what is left.
    pub(crate) async fn serve(self, listener: UnixListener) {
        let (stager, main) = (self.stager.clone(), Handle::current());
        let served = match listener.into_std() {
            Ok(listener) => apart::run(move || self.answer(listener, main)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            error!(%error, "the services for containerd have ended");
        }
        stager.ended().await;
    }

    /// Answers in the thread where it is polled what can be answered from memory, and has everything
    /// else done on the runtime `main`.
    async fn answer(self, listener: StdUnixListener, main: Handle) -> io::Result<()> {
        let (stop, grace) = (self.stop, self.grace);
        let snapshots = SnapshotsServer::new(self.service)
            .max_decoding_message_size(MAX_MESSAGE_LEN)
            .max_encoding_message_size(MAX_MESSAGE_LEN);
        let diff = DiffServer::new(self.diff).max_decoding_message_size(MAX_MESSAGE_LEN);
        let content = self.content.map(|content| {
            ContentServer::new(content)
                .max_decoding_message_size(MAX_MESSAGE_LEN)
                .max_encoding_message_size(MAX_MESSAGE_LEN)
        });
        let serving = Server::builder()
            .layer(layer_fn(|inner| Apart::new(inner, main.clone())))
            .add_service(snapshots)
            .add_service(diff)
            .add_optional_service(content)
            .serve_with_incoming_shutdown(incoming(listener)?, stop.clone().cancelled_owned());
        let cut = async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            served = serving => served.map_err(io::Error::other),
            () = cut => {
                warn!(?grace, "cut calls of containerd that did not end");
                Ok(())
            }
        }
    }
}

/// The connections of a listener, from within the runtime that is to look after them.
fn incoming(listener: StdUnixListener) -> io::Result<impl Stream<Item = io::Result<UnixStream>>> {
    let listener = UnixListener::from_std(listener)?;
    Ok(stream::unfold(listener, |listener| async {
        let connection = accept(&listener).await;
        Some((Ok(connection), listener))
    }))
}

async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection of containerd");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
