//! Connections to peers that were named by the scheduler, the config or a seed list.

use std::{net::SocketAddr, time::Duration};

use hawker_model::HostId;
use tokio::{net::TcpStream, time::timeout};

use super::{Connection, DialError, Security, handshake};

/// An address where nobody answers costs this much.
const CONNECT: Duration = Duration::from_secs(3);

/// Dials peers. Cheap to clone; dials run side by side.
#[derive(Clone, Debug)]
pub struct Dialer {
    security: Security,
    zone: String,
}

impl Dialer {
    /// Dials as the host that `security` says.
    pub fn new(security: Security) -> Self {
        let zone = String::new();
        Self { security, zone }
    }

    /// Says to peers that we are in this zone.
    pub fn in_zone(self, zone: &str) -> Self {
        let zone = zone.to_owned();
        Self { zone, ..self }
    }

    /// Connects to `host` at `address`: at most 3 s until it answers and 5 s until it is a peer.
    /// Its certificate (on a plain transport, its hello) must name that host, and the role node or
    /// seed; which of the two, the connection tells.
    pub async fn dial(&self, host: &HostId, address: SocketAddr) -> Result<Connection, DialError> {
        let connected = timeout(CONNECT, TcpStream::connect(address)).await;
        let connected = connected.map_err(|_| DialError::NoAnswer {
            host: host.clone(),
            address,
            after: CONNECT,
        })?;
        let tcp = connected.map_err(|source| DialError::Connect {
            host: host.clone(),
            address,
            source,
        })?;
        handshake::dial((&self.security, &self.zone), tcp, address, host)
            .await
            .map_err(|reason| DialError::Handshake {
                host: host.clone(),
                address,
                reason,
            })
    }
}
