//! Which host user and group are root in a container with a user namespace of its own: the labels
//! `containerd.io/snapshot/uidmapping` and `gidmapping`, `container:host:size[,…]`.

use std::collections::BTreeMap;

use super::SnapshotError;

const UIDS: &str = "containerd.io/snapshot/uidmapping";
const GIDS: &str = "containerd.io/snapshot/gidmapping";
/// No user has this one.
const NOBODY: u32 = u32::MAX;

/// The two mappings of a snapshot that has any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdMapping<'a> {
    uids: Option<&'a str>,
    gids: Option<&'a str>,
}

/// User and group of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Owner {
    /// Whether it is the host's own root.
    pub(super) fn is_hosts(self) -> bool {
        (self.uid, self.gid) == (0, 0)
    }
}

impl<'a> IdMapping<'a> {
    pub(super) fn of(labels: &'a BTreeMap<String, String>) -> Option<Self> {
        let label = |name| labels.get(name).map(String::as_str);
        let (uids, gids) = (label(UIDS), label(GIDS));
        (uids.is_some() || gids.is_some()).then_some(Self { uids, gids })
    }

    /// As mount options.
    pub(super) fn options(&self) -> impl Iterator<Item = String> {
        let uids = self.uids.map(|map| format!("uidmap={map}"));
        uids.into_iter()
            .chain(self.gids.map(|map| format!("gidmap={map}")))
    }

    /// Who the container's root is outside. Without a map an id stays what it is.
    pub(super) fn root(&self) -> Result<Owner, SnapshotError> {
        Ok(Owner {
            uid: root_of(self.uids.unwrap_or(""))?,
            gid: root_of(self.gids.unwrap_or(""))?,
        })
    }
}

fn root_of(map: &str) -> Result<u32, SnapshotError> {
    if map.is_empty() {
        return Ok(0);
    }
    let mut root = None;
    for range in map.split(',') {
        let (container, host, size) = parse_range(range).ok_or_else(|| {
            SnapshotError::invalid(format!("no id mapping: {range:?} in {map:?}"))
        })?;
        if container == 0 && size > 0 {
            root = root.or(Some(host));
        }
    }
    let what = || SnapshotError::invalid(format!("id mapping {map:?} has no root"));
    root.ok_or_else(what)
}

fn parse_range(range: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = range.split(':').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten().filter(|number| *number != NOBODY);
    let found = (next()?, next()?, next()?);
    numbers.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(uids: &str, gids: &str) -> Option<(u32, u32)> {
        let mapping = IdMapping {
            uids: Some(uids),
            gids: Some(gids),
        };
        mapping.root().ok().map(|owner| (owner.uid, owner.gid))
    }

    #[test]
    fn root_is_where_the_mapping_puts_it() {
        assert_eq!(root("0:1000:65536", "0:2000:65536"), Some((1000, 2000)));
        assert_eq!(root("5:1:1,0:7:1", ""), Some((7, 0)));
        assert_eq!(root("", ""), Some((0, 0)));
    }

    #[test]
    fn mappings_without_a_root_and_no_mappings_are_refused() {
        for map in [
            "1:1000:10",
            "0:1000:0",
            "0:1000",
            "a:b:c",
            "0:1:2:3",
            "0:1:2,",
            "-1:0:1",
        ] {
            assert_eq!(root(map, "0:0:1"), None, "{map}");
        }
        assert_eq!(root("0:4294967295:1", ""), None);
    }
}
