//! What the snapshots service counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tonic::Code;

/// What the snapshots service counts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotMetrics {
    requests: Family<CallLabels, Counter>,
    staged: Family<OutcomeLabels, Counter>,
    released: Family<ReasonLabels, Counter>,
    /// How long `Prepare` of a layer waited, in seconds.
    pub(super) waited: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// How the staging of a layer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its files are there.
    Staged,
    /// It could not be had or unpacked.
    Failed,
    /// Nobody waited for it any more while it was unpacked.
    Cancelled,
    /// Its files were there, and nobody came for them.
    Unclaimed,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unclaimed => "unclaimed",
        }
    }
}

/// Why a waiting `Prepare` was answered with ordinary mounts before its layer was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// containerd's garbage collection waits for it.
    Gc,
    /// It had waited as long as it may.
    Timeout,
    /// containerd could not be asked whether its garbage collection waits.
    Unreachable,
    /// hawkerd is stopping.
    Stopping,
}

impl Release {
    /// The label's value.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Gc => "gc",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Stopping => "stopping",
        }
    }
}

impl SnapshotMetrics {
    /// Counters at zero.
    pub(crate) fn new() -> Self {
        let metrics = Self {
            requests: Family::default(),
            staged: Family::default(),
            released: Family::default(),
            waited: Histogram::new([0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]),
        };
        for outcome in [
            Outcome::Staged,
            Outcome::Failed,
            Outcome::Cancelled,
            Outcome::Unclaimed,
        ] {
            let outcome = outcome.as_str();
            metrics
                .staged
                .get_or_create_owned(&OutcomeLabels { outcome });
        }
        for reason in [
            Release::Gc,
            Release::Timeout,
            Release::Unreachable,
            Release::Stopping,
        ] {
            let reason = reason.as_str();
            metrics
                .released
                .get_or_create_owned(&ReasonLabels { reason });
        }
        metrics
    }

    /// Tells them under their names.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "hawker_snapshot_requests",
            "Calls of containerd's snapshots service, by answer",
            self.requests.clone(),
        );
        registry.register(
            "hawker_layer_staged",
            "Layers unpacked ahead of containerd, by how it ended",
            self.staged.clone(),
        );
        registry.register(
            "hawker_prepare_released",
            "Prepare calls answered with ordinary mounts before their layer was there",
            self.released.clone(),
        );
        registry.register(
            "hawker_prepare_wait_seconds",
            "How long a Prepare call waited for its layer",
            self.waited.clone(),
        );
    }

    /// Counts one answer.
    pub(super) fn answered(&self, method: &'static str, code: Code) {
        let code = code_name(code);
        self.requests
            .get_or_create(&CallLabels { method, code })
            .inc();
    }

    /// Counts one layer.
    pub(super) fn staged(&self, outcome: Outcome) {
        let outcome = outcome.as_str();
        self.staged.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Counts one `Prepare` that was let go.
    pub(super) fn released(&self, reason: Release) {
        let reason = reason.as_str();
        self.released.get_or_create(&ReasonLabels { reason }).inc();
    }
}

/// A status code as the metrics call it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::FailedPrecondition => "failed_precondition",
        Code::InvalidArgument => "invalid_argument",
        Code::Unavailable => "unavailable",
        Code::OutOfRange => "out_of_range",
        Code::Aborted => "aborted",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        _ => "other",
    }
}
