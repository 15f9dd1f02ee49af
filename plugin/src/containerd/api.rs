//! The server side of containerd's snapshots service, as `build.rs` declares it.

/// `google.protobuf.Empty`.
pub(crate) type Empty = ();

pub(crate) use self::generated::snapshots_server::{Snapshots as SnapshotsApi, SnapshotsServer};

#[allow(
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated"
)]
mod generated {
    include!(concat!(
        env!("OUT_DIR"),
        "/containerd.services.snapshots.v1.Snapshots.rs"
    ));
}
