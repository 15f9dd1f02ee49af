//! Connections between peers: who may connect, and messages as bytes.
//!
//! One TCP connection per pair of hosts carries any number of tasks, under mutual TLS 1.3, or plain
//! on a network that is trusted. [`Listener`] and [`Dialer`] set it up and check who is at the
//! other end; the two halves of a [`Connection`] then carry [`hawker_swarm::Envelope`]s, each in a
//! task of its own. The byte form is version 1 of `p2p/docs/wire.md`; its codec ([`frame`],
//! [`Decoder`]) owns no socket.
//!
//! Whatever is refused during set-up is refused with words that *both* sides report:
//! [`DialError`] and [`AcceptError`].

mod connection;
mod decoder;
mod dialer;
mod error;
pub mod frame;
mod handshake;
mod listener;
mod piece_memory;
mod pulse;
mod reader;
mod security;
mod socket;
mod stream;
mod writer;

pub use connection::{Connection, Peer};
pub use decoder::Decoder;
pub use dialer::Dialer;
pub use error::{AcceptError, DialError, HandshakeError, WireError};
pub use frame::{ErrorCode, FrameError, UnsendableError};
pub use listener::Listener;
pub(crate) use piece_memory::rest;
pub(crate) use pulse::Pulse;
pub use reader::FrameReader;
pub use security::Security;
pub(crate) use security::TrustChanges;
pub use writer::FrameWriter;
