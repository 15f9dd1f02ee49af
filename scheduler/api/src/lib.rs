//! The protocol between hosts and schedulers: generated gRPC code and the types it is parsed into.
//!
//! [`proto`] is what travels. Both ends turn it into [`HostMessage`] and [`SchedulerMessage`] at
//! the edge, so that nothing behind the edge sees an unchecked id, address or number. The hosts'
//! end is `hawker-p2p`'s session, the other is `hawker-scheduler`. The protocol itself is described
//! in `proto/hawker/scheduler/v1/scheduler.proto`.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host_message;
mod message_error;
mod scheduler_message;

/// Generated from `scheduler.proto`.
#[allow(missing_debug_implementations, clippy::all, unused_qualifications)]
pub mod proto {
    tonic::include_proto!("hawker.scheduler.v1");
}

pub use host_message::{
    BytesBySource, Hello, Holding, HostMessage, PeerListener, ReportReason, TaskProgress,
};
pub use message_error::MessageError;
pub use scheduler_message::{
    Duty, Level, MAX_SEEDS, Parents, PeerAddress, SchedulerMessage, Welcome,
};

/// The protocol versions this software speaks, oldest and newest.
pub const PROTOCOL: std::ops::RangeInclusive<u32> = 1..=1;

/// Most entries of one `Announce` or `Progress`; more are sent as several messages.
pub const MAX_ENTRIES: usize = 4096;

/// Most addresses of one host.
pub const MAX_ADDRESSES: usize = 16;
