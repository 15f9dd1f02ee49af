//! The answer of `/v1/status`, as `hawkerd` writes and `hawker` reads it.

use std::{net::SocketAddr, path::PathBuf};

use hawker_config::LimitSettings;
use hawker_model::Digest;
use hawker_p2p::NodeStatus;
use serde::{Deserialize, Serialize};

use crate::{access::RepositoryRights, content::ContentTotal};

/// How a node stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// Of `hawkerd`.
    pub(crate) version: String,
    /// Where the mirror listens; empty where there is none.
    pub(crate) mirror: Vec<SocketAddr>,
    /// Where containerd finds the snapshotter; none: it is not served.
    #[serde(default)]
    pub(crate) snapshotter: Option<PathBuf>,
    /// Layers that are being unpacked.
    #[serde(default)]
    pub(crate) layers: Vec<LayerReport>,
    /// Clients' rights that are remembered.
    #[serde(default)]
    pub(crate) rights: usize,
    /// Of the network, as they hold now.
    #[serde(default)]
    pub(crate) limits: LimitSettings,
    /// containerd's content; none: containerd keeps it itself.
    #[serde(default)]
    pub(crate) content: Option<ContentReport>,
    #[serde(flatten)]
    pub(crate) node: NodeStatus,
}

/// What containerd has as content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentReport {
    /// Here, whole and pinned.
    pub(crate) committed: ContentTotal,
    /// On their way, or to be had when they are read.
    pub(crate) promised: ContentTotal,
    /// Under way from containerd's clients.
    pub(crate) uploads: usize,
}

/// The answer of `/v1/rights`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RightsReport {
    pub(crate) rights: Vec<RepositoryRights>,
}

/// The answer to their deletion.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Forgotten {
    pub(crate) forgotten: usize,
}

/// A layer on its way into a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerReport {
    pub(crate) digest: Digest,
    /// The image that it was first wanted for.
    pub(crate) image: String,
    pub(crate) state: LayerState,
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LayerState {
    /// Others are before it.
    Queued,
    /// The registry is asked for the right, the network for the blob.
    Opening,
    /// It is on its way, and others are unpacked before it.
    Waiting,
    /// Its files are being made.
    Unpacking,
    /// Its files are there, and containerd has not asked for them yet.
    Staged,
    /// It could not be had.
    Failed,
}

impl StatusReport {
    pub(crate) fn new(node: NodeStatus, mirror: Vec<SocketAddr>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mirror,
            snapshotter: None,
            layers: Vec::new(),
            rights: 0,
            limits: LimitSettings::default(),
            content: None,
            node,
        }
    }
}
