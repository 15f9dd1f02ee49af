//! Between the snapshotter's types and the messages of containerd's API.

use std::{collections::HashMap, time::SystemTime};

use containerd_client::{
    services::v1::snapshots::{Info as InfoMessage, Kind as KindMessage, UsageResponse},
    types::Mount as MountMessage,
};
use hawker_snapshotter::{Info, Kind, Mount, SnapshotError, Usage};
use tonic::{Code, Status};

/// A snapshot as containerd reads it.
pub(super) fn info(info: Info) -> InfoMessage {
    let kind = match info.kind {
        Kind::View => KindMessage::View,
        Kind::Active => KindMessage::Active,
        Kind::Committed => KindMessage::Committed,
    };
    InfoMessage {
        name: info.name,
        parent: info.parent,
        kind: kind.into(),
        created_at: Some(timestamp(info.created)),
        updated_at: Some(timestamp(info.updated)),
        labels: HashMap::from_iter(info.labels),
    }
}

/// Mounts as containerd makes them.
pub(super) fn mounts(mounts: Vec<Mount>) -> Vec<MountMessage> {
    let message = |mount: Mount| MountMessage {
        r#type: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    };
    mounts.into_iter().map(message).collect()
}

/// What a snapshot takes on the disk.
pub(super) fn usage(usage: Usage) -> UsageResponse {
    UsageResponse {
        size: i64::try_from(usage.size).unwrap_or(i64::MAX),
        inodes: i64::try_from(usage.inodes).unwrap_or(i64::MAX),
    }
}

/// The status that containerd turns back into the error of the same name.
pub(super) fn status(error: &SnapshotError) -> Status {
    let code = match error {
        SnapshotError::NotFound { .. } => Code::NotFound,
        SnapshotError::AlreadyExists { .. } => Code::AlreadyExists,
        SnapshotError::FailedPrecondition { .. } => Code::FailedPrecondition,
        SnapshotError::InvalidArgument { .. } => Code::InvalidArgument,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}
