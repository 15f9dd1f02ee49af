//! The answer of `/v1/status`, as `hawkerd` writes and `hawker` reads it.

use std::net::SocketAddr;

use hawker_p2p::NodeStatus;
use serde::{Deserialize, Serialize};

/// How a node stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// Of `hawkerd`.
    pub(crate) version: String,
    /// Where the mirror listens; empty where there is none.
    pub(crate) mirror: Vec<SocketAddr>,
    #[serde(flatten)]
    pub(crate) node: NodeStatus,
}

impl StatusReport {
    pub(crate) fn new(node: NodeStatus, mirror: Vec<SocketAddr>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mirror,
            node,
        }
    }
}
