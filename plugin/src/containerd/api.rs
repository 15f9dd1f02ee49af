//! The server side of containerd's snapshots, content and diff services, as `build.rs` declares it.

/// `google.protobuf.Empty`.
pub(crate) type Empty = ();

pub(crate) use self::{
    content::content_server::{Content as ContentApi, ContentServer},
    diff::diff_server::{Diff as DiffApi, DiffServer},
    snapshots::snapshots_server::{Snapshots as SnapshotsApi, SnapshotsServer},
};

macro_rules! generated {
    ($name:ident, $file:literal) => {
        #[allow(
            missing_debug_implementations,
            unreachable_pub,
            unused_qualifications,
            clippy::all,
            reason = "generated"
        )]
        mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $file));
        }
    };
}
generated!(snapshots, "containerd.services.snapshots.v1.Snapshots.rs");
generated!(content, "containerd.services.content.v1.Content.rs");
generated!(diff, "containerd.services.diff.v1.Diff.rs");
