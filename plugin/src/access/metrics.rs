//! What is counted of rights and proofs.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{AccessError, PossessionError, resolve::Name, rights::Basis, seed_first::Grantor};

/// What is counted of rights and proofs. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccessMetrics {
    asked: Family<AskedLabels, Counter>,
    remembered: Counter,
    grace: Counter,
    compared: Family<OutcomeLabels, Counter>,
    resolved: Family<ResolvedLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AskedLabels {
    by: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResolvedLabels {
    name: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl AccessMetrics {
    /// Tells them under their names.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "hawker_right_asked",
            "Rights that were asked for, by who answered",
            self.asked.clone(),
        );
        registry.register(
            "hawker_right_remembered",
            "Requests whose right was remembered and fresh",
            self.remembered.clone(),
        );
        registry.register(
            "hawker_right_grace",
            "Requests whose right had expired while the registry could not be reached",
            self.grace.clone(),
        );
        registry.register(
            "hawker_possession_compared",
            "Comparisons of what a registry gives with the bytes that are here",
            self.compared.clone(),
        );
        registry.register(
            "hawker_manifest_resolved",
            "Questions to registries about manifests for other hosts, by in whose name",
            self.resolved.clone(),
        );
    }

    /// Counts a right that stands.
    pub(super) fn used(&self, basis: Basis) {
        match basis {
            Basis::Remembered => {
                self.remembered.inc();
            }
            Basis::Grace => {
                self.grace.inc();
            }
            Basis::Asked => {}
        }
    }

    /// Counts one answer.
    pub(super) fn asked<T>(&self, by: Grantor, answer: &Result<T, AccessError>) {
        let labels = AskedLabels {
            by: by.as_str(),
            outcome: outcome(answer),
        };
        self.asked.get_or_create(&labels).inc();
    }

    /// Counts one question for other hosts.
    pub(super) fn resolved<T>(&self, name: Name, answer: &Result<T, AccessError>) {
        let name = match name {
            Name::Theirs => "theirs",
            Name::Nobodys => "nobodys",
        };
        let outcome = outcome(answer);
        let labels = ResolvedLabels { name, outcome };
        self.resolved.get_or_create(&labels).inc();
    }

    /// Counts one comparison.
    pub(super) fn compared(&self, outcome: &Result<(), PossessionError>) {
        let outcome = match outcome {
            Ok(()) => "proven",
            Err(PossessionError::Refuted { .. }) => "refuted",
            Err(_) => "unproven",
        };
        self.compared
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }
}

fn outcome<T>(answer: &Result<T, AccessError>) -> &'static str {
    match answer {
        Ok(_) => "granted",
        Err(error) if error.is_refusal() => "refused",
        Err(error) if error.is_missing() => "missing",
        Err(_) => "failed",
    }
}
