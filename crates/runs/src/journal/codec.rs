//! The journal file as bytes.
//!
//! ```text
//! file   = header *frame
//! header = "runmesh journal v1" LF
//! frame  = length SP checksum SP json LF
//! ```
//!
//! `length` is the number of bytes of `json`, `checksum` its CRC-32C (Castagnoli, RFC 3720 appendix B.4), both as eight
//! lower-case hexadecimal digits. `json` is a JSON array of [`Record`]s without line breaks: the records of one write,
//! which therefore all count or none do.
//!
//! One frame is one write and one fsync, and the next frame is written only after it. A crash can so damage the last
//! frame only: a bad last frame is a *torn tail* and is cut off, since nobody was answered for it. A bad frame with a
//! good one behind it is corruption, and the journal refuses to open rather than forget runs that it answered for.

use super::record::Record;

/// The first bytes of every journal file.
pub const HEADER: &[u8] = b"runmesh journal v1\n";

/// The largest `json` of one frame, in bytes: one full append and its order.
pub const FRAME_JSON_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Two numbers of eight digits, each with the space behind it.
const PREFIX_LEN: usize = 18;

/// Why a journal file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The file is something else, or a later format.
    #[error("this is no journal that this version can read: it does not start with \"runmesh journal v1\"")]
    NotAJournal,
    /// A frame is damaged and intact ones follow, so it is not the trace of a crash.
    #[error(
        "the journal is damaged at byte {offset}, and intact records follow at byte {next_good}; \
         move the file away to go on without the runs in it"
    )]
    Corrupt {
        /// Where the damaged frame begins.
        offset: usize,
        /// Where the next intact frame begins.
        next_good: usize,
    },
}

/// What a journal file holds.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    /// Its records, in the order of writing.
    pub records: Vec<Record>,
    /// The length of the intact part, header included: the file is cut to it before anything is added. 0 means that
    /// even the header is missing and must be written.
    pub intact_len: usize,
    /// How many bytes of a torn write stand behind the intact part.
    pub torn_len: usize,
}

/// A write that is larger than a frame may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one write to the journal may have {FRAME_JSON_BYTES_MAX} bytes; this one has {0}")]
pub struct FrameTooLarge(pub usize);

/// Encodes the records of one write as one frame. No records make no bytes.
pub fn encode(records: &[Record]) -> Result<Vec<u8>, FrameTooLarge> {
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let json = serde_json::to_vec(records).expect("records have only string keys");
    if json.len() > FRAME_JSON_BYTES_MAX {
        return Err(FrameTooLarge(json.len()));
    }
    let mut frame = format!("{:08x} {:08x} ", json.len(), crc32c(&json)).into_bytes();
    frame.extend_from_slice(&json);
    frame.push(b'\n');
    Ok(frame)
}

/// Decodes a whole file. A torn tail is tolerated and reported, damage anywhere else is an error.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut decoded = Decoded {
        records: Vec::new(),
        intact_len: 0,
        torn_len: bytes.len(),
    };
    if bytes.len() < HEADER.len() && HEADER.starts_with(bytes) {
        return Ok(decoded);
    }
    if !bytes.starts_with(HEADER) {
        return Err(DecodeError::NotAJournal);
    }
    let mut offset = HEADER.len();
    while offset < bytes.len() {
        let Some((records, len)) = frame_at(&bytes[offset..]) else {
            if let Some(next_good) = next_good_frame(bytes, offset) {
                return Err(DecodeError::Corrupt { offset, next_good });
            }
            break;
        };
        decoded.records.extend(records);
        offset += len;
    }
    decoded.intact_len = offset;
    decoded.torn_len = bytes.len() - offset;
    Ok(decoded)
}

fn frame_at(bytes: &[u8]) -> Option<(Vec<Record>, usize)> {
    let prefix = bytes.get(..PREFIX_LEN)?;
    let len = hex8(&prefix[..9])? as usize;
    let checksum = hex8(&prefix[9..])?;
    if len > FRAME_JSON_BYTES_MAX || bytes.get(PREFIX_LEN + len) != Some(&b'\n') {
        return None;
    }
    let json = &bytes[PREFIX_LEN..PREFIX_LEN + len];
    if crc32c(json) != checksum {
        return None;
    }
    Some((serde_json::from_slice(json).ok()?, PREFIX_LEN + len + 1))
}

