//! Points in time as certificates and people write them.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::UnixTime;
use time::OffsetDateTime;

/// A point in time, to the second, shown as `2026-11-21 10:35:00 UTC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(i64);

impl Moment {
    /// Seconds since 1970, as certificates count them.
    pub(crate) fn from_unix(seconds: i64) -> Self {
        Self(seconds)
    }

    pub(crate) fn to_unix(self) -> i64 {
        self.0
    }

    pub(crate) fn to_system(self) -> SystemTime {
        let distance = Duration::from_secs(self.0.unsigned_abs());
        let moved = match self.0 < 0 {
            true => UNIX_EPOCH.checked_sub(distance),
            false => UNIX_EPOCH.checked_add(distance),
        };
        moved.unwrap_or(UNIX_EPOCH)
    }

    pub(crate) fn to_rustls(self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.0.max(0).unsigned_abs()))
    }
}

/// A point in time for people: `2026-11-21 10:35:00 UTC`.
pub fn date(time: SystemTime) -> String {
    Moment::from(time).to_string()
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let seconds = |distance: Duration| i64::try_from(distance.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(seconds(after)),
            Err(before) => Self(-seconds(before.duration())),
        }
    }
}

impl From<UnixTime> for Moment {
    fn from(time: UnixTime) -> Self {
        Self(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(at) = OffsetDateTime::from_unix_timestamp(self.0) else {
            return write!(f, "{} s after 1970", self.0);
        };
        let (date, (hour, minute, second)) = (at.date(), at.to_hms());
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_as_people_write_them() {
        assert_eq!(Moment(0).to_string(), "1970-01-01 00:00:00 UTC");
        assert_eq!(Moment(1_795_257_300).to_string(), "2026-11-21 10:35:00 UTC");
        assert_eq!(
            Moment(i64::MAX).to_string(),
            "9223372036854775807 s after 1970"
        );
    }

    #[test]
    fn moments_survive_the_system_clock() {
        for seconds in [-5, 0, 1_795_257_300] {
            assert_eq!(Moment::from(Moment(seconds).to_system()), Moment(seconds));
        }
    }
}
