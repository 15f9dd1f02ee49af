//! What a session is told.

use std::net::SocketAddr;

use hawker_model::{HostId, Role};

use crate::transport::Security;

/// Settings of a [`super::Session`].
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// `host:port` of every scheduler. The same texts on every host: tasks are placed by them.
    pub schedulers: Vec<String>,
    /// How we authenticate to schedulers and they to us.
    pub security: Security,
    /// Our name; the certificate's.
    pub host: HostId,
    /// `Node` or `Seed`; the certificate's.
    pub role: Role,
    /// Where others reach our peer port. Empty: the local address that reaches the scheduler.
    pub advertise: Vec<SocketAddr>,
    /// The port of our peer listener; `None` when it is off, and nobody is sent to us.
    pub peer_port: Option<u16>,
    /// Hosts of one zone are close to each other. Empty: unknown.
    pub zone: String,
}
