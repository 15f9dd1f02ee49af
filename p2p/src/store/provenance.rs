//! Which origins are known to hold a blob's bytes: where each piece was read, and who has proven
//! to hold them all. Pure.
//!
//! Invariant: what is said of a piece was signed by the host that read it, or is "unknown". An
//! origin is never added to a piece by guess; what is forgotten only has to be proven again.

use std::ops::Range;

use hawker_model::{Geometry, OriginName};

/// Most changes of origin that are remembered along a blob; what follows is of unknown origin.
const MOST_RUNS: usize = 1024;
/// Most origins that are remembered to have proven a blob; the oldest gives way.
pub(super) const MOST_HOLDERS: usize = 16;

/// The origins of one blob's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Provenance {
    /// In order, without gaps, from the first piece to the last whose chain value is known.
    runs: Vec<Run>,
    /// In the order of their proofs.
    holders: Vec<OriginName>,
}

/// Pieces in a row that were read at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The index after the last of them.
    pub(super) end: u32,
    /// `None`: unknown.
    pub(super) origin: Option<OriginName>,
}

impl Provenance {
    /// What was saved; `None` unless it keeps the rules of this type.
    pub(super) fn restore(runs: Vec<Run>, holders: Vec<OriginName>) -> Option<Self> {
        let bounded = runs.len() <= MOST_RUNS && holders.len() <= MOST_HOLDERS;
        let begins = runs.first().is_none_or(|run| run.end > 0);
        let grows = runs.windows(2).all(|two| two[0].end < two[1].end);
        let merged = runs.windows(2).all(|two| two[0].origin != two[1].origin);
        (bounded && begins && grows && merged).then_some(Self { runs, holders })
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(super) fn holders(&self) -> &[OriginName] {
        &self.holders
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.holders.is_empty()
    }

    /// The index after the last piece that something is said of.
    pub(super) fn end(&self) -> u32 {
        self.runs.last().map_or(0, |run| run.end)
    }

    /// Notes where the pieces up to (not including) `end` were read, of which nothing was said yet.
    pub(super) fn extend(&mut self, end: u32, origin: Option<OriginName>) {
        if end <= self.end() {
            return;
        }
        let full = self.runs.len() >= MOST_RUNS;
        match self.runs.last_mut() {
            Some(last) if last.origin == origin => last.end = end,
            Some(last) if full => *last = Run { end, origin: None },
            _ => self.runs.push(Run { end, origin }),
        }
        // The run before a full list's last may be of unknown origin too.
        if let [.., before, last] = self.runs.as_mut_slice()
            && before.origin == last.origin
        {
            before.end = last.end;
            self.runs.pop();
        }
    }

    /// Makes it speak of exactly the first `count` pieces: of those that it did not, as unknown.
    /// If it spoke of more, others may come in their place, which nobody has proven.
    pub(super) fn fit(&mut self, count: u32) {
        if self.end() > count {
            self.holders.clear();
            let kept = self.runs.partition_point(|run| run.end < count);
            self.runs.truncate(kept + 1);
            match self.runs.last_mut() {
                Some(last) if count > 0 => last.end = count,
                _ => self.runs.clear(),
            }
        }
        self.extend(count, None);
    }

    /// The same of the same bytes, cut into other pieces: one that was read at two places is of
    /// unknown origin.
    pub(super) fn recut(&self, old: &Geometry, new: &Geometry) -> Self {
        let piece_len = u64::from(new.piece_len());
        let mut recut = Self {
            runs: Vec::new(),
            holders: self.holders.clone(),
        };
        let mut start = 0u64;
        for run in &self.runs {
            let end = (u64::from(run.end) * u64::from(old.piece_len())).min(new.length());
            // Below 2^20, as all piece counts.
            let first = start.div_ceil(piece_len) as u32;
            let behind = match end == new.length() {
                true => new.piece_count(),
                false => (end / piece_len) as u32,
            };
            recut.extend(first, None);
            recut.extend(behind, run.origin.clone());
            start = end;
        }
        recut.extend(start.div_ceil(piece_len) as u32, None);
        recut
    }

    /// Notes that `origin` holds all bytes; says whether that is new.
    pub(super) fn note_holder(&mut self, origin: OriginName) -> bool {
        let newest = self.holders.last() == Some(&origin);
        self.holders.retain(|holder| *holder != origin);
        self.holders.push(origin);
        let surplus = self.holders.len().saturating_sub(MOST_HOLDERS);
        self.holders.drain(..surplus);
        !newest
    }

    /// Whether all of `pieces` that something is said of are held by an origin that `accepts`
    /// takes.
    pub(super) fn is_held(
        &self,
        pieces: Range<u32>,
        accepts: &dyn Fn(&OriginName) -> bool,
    ) -> bool {
        if pieces.is_empty() || self.holders.iter().any(accepts) {
            return true;
        }
        let first = self.runs.partition_point(|run| run.end <= pieces.start);
        let mut start = self.runs[..first].last().map_or(0, |run| run.end);
        self.runs[first..]
            .iter()
            .take_while(|run| std::mem::replace(&mut start, run.end) < pieces.end)
            .all(|run| run.origin.as_ref().is_some_and(accepts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(number: usize) -> OriginName {
        OriginName::parse(&format!("https://r{number}.example")).unwrap()
    }

    fn held(provenance: &Provenance, pieces: Range<u32>, by: usize) -> bool {
        provenance.is_held(pieces, &|name| *name == origin(by))
    }

    #[test]
    fn pieces_are_held_by_whoever_gave_them_and_by_nobody_else() {
        let mut provenance = Provenance::default();
        provenance.extend(4, Some(origin(1)));
        provenance.extend(6, Some(origin(1)));
        provenance.extend(8, None);
        provenance.extend(9, Some(origin(2)));
        assert_eq!(provenance.runs().len(), 3);
        assert!(held(&provenance, 0..6, 1) && held(&provenance, 5..6, 1));
        assert!(!held(&provenance, 0..7, 1) && !held(&provenance, 6..8, 1));
        assert!(!held(&provenance, 0..1, 2) && held(&provenance, 8..9, 2));
        // Nothing is said of what is not listed.
        assert!(held(&provenance, 8..100, 2) && held(&provenance, 9..10, 7));
        assert!(!held(&provenance, 5..9, 2) && held(&provenance, 3..3, 7));
        let either = |name: &OriginName| *name == origin(1) || *name == origin(2);
        assert!(!provenance.is_held(0..9, &either) && provenance.is_held(8..9, &either));
    }

    #[test]
    fn a_proof_counts_for_all_bytes_and_the_oldest_proof_gives_way() {
        let mut provenance = Provenance::default();
        provenance.extend(4, None);
        assert!(provenance.note_holder(origin(0)));
        assert!(!provenance.note_holder(origin(0)));
        assert!(held(&provenance, 0..4, 0));
        for number in 1..=MOST_HOLDERS {
            provenance.note_holder(origin(number));
        }
        assert!(!held(&provenance, 0..4, 0) && held(&provenance, 0..4, 1));
        assert_eq!(provenance.holders().len(), MOST_HOLDERS);
    }

    #[test]
    fn what_is_cut_off_takes_the_proofs_along() {
        let mut provenance = Provenance::default();
        provenance.extend(4, Some(origin(1)));
        provenance.extend(8, Some(origin(2)));
        provenance.note_holder(origin(3));
        provenance.fit(8);
        assert!(held(&provenance, 0..8, 3));
        provenance.fit(4);
        assert_eq!((provenance.runs().len(), provenance.end()), (1, 4));
        assert!(!held(&provenance, 0..4, 3) && held(&provenance, 0..4, 1));
        provenance.fit(6);
        assert!(!held(&provenance, 4..6, 1) && !held(&provenance, 4..6, 2));
        provenance.fit(0);
        assert!(provenance.is_empty());
    }

    #[test]
    fn other_pieces_of_the_same_bytes_were_read_where_those_bytes_were() {
        let cut = |piece_len: u32| Geometry::new(20 << 16, piece_len).unwrap();
        let (coarse, fine) = (cut(4 << 16), cut(1 << 16));
        let mut provenance = Provenance::default();
        provenance.extend(2, Some(origin(1)));
        provenance.extend(3, None);
        provenance.extend(5, Some(origin(2)));
        provenance.note_holder(origin(3));
        let finer = provenance.recut(&coarse, &fine);
        let ends: Vec<_> = finer.runs().iter().map(|run| run.end).collect();
        assert_eq!((ends, finer.holders()), (vec![8, 12, 20], &[origin(3)][..]));
        assert_eq!(finer.recut(&fine, &coarse), provenance);
        // A list that is not whole, and pieces that lie across a border.
        let mut provenance = Provenance::default();
        provenance.extend(2, Some(origin(1)));
        provenance.extend(7, Some(origin(2)));
        let coarser = provenance.recut(&fine, &coarse);
        assert_eq!(coarser.end(), 2);
        assert!((1..3).all(|by| !held(&coarser, 0..1, by) && !held(&coarser, 1..2, by)));
        let mut tail = Provenance::default();
        tail.extend(4, Some(origin(1)));
        tail.extend(20, Some(origin(2)));
        let coarser = tail.recut(&fine, &coarse);
        assert!(held(&coarser, 0..1, 1) && held(&coarser, 1..5, 2) && coarser.end() == 5);
    }

    #[test]
    fn endless_changes_of_origin_end_as_unknown() {
        let mut provenance = Provenance::default();
        for piece in 0..3000 {
            provenance.extend(piece + 1, Some(origin(piece as usize % 3)));
        }
        assert!(provenance.runs().len() <= MOST_RUNS && provenance.end() == 3000);
        assert!(held(&provenance, 1000..1001, 1000 % 3));
        assert!((0..3).all(|number| !held(&provenance, 2000..2001, number)));
        let (runs, holders) = (provenance.runs.clone(), Vec::new());
        assert_eq!(Provenance::restore(runs, holders), Some(provenance));
    }
}
