//! What `/metrics` tells, and the small server that tells it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use hawker_config::{LimitSettings, RateLimit};
use hawker_enrol::KeeperHandle;
use hawker_p2p::{Flow, Node, RoomStatus, Traffic};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
    },
    registry::Registry,
};

use crate::{
    access::{AccessMetrics, Grantor},
    body::{self, Body},
    containerd::{ContentMetrics, DiffMetrics, SnapshotMetrics},
    content::ContentStore,
    limits::LimitDesk,
    sharing::SharingMetrics,
};

/// Everything this process counts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// What the mirror counts.
    pub mirror: MirrorMetrics,
}

/// What the mirror counts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MirrorMetrics {
    requests: Family<RequestLabels, Counter>,
    served: Family<ServedLabels, Counter>,
    manifests: Family<ManifestLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServedLabels {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ManifestLabels {
    by: &'static str,
}

/// Where the bytes of an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The blob was whole in this host's store.
    Local,
    /// They came through the piece network (and may have been in the store in part).
    Network,
    /// Straight from the origin.
    Pass,
}

impl Served {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Network => "network",
            Self::Pass => "pass",
        }
    }
}

impl MirrorMetrics {
    /// Counts one request.
    pub fn answered(&self, kind: &'static str, status: StatusCode) {
        let status = status.as_u16();
        self.requests
            .get_or_create(&RequestLabels { kind, status })
            .inc();
    }

    /// A counter of manifests, and of what HEAD tells of them, that were asked for beyond this host.
    pub(crate) fn manifests(&self, by: Grantor) -> Counter {
        let by = by.as_str();
        self.manifests.get_or_create_owned(&ManifestLabels { by })
    }

    /// A counter of bytes handed to clients.
    pub fn served(&self, source: Served) -> Counter {
        let source = source.as_str();
        self.served.get_or_create_owned(&ServedLabels { source })
    }
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> Self {
        let mirror = MirrorMetrics::default();
        for source in [Served::Local, Served::Network, Served::Pass] {
            mirror.served(source);
        }
        for by in [Grantor::Seed, Grantor::Origin] {
            mirror.manifests(by);
        }
        let mut registry = Registry::default();
        registry.register(
            "hawker_mirror_requests",
            "Requests the mirror answered",
            mirror.requests.clone(),
        );
        registry.register(
            "hawker_mirror_served_bytes",
            "Bytes of bodies handed to the mirror's clients",
            mirror.served.clone(),
        );
        registry.register(
            "hawker_mirror_manifests",
            "Manifests, and what HEAD tells of them, that were asked for, by who answered",
            mirror.manifests.clone(),
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
            mirror,
        }
    }

    /// Adds the node's counters, which are read when they are asked for.
    pub fn collect_node(&self, node: Node) {
        self.lock()
            .register_collector(Box::new(NodeCollector(node)));
    }

    /// Adds the limits of the network as they are set, and what moves now.
    pub(crate) fn collect_limits(&self, desk: LimitDesk) {
        self.lock()
            .register_collector(Box::new(LimitCollector(desk)));
    }

    /// Adds what is known of this host's certificate.
    pub(crate) fn collect_keeper(&self, keeper: KeeperHandle) {
        self.lock()
            .register_collector(Box::new(KeeperCollector(keeper)));
    }

    /// Adds the counters of the snapshots service.
    pub(crate) fn add_snapshots(&self) -> SnapshotMetrics {
        let metrics = SnapshotMetrics::new();
        metrics.register(&mut self.lock());
        metrics
    }

    /// Adds the counters of the diff service.
    pub(crate) fn add_diff(&self) -> DiffMetrics {
        let metrics = DiffMetrics::new();
        metrics.register(&mut self.lock());
        metrics
    }

    /// Adds the counters of the content service.
    pub(crate) fn add_content(&self, store: ContentStore) -> ContentMetrics {
        let metrics = ContentMetrics::default();
        metrics.register(&mut self.lock(), store);
        metrics
    }

