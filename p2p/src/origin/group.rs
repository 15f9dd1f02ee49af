//! Which origins hold the same bytes by an operator's word: the endpoints of one registry, and
//! registries that trust each other.
//!
//! The judge of possession asks: a blob that came from one member of a group may be given through
//! another without a proof.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hawker_model::OriginName;
use url::Url;

/// Origins that hold the same bytes. Clones are cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginGroup(Arc<BTreeSet<OriginName>>);

impl OriginGroup {
    /// Whether `origin` is one of them.
    pub fn contains(&self, origin: &OriginName) -> bool {
        self.0.contains(origin)
    }

    /// All of them, sorted.
    pub fn origins(&self) -> impl Iterator<Item = &OriginName> {
        self.0.iter()
    }
}

impl FromIterator<OriginName> for OriginGroup {
    fn from_iter<I: IntoIterator<Item = OriginName>>(origins: I) -> Self {
        Self(Arc::new(origins.into_iter().collect()))
    }
}

/// The groups of all configured registries.
#[derive(Debug, Default)]
pub(super) struct Groups(HashMap<OriginName, OriginGroup>);

impl Groups {
    /// `registries`: the trust group of each, if it is in one, and where it is.
    pub(super) fn new<'a>(
        registries: impl IntoIterator<Item = (Option<&'a str>, Vec<&'a Url>)>,
    ) -> Self {
        let registries: Vec<(_, Vec<OriginName>)> = registries
            .into_iter()
            .map(|(trust, places)| (trust, places.into_iter().filter_map(name_of).collect()))
            .collect();
        let mut trusting: BTreeMap<&str, BTreeSet<OriginName>> = BTreeMap::new();
        for (trust, origins) in &registries {
            if let Some(trust) = trust {
                let group = trusting.entry(trust).or_default();
                group.extend(origins.iter().cloned());
            }
        }
        let mut groups = Self::default();
        for (trust, origins) in registries {
            let trusted = trust.and_then(|trust| trusting.get(trust));
            let group = match trusted {
                Some(trusted) => trusted.iter().cloned().collect(),
                None => origins.iter().cloned().collect(),
            };
            for origin in origins {
                groups.join(origin, &group);
            }
        }
        groups
    }

    /// An origin that several registries name is of all their groups.
    fn join(&mut self, origin: OriginName, group: &OriginGroup) {
        let joined = match self.0.get(&origin) {
            Some(other) if other != group => {
                other.origins().chain(group.origins()).cloned().collect()
            }
            _ => group.clone(),
        };
        self.0.insert(origin, joined);
    }

    /// The group of the registry that is at `url`; that origin alone where none is.
    pub(super) fn of_url(&self, url: &Url) -> OriginGroup {
        let Some(origin) = name_of(url) else {
            return OriginGroup::default();
        };
        match self.0.get(&origin) {
            Some(group) => group.clone(),
            None => OriginGroup::from_iter([origin]),
        }
    }
}

fn name_of(url: &Url) -> Option<OriginName> {
    OriginName::of_url(url.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn is_one(group: &OriginGroup, origin: &str) -> bool {
        group.contains(&OriginName::parse(origin).unwrap())
    }

    #[test]
    fn a_registry_is_all_of_its_endpoints() {
        let (one, two) = (url("https://a.lan/x"), url("http://b.lan:5000"));
        let groups = Groups::new([(None, vec![&one, &two])]);
        let group = groups.of_url(&one);
        assert!(is_one(&group, "https://a.lan") && is_one(&group, "http://b.lan:5000"));
        assert!(!is_one(&group, "http://a.lan") && !is_one(&group, "http://b.lan"));
        assert_eq!(groups.of_url(&url("https://a.lan/other?q")), group);
    }

    #[test]
    fn registries_that_trust_each_other_are_one_group_and_others_are_not() {
        let urls: Vec<_> = ["https://a", "https://b", "https://c", "https://d"]
            .map(url)
            .into();
        let trust = [Some("t"), Some("t"), Some("u"), None];
        let groups = Groups::new((0..4).map(|i| (trust[i], vec![&urls[i]])));
        let of_a = groups.of_url(&urls[0]);
        assert_eq!(groups.of_url(&urls[1]), of_a);
        assert!(is_one(&of_a, "https://a") && is_one(&of_a, "https://b"));
        for other in &urls[2..] {
            assert_eq!(groups.of_url(other).origins().count(), 1);
        }
    }

    #[test]
    fn registries_at_one_place_are_one_group() {
        let (one, two, three) = (url("https://a"), url("https://b"), url("https://c"));
        let groups = Groups::new([(None, vec![&one, &two]), (None, vec![&two, &three])]);
        assert_eq!(groups.of_url(&two).origins().count(), 3);
    }

    #[test]
    fn an_origin_of_which_nothing_is_known_stands_alone() {
        let group = Groups::default().of_url(&url("https://x.example:8443/f?sig=1"));
        assert!(is_one(&group, "https://x.example:8443"));
        assert_eq!(group.origins().count(), 1);
        let none = Groups::default().of_url(&url("file:///etc/passwd"));
        assert_eq!(none.origins().count(), 0);
    }
}
