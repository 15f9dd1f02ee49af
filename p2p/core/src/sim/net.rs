//! One direction of a connection, and a host's links.

use std::collections::{BTreeMap, VecDeque};

use hawker_model::PieceIndex;

use super::{
    blob::Bytes,
    event::{HostNo, Time},
};
use crate::Envelope;

/// What a frame carries.
#[derive(Debug)]
pub(crate) enum Load {
    Message(Envelope),
    Piece(PieceIndex, Bytes),
}

/// Something on its way out, and how much of it waits still.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) load: Load,
    pub(crate) left: u32,
}

/// Bytes of one connection that leave together, and the frames that end with them.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) from: HostNo,
    pub(crate) to: HostNo,
    /// The connection's number.
    pub(crate) link: u64,
    pub(crate) len: u32,
    pub(crate) ended: Vec<Load>,
}

/// What one host sends to another, in order.
#[derive(Debug)]
pub(crate) struct Lane {
    /// The connection's number.
    pub(crate) link: u64,
    frames: VecDeque<Frame>,
    /// Bytes handed over and bytes on the wire since the start.
    fed: u64,
    sent: u64,
    /// Pieces that the socket has not taken whole, and where they end.
    unwritten: VecDeque<(u64, PieceIndex)>,
    /// Chunks that have not left yet.
    pub(crate) departing: usize,
    /// Nothing overtakes on a connection.
    pub(crate) last_arrival: Time,
    pub(crate) in_turn: bool,
    /// How often a flood was let loose on it.
    pub(crate) gushes: u32,
}

impl Lane {
    pub(crate) fn new(link: u64) -> Self {
        Self {
            link,
            frames: VecDeque::new(),
            fed: 0,
            sent: 0,
            unwritten: VecDeque::new(),
            departing: 0,
            last_arrival: 0,
            in_turn: false,
            gushes: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn feed(&mut self, load: Load, len: u32) {
        self.fed += u64::from(len);
        if let Load::Piece(piece, _) = load {
            self.unwritten.push_back((self.fed, piece));
        }
        self.frames.push_back(Frame { load, left: len });
    }

    /// Takes up to `most` bytes off the front, with the frames that end in them.
    pub(crate) fn take(&mut self, most: u32) -> (u32, Vec<Load>) {
        let (mut len, mut ended) = (0, Vec::new());
        while let Some(frame) = self.frames.front_mut() {
            let part = frame.left.min(most - len);
            frame.left -= part;
            len += part;
            if frame.left > 0 {
                break;
            }
            ended.extend(self.frames.pop_front().map(|frame| frame.load));
        }
        self.sent += u64::from(len);
        self.departing += 1;
        (len, ended)
    }

    /// A piece that the socket has taken by now, if it holds `unsent` bytes.
    pub(crate) fn written(&mut self, unsent: u32) -> Option<PieceIndex> {
        let (end, _) = self.unwritten.front()?;
        if *end > self.sent + u64::from(unsent) {
            return None;
        }
        self.unwritten.pop_front().map(|(_, piece)| piece)
    }
}

/// A host's connections and its link to the network.
#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) lanes: BTreeMap<HostNo, Lane>,
    /// Connections with bytes to send, next first.
    pub(crate) turns: VecDeque<HostNo>,
    /// When the uplink has sent all that was given to it, and the downlink has delivered.
    pub(crate) uplink_free_at: Time,
    pub(crate) downlink_free_at: Time,
    /// Chunks that are on the uplink's queue.
    pub(crate) chunks: usize,
    /// When the uplink is looked after next, if that is planned.
    pub(crate) planned: Option<Time>,
}