    /// Adds the counters of what `node` shares with containerd.
    pub(crate) fn add_sharing(&self, node: Node) -> SharingMetrics {
        let metrics = SharingMetrics::default();
        metrics.register(&mut self.lock(), node);
        metrics
    }

    /// Adds the counters of rights and proofs.
    pub(crate) fn add_access(&self) -> AccessMetrics {
        let metrics = AccessMetrics::default();
        metrics.register(&mut self.lock());
        metrics
    }

    /// The OpenMetrics text.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        match text::encode(&mut text, &self.lock()) {
            Ok(()) => text,
            // Writing into a string does not fail; should it, part of the metrics is better
            // than none.
            Err(_) => text,
        }
    }

    /// Answers `/metrics` and `/healthy`.
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let (status, content_type, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthy") => {
                (StatusCode::OK, "application/json", "\"OK\"".to_owned())
            }
            (&Method::GET | &Method::HEAD, "/metrics") => (
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                self.to_text(),
            ),
            (&Method::GET | &Method::HEAD, _) => (
                StatusCode::NOT_FOUND,
                "text/plain",
                "there are /metrics and /healthy\n".to_owned(),
            ),
            _ => (
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain",
                "GET only\n".to_owned(),
            ),
        };
        let mut response = Response::new(body::full(text));
        *response.status_mut() = status;
        let content_type = HeaderValue::from_static(content_type);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        response
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a node's counters.
#[derive(Debug)]
struct NodeCollector(Node);

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bytes = self.0.bytes();
        let mut received = encoder.encode_descriptor(
            "hawker_piece_received_bytes",
            "Bytes of pieces received and checked, by where they came from",
            None,
            MetricType::Counter,
        )?;
        for (source, bytes) in [
            ("parent", bytes.parent),
            ("seed", bytes.seed),
            ("origin", bytes.origin),
        ] {
            let labels = [("source", source)];
            let labelled = received.encode_family(&labels)?;
            ConstCounter::new(bytes).encode(labelled)?;
        }
        for (name, help, bytes) in [
            (
                "hawker_piece_sent_bytes",
                "Bytes of pieces sent to other hosts",
                bytes.sent,
            ),
            (
                "hawker_piece_rejected_bytes",
                "Bytes of pieces received and dropped because they were wrong",
                bytes.rejected,
            ),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(bytes).encode(counter)?;
        }
        encode_room(&self.0.room(), &mut encoder)
    }
}

/// The store's disk.
fn encode_room(
    room: &RoomStatus,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    for (name, help, count) in [
        (
            "hawker_store_evicted_bytes",
            "Lengths of blobs that were evicted",
            room.evicted_bytes,
        ),
        (
            "hawker_store_lost_pieces",
            "Pieces that the disk did not give back as they were written",
            room.lost_pieces,
        ),
    ] {
        let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(count).encode(counter)?;
    }
    for (name, help, bytes) in [
        (
            "hawker_store_disk_bytes",
            "Size of the file system that holds the blob store",
            room.total,
        ),
        (
            "hawker_store_free_bytes",
            "What can still be allocated on that file system",
            room.free,
        ),
    ] {
        let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        ConstGauge::new(bytes).encode(gauge)?;
    }
    Ok(())
}

/// Reads limits, and what moves.
#[derive(Debug)]
struct LimitCollector(LimitDesk);

impl Collector for LimitCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        encode_limits(&self.0.now(), &self.0.traffic(), &mut encoder)
    }
}

