//! How content is registered with containerd without a byte of it being sent.

use std::collections::HashMap;

use containerd_client::services::v1::{
    AbortRequest, ListNamespacesRequest, WriteAction, WriteContentRequest,
    namespaces_client::NamespacesClient,
};
use futures::{SinkExt as _, channel::mpsc};
use hawker_model::Digest;
use tonic::Status;

use crate::containerd::client::{ContainerdClient, within};

/// Content that a namespace is to know of.
#[derive(Clone, Debug)]
pub(super) struct Registration {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) labels: HashMap<String, String>,
}

fn length(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

impl ContainerdClient {
    /// All namespaces.
    pub(super) async fn namespaces(&self) -> Result<Vec<String>, Status> {
        let request = ListNamespacesRequest {
            filter: String::new(),
        };
        let mut client = NamespacesClient::new(self.channel.clone());
        let namespaces = client.list(request).await?.into_inner().namespaces;
        Ok(namespaces.into_iter().map(|it| it.name).collect())
    }

    /// Has a namespace know that it has content which the content store has: begins to write it, is
    /// told that all of it is there, and commits it.
    pub(super) async fn register(
        &self,
        namespace: &str,
        registration: Registration,
    ) -> Result<(), Status> {
        let (mut requests, stream) = mpsc::channel(1);
        let reference = format!("hawker-{}", registration.digest);
        let request = |action: WriteAction, offset, labels| WriteContentRequest {
            action: action.into(),
            r#ref: reference.clone(),
            total: length(registration.size),
            expected: registration.digest.to_string(),
            offset,
            data: Vec::new(),
            labels,
        };
        let ended = |_| Status::unavailable("containerd ended the call");
        let begin = request(WriteAction::Stat, 0, HashMap::new());
        requests.send(begin).await.map_err(ended)?;
        let written = self.content().write(within(namespace, stream)?).await?;
        let mut answers = written.into_inner();
        let told = answers.message().await?;
        let offset = told.map_or(0, |told| told.offset);
        if offset != length(registration.size) {
            // Its own end is to be the first, or else containerd finds the ingest in use.
            drop(requests);
            while answers.message().await?.is_some() {}
            self.abort(namespace, &reference).await?;
            return Err(Status::failed_precondition(format!(
                "containerd wants to be given it ({offset} of {} bytes are there):                  does it isolate namespaces (content_sharing_policy)?",
                registration.size
            )));
        }
        // With the offset of its end: at another one, containerd copies all of it.
        let commit = request(WriteAction::Commit, offset, registration.labels.clone());
        requests.send(commit).await.map_err(ended)?;
        while answers.message().await?.is_some() {}
        Ok(())
    }

    async fn abort(&self, namespace: &str, reference: &str) -> Result<(), Status> {
        let request = AbortRequest {
            r#ref: reference.to_owned(),
        };
        self.content().abort(within(namespace, request)?).await?;
        Ok(())
    }
}
