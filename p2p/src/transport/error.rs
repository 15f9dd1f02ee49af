//! Why a connection is not made, or ends.

use std::{io, net::SocketAddr, time::Duration};

use hawker_identity::explain_io;
use hawker_model::{HostId, Role};

use super::frame::{ErrorCode, FrameError, UnsendableError};

/// Why a peer cannot be dialed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No TCP connection: nobody listens there, or no route.
    #[error("cannot connect to {host} at {address}: {source}")]
    Connect {
        host: HostId,
        address: SocketAddr,
        source: io::Error,
    },
    /// No answer at all: the host is down, or a firewall drops packets.
    #[error("cannot connect to {host} at {address}: no answer in {after:?} (host down, firewall?)")]
    NoAnswer {
        host: HostId,
        address: SocketAddr,
        after: Duration,
    },
    /// Connected, but one of the two does not want the other.
    #[error("{host} at {address}: {reason}")]
    Handshake {
        host: HostId,
        address: SocketAddr,
        reason: HandshakeError,
    },
}

impl DialError {
    /// Whether trying again soon, unchanged, makes sense: not where names, roles, certificates or
    /// versions do not fit.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::NoAnswer { .. } => true,
            Self::Handshake { reason, .. } => reason.is_retryable(),
        }
    }
}

/// Why a connection that came in is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The listening socket itself fails, as when no file descriptor is left. The next call may
    /// succeed.
    #[error("cannot accept connections: {0}")]
    Socket(#[source] io::Error),
    /// One of the two does not want the other. The next call waits for the next peer.
    #[error("connection from {address}: {reason}")]
    Handshake {
        address: SocketAddr,
        reason: HandshakeError,
    },
}

impl AcceptError {
    /// Whether the other side hung up without saying who it is, as health checks and port scans
    /// do: not worth a warning.
    pub fn is_probe(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            Self::Handshake { reason, .. } => {
                matches!(reason, HandshakeError::Wire(WireError::Closed))
            }
        }
    }
}

/// Why two hosts that are connected do not become peers. The texts name both sides' view; what can
/// be told to the other side is told ([`Self::for_the_peer`]).
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// TLS failed, in words.
    #[error("{0}")]
    Tls(String),
    #[error("the peer did not complete the handshake in {0:?}")]
    Timeout(Duration),
    #[error("it is {found}, not {wanted}: is the address of {wanted} right?")]
    WrongHost { wanted: HostId, found: HostId },
    #[error("the peer wanted {wanted}, and this is {own}: is the announced address right?")]
    NotWanted { wanted: HostId, own: HostId },
    #[error("{host} has the role {role}, and only nodes and seeds exchange pieces")]
    WrongRole { host: HostId, role: Role },
    #[error("the peer calls itself {claimed}, and its certificate says {certified}")]
    FalseHello { claimed: String, certified: String },
    #[error("the peer is called {0} as this host is: every host needs a name of its own")]
    SameName(HostId),
    #[error(
        "no common version: this host speaks {own} to {own_max}, the peer {peer} to {peer_max}"
    )]
    Version {
        own: u16,
        own_max: u16,
        peer: u16,
        peer_max: u16,
    },
    /// The other side told why.
    #[error("the peer refused: {text}")]
    Refused { code: ErrorCode, text: String },
    #[error(transparent)]
    Wire(WireError),
}

impl HandshakeError {
    /// See [`DialError::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout(_) => true,
            Self::Refused { code, .. } => *code == ErrorCode::Busy,
            Self::Wire(error) => !matches!(error, WireError::Frame(_)),
            _ => false,
        }
    }

    /// What the other side is told: nothing, where it knows already or cannot hear.
    pub(super) fn for_the_peer(&self) -> Option<(ErrorCode, String)> {
        Some(match self {
            Self::WrongHost { wanted, found } => (
                ErrorCode::WrongHost,
                format!(
                    "you are {found}, and {wanted} was wanted: is your announced address right?"
                ),
            ),
            Self::NotWanted { wanted, own } => (
                ErrorCode::WrongHost,
                format!(
                    "this is {own}, and you wanted {wanted}: is the address of {wanted} right?"
                ),
            ),
            Self::WrongRole { role, .. } => (
                ErrorCode::WrongRole,
                format!("your role is {role}, and only nodes and seeds exchange pieces"),
            ),
            Self::FalseHello { claimed, certified } => (
                ErrorCode::FalseHello,
                format!("you call yourself {claimed}, and your certificate says {certified}"),
            ),
            Self::SameName(host) => (
                ErrorCode::SameName,
                format!(
                    "you are called {host} as this host is: every host needs a name of its own"
                ),
            ),
            Self::Version {
                own,
                own_max,
                peer,
                peer_max,
            } => (
                ErrorCode::Version,
                format!(
                    "no common version: this host speaks {own} to {own_max}, you {peer} to {peer_max}"
                ),
            ),
            Self::Wire(WireError::Frame(error)) => (ErrorCode::Protocol, error.to_string()),
            Self::Tls(_) | Self::Timeout(_) | Self::Refused { .. } | Self::Wire(_) => return None,
        })
    }
}

impl From<WireError> for HandshakeError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Refused { code, text } => Self::Refused { code, text },
            // In TLS 1.3 a client learns only after the handshake that it is refused.
            WireError::Io(error) if is_tls(&error) => Self::Tls(explain_io(&error)),
            other => Self::Wire(other),
        }
    }
}

fn is_tls(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Why a connection between peers ends without goodbye.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer sends what is not the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// This message cannot be sent; the connection goes on.
    #[error(transparent)]
    Unsendable(#[from] UnsendableError),
    /// The peer told why.
    #[error("the peer ended the connection: {text}")]
    Refused { code: ErrorCode, text: String },
    #[error("the peer closed the connection without goodbye")]
    Closed,
    #[error("nothing heard from the peer for {0:?}")]
    Silent(Duration),
    /// Of a long piece too little has come in that time, and others wait for its room.
    #[error("the peer is too slow with a piece, of which it has sent little in {0:?}: others wait")]
    Tardy(Duration),
    #[error("the peer took no bytes for {0:?}")]
    Stalled(Duration),
    /// A write was given up half way, so the peer could not make out what follows.
    #[error("an earlier write was not completed")]
    Broken,
    /// What was to be sent cannot be read. The connection goes on unless some of it is out already,
    /// and then is [`Self::Broken`].
    #[error("cannot read what is to be sent: {0}")]
    Unreadable(#[source] io::Error),
    #[error("{}", explain_io(.0))]
    Io(#[source] io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // TLS without its closing alert; plain sockets report it by an empty read.
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}
