//! containerd's own API, as far as it is asked.

use std::path::Path;

use containerd_client::services::v1::{
    snapshots::{Info, UpdateSnapshotRequest, snapshots_client::SnapshotsClient},
    version_client::VersionClient,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

/// In which of containerd's namespaces the questions are asked. Nothing is ever made there.
const NAMESPACE: &str = "hawker";

/// A connection to containerd, made when it is needed and again after it broke. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ContainerdClient {
    channel: Channel,
}

impl ContainerdClient {
    /// Asks the containerd that listens on `address`. Must be called within a runtime.
    pub(super) fn new(address: &Path) -> Self {
        let address = address.to_owned();
        let connect = service_fn(move |_| {
            let address = address.clone();
            async move { UnixStream::connect(address).await.map(TokioIo::new) }
        });
        // Not looked up: the connector knows where to go.
        let endpoint = Endpoint::from_static("http://containerd");
        Self {
            channel: endpoint.connect_with_connector_lazy(connect),
        }
    }

    /// Takes the lock of `snapshotter` for reading, and lets it go: returns as soon as no garbage
    /// collection has it or waits for it.
    ///
    /// `Update` takes the lock before it looks at the name, and refuses the empty one before it
    /// opens a transaction (containerd 1.6 to 2.3): nothing changes, and no writer of the database
    /// is waited for, as it would be with `Remove`.
    pub(super) async fn pass_lock(&self, snapshotter: &str) -> Result<(), Unreachable> {
        let mut client = SnapshotsClient::new(self.channel.clone());
        let request = UpdateSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            info: Some(Info::default()),
            update_mask: None,
        };
        let mut request = Request::new(request);
        let namespace = MetadataValue::from_static(NAMESPACE);
        request
            .metadata_mut()
            .insert("containerd-namespace", namespace);
        match client.update(request).await {
            // Another containerd than the one that calls us.
            Err(status) if status.message().contains("not loaded") => {
                Err(Unreachable(status.message().to_owned()))
            }
            result => answered(result),
        }
    }

    /// A question that needs no lock.
    pub(super) async fn greet(&self) -> Result<(), Unreachable> {
        let mut client = VersionClient::new(self.channel.clone());
        answered(client.version(()).await)
    }
}

/// containerd did not answer at all.
#[derive(Debug, thiserror::Error)]
#[error("containerd cannot be asked: {0}")]
pub(super) struct Unreachable(String);

/// Whatever containerd says, a refusal too, is an answer.
fn answered<T>(result: Result<T, Status>) -> Result<(), Unreachable> {
    match result {
        // A status with a source was made on this side.
        Err(status) if std::error::Error::source(&status).is_some() => {
            Err(Unreachable(innermost(&status)))
        }
        _ => Ok(()),
    }
}

fn innermost(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
