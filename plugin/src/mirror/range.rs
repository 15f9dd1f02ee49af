//! The part of a blob that a request's `Range` header asks for (RFC 9110, section 14).

use std::ops::Range;

/// What to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it, status 200.
    Whole,
    /// These bytes, never none, status 206.
    Part(Range<u64>),
    /// Status 416.
    Unsatisfiable,
}

impl Wanted {
    /// Reads a `Range` header for a blob of `length` bytes. What is no single range of bytes is
    /// ignored, as the RFC allows: the answer is the whole then.
    pub(super) fn parse(header: Option<&str>, length: u64) -> Self {
        let single = header
            .and_then(|text| text.trim().split_once('='))
            .filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"))
            .and_then(|(_, range)| range.trim().split_once('-'));
        let Some((first, last)) = single else {
            return Self::Whole;
        };
        match (number(first), number(last)) {
            (Number::Sound(first), Number::Sound(last)) if first > last => Self::Whole,
            (Number::Sound(first), Number::Sound(last)) => {
                Self::within(first, last.saturating_add(1).min(length))
            }
            (Number::Sound(first), Number::Absent) => Self::within(first, length),
            (Number::Absent, Number::Sound(suffix)) => {
                Self::within(length.saturating_sub(suffix), length)
            }
            _ => Self::Whole,
        }
    }

    fn within(start: u64, end: u64) -> Self {
        match start < end {
            true => Self::Part(start..end),
            false => Self::Unsatisfiable,
        }
    }
}

enum Number {
    Absent,
    Sound(u64),
    Malformed,
}

fn number(text: &str) -> Number {
    if text.is_empty() {
        return Number::Absent;
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Number::Malformed;
    }
    // More digits than u64 has is beyond every blob.
    Number::Sound(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Wanted::*, *};

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (header, wanted) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=2-5", Part(2..6)),
            ("bytes=0-", Part(0..10)),
            ("bytes=9-", Part(9..10)),
            ("bytes=5-1000", Part(5..10)),
            ("bytes=5-99999999999999999999999", Part(5..10)),
            ("bytes=-3", Part(7..10)),
            ("bytes=-1000", Part(0..10)),
            ("Bytes = 1-2", Part(1..3)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=10-20", Unsatisfiable),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=5-2", Whole),
            ("bytes=0-1,3-4", Whole),
            ("bytes=", Whole),
            ("bytes=-", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("items=0-1", Whole),
            ("", Whole),
        ] {
            assert_eq!(Wanted::parse(Some(header), 10), wanted, "{header}");
        }
        assert_eq!(Wanted::parse(None, 10), Whole);
        assert_eq!(Wanted::parse(Some("bytes=0-"), 0), Unsatisfiable);
        assert_eq!(Wanted::parse(Some("bytes=-1"), 0), Unsatisfiable);
    }

    proptest! {
        #[test]
        fn any_header_stays_within_the_blob(header in "(bytes=)?[0-9,\\PC-]{0,40}", length: u64) {
            if let Part(range) = Wanted::parse(Some(&header), length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
