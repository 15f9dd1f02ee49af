//! A simulator of whole networks that run the same [`crate::Swarm`] code, in virtual time.
//!
//! A [`Scenario`] says who takes part, how fast the links are, and what goes wrong; [`Scenario::run`]
//! plays it and gives an [`Outcome`]. Everything random comes from the scenario's seed, so that a
//! run can be repeated exactly.
//!
//! What is modelled: links with a rate in each direction, shared fairly by connections, with back
//! pressure of a full downlink; latency; loss as the delay of a retransmission; connections that
//! are opened, closed and broken; an origin with a rate, faults and an opinion of credentials; a simple scheduler; hosts that
//! arrive late, die, and lie; several blobs that all want at once. What is not: CPU, disks, packets.

mod blob;
mod connections;
mod event;
mod host;
mod meter;
mod net;
mod origin;
mod outcome;
mod queue;
mod scenario;
mod scheduler;
mod world;

pub use origin::{Access, OriginFault};
pub use outcome::{HostOutcome, Outcome};
pub use scenario::{Gush, HostPlan, Lie, Reads, Scenario};
