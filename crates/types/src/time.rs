//! Points in time as values: wall clock and monotonic clock. Nothing here reads a clock; shells do, and hand `Now` in.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A wall-clock time in whole milliseconds since the Unix epoch, UTC; written as RFC 3339 with milliseconds and `Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// 9999-12-31T23:59:59.999Z, the last time RFC 3339 can write.
const TIMESTAMP_MS_MAX: i64 = 253_402_300_799_999;

/// A text that is no RFC 3339 time.
#[derive(Debug, thiserror::Error)]
#[error("not an RFC 3339 time such as 2026-01-31T12:00:00.000Z")]
pub struct TimestampError;

impl Timestamp {
    /// Makes a timestamp from milliseconds since the Unix epoch; times outside the years 1970 to 9999 are clamped.
    #[must_use]
    pub fn from_unix_ms(ms: i64) -> Self {
        Self(ms.clamp(0, TIMESTAMP_MS_MAX))
    }

    /// Returns the milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ms(self) -> i64 {
        self.0
    }

    /// Parses an RFC 3339 time; precision below a millisecond is cut off.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimestampError)?;
        let ms = parsed.unix_timestamp_nanos() / 1_000_000;
        i64::try_from(ms)
            .map(Self::from_unix_ms)
            .map_err(|_| TimestampError)
    }

    /// Returns how long ago `earlier` was; zero when it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::from_unix_ms(self.0.saturating_add(ms))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        let ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::from_unix_ms(self.0.saturating_sub(ms))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .map_err(|_| fmt::Error)?;
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.millisecond()
        )
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// A reading of a monotonic clock that also counts time spent suspended, as the span since an arbitrary start.
///
/// Only differences mean anything, and only between readings of one process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// The earliest reading.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// Makes a reading from the span since the clock's start.
    #[must_use]
    pub const fn from_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// Returns the span since the clock's start.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Returns the span from `earlier` to this reading; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// One look at both clocks, taken by a shell and handed into the pure cores as their only notion of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// For timers and intervals.
    pub mono: Monotonic,
    /// For what leaves the process: records, tickets, handshake timestamps.
    pub wall: Timestamp,
}

impl Add<Duration> for Now {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self {
            mono: self.mono + span,
            wall: self.wall + span,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_survives_its_text() {
        for ms in [0, 1, 999, 1_700_000_000_123, TIMESTAMP_MS_MAX] {
            let stamp = Timestamp::from_unix_ms(ms);
            assert_eq!(Timestamp::parse(&stamp.to_string()).expect("own text"), stamp);
        }
    }

    #[test]
    fn a_timestamp_is_written_as_the_contract_says() {
        let stamp = Timestamp::from_unix_ms(1_700_000_000_007);
        assert_eq!(stamp.to_string(), "2023-11-14T22:13:20.007Z");
    }

    #[test]
    fn an_offset_is_converted_and_rubbish_refused() {
        let stamp = Timestamp::parse("2023-11-14T23:13:20.0079+01:00").expect("valid");
        assert_eq!(stamp.unix_ms(), 1_700_000_000_007);
        for bad in [
            "",
            "yesterday",
            "2023-11-14",
            "2023-13-14T00:00:00Z",
            "1700000000",
        ] {
            assert!(Timestamp::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn time_never_wraps() {
        let last = Timestamp::from_unix_ms(i64::MAX);
        assert_eq!(last + Duration::MAX, last);
        assert_eq!(Timestamp::default() - Duration::MAX, Timestamp::default());
        assert_eq!(Timestamp::default().since(last), Duration::ZERO);
        assert_eq!(
            Monotonic::ZERO.since(Monotonic::ZERO + Duration::MAX),
            Duration::ZERO
        );
    }
}
