//! Rates as people write them.

use std::{fmt, num::NonZeroU64, str::FromStr};

use crate::{ByteSize, text::text_serde};

/// Bytes per second at most, and how many may pass at once after a pause: `"100MiB/s"`,
/// `"100MiB/s burst 16MiB"`, `"800Mbit/s"`, or `""` for no limit. As with other programs the
/// `/s` may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateLimit {
    #[default]
    Unlimited,
    Rate {
        bytes_per_second: NonZeroU64,
        /// `None`: what passes in a tenth of a second.
        burst: Option<NonZeroU64>,
    },
}

/// Bits per second, which networks are measured in.
const BIT_UNITS: [(&str, u64); 3] = [
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
];

impl RateLimit {
    /// A limit of so many bytes per second; 0 is none.
    pub const fn from_bytes(bytes_per_second: u64) -> Self {
        match NonZeroU64::new(bytes_per_second) {
            Some(bytes_per_second) => Self::Rate {
                bytes_per_second,
                burst: None,
            },
            None => Self::Unlimited,
        }
    }
}

/// A text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a rate; write bytes per second, such as \"100MiB/s\" or \"100MiB/s burst 16MiB\", \
     or bits, such as \"800Mbit/s\", or \"\" for no limit"
)]
pub struct RateLimitError(String);

impl FromStr for RateLimit {
    type Err = RateLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text.trim()).ok_or_else(|| RateLimitError(text.to_owned()))
    }
}

fn read(text: &str) -> Option<RateLimit> {
    if text.is_empty() {
        return Some(RateLimit::Unlimited);
    }
    let (rate, burst) = match text.split_once("burst") {
        Some((rate, burst)) => (rate.trim_end(), Some(positive(burst)?)),
        None => (text, None),
    };
    Some(RateLimit::Rate {
        bytes_per_second: per_second(rate)?,
        burst,
    })
}

fn per_second(text: &str) -> Option<NonZeroU64> {
    let mut units = BIT_UNITS.iter();
    if let Some((unit, bits)) = units.find(|(unit, _)| text.ends_with(unit)) {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        return NonZeroU64::new(number.checked_mul(*bits)? / 8);
    }
    positive(text.strip_suffix("/s").unwrap_or(text))
}

fn positive(size: &str) -> Option<NonZeroU64> {
    NonZeroU64::new(size.parse::<ByteSize>().ok()?.bytes())
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Rate {
            bytes_per_second,
            burst,
        } = self
        else {
            return Ok(());
        };
        write!(f, "{}/s", ByteSize::from_bytes(bytes_per_second.get()))?;
        match burst {
            Some(burst) => write!(f, " burst {}", ByteSize::from_bytes(burst.get())),
            None => Ok(()),
        }
    }
}

text_serde!(RateLimit: "a rate such as \"100MiB/s\", or \"\" for no limit", bytes);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rate_is_bytes_or_bits_per_second_with_or_without_a_burst() {
        let read = |text: &str| text.parse::<RateLimit>().unwrap();
        assert_eq!(read(""), RateLimit::Unlimited);
        assert_eq!(read("1MiB/s"), RateLimit::from_bytes(1 << 20));
        assert_eq!(read("50GB"), RateLimit::from_bytes(50_000_000_000));
        assert_eq!(read("100Mbit/s"), RateLimit::from_bytes(12_500_000));
        let burst = read("10 MiB/s burst 64KiB");
        assert_eq!(burst.to_string(), "10MiB/s burst 64KiB");
        assert_eq!(read(&burst.to_string()), burst);
    }

    #[test]
    fn what_is_no_rate_is_refused_with_what_is_allowed() {
        for bad in [
            "0",
            "0/s",
            "fast",
            "/s",
            "1MiB/m",
            "1MiB/s burst",
            "1MiB/s burst 0",
            "-1MB",
        ] {
            let error = bad.parse::<RateLimit>().unwrap_err().to_string();
            assert!(error.contains("\"100MiB/s\""), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*|[0-9]{0,25}[GMk]?(bit|iB|B)?/s( burst .*)?") {
            let _ = text.parse::<RateLimit>();
        }

        #[test]
        fn rates_survive_text(rate: NonZeroU64, burst: Option<NonZeroU64>) {
            let rate = RateLimit::Rate { bytes_per_second: rate, burst };
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }
    }
}
