//! containerd's own API, as far as it is asked.

use std::path::Path;

use containerd_client::services::v1::{
    ApplyRequest, ApplyResponse, Info as ContentInfo, ListContentRequest, ListImagesRequest,
    ReadContentRequest,
    content_client::ContentClient,
    diff_client::DiffClient,
    images_client::ImagesClient,
    snapshots::{Info, UpdateSnapshotRequest, snapshots_client::SnapshotsClient},
    version_client::VersionClient,
};
use hawker_model::Digest;
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

/// Blobs of a namespace that are listed at most.
const MOST_INFOS: usize = 100_000;

/// A connection to containerd, made when it is needed and again after it broke. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ContainerdClient {
    pub(super) channel: Channel,
}

impl ContainerdClient {
    /// Asks the containerd that listens on `address`. Must be called within a runtime.
    pub(crate) fn new(address: &Path) -> Self {
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

impl ContainerdClient {
    /// Has containerd's diff service apply a layer.
    pub(super) async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<ApplyResponse, Status> {
        let mut client = DiffClient::new(self.channel.clone());
        Ok(client.apply(request).await?.into_inner())
    }

    /// What of a namespace's content one of the filters matches.
    pub(super) async fn list_content(
        &self,
        namespace: &str,
        filters: &[String],
    ) -> Result<Vec<ContentInfo>, Status> {
        let request = ListContentRequest {
            filters: filters.to_vec(),
        };
        let mut pages = self.content().list(within(namespace, request)?).await?;
        let mut found = Vec::new();
        while let Some(page) = pages.get_mut().message().await? {
            found.extend(page.info);
            if found.len() > MOST_INFOS {
                return Err(Status::resource_exhausted("it has too many blobs"));
            }
        }
        Ok(found)
    }

    /// The whole of a blob of at most `most` bytes.
    pub(super) async fn read_content(
        &self,
        namespace: &str,
        digest: &Digest,
        most: u64,
    ) -> Result<Vec<u8>, Status> {
        let request = ReadContentRequest {
            digest: digest.to_string(),
            offset: 0,
            size: 0,
        };
        let mut parts = self.content().read(within(namespace, request)?).await?;
        let mut bytes = Vec::new();
        while let Some(part) = parts.get_mut().message().await? {
            bytes.extend_from_slice(&part.data);
            if bytes.len() as u64 > most {
                return Err(Status::resource_exhausted("it is too long"));
            }
        }
        Ok(bytes)
    }

    /// What a namespace's images are called.
    pub(super) async fn list_images(&self, namespace: &str) -> Result<Vec<String>, Status> {
        let request = ListImagesRequest {
            filters: Vec::new(),
        };
        let mut client = ImagesClient::new(self.channel.clone())
            .max_decoding_message_size(super::MAX_MESSAGE_LEN);
        let images = client.list(within(namespace, request)?).await?;
        let images = images.into_inner().images.into_iter();
        Ok(images.map(|image| image.name).collect())
    }

    /// containerd's content service.
    pub(super) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(super::MAX_MESSAGE_LEN)
    }
}

/// A question about one of containerd's namespaces.
pub(super) fn within<T>(namespace: &str, message: T) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    let namespace = namespace.parse();
    let namespace = namespace.map_err(|_| Status::invalid_argument("no name of a namespace"))?;
    request
        .metadata_mut()
        .insert("containerd-namespace", namespace);
    Ok(request)
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
