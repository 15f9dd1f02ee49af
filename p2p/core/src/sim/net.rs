//! One direction of a connection, and a host's links.

use std::collections::{BTreeMap, VecDeque};

use hawker_model::PieceIndex;

use super::{
    blob::Bytes,
    event::{HostNo, Time},
};
use crate::Envelope;

/// A piece on its way out.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) piece: PieceIndex,
    pub(crate) bytes: Bytes,
    pub(crate) left: u32,
    /// When what was sent of it is through the receiver's downlink.
    pub(crate) arrives: Time,
}

/// What one host sends to another. Messages wait for the piece that is being sent, not for those
/// behind it.
#[derive(Debug)]
pub(crate) struct Lane {
    /// The connection's number.
    pub(crate) link: u64,
    pub(crate) current: Option<Sending>,
    pub(crate) messages: VecDeque<Envelope>,
    pub(crate) pieces: VecDeque<(PieceIndex, Bytes)>,
    /// Nothing overtakes on a connection.
    pub(crate) last_arrival: Time,
    pub(crate) in_turn: bool,
}

impl Lane {
    pub(crate) fn new(link: u64) -> Self {
        Self {
            link,
            current: None,
            messages: VecDeque::new(),
            pieces: VecDeque::new(),
            last_arrival: 0,
            in_turn: false,
        }
    }

    pub(crate) fn has_bytes(&self) -> bool {
        self.current.is_some() || !self.pieces.is_empty()
    }
}

/// A host's connections and its link to the network.
#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) lanes: BTreeMap<HostNo, Lane>,
    /// Connections with bytes to send, next first.
    pub(crate) turns: VecDeque<HostNo>,
    pub(crate) uplink_busy: bool,
    /// When the downlink has delivered all that was sent to it.
    pub(crate) downlink_free_at: Time,
}