fn hex8(text: &[u8]) -> Option<u32> {
    let (digits, space) = text.split_at(8);
    let is_digit = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    if space != b" " || !digits.iter().all(is_digit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn next_good_frame(bytes: &[u8], bad: usize) -> Option<usize> {
    // Any offset, not only those behind a line break: the damaged byte may be the line break.
    (bad + 1..bytes.len()).find(|start| frame_at(&bytes[*start..]).is_some())
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

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| (crc >> 8) ^ CRC32C_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize];
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Fence, RunId};

    fn started(seed: u8) -> Record {
        let run_id = RunId::from_random([seed; 16]);
        Record::Started { run_id }
    }

    fn file(frames: &[&[Record]]) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        for frame in frames {
            bytes.extend(encode(frame).expect("small"));
        }
        bytes
    }

    #[test]
    fn the_checksum_is_crc32c() {
        // RFC 3720 appendix B.4 and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn the_bytes_of_a_frame_are_pinned() {
        let records = [
            started(0xab),
            Record::Forgotten {
                run_id: RunId::from_random([1; 16]),
                fence: Fence(3),
            },
        ];
        let text = String::from_utf8(encode(&records).expect("small")).expect("text");
        assert_eq!(
            text,
            "00000091 9eac433c [{\"type\":\"started\",\"runId\":\"run_abababababab4bababababababababab\"},\
             {\"type\":\"forgotten\",\"runId\":\"run_01010101010141018101010101010101\",\"fence\":3}]\n"
        );
        assert_eq!(encode(&[]).expect("empty"), b"");
    }

    #[test]
    fn a_file_cut_anywhere_keeps_every_whole_frame() {
        let frames: [&[Record]; 3] = [&[started(1)], &[started(2), started(3)], &[started(4)]];
        let bytes = file(&frames);
        let ends: Vec<usize> = (0..=3).map(|n| file(&frames[..n]).len()).collect();
        for cut in 0..=bytes.len() {
            let decoded = decode(&bytes[..cut]).expect("a cut is a torn tail");
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let records: usize = frames.iter().take(whole.saturating_sub(1)).map(|f| f.len()).sum();
            assert_eq!(decoded.records.len(), records, "cut at {cut}");
            let intact = if whole == 0 { 0 } else { ends[whole - 1] };
            assert_eq!((decoded.intact_len, decoded.torn_len), (intact, cut - intact));
        }
    }

    #[test]
    fn a_changed_byte_in_the_last_frame_is_a_torn_tail_and_before_it_corruption() {
        let good = file(&[&[started(1)], &[started(2)]]);
        let last = file(&[&[started(1)]]).len();
        for at in HEADER.len()..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x01;
            match decode(&bytes) {
                Ok(decoded) => {
                    assert!(at >= last, "byte {at} was not noticed");
                    assert_eq!((decoded.records.len(), decoded.intact_len), (1, last));
                }
                Err(error) => {
                    let (offset, next_good) = (HEADER.len(), last);
                    assert_eq!(error, DecodeError::Corrupt { offset, next_good }, "byte {at}");
                    assert!(at < last);
                }
            }
        }
    }

    #[test]
    fn a_tail_of_zeros_is_torn_and_another_file_is_refused() {
        let mut bytes = file(&[&[started(1)]]);
        let intact = bytes.len();
        bytes.extend([0; 4096]);
        let decoded = decode(&bytes).expect("zeros are a torn tail");
        assert_eq!((decoded.intact_len, decoded.torn_len), (intact, 4096));
        assert_eq!(decode(b"runmesh journal v2\n"), Err(DecodeError::NotAJournal));
        assert_eq!(decode(b"hello"), Err(DecodeError::NotAJournal));
    }
}
