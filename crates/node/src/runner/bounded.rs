//! Program output kept within limits: lines, text with a head and a tail, characters that may be shown.

use std::collections::VecDeque;

use serde_json::Value;

/// The longest message for people that is made of a program's words, in characters.
pub const MESSAGE_CHARS_MAX: usize = 2000;

/// How much of the beginning of a long output is kept, in bytes.
pub const HEAD_BYTES_MAX: usize = 48 * 1024;

/// How much of the end of a long output is kept, in bytes.
pub const TAIL_BYTES_MAX: usize = 16 * 1024;

/// The largest JSON value of a program that is kept as it is, in bytes of JSON.
pub const RAW_BYTES_MAX: usize = 64 * 1024;

/// A line was longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {0} bytes")]
pub struct LineTooLong(pub usize);

/// Cuts a byte stream into lines.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    buffer: Vec<u8>,
    searched: usize,
}

impl Lines {
    /// Makes a cutter that refuses lines longer than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            buffer: Vec::new(),
            searched: 0,
        }
    }

    /// Takes bytes; returns the lines that are whole now, without their line breaks. A line that is too long is forgotten.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, LineTooLong> {
        let cut = self.cut(bytes);
        if cut.is_err() {
            *self = Self::new(self.limit);
        }
        cut
    }

    fn cut(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, LineTooLong> {
        self.buffer.extend_from_slice(bytes);
        let mut lines = Vec::new();
        let mut start = 0;
        while let Some(found) = self.buffer[self.searched..].iter().position(|&b| b == b'\n') {
            let end = self.searched + found;
            if end - start > self.limit {
                return Err(LineTooLong(self.limit));
            }
            lines.push(self.buffer[start..end].trim_ascii().to_vec());
            start = end + 1;
            self.searched = start;
        }
        self.buffer.drain(..start);
        self.searched = self.buffer.len();
        if self.buffer.len() > self.limit {
            return Err(LineTooLong(self.limit));
        }
        if self.buffer.is_empty() && self.buffer.capacity() > 64 * 1024 {
            self.buffer = Vec::new();
        }
        Ok(lines)
    }
}

/// Turns bytes cut anywhere into text; what is no UTF-8 becomes replacement characters.
#[derive(Debug, Default)]
pub struct TextStream {
    carry: Vec<u8>,
}

impl TextStream {
    /// Takes bytes; returns the text that is whole now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.carry.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.carry) {
            Ok(_) => self.carry.len(),
            // Without an error length the bytes at the end may be the beginning of a character.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.carry.len() - incomplete_tail(&self.carry),
        };
        let text = String::from_utf8_lossy(&self.carry[..whole]).into_owned();
        self.carry.drain(..whole);
        text
    }
}

fn incomplete_tail(bytes: &[u8]) -> usize {
    (1..=3.min(bytes.len()))
        .find(|&len| {
            let tail = &bytes[bytes.len() - len..];
            matches!(std::str::from_utf8(tail), Err(e) if e.valid_up_to() == 0 && e.error_len().is_none())
        })
        .unwrap_or(0)
}

/// Text of any length in bounded memory: its head, its tail, and how long it was.
#[derive(Debug, Default)]
pub struct HeadTail {
    head: String,
    tail: VecDeque<u8>,
    total: u64,
}

impl HeadTail {
    /// Adds text at the end.
    pub fn push(&mut self, text: &str) {
        self.total += text.len() as u64;
        let room = HEAD_BYTES_MAX.saturating_sub(self.head.len());
        // Once something went to the tail the head is closed, or the order would be lost.
        let into_head = if self.tail.is_empty() {
            text.floor_char_boundary(room)
        } else {
            0
        };
        self.head.push_str(&text[..into_head]);
        let rest = &text.as_bytes()[into_head..];
        let rest = &rest[rest.len().saturating_sub(TAIL_BYTES_MAX)..];
        let overflow = (self.tail.len() + rest.len()).saturating_sub(TAIL_BYTES_MAX);
        self.tail.drain(..overflow.min(self.tail.len()));
        self.tail.extend(rest);
    }

    /// How many bytes were added in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether something in the middle was left out.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.total > (self.head.len() + self.tail.len()) as u64
    }

    /// Returns the text; a note stands where something was left out.
    #[must_use]
    pub fn text(&self) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let tail = String::from_utf8_lossy(&tail);
        if !self.is_truncated() {
            return format!("{}{tail}", self.head);
        }
        let left_out = self.total - (self.head.len() + self.tail.len()) as u64;
        let tail = tail.trim_start_matches(char::REPLACEMENT_CHARACTER);
        format!("{}\n[… {left_out} bytes left out …]\n{tail}", self.head)
    }
}

/// Returns text that can be shown on one line: no control characters, at most `chars_max` characters.
#[must_use]
pub fn printable(text: &str, chars_max: usize) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let mut chars = text
        .trim()
        .chars()
        .map(shown)
        .filter(|&c| !types::names::is_unprintable(c) || c == ' ');
    let mut cut: String = chars.by_ref().take(chars_max).collect();
    if chars.next().is_some() {
        cut.push('…');
    }
    cut
}

/// Returns a JSON value as it is if it is small, and only its size otherwise.
#[must_use]
pub fn raw(value: &Value) -> Value {
    let len = serde_json::to_vec(value).map_or(usize::MAX, |json| json.len());
    if len <= RAW_BYTES_MAX {
        value.clone()
    } else {
        serde_json::json!({ "leftOut": true, "bytes": len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_any_cutting_and_long_ones_are_refused() {
        let mut lines = Lines::new(10);
        assert_eq!(lines.push(b"ab").expect("short"), Vec::<Vec<u8>>::new());
        assert_eq!(
            lines.push(b"c\r\n\nd").expect("short"),
            [b"abc".to_vec(), b"".to_vec()]
        );
        assert_eq!(lines.push(b"ef\n").expect("short"), [b"def".to_vec()]);
        assert_eq!(lines.push(b"0123456789").expect("just fits").len(), 0);
        assert_eq!(lines.push(b"0"), Err(LineTooLong(10)));
        assert_eq!(
            lines.push(b"and on\n").expect("short again"),
            [b"and on".to_vec()]
        );
        assert_eq!(Lines::new(10).push(b"01234567890\n"), Err(LineTooLong(10)));
    }

    #[test]
    fn text_cut_inside_a_character_is_whole_again() {
        let mut stream = TextStream::default();
        let text = "aé€😀z";
        let joined: String = text.as_bytes().iter().map(|b| stream.push(&[*b])).collect();
        assert_eq!(joined, text);
        assert_eq!(stream.push(b"a\xffb\xe2\x82"), "a\u{fffd}b");
        assert_eq!(stream.push(b"\xac"), "€");
    }

    #[test]
    fn a_long_text_keeps_its_head_and_its_tail() {
        let mut kept = HeadTail::default();
        for number in 0..100_000 {
            kept.push(&format!("{number}\n"));
        }
        let text = kept.text();
        assert!(kept.is_truncated());
        assert!(text.starts_with("0\n1\n2\n") && text.ends_with("99998\n99999\n"));
        assert!(text.len() <= HEAD_BYTES_MAX + TAIL_BYTES_MAX + 100);
        let mut short = HeadTail::default();
        short.push(&"é".repeat(30_000));
        assert!(!short.is_truncated());
        assert_eq!(short.text(), "é".repeat(30_000));
    }

    #[test]
    fn what_a_program_says_is_made_printable() {
        assert_eq!(printable("a\u{1b}[31mb\nc", 100), "a [31mb c");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}
