//! Sizes, times and shares as people write them.

use std::{fmt, str::FromStr, time::Duration};

use crate::text::text_serde;

/// A number of bytes: `"64MiB"` (powers of 1024), `"10GB"` (powers of 1000) or plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const SIZE_UNITS: [(&str, u64); 10] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

impl ByteSize {
    /// A size of so many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// A text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a size; write a number with a unit, such as \"64MiB\" (KiB, MiB, GiB, TiB: \
     powers of 1024), \"10GB\" (kB, MB, GB, TB: powers of 1000), or plain bytes"
)]
pub struct ByteSizeError(String);

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split_unit(text);
        let factor = match unit {
            "" | "B" => Some(1),
            unit => SIZE_UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, factor)| *factor),
        };
        factor
            .and_then(|factor| scale(number, factor))
            .map(Self)
            .ok_or_else(|| ByteSizeError(text.to_owned()))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A time: `"300ms"`, `"3s"`, `"5m"`, `"2h"` or `"7d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(Duration);

const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

impl Interval {
    /// A time of so many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// A time of so many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The time.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<Interval> for Duration {
    fn from(interval: Interval) -> Self {
        interval.0
    }
}

/// A text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a time; write a number with a unit: ms, s, m, h or d, such as \"300ms\", \"3s\" \
     or \"5m\""
)]
pub struct IntervalError(String);

impl FromStr for Interval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split_unit(text);
        TIME_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .and_then(|(_, factor)| scale(number, *factor))
            .map(Self::from_millis)
            .ok_or_else(|| IntervalError(text.to_owned()))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every constructor counts in milliseconds of 64 bits, or in seconds.
        let millis = self.0.as_millis();
        let unit = TIME_UNITS.iter().find(|(_, factor)| {
            millis >= u128::from(*factor) && millis.is_multiple_of(u128::from(*factor))
        });
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", millis / u128::from(*factor)),
            None => f.write_str("0s"),
        }
    }
}

/// A share: `"1%"` to `"100%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

impl Percent {
    /// A share of so many hundredths, 1 to 100.
    pub const fn new(percent: u8) -> Option<Self> {
        match percent {
            1..=100 => Some(Self(percent)),
            _ => None,
        }
    }

    /// That share of `whole`, rounded down.
    pub const fn of(self, whole: u64) -> u64 {
        // At most `whole`, so it fits.
        (whole as u128 * self.0 as u128 / 100) as u64
    }
}

/// A text is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a share; write a whole number from \"1%\" to \"100%\"")]
pub struct PercentError(String);

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match split_unit(text) {
            (number, "%") => number.parse().ok().and_then(Self::new),
            _ => None,
        }
        .ok_or_else(|| PercentError(text.to_owned()))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

text_serde!(ByteSize: "a size such as \"64MiB\" or \"10GB\", or a number of bytes", bytes);
text_serde!(Interval: "a time such as \"300ms\", \"3s\" or \"5m\"");
text_serde!(Percent: "a share such as \"80%\"");

/// Splits `"64 MiB"` into number and unit.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// `number`, which may have up to three decimals, times `factor`; `None` when it is no number, does
/// not fit, or is no whole number of the smallest unit.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let sound = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !sound(whole) || !sound(decimals) || decimals.len() > 3 {
        return None;
    }
    let thousandths = format!("{decimals:0<3}").parse::<u64>().ok()?;
    let scaled = u128::from(whole.parse::<u64>().ok()?)
        .checked_mul(1000)?
        .checked_add(u128::from(thousandths))?
        .checked_mul(u128::from(factor))?;
    scaled
        .is_multiple_of(1000)
        .then(|| u64::try_from(scaled / 1000).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let bytes = |text: &str| text.parse::<ByteSize>().unwrap().bytes();
        assert_eq!(bytes("64MiB"), 64 << 20);
        assert_eq!(bytes("10GB"), 10_000_000_000);
        assert_eq!(bytes("1.5 GiB"), 3 << 29);
        assert_eq!(bytes("12"), 12);
        assert_eq!(bytes("10gib"), 10 << 30);
        assert_eq!(bytes("0"), 0);
    }

    #[test]
    fn an_unknown_unit_is_refused_with_what_is_allowed() {
        for bad in [
            "",
            "MiB",
            "1 parsec",
            "-1",
            "1.2.3MB",
            "99999999PiB",
            "1.0001kB",
            "1M",
            "1.B",
        ] {
            let error = bad.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("MiB, GiB"), "{error}");
        }
        for bad in ["", "3", "3 sec", "s", "-1s", "1.0005s", "999999999999999d"] {
            let error = bad.parse::<Interval>().unwrap_err().to_string();
            assert!(error.contains("ms, s, m, h or d"), "{bad}: {error}");
        }
        for bad in ["", "80", "0%", "101%", "1.5%", "%"] {
            let error = bad.parse::<Percent>().unwrap_err().to_string();
            assert!(error.contains("\"1%\" to \"100%\""), "{error}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let time = |text: &str| text.parse::<Interval>().unwrap().duration();
        assert_eq!(time("300ms"), Duration::from_millis(300));
        assert_eq!(time("1.5s"), Duration::from_millis(1500));
        assert_eq!(time("5m"), Duration::from_secs(300));
        assert_eq!(Interval::from_millis(0).to_string(), "0s");
    }

    #[test]
    fn a_share_of_the_largest_disk_does_not_overflow() {
        assert_eq!(Percent::new(100).unwrap().of(u64::MAX), u64::MAX);
        assert_eq!(Percent::new(80).unwrap().of(1000), 800);
    }

    proptest! {
        #[test]
        fn units_survive_text(bytes: u64, millis: u64, percent in 1u8..=100) {
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let time = Interval::from_millis(millis);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
            let share = Percent::new(percent).unwrap();
            prop_assert_eq!(share.to_string().parse(), Ok(share));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Interval>();
            let _ = text.parse::<Percent>();
        }
    }
}