fn encode_limits(
    limits: &LimitSettings,
    traffic: &Traffic,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let rate = |limit: RateLimit| match limit {
        RateLimit::Unlimited => 0,
        RateLimit::Rate {
            bytes_per_second, ..
        } => bytes_per_second.get(),
    };
    let set = [
        ("download", limits.download, limits.download_per_task),
        ("upload", limits.upload, limits.upload_per_task),
        (
            "back-to-source",
            limits.back_to_source,
            limits.back_to_source_per_task,
        ),
    ];
    let set = set.map(|(kind, all, task)| (kind, [rate(all), rate(task)]));
    let moves = |flow: Flow| [flow.all, flow.busiest_task];
    let moves = [
        ("download", moves(traffic.download)),
        ("upload", moves(traffic.upload)),
        ("back-to-source", moves(traffic.back_to_source)),
    ];
    for (name, help, kinds) in [
        (
            "hawker_limit_bytes_per_second",
            "Rates that the network is held to, of all tasks and of each; 0 is no limit",
            set,
        ),
        (
            "hawker_traffic_bytes_per_second",
            "What moved lately, of all tasks and of the one that moved most",
            moves,
        ),
    ] {
        let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (kind, rates) in kinds {
            for (of, rate) in ["all", "task"].into_iter().zip(rates) {
                let labels = [("kind", kind), ("of", of)];
                let rate = i64::try_from(rate).unwrap_or(i64::MAX);
                ConstGauge::new(rate).encode(gauge.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

/// Reads how the certificate stands.
#[derive(Debug)]
struct KeeperCollector(KeeperHandle);

impl Collector for KeeperCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let status = self.0.status();
        let end = status.not_after.duration_since(UNIX_EPOCH);
        let end = end.unwrap_or_default().as_secs();
        for (name, help, value) in [
            (
                "hawker_certificate_expiry_seconds",
                "When this host's certificate ends, in seconds since 1970",
                i64::try_from(end).unwrap_or(i64::MAX),
            ),
            (
                "hawker_revoked_certificates",
                "Certificates of the cluster that are revoked",
                i64::try_from(status.revoked).unwrap_or(i64::MAX),
            ),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        let mut renewals = encoder.encode_descriptor(
            "hawker_certificate_renewals",
            "Attempts to renew this host's certificate, by how they ended",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in [("done", status.renewals), ("failed", status.failures)] {
            let labels = [("result", result)];
            ConstCounter::new(count).encode(renewals.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_under_the_documented_names() {
        let metrics = Metrics::new();
        metrics.mirror.answered("blob", StatusCode::PARTIAL_CONTENT);
        metrics.mirror.served(Served::Network).inc_by(7);
        let text = metrics.to_text();
        for line in [
            "hawker_mirror_requests_total{kind=\"blob\",status=\"206\"} 1",
            "hawker_mirror_served_bytes_total{source=\"network\"} 7",
            "hawker_mirror_served_bytes_total{source=\"local\"} 0",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn limits_are_told_beside_what_moves() {
        #[derive(Debug)]
        struct Told(LimitSettings, Traffic);
        impl Collector for Told {
            fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
                encode_limits(&self.0, &self.1, &mut encoder)
            }
        }
        let (mut limits, mut traffic) = (LimitSettings::default(), Traffic::default());
        limits.upload_per_task = RateLimit::from_bytes(1000);
        traffic.upload.busiest_task = 990;
        traffic.back_to_source.all = 7;
        let metrics = Metrics::new();
        metrics
            .lock()
            .register_collector(Box::new(Told(limits, traffic)));
        let text = metrics.to_text();
        for line in [
            "hawker_limit_bytes_per_second{kind=\"upload\",of=\"task\"} 1000",
            "hawker_limit_bytes_per_second{kind=\"upload\",of=\"all\"} 0",
            "hawker_limit_bytes_per_second{kind=\"download\",of=\"all\"} 0",
            "hawker_traffic_bytes_per_second{kind=\"upload\",of=\"task\"} 990",
            "hawker_traffic_bytes_per_second{kind=\"back-to-source\",of=\"all\"} 7",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn health_is_a_json_string() {
        let request = |path: &str| Request::get(path).body(()).unwrap();
        let metrics = Metrics::new();
        assert_eq!(metrics.answer(&request("/healthy")).status(), 200);
        assert_eq!(metrics.answer(&request("/x")).status(), 404);
    }
}
