//! When a certificate is to be renewed, and when its end is worth a word.

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);
/// Nobody need be told earlier.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// Whether two thirds of a certificate's life are over.
pub fn is_renewal_due(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> bool {
    let left = not_after.duration_since(now).unwrap_or_default();
    left <= life(not_before, not_after) / 3
}

/// Whether a certificate ends within 30 days, and within the last quarter of its life.
pub fn is_ending_soon(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> bool {
    let left = not_after.duration_since(now).unwrap_or_default();
    left < SOON.min(life(not_before, not_after) / 4)
}

/// How long to wait after an attempt to renew that failed: sooner as the end comes nearer.
pub(crate) fn retry_after(not_after: SystemTime, now: SystemTime) -> Duration {
    let left = not_after.duration_since(now).unwrap_or_default();
    (left / 50).clamp(Duration::from_secs(60), DAY / 8)
}

fn life(not_before: SystemTime, not_after: SystemTime) -> Duration {
    not_after.duration_since(not_before).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_at_two_thirds_and_mourned_at_three_quarters() {
        let (from, at) = (SystemTime::UNIX_EPOCH, |day| {
            SystemTime::UNIX_EPOCH + DAY * day
        });
        let until = at(90);
        assert!(!is_renewal_due(from, until, at(59)));
        assert!(is_renewal_due(from, until, at(60)));
        assert!(is_renewal_due(from, until, at(100)));
        assert!(!is_ending_soon(from, until, at(67)));
        assert!(is_ending_soon(from, until, at(68)));
        assert!(!is_ending_soon(from, at(825), at(794)));
        assert!(is_ending_soon(from, at(825), at(796)));
    }
}
