//! A containerd of the test's own. `./test-vm/test` installs it.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use containerd_client::services::v1::{WriteAction, WriteContentRequest};
use hawker_model::Digest;
use tempfile::TempDir;
use tonic::Request;

use crate::containerd::client::{ContainerdClient, within};

/// Where a test has its content, unless it says otherwise.
pub(in crate::containerd) const NAMESPACE: &str = "test";

const ROOT: (&str, &str) = ("containerd.io/gc.root", "now");

/// What one message holds.
const STEP: usize = 1 << 20;

/// Ends with this.
pub(in crate::containerd) struct Containerd {
    dir: TempDir,
    process: Child,
}

impl Containerd {
    pub(in crate::containerd) async fn start() -> Self {
        Box::pin(Self::start_with("")).await
    }

    /// One that keeps its content behind a socket.
    pub(in crate::containerd) async fn start_over(content: &Path) -> Self {
        let settings = format!(
            "[proxy_plugins.hawker]\ntype = \"content\"\naddress = {:?}\n",
            content.display().to_string()
        );
        Box::pin(Self::start_with(&settings)).await
    }

    async fn start_with(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = match settings {
            "" => "",
            _ => ", \"io.containerd.content.v1.content\"",
        };
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"{own}]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n{settings}",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc"),
        );
        fs::write(at("config.toml"), config).unwrap();
        let process = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stdout(Stdio::null())
            .stderr(fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start containerd ({error}): install it, as `./test-vm/test` does")
            });
        let containerd = Self { dir, process };
        let client = containerd.client();
        for _ in 0..200 {
            if client.greet().await.is_ok() {
                return containerd;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("containerd does not answer");
    }

    pub(in crate::containerd) fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub(in crate::containerd) fn client(&self) -> ContainerdClient {
        ContainerdClient::new(&self.socket())
    }

    /// Puts a blob into its content store.
    pub(in crate::containerd) async fn commit(&self, blob: &[u8]) {
        self.commit_labelled(NAMESPACE, blob, &[]).await;
    }

    pub(in crate::containerd) async fn commit_labelled(
        &self,
        namespace: &str,
        blob: &[u8],
        labels: &[(&str, &str)],
    ) {
        let digest = Digest::of(blob).to_string();
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let request = |action: WriteAction, offset, data: &[u8]| WriteContentRequest {
            action: action.into(),
            r#ref: digest.clone(),
            total: i64::try_from(blob.len()).unwrap(),
            expected: digest.clone(),
            offset: i64::try_from(offset).unwrap(),
            data: data.to_vec(),
            // Or else it is collected at once.
            labels: HashMap::from_iter(labels.iter().chain([&ROOT]).map(owned)),
        };
        let parts = blob.chunks(STEP).enumerate();
        let writes = parts.map(|(at, part)| request(WriteAction::Write, at * STEP, part));
        let commit = request(WriteAction::Commit, blob.len(), &[]);
        let requests: Vec<_> = writes.chain([commit]).collect();
        let request = within(namespace, futures::stream::iter(requests)).unwrap();
        let written = self.client().content().write(request).await;
        let mut answers = written.unwrap().into_inner();
        while answers.message().await.unwrap().is_some() {}
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A question about the test's namespace.
pub(in crate::containerd) fn named<T>(message: T) -> Request<T> {
    within(NAMESPACE, message).unwrap()
}
