//! A hawkerd in this process, with a directory of its own.

use std::{net::SocketAddr, path::Path, time::Duration};

use hawker_config::NodeConfig;
use hawker_model::Role;
use hawker_plugin::App;
use tempfile::TempDir;

/// A standalone node whose default registry is `registry`.
pub(crate) struct Daemon {
    pub app: App,
    pub dir: TempDir,
}

impl Daemon {
    pub(crate) async fn start(registry: SocketAddr) -> Self {
        Self::start_with(registry, |text| text).await
    }

    /// As `start`, with the settings changed.
    pub(crate) async fn start_with(
        registry: SocketAddr,
        change: impl FnOnce(String) -> String,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = change(settings(dir.path(), registry));
        let config = NodeConfig::parse(&text, Path::new("test.toml"), Some(Role::Node)).unwrap();
        let app = App::start(&config).await.unwrap();
        Self { app, dir }
    }

    /// As `start`, but gives up a registry that does not answer in a second.
    pub(crate) async fn start_impatient(registry: SocketAddr) -> Self {
        let change = |text: String| {
            text.replace("origin_timeout = \"10s\"", "origin_timeout = \"1s\"")
                .replace("network_timeout = \"10s\"", "network_timeout = \"2s\"")
        };
        Self::start_with(registry, change).await
    }

    pub(crate) fn mirror(&self) -> SocketAddr {
        self.app.mirror_addresses()[0]
    }

    /// Waits until so many blobs are whole in the store: the last bytes are served before that.
    pub(crate) async fn has_stored(&self, blobs: u64) {
        let stored = async {
            loop {
                let status = crate::control::ask(self, "/v1/status").await;
                let status: serde_json::Value =
                    serde_json::from_slice(&status.body.unwrap()).unwrap();
                if status["store"]["complete"] == blobs {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), stored)
            .await
            .unwrap();
    }

    pub(crate) async fn metrics(&self) -> String {
        let address = self.app.metrics_address().unwrap();
        let body = crate::client::get(address, "/metrics").await.body.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }
}

pub(crate) fn settings(dir: &Path, registry: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        r#"
        [node]
        name = "tested"
        [store]
        dir = "{dir}/store"
        quota = ""
        [mirror]
        listen = "127.0.0.1:0"
        default_registry = "{registry}"
        allow_private = ["{registry}"]
        origin_timeout = "10s"
        network_timeout = "10s"
        stop_grace = "5s"
        [origin]
        retries = 0
        [containerd]
        socket = "{dir}/containerd.sock"
        address = "{dir}/no-containerd.sock"
        [snapshotter]
        dir = "{dir}/snapshotter"
        [control]
        socket = "{dir}/h.sock"
        [metrics]
        listen = "127.0.0.1:0"
        [log]
        level = "debug"
        "#
    )
}
