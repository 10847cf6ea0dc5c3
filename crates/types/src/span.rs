//! A span of time as people write it in documents: one number and one unit, such as `90d`, `12h`, `10m` or `30s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The units, the largest first: what each is called, and how many seconds it has.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// The most digits of the number: ten thousand days are 27 years.
const DIGITS_MAX: usize = 9;

/// A span of whole seconds, above zero; written in the largest unit that gives a whole number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Span(Duration);

/// A text that is no span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a number with a unit, such as 90d, 12h, 10m or 30s")]
pub struct SpanError;

impl Span {
    /// Makes a span of whole seconds; `None` for zero.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Option<Self> {
        match secs {
            0 => None,
            secs => Some(Self(Duration::from_secs(secs))),
        }
    }

    /// Returns how long it is.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let unit = text.chars().last().ok_or(SpanError)?;
        let (_, secs) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(SpanError)?;
        let number = &text[..text.len() - 1];
        let is_number = number.len() <= DIGITS_MAX && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| is_number).ok_or(SpanError)?;
        Self::from_secs(number * secs).ok_or(SpanError)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        let whole = UNITS.iter().find(|(_, unit)| secs.is_multiple_of(*unit));
        let (name, unit) = whole.copied().unwrap_or(('s', 1));
        write!(f, "{}{name}", secs / unit)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_read_and_written_in_its_largest_unit() {
        for (text, secs, written) in [
            ("90d", 7_776_000, "90d"),
            ("24h", 86_400, "1d"),
            ("36h", 129_600, "36h"),
            ("10m", 600, "10m"),
            ("90s", 90, "90s"),
            ("007s", 7, "7s"),
        ] {
            let span: Span = text.parse().expect(text);
            assert_eq!(
                (span.duration().as_secs(), span.to_string().as_str()),
                (secs, written)
            );
        }
        let largest: Span = "999999999d".parse().expect("nine digits");
        assert_eq!(largest.to_string(), "999999999d");
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in [
            "",
            "d",
            "0d",
            "10",
            "10 m",
            "-1d",
            "+1d",
            "1.5h",
            "1w",
            "1h30m",
            "1000000000s",
            "１d",
            "1é",
        ] {
            assert_eq!(text.parse::<Span>(), Err(SpanError), "{text}");
        }
    }
}
