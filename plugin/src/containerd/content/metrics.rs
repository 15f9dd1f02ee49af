//! What the content service counts.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};
use tonic::Code;

use crate::{
    containerd::metrics::code_name,
    content::{ContentState, ContentStore},
};

/// What the content service counts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContentMetrics {
    requests: Family<CallLabels, Counter>,
    written: Counter,
    read: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

impl ContentMetrics {
    /// Tells them under their names, and how much there is in `store`.
    pub(crate) fn register(&self, registry: &mut Registry, store: ContentStore) {
        registry.register_collector(Box::new(ContentCollector(store)));
        registry.register(
            "hawker_content_requests",
            "Calls of containerd's content service (of Write: its messages), by answer",
            self.requests.clone(),
        );
        registry.register(
            "hawker_content_written_bytes",
            "Bytes that containerd wrote as content",
            self.written.clone(),
        );
        registry.register(
            "hawker_content_read_bytes",
            "Bytes of content that containerd read",
            self.read.clone(),
        );
    }

    /// Counts one answer.
    pub(super) fn answered(&self, method: &'static str, code: Code) {
        let code = code_name(code);
        let labels = CallLabels { method, code };
        self.requests.get_or_create(&labels).inc();
    }

    pub(super) fn written(&self, bytes: u64) {
        self.written.inc_by(bytes);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.read.inc_by(bytes);
    }
}

/// Reads how much content there is.
#[derive(Debug)]
struct ContentCollector(ContentStore);

impl Collector for ContentCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let totals = ContentState::ALL.map(|state| (state, self.0.total(state)));
        let blobs = totals.map(|(state, total)| (state, total.blobs));
        let bytes = totals.map(|(state, total)| (state, total.bytes));
        for (name, help, values) in [
            ("hawker_content_blobs", "Blobs that containerd has", blobs),
            ("hawker_content_bytes", "Their bytes", bytes),
        ] {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (state, value) in values {
                let labels = [("state", state.as_str())];
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(gauge.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
