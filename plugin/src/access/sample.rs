//! Which parts of a blob are compared.

use std::{
    hash::{BuildHasher as _, RandomState},
    ops::Range,
};

use hawker_model::TaskId;

/// Parts of a blob that are compared.
const PARTS: u64 = 4;
/// Bytes of each.
const PART_LEN: u64 = 4 << 10;

/// Chooses them: one at random in each quarter, so that nobody passes who holds a blob only up to
/// where it differs. For one blob and one place always the same until hawkerd starts anew, so that
/// asking again and again helps nobody.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    secret: RandomState,
}

impl Sampler {
    /// The ranges of a blob of `length` bytes to be compared with what `place` gives; all of it
    /// where it is small.
    pub(super) fn ranges(&self, task: TaskId, place: &str, length: u64) -> Vec<Range<u64>> {
        if length <= PARTS * PART_LEN {
            return std::iter::once(0..length).collect();
        }
        let quarter = length / PARTS;
        let range = |part: u64| {
            let from = part * quarter;
            let until = match part + 1 {
                PARTS => length,
                next => next * quarter,
            };
            let room = until - from - PART_LEN + 1;
            let start = from + self.secret.hash_one((task, place, part)) % room;
            start..start + PART_LEN
        };
        (0..PARTS).map(range).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TASK: TaskId = TaskId::Url([1; 32]);

    #[test]
    fn choice_cannot_be_repeated_into_a_better_one() {
        let sampler = Sampler::default();
        let length = 1 << 30;
        assert_eq!(
            sampler.ranges(TASK, "https://r.io", length),
            sampler.ranges(TASK, "https://r.io", length)
        );
        let another = Sampler::default();
        assert_ne!(
            sampler.ranges(TASK, "https://r.io", length),
            another.ranges(TASK, "https://r.io", length)
        );
    }

    proptest! {
        #[test]
        fn every_quarter_is_looked_at(length in 0u64..1 << 40) {
            let ranges = Sampler::default().ranges(TASK, "https://r.io", length);
            prop_assert!(ranges.iter().all(|range| range.end <= length));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            prop_assert_eq!(bytes, length.min(PARTS * PART_LEN));
            if let [.., last] = &ranges[..] && length > PARTS * PART_LEN {
                prop_assert!(last.start >= length / PARTS * (PARTS - 1));
            }
        }
    }
}
