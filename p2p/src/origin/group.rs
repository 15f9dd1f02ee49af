//! Which origins' bytes count as one another's.

use std::{collections::BTreeSet, sync::Arc};

use hawker_model::OriginName;

/// Origins that hold the same bytes. Clones are cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginGroup(Arc<BTreeSet<OriginName>>);

impl OriginGroup {
    /// Whether `origin` is one of them.
    pub fn contains(&self, origin: &OriginName) -> bool {
        self.0.contains(origin)
    }
}

impl FromIterator<OriginName> for OriginGroup {
    fn from_iter<I: IntoIterator<Item = OriginName>>(origins: I) -> Self {
        Self(Arc::new(origins.into_iter().collect()))
    }
}
