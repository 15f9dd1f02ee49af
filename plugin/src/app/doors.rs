//! Where others come in.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hawker_config::NodeConfig;
use tokio::net::{TcpListener, UnixListener};
use tracing::warn;

use super::AppError;
use crate::{
    containerd,
    socket::{SocketError, SocketFile, SocketPlace, activated_or_listen, listen as listen_unix},
};

/// Who may use the control socket: root and the daemon's group.
const CONTROL_MODE: u32 = 0o660;

/// All that `hawkerd` listens on, bound before anything starts.
#[derive(Debug)]
pub(super) struct Doors {
    pub(super) control: (UnixListener, SocketFile),
    /// Where the settings want it.
    pub(super) containerd: Option<(UnixListener, SocketFile)>,
    pub(super) metrics: Option<TcpListener>,
    pub(super) mirror: Vec<TcpListener>,
}

impl Doors {
    pub(super) async fn bind(config: &NodeConfig) -> Result<Self, AppError> {
        let control = SocketPlace {
            path: &config.control.socket,
            mode: CONTROL_MODE,
            key: "control.socket",
        };
        Ok(Self {
            control: listen_unix(control).await?,
            containerd: listen_containerd(config).await?,
            metrics: match config.metrics.listen {
                Some(address) => Some(listen(address.socket(), "metrics.listen").await?),
                None => None,
            },
            mirror: match config.mirror.enabled {
                true => listen_both(config.mirror.listen.socket()).await?,
                false => Vec::new(),
            },
        })
    }
}

async fn listen_containerd(
    config: &NodeConfig,
) -> Result<Option<(UnixListener, SocketFile)>, SocketError> {
    if !config.containerd.enabled {
        return Ok(None);
    }
    let place = SocketPlace {
        path: &config.containerd.socket,
        mode: containerd::SOCKET_MODE,
        key: "containerd.socket",
    };
    activated_or_listen(place).await.map(Some)
}

async fn listen(address: SocketAddr, key: &'static str) -> Result<TcpListener, AppError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| AppError::Listen {
        address,
        key,
        source,
    })
}

/// The configured address; for 127.0.0.1 also `[::1]` on the same port, where that works: some
/// clients look up "localhost".
async fn listen_both(address: SocketAddr) -> Result<Vec<TcpListener>, AppError> {
    let mut listeners = vec![listen(address, "mirror.listen").await?];
    if address.ip() == IpAddr::from([127, 0, 0, 1]) {
        let port = addresses(&listeners)
            .first()
            .map_or_else(|| address.port(), SocketAddr::port);
        let beside = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
        match TcpListener::bind(beside).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => warn!(address = %beside, %error, "the mirror listens on IPv4 only"),
        }
    }
    Ok(listeners)
}

pub(super) fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    let address = |listener: &TcpListener| listener.local_addr().ok();
    listeners.iter().filter_map(address).collect()
}
