//! Whether what containerd has of images can be read, and new content be written.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use containerd_client::services::v1::{
    DeleteContentRequest, ListContentRequest, ListImagesRequest, ListNamespacesRequest,
    ReadContentRequest, WriteAction, WriteContentRequest, content_client::ContentClient,
    images_client::ImagesClient, namespaces_client::NamespacesClient,
};
use futures::stream;
use hawker_model::Digest;
use tonic::transport::Channel;

use super::{NAMESPACE, request, request_in};
use crate::setup::machine::{Containerd, within};

/// So many images of each namespace are looked at.
const MOST_IMAGES: usize = 4;
/// More than any manifest has.
const MOST_BYTES: usize = 16 << 20;
/// Keeps the trial from containerd's garbage collection.
const ROOT_LABEL: &str = "containerd.io/gc.root";

/// What containerd's content does not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    #[error("it cannot be listed: {0}")]
    List(String),
    #[error(
        "{digest} of the namespace {namespace} could be read before, and cannot be read now: {why}"
    )]
    Lost {
        namespace: String,
        digest: String,
        why: String,
    },
    #[error("a trial cannot be {action}: {why}; is hawkerd running? (systemctl status hawkerd)")]
    Trial { action: &'static str, why: String },
}

/// Manifests that containerd could give at some time, as namespace and digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample(Vec<(String, String)>);

impl Sample {
    /// Some manifests of every namespace, as far as they can be read now.
    pub(crate) async fn take(containerd: &Containerd) -> Result<Self, ContentError> {
        let mut sample = Vec::new();
        for namespace in namespaces(containerd).await? {
            for digest in images(containerd, &namespace).await? {
                if read(containerd, &namespace, &digest).await.is_ok() {
                    sample.push((namespace.clone(), digest));
                }
            }
        }
        Ok(Self(sample))
    }

    /// Reads all of them again. Says how many there are.
    pub(crate) async fn read(&self, containerd: &Containerd) -> Result<usize, ContentError> {
        for (namespace, digest) in &self.0 {
            let found = read(containerd, namespace, digest).await;
            found.map_err(|why| ContentError::Lost {
                namespace: namespace.clone(),
                digest: digest.clone(),
                why,
            })?;
        }
        Ok(self.0.len())
    }
}

fn list_error(status: tonic::Status) -> ContentError {
    ContentError::List(status.message().to_owned())
}

async fn namespaces(containerd: &Containerd) -> Result<Vec<String>, ContentError> {
    let mut client = NamespacesClient::new(containerd.channel());
    let answer = within(client.list(ListNamespacesRequest::default())).await;
    let namespaces = answer.map_err(list_error)?.namespaces;
    Ok(namespaces.into_iter().map(|found| found.name).collect())
}

/// What some images of a namespace point at.
async fn images(containerd: &Containerd, namespace: &str) -> Result<Vec<String>, ContentError> {
    let mut client = ImagesClient::new(containerd.channel());
    let wanted = request_in(namespace, ListImagesRequest::default());
    let images = within(client.list(wanted)).await.map_err(list_error)?;
    let targets = images.images.into_iter().filter_map(|image| image.target);
    let digests: BTreeSet<String> = targets.map(|target| target.digest).collect();
    Ok(digests.into_iter().take(MOST_IMAGES).collect())
}

/// Reads a blob whole, and checks it.
async fn read(containerd: &Containerd, namespace: &str, digest: &str) -> Result<(), String> {
    let wanted = ReadContentRequest {
        digest: digest.to_owned(),
        ..Default::default()
    };
    let mut client = ContentClient::new(containerd.channel());
    let bytes = async {
        let answer = client.read(request_in(namespace, wanted)).await?;
        let (mut parts, mut bytes) = (answer.into_inner(), Vec::new());
        while let Some(part) = parts.message().await? {
            if bytes.len() + part.data.len() > MOST_BYTES {
                return Err(tonic::Status::out_of_range("it has no end"));
            }
            bytes.extend_from_slice(&part.data);
        }
        Ok(tonic::Response::new(bytes))
    };
    let bytes = within(bytes).await;
    let bytes = bytes.map_err(|status| status.message().to_owned())?;
    match Digest::of(&bytes).to_string() == digest {
        true => Ok(()),
        false => Err(format!("other bytes came ({} of them)", bytes.len())),
    }
}

/// Writes a little content through containerd, reads it, and deletes it again.
pub(crate) async fn trial(containerd: &Containerd) -> Result<(), ContentError> {
    let failed = |action| {
        move |status: tonic::Status| ContentError::Trial {
            action,
            why: status.message().to_owned(),
        }
    };
    let now = time::OffsetDateTime::now_utc();
    let text = format!("hawker setup, {} at {now}\n", std::process::id());
    let digest = Digest::of(text.as_bytes()).to_string();
    let mut client = ContentClient::new(containerd.channel());
    write(&mut client, &digest, text)
        .await
        .map_err(failed("written"))?;
    let found = read(containerd, NAMESPACE, &digest).await;
    let delete = DeleteContentRequest {
        digest: digest.clone(),
    };
    let deleted = within(client.delete(request(delete))).await;
    found.map_err(|why| ContentError::Trial {
        action: "read",
        why,
    })?;
    deleted.map(drop).map_err(failed("deleted"))
}

async fn write(
    client: &mut ContentClient<Channel>,
    digest: &str,
    text: String,
) -> Result<(), tonic::Status> {
    let commit = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: format!("hawker-trial-{digest}"),
        total: text.len() as i64,
        expected: digest.to_owned(),
        offset: 0,
        data: text.into_bytes(),
        labels: HashMap::from([(ROOT_LABEL.to_owned(), "hawker".to_owned())]),
    };
    let written = async {
        let answer = client.write(request(stream::iter([commit]))).await?;
        let mut answers = answer.into_inner();
        while answers.message().await?.is_some() {}
        Ok(tonic::Response::new(()))
    };
    within(written).await
}

/// Every blob that containerd has in some namespace, with its length.
pub(crate) async fn all(containerd: &Containerd) -> Result<BTreeMap<String, u64>, ContentError> {
    let mut all = BTreeMap::new();
    for namespace in namespaces(containerd).await? {
        all.extend(listed(containerd.channel(), Some(&namespace)).await?);
    }
    Ok(all)
}

/// What a content store lists; a proxy's own store knows no namespaces.
pub(crate) async fn listed(
    channel: Channel,
    namespace: Option<&str>,
) -> Result<BTreeMap<String, u64>, ContentError> {
    let mut client = ContentClient::new(channel);
    let wanted = ListContentRequest::default();
    let wanted = match namespace {
        Some(namespace) => request_in(namespace, wanted),
        None => tonic::Request::new(wanted),
    };
    let listed = async {
        let (mut all, mut parts) = (BTreeMap::new(), client.list(wanted).await?.into_inner());
        while let Some(part) = parts.message().await? {
            let lengths = part.info.into_iter();
            all.extend(lengths.map(|blob| (blob.digest, blob.size.max(0) as u64)));
        }
        Ok(tonic::Response::new(all))
    };
    within(listed).await.map_err(list_error)
}
