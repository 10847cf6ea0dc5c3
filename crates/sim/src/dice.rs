//! Choices that follow from a seed, or from bytes as long as there are any.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// A source of choices; equal seeds make equal choices.
pub struct Dice {
    rng: ChaCha8Rng,
    /// What decides first; one byte for each choice among at most 256.
    bytes: VecDeque<u8>,
}

impl Dice {
    /// Makes the dice of a seed; `purpose` keeps the dice of one world apart.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&purpose.to_le_bytes());
        Self {
            rng: ChaCha8Rng::from_seed(bytes),
            bytes: VecDeque::new(),
        }
    }

    /// Makes dice whose first choices are these bytes: what a fuzzer changes there changes one choice each.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.iter().copied().collect(),
            ..Self::new(0, 2)
        }
    }

    /// Draws a number of the range, which must not be empty.
    pub fn number(&mut self, range: Range<u64>) -> u64 {
        let count = range.end - range.start;
        range.start + self.draw(count) % count
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
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    fn draw(&mut self, count: u64) -> u64 {
        let Some(first) = self.bytes.pop_front() else {
            return self.rng.next_u64();
        };
        let mut drawn = u64::from(first);
        if count > 256 {
            drawn |= u64::from(self.bytes.pop_front().unwrap_or(0)) << 8;
        }
        // Of more than 65,536 a fuzzer need not reach every one.
        drawn * (count >> 16).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_make_equal_choices_and_bytes_decide_first() {
        let mut dice = [Dice::new(5, 0), Dice::new(5, 0), Dice::new(5, 1)];
        let drawn = dice.each_mut().map(|dice| dice.number(0..u64::MAX));
        assert!(drawn[0] == drawn[1] && drawn[0] != drawn[2]);
        let mut dice = Dice::from_bytes(&[7, 4, 1, 199]);
        assert_eq!(dice.number(10..20), 17);
        assert_eq!(dice.number(0..1000), 260);
        assert!(dice.chance(200), "199 is below 200");
        assert!(dice.number(0..6) < 6);
    }
}
