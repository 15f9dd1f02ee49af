//! The table of rights. Time is what the caller says; nothing waits here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_swarm::Secret;
use serde::{Deserialize, Serialize};

use super::super::{
    Place,
    right_key::{Holder, Item, RightKey},
};

/// Rights remembered at most: some ten MiB.
pub(super) const MOST: usize = 32_768;
/// Bytes at most of what was learnt with them.
const MOST_BYTES: usize = 16 << 20;
/// Holders remembered at most, with or without rights.
const MOST_HOLDERS: usize = 32_768;

/// A right that stands, with what was learnt on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Right {
    /// The blob's length, as the origin tells it.
    pub(crate) length: Option<u64>,
    /// Of a URL's file: its entity tag or date.
    pub(crate) revision: Option<Arc<str>>,
    /// What the network is to show, where that is not what the asker showed: a token that was
    /// bought for it. `Some(None)`: nothing need be shown.
    pub(crate) bought: Option<Option<Secret>>,
    /// Whether the right's own origin has been shown to hold the very bytes.
    pub(crate) is_proven: bool,
}

/// What a remembered right is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Fresh,
    /// For when the origin cannot be reached.
    InGrace,
}

/// The rights to one repository, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepositoryRights {
    pub(crate) registry: String,
    /// Empty: files of this server's.
    pub(crate) repository: String,
    /// Different credentials that hold some.
    pub(crate) holders: usize,
    pub(crate) fresh: usize,
    /// Good only while the registry cannot be reached.
    pub(crate) in_grace: usize,
}

#[derive(Default)]
pub(super) struct Table {
    holders: HashMap<Holder, Holdings>,
    /// Rights of all.
    count: usize,
    /// Bytes of what was learnt with them.
    bytes: usize,
}

/// What one holds.
struct Holdings {
    place: Place,
    accepted_until: Option<Instant>,
    rights: HashMap<Item, Entry>,
}

struct Entry {
    right: Right,
    granted: Instant,
    fresh_until: Instant,
    ends: Instant,
}

impl Table {
    pub(super) fn find(&self, key: &RightKey, now: Instant) -> Option<(&Right, Standing)> {
        let entry = self.entry(key)?;
        if now < entry.fresh_until {
            return Some((&entry.right, Standing::Fresh));
        }
        (now < entry.ends).then_some((&entry.right, Standing::InGrace))
    }

    /// The right, if it was granted then or later, however short its life.
    pub(super) fn granted_since(&self, key: &RightKey, since: Instant) -> Option<&Right> {
        let entry = self.entry(key)?;
        (entry.granted >= since).then_some(&entry.right)
    }

    fn entry(&self, key: &RightKey) -> Option<&Entry> {
        self.holders.get(&key.holder)?.rights.get(&key.item)
    }

    /// Remembers a right that is fresh, and usable at all, for so long.
    pub(super) fn grant(
        &mut self,
        key: &RightKey,
        place: &Place,
        right: Right,
        now: Instant,
        (fresh, usable): (Duration, Duration),
    ) {
        self.make_room(now);
        self.bytes += weight(&right);
        let entry = Entry {
            right,
            granted: now,
            fresh_until: now + fresh,
            ends: now + usable,
        };
        let before = self
            .holdings(&key.holder, place)
            .rights
            .insert(key.item, entry);
        self.count += usize::from(before.is_none());
        self.bytes -= before.map_or(0, |entry| weight(&entry.right));
    }

    pub(super) fn prove(&mut self, key: &RightKey) {
        let holdings = self.holders.get_mut(&key.holder);
        if let Some(entry) = holdings.and_then(|holdings| holdings.rights.get_mut(&key.item)) {
            entry.right.is_proven = true;
        }
    }

    pub(super) fn age(&mut self, key: &RightKey, now: Instant) {
        let holdings = self.holders.get_mut(&key.holder);
        if let Some(entry) = holdings.and_then(|holdings| holdings.rights.get_mut(&key.item)) {
            entry.fresh_until = entry.fresh_until.min(now);
        }
    }

    pub(super) fn note_accepted(&mut self, holder: &Holder, place: &Place, until: Instant) {
        self.holdings(holder, place).accepted_until = Some(until);
    }

    pub(super) fn is_accepted(&self, holder: &Holder, now: Instant) -> bool {
        let holdings = self.holders.get(holder);
        let until = holdings.and_then(|holdings| holdings.accepted_until);
        until.is_some_and(|until| now < until)
    }

