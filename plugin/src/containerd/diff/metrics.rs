//! What the diff service counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tonic::Code;

use crate::containerd::metrics::code_name;

/// What the diff service counts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct DiffMetrics {
    requests: Family<CallLabels, Counter>,
    applied: Family<HowLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HowLabels {
    how: &'static str,
}

/// How a layer got to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It was staged, and moved there.
    Moved,
    /// It was unpacked there.
    Unpacked,
    /// containerd's own differ has to do it.
    Left,
}

impl How {
    fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Unpacked => "unpacked",
            Self::Left => "left",
        }
    }
}

impl DiffMetrics {
    /// Counters at zero.
    pub(crate) fn new() -> Self {
        let metrics = Self {
            requests: Family::default(),
            applied: Family::default(),
        };
        for how in [How::Moved, How::Unpacked, How::Left] {
            let how = how.as_str();
            metrics.applied.get_or_create_owned(&HowLabels { how });
        }
        metrics
    }

    /// Tells them under their names.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "hawker_diff_requests",
            "Calls of containerd's diff service, by answer",
            self.requests.clone(),
        );
        registry.register(
            "hawker_layer_applied",
            "Layers that containerd wanted in a directory, by how they got there",
            self.applied.clone(),
        );
    }

    /// Counts one answer.
    pub(super) fn answered(&self, method: &'static str, code: Code) {
        let code = code_name(code);
        let labels = CallLabels { method, code };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts one layer.
    pub(super) fn applied(&self, how: How) {
        let how = how.as_str();
        self.applied.get_or_create(&HowLabels { how }).inc();
    }

    #[cfg(test)]
    pub(super) fn count(&self, how: How) -> u64 {
        let how = how.as_str();
        self.applied.get_or_create(&HowLabels { how }).get()
    }
}
