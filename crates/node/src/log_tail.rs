//! The last lines of the daemon's own log, kept in memory for who asks over the local socket. Nothing is written to disk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// How much is kept, in bytes; each line counts [`LINE_COST`] more than it has.
pub const BYTES_MAX: usize = 64 * 1024;

/// The longest line that is kept, in bytes; of a longer one this much.
pub const LINE_BYTES_MAX: usize = 1024;

/// What a line takes beside its bytes.
pub const LINE_COST: usize = 64;

/// The last lines. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LogTail(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
}

impl LogTail {
    /// Keeps a line, and lets go of the oldest where there is no room.
    pub fn push(&self, line: &str) {
        let line = &line[..line.floor_char_boundary(LINE_BYTES_MAX)];
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += line.len() + LINE_COST;
        kept.lines.push_back(line.to_owned());
        while kept.bytes > BYTES_MAX {
            let oldest = kept.lines.pop_front();
            kept.bytes -= oldest.map_or(0, |line| line.len() + LINE_COST);
        }
    }

    /// Returns the lines, the oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.lines.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_no_more_than_there_is_room_for() {
        let tail = LogTail::default();
        tail.push("first");
        assert_eq!(tail.lines(), ["first"]);
        for number in 0..1000 {
            tail.push(&format!("{number}: {}", "é".repeat(LINE_BYTES_MAX)));
        }
        let lines = tail.lines();
        assert!(lines.iter().map(String::len).sum::<usize>() <= BYTES_MAX);
        assert!(lines.iter().all(|line| line.len() <= LINE_BYTES_MAX));
        assert!(lines.len() >= BYTES_MAX / (LINE_BYTES_MAX + LINE_COST));
        assert!(lines.last().is_some_and(|line| line.starts_with("999: ")));
        for _ in 0..10_000 {
            tail.push("");
        }
        assert_eq!(tail.lines().len(), BYTES_MAX / LINE_COST);
        assert!(
            lines.is_sorted_by_key(|line| line.split(':').next().and_then(|word| word.parse::<u32>().ok()))
        );
    }
}