    pub(super) fn end(&mut self, holder: &Holder) {
        if let Some(holdings) = self.holders.remove(holder) {
            self.count -= holdings.rights.len();
            self.bytes -= bytes(holdings.rights.values());
        }
    }

    pub(super) fn forget_one(&mut self, key: &RightKey) {
        let holdings = self.holders.get_mut(&key.holder);
        let gone = holdings.and_then(|holdings| holdings.rights.remove(&key.item));
        self.count -= usize::from(gone.is_some());
        self.bytes -= gone.map_or(0, |entry| weight(&entry.right));
    }

    /// Forgets what is held at the places that `applies` takes, and tells `gone` of whom.
    pub(super) fn forget(
        &mut self,
        applies: &dyn Fn(&Place) -> bool,
        gone: &mut dyn FnMut(Holder),
    ) -> usize {
        let before = self.count;
        self.holders.retain(|holder, holdings| {
            let is_kept = !applies(&holdings.place);
            if !is_kept {
                gone(*holder);
            }
            is_kept
        });
        self.recount();
        before - self.count
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn report(&self, now: Instant) -> Vec<RepositoryRights> {
        let mut all: BTreeMap<&Place, RepositoryRights> = BTreeMap::new();
        for holdings in self.holders.values() {
            let fresh = holdings
                .rights
                .values()
                .filter(|entry| now < entry.fresh_until);
            let usable = holdings.rights.values().filter(|entry| now < entry.ends);
            let (fresh, usable) = (fresh.count(), usable.count());
            if usable == 0 {
                continue;
            }
            let row = all
                .entry(&holdings.place)
                .or_insert_with(|| RepositoryRights {
                    registry: holdings.place.registry().to_owned(),
                    repository: holdings.place.repository().to_owned(),
                    holders: 0,
                    fresh: 0,
                    in_grace: 0,
                });
            row.holders += 1;
            row.fresh += fresh;
            row.in_grace += usable - fresh;
        }
        all.into_values().collect()
    }

    fn holdings(&mut self, holder: &Holder, place: &Place) -> &mut Holdings {
        if self.holders.len() >= MOST_HOLDERS && !self.holders.contains_key(holder) {
            // Those that hold nothing have least to lose; else it starts anew.
            self.holders
                .retain(|_, holdings| !holdings.rights.is_empty());
            if self.holders.len() >= MOST_HOLDERS {
                self.holders.clear();
            }
            self.recount();
        }
        self.holders.entry(*holder).or_insert_with(|| Holdings {
            place: place.clone(),
            accepted_until: None,
            rights: HashMap::new(),
        })
    }

    /// What has ended goes; where that is little, so does the half that was granted first.
    fn make_room(&mut self, now: Instant) {
        if self.count < MOST && self.bytes < MOST_BYTES {
            return;
        }
        self.retain(|entry| now < entry.fresh_until);
        if self.count > MOST / 2 || self.bytes > MOST_BYTES / 2 {
            let mut granted: Vec<_> = self.entries().map(|entry| entry.granted).collect();
            let middle = granted.len() / 2;
            let (_, middle, _) = granted.select_nth_unstable(middle);
            let middle = *middle;
            self.retain(|entry| entry.granted > middle);
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.holders
            .values()
            .flat_map(|holdings| holdings.rights.values())
    }

    fn retain(&mut self, keeps: impl Fn(&Entry) -> bool) {
        for holdings in self.holders.values_mut() {
            holdings.rights.retain(|_, entry| keeps(entry));
        }
        self.holders
            .retain(|_, holdings| !holdings.rights.is_empty());
        self.recount();
    }

    fn recount(&mut self) {
        self.count = self
            .holders
            .values()
            .map(|holdings| holdings.rights.len())
            .sum();
        self.bytes = bytes(self.entries());
    }
}

fn bytes<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> usize {
    let weights = entries.into_iter().map(|entry| weight(&entry.right));
    weights.sum()
}

/// Bytes of what was learnt with a right.
fn weight(right: &Right) -> usize {
    let bought = right.bought.iter().flatten();
    let bought: usize = bought.map(|secret| secret.expose().len()).sum();
    bought + right.revision.as_ref().map_or(0, |revision| revision.len())
}

#[cfg(test)]
mod tests {
    use hawker_model::{Digest, TaskId};

    use super::*;

    const KEEP: Duration = Duration::from_secs(10);
    const USABLE: Duration = Duration::from_secs(30);

    fn place(repository: &str) -> Place {
        Place::named("r.io", repository)
    }

    fn key(repository: &str, credential: &str, blob: &str) -> RightKey {
        RightKey {
            holder: Holder::of_repository(repository, Some(&Secret::new(credential))),
            item: Item::Task(TaskId::Blob(Digest::of(blob.as_bytes()))),
        }
    }

    fn granted(keys: &[RightKey], now: Instant) -> Table {
        let mut table = Table::default();
        for key in keys {
            table.grant(key, &place("a"), Right::default(), now, (KEEP, USABLE));
        }
        table
    }

    fn standing(table: &Table, key: &RightKey, now: Instant) -> Option<Standing> {
        table.find(key, now).map(|(_, standing)| standing)
    }

    #[test]
    fn right_is_fresh_then_in_grace_then_gone() {
        let (key, now) = (key("a", "t", "x"), Instant::now());
        let table = granted(&[key], now);
        assert_eq!(standing(&table, &key, now), Some(Standing::Fresh));
        assert_eq!(standing(&table, &key, now + KEEP), Some(Standing::InGrace));
        assert_eq!(standing(&table, &key, now + USABLE), None);
    }

    #[test]
    fn end_takes_all_of_one_holder_and_nothing_of_another() {
        let now = Instant::now();
        let of_one = [key("a", "t", "x"), key("a", "t", "y")];
        let of_others = [key("a", "u", "x"), key("b", "t", "x")];
        let mut table = granted(&[of_one, of_others].concat(), now);
        table.note_accepted(&of_one[0].holder, &place("a"), now + KEEP);
        table.end(&of_one[0].holder);
        assert!(
            of_one
                .iter()
                .all(|key| standing(&table, key, now).is_none())
        );
        assert!(
            of_others
                .iter()
                .all(|key| standing(&table, key, now).is_some())
        );
        assert!(!table.is_accepted(&of_one[0].holder, now));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn forgetting_goes_by_place() {
        let now = Instant::now();
        let mut table = Table::default();
        for (repository, blob) in [("a", "x"), ("a", "y"), ("b", "x")] {
            let key = key(repository, "t", blob);
            table.grant(
                &key,
                &place(repository),
                Right::default(),
                now,
                (KEEP, USABLE),
            );
        }
        let mut gone = Vec::new();
        let of_a = |place: &Place| place.repository() == "a";
        assert_eq!(table.forget(&of_a, &mut |holder| gone.push(holder)), 2);
        assert_eq!(gone, [key("a", "t", "").holder]);
        assert_eq!(table.report(now + KEEP).len(), 1);
        assert_eq!(table.report(now + KEEP)[0].in_grace, 1);
        assert!(table.report(now + USABLE).is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let now = Instant::now();
        let mut table = Table::default();
        let nth = |i: usize| key(&format!("r{}", i % 100), "t", &i.to_string());
        for i in 0..2 * MOST {
            let at = now + Duration::from_nanos(i as u64);
            table.grant(&nth(i), &place("a"), Right::default(), at, (KEEP, USABLE));
            assert!(table.len() <= MOST);
        }
        let last = nth(2 * MOST - 1);
        assert_eq!(standing(&table, &last, now), Some(Standing::Fresh));
        for i in 0..2 * MOST_HOLDERS {
            let holder = key(&i.to_string(), "t", "").holder;
            table.note_accepted(&holder, &place("a"), now + KEEP);
        }
        assert!(table.holders.len() <= MOST_HOLDERS);
        assert_eq!(table.len(), table.entries().count());
    }

    #[test]
    fn long_tokens_take_no_more_memory_than_short_ones() {
        let (now, token) = (Instant::now(), "x".repeat(16_000));
        let mut table = Table::default();
        for i in 0..4 * MOST_BYTES / token.len() {
            let right = Right {
                bought: Some(Some(Secret::new(token.as_str()))),
                ..Right::default()
            };
            let at = now + Duration::from_nanos(i as u64);
            let key = key(&format!("r{}", i % 100), "t", &i.to_string());
            table.grant(&key, &place("a"), right, at, (KEEP, USABLE));
            assert!(table.bytes <= MOST_BYTES + token.len());
        }
        assert_eq!(table.bytes, bytes(table.entries()));
        table.end(&key("r1", "t", "").holder);
        assert_eq!(table.bytes, bytes(table.entries()));
    }
}
