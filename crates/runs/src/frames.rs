//! Files that are only ever added to: frames, each of which is one write.
//!
//! ```text
//! file   = header *frame
//! frame  = length SP checksum SP json LF
//! ```
//!
//! `length` is the number of bytes of `json`, `checksum` its CRC-32C (Castagnoli, RFC 3720 appendix B.4), both as eight
//! lower-case hexadecimal digits. `json` has no line breaks.
//!
//! One frame is one write and one fsync, and the next frame is written only after it. A crash can so damage the last
//! frame only: a bad last frame is a *torn tail* and is cut off, since nobody was answered for it. A bad frame with a
//! good one behind it is corruption.

/// The largest `json` of one frame, in bytes: one full append and its order.
pub const FRAME_JSON_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Two numbers of eight digits, each with the space behind it.
pub const PREFIX_LEN: usize = 18;

/// A write that is larger than a frame may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one write may have {FRAME_JSON_BYTES_MAX} bytes; this one has {0}")]
pub struct FrameTooLarge(pub usize);

/// What stands at one place of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameAt<'a> {
    /// A frame with this JSON; [`frame_len`] says how long it is.
    Whole(&'a [u8]),
    /// So far it may be the beginning of one.
    Short,
    /// None.
    Bad,
}

/// Makes a frame out of bytes that begin with room for [`PREFIX_LEN`] bytes, behind which the JSON stands.
pub fn seal(mut bytes: Vec<u8>) -> Result<Vec<u8>, FrameTooLarge> {
    let json = &bytes[PREFIX_LEN..];
    if json.len() > FRAME_JSON_BYTES_MAX {
        return Err(FrameTooLarge(json.len()));
    }
    let prefix = format!("{:08x} {:08x} ", json.len(), crc32c(json));
    bytes[..PREFIX_LEN].copy_from_slice(prefix.as_bytes());
    bytes.push(b'\n');
    Ok(bytes)
}

/// Returns how many bytes a frame with this JSON takes.
#[must_use]
pub fn frame_len(json: &[u8]) -> usize {
    PREFIX_LEN + json.len() + 1
}

/// Reads the frame with which `bytes` begin.
#[must_use]
pub fn frame_at(bytes: &[u8]) -> FrameAt<'_> {
    let Some(prefix) = bytes.get(..PREFIX_LEN) else {
        return FrameAt::Short;
    };
    let (Some(len), Some(checksum)) = (hex8(&prefix[..9]), hex8(&prefix[9..])) else {
        return FrameAt::Bad;
    };
    let len = len as usize;
    if len > FRAME_JSON_BYTES_MAX {
        return FrameAt::Bad;
    }
    let Some(rest) = bytes.get(PREFIX_LEN..PREFIX_LEN + len + 1) else {
        return FrameAt::Short;
    };
    let (json, end) = rest.split_at(len);
    if end != b"\n" || crc32c(json) != checksum {
        return FrameAt::Bad;
    }
    FrameAt::Whole(json)
}

/// A file that holds something else, or frames of which one before the last is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It does not begin with its header.
    #[error("it does not begin with its header")]
    OtherFile,
    /// A frame is damaged and intact ones follow, so it is not the trace of a crash.
    #[error("it is damaged at byte {0}")]
    Corrupt(usize),
}

/// Reads a whole file: returns the JSON of each frame, and the length of the intact part, to which the file is cut before
/// anything is added. 0 means that even the header is missing and must be written.
pub fn read<'a>(bytes: &'a [u8], header: &[u8]) -> Result<(Vec<&'a [u8]>, usize), ReadError> {
    if !bytes.starts_with(header) {
        let is_torn = header.starts_with(bytes);
        return is_torn.then(|| (Vec::new(), 0)).ok_or(ReadError::OtherFile);
    }
    let (mut frames, mut intact) = (Vec::new(), header.len());
    while let FrameAt::Whole(json) = frame_at(&bytes[intact..]) {
        frames.push(json);
        intact += frame_len(json);
    }
    let rest = &bytes[intact..];
    // Any offset, not only those behind a line break: the damaged byte may be the line break.
    let is_good = |start: usize| matches!(frame_at(&rest[start..]), FrameAt::Whole(_));
    if (1..rest.len()).any(is_good) {
        return Err(ReadError::Corrupt(intact));
    }
    Ok((frames, intact))
}

fn hex8(text: &[u8]) -> Option<u32> {
    let (digits, space) = text.split_at(8);
    let is_digit = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    if space != b" " || !digits.iter().all(is_digit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

const CRC32C_TABLE: [u32; 256] = crc32c_table();

const fn crc32c_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                (value >> 1) ^ 0x82f6_3b78
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// Returns the CRC-32C of some bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| (crc >> 8) ^ CRC32C_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize];
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // RFC 3720 appendix B.4 and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_frame_has_a_largest_size_and_is_whole_or_none() {
        let with = |len: usize| seal(vec![b'0'; PREFIX_LEN + len]);
        let largest = with(FRAME_JSON_BYTES_MAX).expect("as large as may be");
        assert!(matches!(frame_at(&largest), FrameAt::Whole(json) if frame_len(json) == largest.len()));
        let too_large = FRAME_JSON_BYTES_MAX + 1;
        assert_eq!(with(too_large), Err(FrameTooLarge(too_large)));
        let frame = with(3).expect("small");
        for cut in 0..frame.len() {
            assert_eq!(frame_at(&frame[..cut]), FrameAt::Short, "cut at {cut}");
        }
        assert_eq!(
            frame_at(b"01000001 00000000 "),
            FrameAt::Bad,
            "it says more than may be"
        );
    }

    #[test]
    fn a_file_cut_or_changed_anywhere_is_read_up_to_there_or_refused() {
        let header = b"header\n";
        let frame = |json: &[u8]| seal([&[b' '; PREFIX_LEN], json].concat()).expect("small");
        let (first, second) = (frame(b"[1]"), frame(b"[2,3]"));
        let bytes = [&header[..], &first, &second].concat();
        let ends = [header.len(), header.len() + first.len(), bytes.len()];
        for cut in 0..=bytes.len() {
            let (frames, intact) = read(&bytes[..cut], header).expect("a cut is a torn tail");
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(frames.len(), whole.saturating_sub(1), "cut at {cut}");
            assert_eq!(intact, whole.checked_sub(1).map_or(0, |last| ends[last]));
        }
        for byte in 0..bytes.len() {
            let mut other = bytes.clone();
            other[byte] ^= 1;
            let expected = match ends.iter().filter(|end| **end <= byte).count() {
                0 => Err(ReadError::OtherFile),
                1 => Err(ReadError::Corrupt(ends[0])),
                _ => Ok((vec![&b"[1]"[..]], ends[1])),
            };
            assert_eq!(read(&other, header), expected, "byte {byte}");
        }
    }
}
