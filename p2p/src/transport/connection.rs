//! An established connection: who is there, and its two halves.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use hawker_model::{HostId, Role};
use tokio::sync::Notify;

use super::{
    FrameReader, FrameWriter,
    frame::Credentials,
    stream::{ReadSide, WriteSide},
};

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name: proven by its certificate, except on a plain transport.
    pub host: HostId,
    /// Its role, which is `Node` or `Seed`; proven likewise.
    pub role: Role,
    /// Where the connection leads. An accepted connection's port is not the one it listens on.
    pub address: SocketAddr,
    /// The version spoken.
    pub version: u16,
}

/// A connection to a peer. Its halves may be used in tasks of their own; the connection ends when
/// both are dropped, when either side says goodbye, or on an error.
#[derive(Debug)]
pub struct Connection {
    pub peer: Peer,
    pub reader: FrameReader,
    pub writer: FrameWriter,
}

/// Both halves of a socket on which nothing was sent yet.
pub(super) fn halves(
    (read, write): (ReadSide, WriteSide),
    credentials: Credentials,
) -> (FrameReader, FrameWriter) {
    let pulse = Arc::new(Pulse::default());
    let reader = FrameReader::new(read, pulse.clone());
    (reader, FrameWriter::new(write, credentials, pulse))
}

/// What the reading half tells the writing half.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// The last ping, if it is not answered. Earlier ones need no answer.
    owed: Mutex<Option<u64>>,
    wake: Notify,
}

impl Pulse {
    pub(super) fn owe(&self, nonce: u64) {
        *self.owed.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce);
        self.wake.notify_one();
    }

    pub(super) fn take_owed(&self) -> Option<u64> {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        owed.take()
    }

    /// Waits until something is owed.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}
