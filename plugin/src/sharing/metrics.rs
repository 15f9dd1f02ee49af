//! What sharing counts.

use hawker_p2p::{Node, Owner};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

/// What sharing counts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharingMetrics {
    changes: Family<ChangeLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    change: &'static str,
}

/// What became of a blob of containerd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Shared,
    /// containerd has deleted it.
    GivenUp,
    /// It could not be shared, for now or at all.
    Failed,
}

impl Change {
    const ALL: [Self; 3] = [Self::Shared, Self::GivenUp, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::GivenUp => "given_up",
            Self::Failed => "failed",
        }
    }
}

impl SharingMetrics {
    /// Adds the counters, at zero, and what `node` shares whenever they are read.
    pub(crate) fn register(&self, registry: &mut Registry, node: Node) {
        for change in Change::ALL {
            self.counter(change);
        }
        registry.register(
            "hawker_sharing_changes",
            "Blobs of containerd's own content store that were taken, given up or refused",
            self.changes.clone(),
        );
        registry.register_collector(Box::new(SharedCollector(node)));
    }

    pub(super) fn count(&self, change: Change) {
        self.counter(change).inc();
    }

    #[cfg(test)]
    pub(super) fn counted(&self, change: Change) -> u64 {
        self.counter(change).get()
    }

    fn counter(&self, change: Change) -> Counter {
        let change = change.as_str();
        self.changes.get_or_create_owned(&ChangeLabels { change })
    }
}

/// Reads what a node shares.
#[derive(Debug)]
struct SharedCollector(Node);

impl Collector for SharedCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (mut blobs, mut bytes) = (0i64, 0u64);
        let all = self.0.blobs().into_iter();
        for blob in all.filter(|blob| blob.owner != Owner::Us) {
            blobs += 1;
            bytes += blob.geometry.length();
        }
        for (name, help, value) in [
            (
                "hawker_shared_blobs",
                "Blobs whose bytes are containerd's too, and on the disk once",
                blobs,
            ),
            (
                "hawker_shared_bytes",
                "Lengths of those blobs",
                i64::try_from(bytes).unwrap_or(i64::MAX),
            ),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        Ok(())
    }
}
