//! The timestamp in an initiation: TAI64N, twelve bytes, whose order as bytes is their order in time.

use types::Timestamp;

/// The TAI64 label of the Unix epoch, ten leap seconds included, as every WireGuard writes it.
const UNIX_EPOCH: u64 = 0x4000_0000_0000_000a;

/// Timestamps are rounded down to 2^24 ns (16.8 ms), so that they do not serve as a clock for timing attacks.
const GRANULE: u64 = 1 << 24;

/// A moment as an initiation carries it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Tai64n([u8; 12]);

impl Tai64n {
    pub(crate) fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// Makes the timestamp of the next initiation: the wall time, but later than `previous` even when the clock was set
    /// back, since the peer would take anything else for a replay.
    pub(crate) fn next(previous: Option<Self>, wall: Timestamp) -> Self {
        let ms = wall.unix_ms().unsigned_abs();
        let nanos = (ms % 1000 * 1_000_000) & !(GRANULE - 1);
        let now = Self::from_parts(UNIX_EPOCH + ms / 1000, nanos);
        previous.map_or(now, |previous| now.max(previous.successor()))
    }

    fn successor(self) -> Self {
        let (secs, nanos) = self.parts();
        let nanos = nanos + GRANULE;
        if nanos < 1_000_000_000 {
            Self::from_parts(secs, nanos)
        } else {
            Self::from_parts(secs + 1, 0)
        }
    }

    fn from_parts(secs: u64, nanos: u64) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&secs.to_be_bytes());
        let nanos = u32::try_from(nanos).expect("less than a second");
        bytes[8..].copy_from_slice(&nanos.to_be_bytes());
        Self(bytes)
    }

    fn parts(self) -> (u64, u64) {
        let (secs, nanos) = self.0.split_at(8);
        let secs = u64::from_be_bytes(secs.try_into().expect("eight bytes"));
        let nanos = u32::from_be_bytes(nanos.try_into().expect("four bytes"));
        (secs, u64::from(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_pinned() {
        let stamp = Tai64n::next(None, Timestamp::from_unix_ms(1_700_000_000_500));
        // 500 ms are 29 granules and a bit: 29 * 2^24 = 0x1d000000.
        assert_eq!(stamp.0, [0x40, 0, 0, 0, 0x65, 0x53, 0xf1, 0x0a, 0x1d, 0, 0, 0]);
    }

    #[test]
    fn a_clock_set_back_does_not_go_back() {
        let first = Tai64n::next(None, Timestamp::from_unix_ms(1_700_000_000_990));
        let mut last = first;
        for ms in [1_700_000_000_990, 1_600_000_000_000, 0, 1_700_000_000_991] {
            let next = Tai64n::next(Some(last), Timestamp::from_unix_ms(ms));
            assert!(next > last, "{ms}");
            last = next;
        }
        let later = Tai64n::next(Some(last), Timestamp::from_unix_ms(1_800_000_000_000));
        assert_eq!(
            later,
            Tai64n::next(None, Timestamp::from_unix_ms(1_800_000_000_000))
        );
    }
}
