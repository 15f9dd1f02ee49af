//! `/metrics` in OpenMetrics text.

use std::time::UNIX_EPOCH;

use hawker_enrol::KeeperStatus;
use hawker_model::Role;
use hawker_tracker::Counters;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::ConstCounter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What is measured, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) nodes: usize,
    pub(crate) seeds: usize,
    pub(crate) unreachable: usize,
    pub(crate) isolated: usize,
    pub(crate) swarms: usize,
    pub(crate) streams: usize,
    pub(crate) slow: u64,
    pub(crate) counters: Counters,
}

impl Sample {
    /// The exposition. Built for each scrape: everything is counted in the driver already.
    pub(crate) fn to_text(&self, certificate: Option<KeeperStatus>) -> String {
        let mut registry = Registry::with_prefix("hawker_scheduler");
        let hosts = Family::<Vec<(&str, &str)>, Gauge>::default();
        for (role, count) in [(Role::Node, self.nodes), (Role::Seed, self.seeds)] {
            let labels = vec![("role", role.as_str())];
            hosts.get_or_create(&labels).set(count as i64);
        }
        registry.register("hosts", "Live hosts", hosts);
        let gauges = [
            (
                "unreachable_hosts",
                "Live hosts whose peer port does not answer",
                self.unreachable,
            ),
            (
                "isolated_hosts",
                "Hosts isolated because others reported them",
                self.isolated,
            ),
            ("swarms", "Tasks that somebody has or wants", self.swarms),
            ("streams", "Open sessions", self.streams),
        ];
        for (name, help, value) in gauges {
            let gauge = Gauge::<i64>::default();
            gauge.set(value as i64);
            registry.register(name, help, gauge);
        }
        let counters = &self.counters;
        let counts = [
            ("lookups", "Lookups by hosts", counters.lookups),
            (
                "parents_messages",
                "Messages that name parents",
                counters.pushes,
            ),
            ("parents_pushed", "Parents named to hosts", counters.parents),
            (
                "seed_choices",
                "Tasks given to a seed",
                counters.seed_choices,
            ),
            (
                "elections",
                "Nodes elected to fetch because no seed is alive",
                counters.elections,
            ),
            (
                "reports",
                "Reports about misbehaving hosts",
                counters.reports,
            ),
            (
                "ignored_reports",
                "Reports that counted for nothing, because of who made them",
                counters.ignored_reports,
            ),
            ("isolations", "Hosts isolated", counters.isolations),
            ("paroles", "Isolations that ended", counters.paroles),
            (
                "silent_hosts",
                "Hosts dropped because they fell silent",
                counters.silences,
            ),
            (
                "slow_hosts",
                "Sessions cut because the host read too slowly",
                self.slow,
            ),
        ];
        for (name, help, value) in counts {
            registry.register(name, help, ConstCounter::new(value));
        }
        if let Some(certificate) = certificate {
            register_certificate(&mut registry, &certificate);
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn register_certificate(registry: &mut Registry, certificate: &KeeperStatus) {
    let end = certificate.not_after.duration_since(UNIX_EPOCH);
    let gauges = [
        (
            "certificate_expiry_seconds",
            "When the scheduler's certificate ends, in seconds since 1970",
            i64::try_from(end.unwrap_or_default().as_secs()).unwrap_or(i64::MAX),
        ),
        (
            "revoked_certificates",
            "Certificates that are revoked",
            certificate.revoked as i64,
        ),
    ];
    for (name, help, value) in gauges {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    let counts = [
        (
            "certificate_renewals",
            "Renewals of the scheduler's certificate",
            certificate.renewals,
        ),
        (
            "certificate_renewal_failures",
            "Renewals of the scheduler's certificate that failed",
            certificate.failures,
        ),
    ];
    for (name, help, value) in counts {
        registry.register(name, help, ConstCounter::new(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_names_that_dashboards_use() {
        let sample = Sample {
            nodes: 3,
            ..Sample::default()
        };
        let text = sample.to_text(None);
        for line in [
            "hawker_scheduler_hosts{role=\"node\"} 3",
            "hawker_scheduler_hosts{role=\"seed\"} 0",
            "hawker_scheduler_swarms 0",
            "hawker_scheduler_lookups_total 0",
            "hawker_scheduler_elections_total 0",
            "hawker_scheduler_isolated_hosts 0",
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "{line} is missing in:\n{text}"
            );
        }
    }
}
