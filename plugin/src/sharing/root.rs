//! Where containerd keeps its content: containerd says it itself.

use std::path::{Path, PathBuf};

use containerd_client::services::v1::{
    Plugin, PluginsRequest, introspection_client::IntrospectionClient,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

const CONTENT: &str = "io.containerd.content.v1";
/// What the built-in plugin is called; others have it somewhere else.
const BUILT_IN: &str = "content";
/// What the built-in plugin tells of itself.
const ROOT: &str = "root";

/// One containerd that can be asked.
#[derive(Debug)]
pub(super) enum Root {
    At(Channel),
    /// One that always gives this answer.
    #[cfg(test)]
    Saying(Home),
}

/// The directory of containerd's blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Dir(PathBuf),
    /// It has none of its own.
    None,
    /// It cannot be asked.
    Unknown(String),
}

impl Home {
    /// Whether containerd certainly does not keep its blobs in `dir`.
    pub(super) fn is_elsewhere(&self, dir: &Path) -> bool {
        match self {
            Self::Dir(now) => now != dir,
            Self::None => true,
            Self::Unknown(_) => false,
        }
    }
}

impl Root {
    /// Asks the containerd that listens on `address`. Must be called within a runtime.
    pub(super) fn new(address: &Path) -> Self {
        let address = address.to_owned();
        let connect = service_fn(move |_| {
            let address = address.clone();
            async move { UnixStream::connect(address).await.map(TokioIo::new) }
        });
        // Not looked up: the connector knows where to go.
        let endpoint = Endpoint::from_static("http://containerd");
        Self::At(endpoint.connect_with_connector_lazy(connect))
    }

    pub(super) async fn home(&self) -> Home {
        let channel = match self {
            Self::At(channel) => channel.clone(),
            #[cfg(test)]
            Self::Saying(home) => return home.clone(),
        };
        let mut client = IntrospectionClient::new(channel);
        let filters = vec![format!("type=={CONTENT}")];
        match client.plugins(PluginsRequest { filters }).await {
            Ok(answer) => home_of(&answer.into_inner().plugins),
            Err(status) => Home::Unknown(status.to_string()),
        }
    }
}

fn home_of(plugins: &[Plugin]) -> Home {
    let built_in = |plugin: &&Plugin| {
        let content = plugin.r#type == CONTENT && plugin.id == BUILT_IN;
        content && plugin.init_err.is_none()
    };
    let root = plugins.iter().find(built_in).and_then(|plugin| {
        let root = PathBuf::from(plugin.exports.get(ROOT)?);
        root.is_absolute().then_some(root)
    });
    root.map_or(Home::None, |root| Home::Dir(root.join("blobs/sha256")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(id: &str, root: Option<&str>) -> Plugin {
        let exports = root.map(|root| (ROOT.to_owned(), root.to_owned()));
        Plugin {
            r#type: CONTENT.to_owned(),
            id: id.to_owned(),
            exports: exports.into_iter().collect(),
            ..Plugin::default()
        }
    }

    #[test]
    fn only_the_built_in_store_that_works_has_a_home() {
        let ours = plugin("hawker-content", None);
        let theirs = plugin("content", Some("/var/lib/c/content"));
        let dir = Home::Dir("/var/lib/c/content/blobs/sha256".into());
        assert_eq!(home_of(&[ours.clone(), theirs.clone()]), dir);
        assert_eq!(home_of(&[]), Home::None);
        assert_eq!(home_of(&[ours, plugin("content", None)]), Home::None);
        assert_eq!(home_of(&[plugin("content", Some("relative"))]), Home::None);
        let broken = Plugin {
            init_err: Some(Default::default()),
            ..theirs
        };
        assert_eq!(home_of(&[broken]), Home::None);
    }

    #[tokio::test]
    async fn a_containerd_that_is_not_there_is_unknown() {
        let root = Root::new(Path::new("/nowhere/containerd.sock"));
        assert!(matches!(root.home().await, Home::Unknown(_)));
    }
}
