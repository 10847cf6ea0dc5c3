//! Choices that follow from a seed.

use std::ops::Range;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// A source of choices; equal seeds make equal choices.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Makes the dice of a seed; `purpose` keeps the dice of one world apart.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&purpose.to_le_bytes());
        Self(ChaCha8Rng::from_seed(bytes))
    }

    /// Draws a number of the range, which must not be empty.
    pub fn number(&mut self, range: Range<u64>) -> u64 {
        range.start + self.0.next_u64() % (range.end - range.start)
    }

    /// Draws an index below `len`, which must not be zero.
    pub fn index(&mut self, len: usize) -> usize {
        self.number(0..len as u64) as usize
    }

    /// Draws a span of the range, in whole microseconds.
    pub fn span(&mut self, range: Range<Duration>) -> Duration {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let (start, end) = (micros(range.start), micros(range.end));
        Duration::from_micros(self.number(start..end.max(start + 1)))
    }

    /// Says yes `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.number(0..1000) < per_mille
    }

    /// Draws 32 bytes.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}
