//! Ranges of bytes: what is asked for, and what an answer says it is.

use std::ops::Range;

use http::{HeaderMap, HeaderValue, header::CONTENT_RANGE};

/// Bytes from `start` up to, and without, `end`; to the last byte if there is no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    pub start: u64,
    pub end: Option<u64>,
}

impl ByteRange {
    /// All bytes.
    pub const ALL: Self = Self {
        start: 0,
        end: None,
    };

    /// All bytes from `start` on.
    pub fn from(start: u64) -> Self {
        Self { start, end: None }
    }
}

impl From<Range<u64>> for ByteRange {
    fn from(range: Range<u64>) -> Self {
        Self {
            start: range.start,
            end: Some(range.end),
        }
    }
}

/// `Range` for the bytes from `position` to `end`; `None` where all is wanted.
pub(super) fn header(position: u64, end: Option<u64>) -> Option<HeaderValue> {
    let text = match end {
        None if position == 0 => return None,
        None => format!("bytes={position}-"),
        Some(end) => format!("bytes={position}-{}", end.saturating_sub(1)),
    };
    HeaderValue::try_from(text).ok()
}

/// What `Content-Range` says: the bytes that follow, if any do, and the length of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// `None` in `bytes */1000`.
    pub(super) bytes: Option<Range<u64>>,
    /// `None` in `bytes 0-9/*`.
    pub(super) total: Option<u64>,
}

impl ContentRange {
    pub(super) fn of_headers(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(CONTENT_RANGE)?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once([' ', '='])?;
        let (range, total) = rest.trim().split_once('/')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let total = match total.trim() {
            "*" => None,
            total => Some(number(total)?),
        };
        let bytes = match range.trim() {
            "*" => None,
            range => {
                let (first, last) = range.split_once('-')?;
                let (first, last) = (number(first)?, number(last)?);
                let end = last.checked_add(1).filter(|end| first < *end)?;
                if total.is_some_and(|total| total < end) {
                    return None;
                }
                Some(first..end)
            }
        };
        Some(Self { bytes, total })
    }
}

/// `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_ranges_are_exact_or_nothing() {
        let range = |bytes, total| Some(ContentRange { bytes, total });
        for (text, read) in [
            ("bytes 0-9/10", range(Some(0..10), Some(10))),
            ("bytes 5-5/*", range(Some(5..6), None)),
            ("bytes */10", range(None, Some(10))),
            ("bytes 0-10/10", None),
            ("bytes 9-0/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes +0-9/10", None),
            ("bytes 0-9", None),
            ("items 0-9/10", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::parse(text), read, "{text}");
        }
    }

    #[test]
    fn the_whole_is_asked_for_without_a_range() {
        assert_eq!(header(0, None), None);
        assert_eq!(header(5, None).unwrap(), "bytes=5-");
        assert_eq!(header(0, Some(10)).unwrap(), "bytes=0-9");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(bytes )?[-0-9*/ ]{0,50}|\\PC{0,40}") {
            let _ = ContentRange::parse(&text);
        }
    }
}
