//! When to try again: exponential back-off with jitter, and what servers ask for.

use std::time::{Duration, SystemTime};

use http::HeaderValue;

use super::{OriginConfig, OriginError};

/// The longest wait that nobody asked for.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// Attempts that are left, and how long to wait before the next.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    retries: u32,
    used: u32,
    first: Duration,
    longest_retry_after: Duration,
    /// How long servers have made us wait since bytes came, and how often.
    waited: Duration,
    asked: u32,
    /// Whether a wait that a server asks for costs no attempt.
    patient: bool,
}

impl Backoff {
    /// For bodies: all of the configured patience.
    pub(super) fn for_body(config: &OriginConfig) -> Self {
        Self {
            retries: config.retries,
            used: 0,
            first: config.first_backoff,
            longest_retry_after: config.longest_retry_after,
            waited: Duration::ZERO,
            asked: 0,
            patient: true,
        }
    }

    /// For requests that somebody waits for: one more attempt, and only if that is soon.
    pub(super) fn for_head(config: &OriginConfig) -> Self {
        let soon = config.header_timeout / 4;
        Self {
            retries: config.retries.min(1),
            used: 0,
            first: config.first_backoff,
            longest_retry_after: config.longest_retry_after.min(soon),
            waited: Duration::ZERO,
            asked: 0,
            patient: false,
        }
    }

    /// Bytes came: the attempts start anew.
    pub(super) fn progressed(&mut self) {
        self.used = 0;
        self.waited = Duration::ZERO;
        self.asked = 0;
    }

    /// How long to wait after `error` before the next attempt; `None` if there is none.
    pub(super) fn after(&mut self, error: &OriginError) -> Option<Duration> {
        // To come back at once, or at a time that has passed here, is no wait that was asked for.
        let asked = error.retry_after().filter(|asked| !asked.is_zero());
        if let Some(asked) = asked.filter(|_| error.is_retryable()) {
            return self.after_asked(asked);
        }
        if !error.is_retryable() || self.used >= self.retries {
            return None;
        }
        let doubled = self.doubled(self.used);
        self.used += 1;
        Some(jittered(doubled))
    }

    /// The wait after so many others.
    fn doubled(&self, before: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << before.min(16));
        doubled.min(LONGEST_BACKOFF)
    }

    /// A server says when to come back: it is not asked before. One that says the same over and over
    /// is asked less and less often, since the wait may cost no attempt.
    fn after_asked(&mut self, asked: Duration) -> Option<Duration> {
        let wait = asked.max(self.doubled(self.asked));
        let waited = self.waited + wait;
        if waited > self.longest_retry_after || (!self.patient && self.used >= self.retries) {
            return None;
        }
        self.waited = waited;
        self.used += u32::from(!self.patient);
        self.asked += 1;
        // Jitter only upwards: earlier than asked would be refused again.
        Some(wait + jittered(self.first))
    }
}

/// Between half of `wait` and all of it.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..=1.0))
}

/// Reads `Retry-After`: seconds, or a date.
pub(super) fn parse_retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn busy(retry_after: Option<u64>) -> OriginError {
        OriginError::TooManyRequests {
            url: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let mut backoff = Backoff::for_body(&OriginConfig::default());
        let waits: Vec<_> = std::iter::from_fn(|| backoff.after(&busy(None))).collect();
        assert_eq!(waits.len(), 5);
        assert!(waits[4] >= Duration::from_millis(1600) && waits[4] <= LONGEST_BACKOFF);
        backoff.progressed();
        assert!(backoff.after(&busy(None)).is_some());
    }

    #[test]
    fn servers_are_given_the_time_they_ask_for_up_to_a_limit() {
        let mut body = Backoff::for_body(&OriginConfig::default());
        let wait = body.after(&busy(Some(7))).unwrap();
        assert!(wait >= Duration::from_secs(7) && wait < Duration::from_secs(8));
        assert_eq!(body.after(&busy(Some(9999))), None);
        // However often it asks for it, as long as that is not too long in all.
        let waits = std::iter::from_fn(|| body.after(&busy(Some(60)))).count();
        assert_eq!(waits, 9);
        let mut head = Backoff::for_head(&OriginConfig::default());
        assert_eq!(head.after(&busy(Some(7))), None);
    }

    #[test]
    fn a_short_wait_that_is_asked_for_over_and_over_gets_longer() {
        let asks = |seconds| {
            let mut body = Backoff::for_body(&OriginConfig::default());
            std::iter::from_fn(|| body.after(&busy(Some(seconds)))).count()
        };
        // No wait at all counts as any other failure.
        assert_eq!(asks(0), 5);
        // In ten minutes, every 10 s but for the first few.
        assert!((55..70).contains(&asks(1)), "{}", asks(1));
    }

    #[test]
    fn what_cannot_get_better_is_not_retried() {
        let mut backoff = Backoff::for_body(&OriginConfig::default());
        let url = String::new();
        let denied = OriginError::Denied {
            url: url.clone(),
            status: 403,
            challenges: vec![],
        };
        assert_eq!(backoff.after(&denied), None);
        assert_eq!(
            backoff.after(&OriginError::NotFound { url, status: 404 }),
            None
        );
    }

    #[test]
    fn waits_are_read_as_seconds_and_as_dates() {
        let read = |text: &str| parse_retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read(" 3 "), Some(Duration::from_secs(3)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        let wait = read(&soon).unwrap();
        assert!(
            wait > Duration::from_secs(27) && wait <= Duration::from_secs(30),
            "{wait:?}"
        );
        assert_eq!(read("-1"), None);
        assert_eq!(read("soon"), None);
    }

    proptest! {
        #[test]
        fn any_retry_after_is_read_without_panic(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = parse_retry_after(&value);
            }
        }
    }
}
