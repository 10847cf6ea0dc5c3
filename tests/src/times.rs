//! The API's times as numbers.

use anyhow::{Result, bail};

/// Reads `2026-11-22T13:40:50.877Z` as milliseconds since 1970.
pub fn unix_ms(time: &str) -> Result<i64> {
    let field = |from: usize, to: usize| time.get(from..to).and_then(|t| t.parse::<i64>().ok());
    let fields =
        [(0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19), (20, 23)].map(|(from, to)| field(from, to));
    let [
        Some(year),
        Some(month),
        Some(day),
        Some(hour),
        Some(minute),
        Some(second),
        Some(milli),
    ] = fields
    else {
        bail!("`{time}` is no time");
    };
    // Days since 1970 by the civil calendar: years begin in March, so that leap days come last.
    let (year, month) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Ok((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + milli)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_millisecond() {
        assert_eq!(unix_ms("1970-01-01T00:00:00.000Z").expect("a time"), 0);
        assert_eq!(
            unix_ms("2024-02-29T12:30:15.250Z").expect("a time"),
            1_709_209_815_250
        );
        assert!(unix_ms("yesterday").is_err());
    }
}
