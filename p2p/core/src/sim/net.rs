//! One direction of a connection, and a host's links.

use std::{collections::VecDeque, sync::Arc};

use hawker_model::{HostId, PieceIndex, Role};

use super::{
    blob::{BlobNo, Bytes},
    event::{HostNo, Time},
    scenario::Lie,
};
use crate::Envelope;

/// What a frame carries: of the words those that are said for each piece, small, and all others.
#[derive(Debug)]
pub(crate) enum Load {
    Request(PieceIndex),
    Gained(Vec<PieceIndex>),
    Piece(PieceIndex, Bytes),
    Other(Box<Envelope>),
}

/// Something on its way out, and how much of it waits still.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) blob: BlobNo,
    pub(crate) left: u32,
    pub(crate) load: Load,
}

/// Bytes of one connection that leave together, and the frames that end with them.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) from: HostNo,
    pub(crate) to: HostNo,
    /// The connection's number.
    pub(crate) link: u64,
    pub(crate) len: u32,
    pub(crate) ended: Vec<(BlobNo, Load)>,
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
    unwritten: VecDeque<(u64, BlobNo, PieceIndex)>,
    /// Certificates that were sent: each goes out once.
    introduced: Vec<Arc<[u8]>>,
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
            introduced: Vec::new(),
            departing: 0,
            last_arrival: 0,
            in_turn: false,
            gushes: 0,
        }
    }

    /// A list is sent; says whether its signer's certificate has to go with it.
    pub(crate) fn introduce(&mut self, signer: &Arc<[u8]>) -> bool {
        let new = !self.introduced.contains(signer);
        if new {
            self.introduced.push(Arc::clone(signer));
        }
        new
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn feed(&mut self, blob: BlobNo, load: Load, len: u32) {
        self.fed += u64::from(len);
        if let Load::Piece(piece, _) = load {
            self.unwritten.push_back((self.fed, blob, piece));
        }
        let left = len;
        self.frames.push_back(Frame { blob, left, load });
    }

    /// Takes up to `most` bytes off the front, with the frames that end in them.
    pub(crate) fn take(&mut self, most: u32) -> (u32, Vec<(BlobNo, Load)>) {
        let (mut len, mut ended) = (0, Vec::new());
        while let Some(frame) = self.frames.front_mut() {
            let part = frame.left.min(most - len);
            frame.left -= part;
            len += part;
            if frame.left > 0 {
                break;
            }
            ended.extend(
                self.frames
                    .pop_front()
                    .map(|frame| (frame.blob, frame.load)),
            );
        }
        self.sent += u64::from(len);
        self.departing += 1;
        (len, ended)
    }

    /// A piece that the socket has taken by now, if it holds `unsent` bytes.
    pub(crate) fn written(&mut self, unsent: u32) -> Option<(BlobNo, PieceIndex)> {
        let (end, ..) = self.unwritten.front()?;
        if *end > self.sent + u64::from(unsent) {
            return None;
        }
        let (_, blob, piece) = self.unwritten.pop_front()?;
        Some((blob, piece))
    }
}

/// A host's connections by peer: a dozen or so, looked up several times for each message.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// In order.
    peers: Vec<u32>,
    lanes: Vec<Lane>,
}

impl Lanes {
    fn place(&self, peer: HostNo) -> Result<usize, usize> {
        self.peers.binary_search(&(peer as u32))
    }

    pub(crate) fn get_mut(&mut self, peer: HostNo) -> Option<&mut Lane> {
        let place = self.place(peer).ok()?;
        self.lanes.get_mut(place)
    }

    /// Adds a lane, unless there is one; says whether it did.
    pub(crate) fn open(&mut self, peer: HostNo, link: u64) -> bool {
        let place = self.place(peer);
        if let Err(place) = place {
            self.peers.insert(place, peer as u32);
            self.lanes.insert(place, Lane::new(link));
        }
        place.is_err()
    }

    /// Takes a lane away; says of which connection it was.
    pub(crate) fn close(&mut self, peer: HostNo) -> Option<u64> {
        let place = self.place(peer).ok()?;
        self.peers.remove(place);
        Some(self.lanes.remove(place).link)
    }

    pub(crate) fn peers(&self) -> Vec<HostNo> {
        self.peers.iter().map(|peer| *peer as HostNo).collect()
    }
}

/// A host's connections and its way to the network.
#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) lanes: Lanes,
    /// Connections with bytes to send, next first.
    pub(crate) turns: VecDeque<HostNo>,
    /// When the uplink has sent all that was given to it.
    pub(crate) uplink_free_at: Time,
    /// Chunks that are on the uplink's queue.
    pub(crate) chunks: usize,
    /// When the uplink is looked after next, if that is planned.
    pub(crate) planned: Option<Time>,
}

/// What others look at when they send something to a host: side by side for all hosts, since hosts
/// themselves are large.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) id: HostId,
    pub(crate) role: Role,
    pub(crate) zone: u8,
    pub(crate) lie: Option<Lie>,
    /// Bytes of frames per second.
    pub(crate) up_rate: f64,
    pub(crate) down_rate: f64,
    /// When the downlink has delivered all that was sent to it.
    pub(crate) downlink_free_at: Time,
}
