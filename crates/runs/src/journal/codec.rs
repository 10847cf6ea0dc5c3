//! The journal file as bytes.
//!
//! ```text
//! file   = header *frame
//! header = "runmesh journal v1" LF
//! ```
//!
//! Frames are those of [`crate::frames`]; the JSON of one is an array of [`Record`]s: the records of one write, which therefore
//! all count or none do. A torn tail is cut off. With any other damage the journal refuses to open rather than forget runs
//! that it answered for.

use types::EventDraft;

use super::record::Record;
use crate::frames::{self, FrameTooLarge, PREFIX_LEN, crc32c, seal};

/// The first bytes of every journal file.
pub const HEADER: &[u8] = b"runmesh journal v1\n";

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
        offset: u64,
        /// Where the next intact frame begins.
        next_good: u64,
    },
}

/// Where one record stands in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The offset of its JSON from the start of the file, in bytes.
    pub offset: u64,
    /// The length of its JSON, in bytes.
    pub len: u32,
    /// The CRC-32C of its JSON.
    pub checksum: u32,
}

/// What was read at a place is not what was written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal no longer holds what was written at byte {offset}")]
pub struct Misplaced {
    /// The offset in the file.
    pub offset: u64,
}

impl Place {
    fn of(json: &[u8], offset: u64) -> Self {
        let len = u32::try_from(json.len()).expect("a frame is smaller than 4 GiB");
        let checksum = crc32c(json);
        Self {
            offset,
            len,
            checksum,
        }
    }

    /// Returns the event in the bytes that were read from this place.
    pub fn event(&self, json: &[u8]) -> Result<EventDraft, Misplaced> {
        let intact = json.len() == self.len as usize && crc32c(json) == self.checksum;
        match intact.then(|| serde_json::from_slice(json)) {
            Some(Ok(Record::Event { draft, .. })) => Ok(draft),
            _ => Err(Misplaced { offset: self.offset }),
        }
    }
}

/// One write: its bytes, and where in the file each of its records stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Encoded {
    /// To be appended to the file.
    pub bytes: Vec<u8>,
    /// One place for each record, in order.
    pub places: Vec<Place>,
}

/// Encodes the records of one write as one frame that begins at `offset` in the file. No records make no bytes.
pub fn encode(records: &[Record], offset: u64) -> Result<Encoded, FrameTooLarge> {
    if records.is_empty() {
        return Ok(Encoded::default());
    }
    let mut bytes = vec![b' '; PREFIX_LEN];
    let mut places = Vec::with_capacity(records.len());
    for record in records {
        bytes.push(if places.is_empty() { b'[' } else { b',' });
        let start = bytes.len();
        serde_json::to_writer(&mut bytes, record).expect("records have only string keys");
        places.push(Place::of(&bytes[start..], offset + start as u64));
    }
    bytes.push(b']');
    let bytes = seal(bytes)?;
    Ok(Encoded { bytes, places })
}

/// The records of one write as they were found in the file, and where each stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// In the order of writing.
    pub records: Vec<Record>,
    /// One place for each record.
    pub places: Vec<Place>,
}

/// How a file ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tail {
    /// The length of the intact part, header included: the file is cut to it before anything is added. 0 means that
    /// even the header is missing and must be written.
    pub intact_len: u64,
    /// How many bytes of a torn write stand behind the intact part.
    pub torn_len: u64,
}

/// Reads a journal file from its first byte to its last, in pieces of any size: [`Decoder::push`] a piece, take frames
/// with [`Decoder::next_frame`] until there is none, and at the end of the file ask [`Decoder::finish`] whether all of
/// it was in order. It holds one frame at most, and everything behind a bad one.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// How many of `bytes` are decoded.
    done: usize,
    /// Where in the file the rest begins.
    offset: u64,
    /// A frame was bad: what follows decides whether it is a torn tail.
    is_bad: bool,
}

impl Decoder {
    /// Takes the next piece of the file.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.done));
        self.bytes.extend_from_slice(piece);
    }

    /// Returns the next whole frame; `None` until more is pushed, or for ever behind a bad frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        if self.offset == 0 {
            if !self.rest().starts_with(HEADER) {
                return match HEADER.starts_with(self.rest()) {
                    true => Ok(None),
                    false => Err(DecodeError::NotAJournal),
                };
            }
            self.advance(HEADER.len());
        }
        if self.is_bad {
            return Ok(None);
        }
        match frame_at(self.rest(), self.offset) {
            FrameAt::Whole(frame, len) => {
                self.advance(len);
                Ok(Some(frame))
            }
            FrameAt::Short => Ok(None),
            FrameAt::Bad => {
                self.is_bad = true;
                Ok(None)
            }
        }
    }

    /// Ends the file: a torn tail is tolerated and reported, damage anywhere else is an error.
    pub fn finish(&self) -> Result<Tail, DecodeError> {
        // Any offset, not only those behind a line break: the damaged byte may be the line break.
        let rest = self.rest();
        let good = (1..rest.len()).find(|start| {
            let at = self.offset + *start as u64;
            self.offset > 0 && matches!(frame_at(&rest[*start..], at), FrameAt::Whole(..))
        });
        match good {
            Some(start) => Err(DecodeError::Corrupt {
                offset: self.offset,
                next_good: self.offset + start as u64,
            }),
            None => Ok(Tail {
                intact_len: self.offset,
                torn_len: rest.len() as u64,
            }),
        }
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    fn advance(&mut self, len: usize) {
        self.done += len;
        self.offset += len as u64;
    }
}

enum FrameAt {
    Whole(Frame, usize),
    /// So far it may be the beginning of one.
    Short,
    Bad,
}

fn frame_at(bytes: &[u8], offset: u64) -> FrameAt {
    let json = match frames::frame_at(bytes) {
        frames::FrameAt::Whole(json) => json,
        frames::FrameAt::Short => return FrameAt::Short,
        frames::FrameAt::Bad => return FrameAt::Bad,
    };
    match records(json, offset + PREFIX_LEN as u64) {
        Some(frame) => FrameAt::Whole(frame, frames::frame_len(json)),
        None => FrameAt::Bad,
    }
}

/// Parses the JSON array record by record, since only so it is known where each stands.
fn records(json: &[u8], offset: u64) -> Option<Frame> {
    let mut frame = Frame {
        records: Vec::new(),
        places: Vec::new(),
    };
    let mut at = 0;
    loop {
        if json.get(at) != Some(if at == 0 { &b'[' } else { &b',' }) {
            break;
        }
        at += 1;
        let mut stream = serde_json::Deserializer::from_slice(&json[at..]).into_iter();
        frame.records.push(stream.next()?.ok()?);
        let len = stream.byte_offset();
        frame
            .places
            .push(Place::of(&json[at..at + len], offset + at as u64));
        at += len;
    }
    (&json[at..] == b"]").then_some(frame)
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
            bytes.extend(encode(frame, bytes.len() as u64).expect("small").bytes);
        }
        bytes
    }

    fn at(intact: usize, torn: usize) -> Tail {
        Tail {
            intact_len: intact as u64,
            torn_len: torn as u64,
        }
    }

    /// Decodes in pieces of a few bytes, as no file is read, so that every border is met.
    fn decode(bytes: &[u8]) -> Result<(Vec<Record>, Tail), DecodeError> {
        let mut decoder = Decoder::default();
        let mut records = Vec::new();
        for piece in bytes.chunks(7) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame()? {
                assert_eq!(frame.records.len(), frame.places.len());
                records.extend(frame.records);
            }
        }
        Ok((records, decoder.finish()?))
    }

    #[test]
    fn an_event_is_found_again_at_its_place_and_nothing_else_is_taken_for_it() {
        let event = |text: &str| Record::Event {
            run_id: RunId::from_random([1; 16]),
            number: 1,
            draft: EventDraft {
                event_type: types::EventType::AssistantMessage,
                payload: serde_json::json!({ "text": text }),
                client_event_id: None,
            },
        };
        let mut bytes = file(&[&[started(1)]]);
        let offset = bytes.len() as u64;
        let encoded = encode(&[started(2), event("a"), event("b")], offset).expect("small");
        bytes.extend(&encoded.bytes);
        let slice = |place: &Place| {
            let start = usize::try_from(place.offset).expect("small");
            &bytes[start..start + place.len as usize]
        };
        let payload = |place: &Place| {
            place
                .event(slice(place))
                .map(|draft| draft.payload["text"].clone())
        };
        assert_eq!(payload(&encoded.places[1]), Ok("a".into()));
        assert_eq!(payload(&encoded.places[2]), Ok("b".into()));
        let offset = encoded.places[0].offset;
        assert_eq!(payload(&encoded.places[0]), Err(Misplaced { offset }));
        let other = encoded.places[1].event(slice(&encoded.places[2]));
        assert_eq!(
            other,
            Err(Misplaced {
                offset: encoded.places[1].offset
            })
        );

        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        decoder.next_frame().expect("in order").expect("the first");
        let frame = decoder.next_frame().expect("in order").expect("the second");
        assert_eq!(frame.places, encoded.places);
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
        let encoded = encode(&records, 1000).expect("small");
        let text = String::from_utf8(encoded.bytes).expect("text");
        assert_eq!(
            text,
            "00000091 9eac433c [{\"type\":\"started\",\"runId\":\"run_abababababab4bababababababababab\"},\
             {\"type\":\"forgotten\",\"runId\":\"run_01010101010141018101010101010101\",\"fence\":3}]\n"
        );
        assert_eq!(encode(&[], 0).expect("empty"), Encoded::default());
        let places: Vec<_> = encoded
            .places
            .iter()
            .map(|place| (place.offset, place.len))
            .collect();
        assert_eq!(places, [(1019, 65), (1085, 77)]);
    }

    #[test]
    fn a_file_cut_anywhere_keeps_every_whole_frame() {
        let frames: [&[Record]; 3] = [&[started(1)], &[started(2), started(3)], &[started(4)]];
        let bytes = file(&frames);
        let ends: Vec<usize> = (0..=3).map(|n| file(&frames[..n]).len()).collect();
        for cut in 0..=bytes.len() {
            let (found, tail) = decode(&bytes[..cut]).expect("a cut is a torn tail");
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let records: usize = frames.iter().take(whole.saturating_sub(1)).map(|f| f.len()).sum();
            assert_eq!(found.len(), records, "cut at {cut}");
            let intact = if whole == 0 { 0 } else { ends[whole - 1] };
            assert_eq!(tail, at(intact, cut - intact));
        }
    }

    #[test]
    fn a_changed_byte_in_the_last_frame_is_a_torn_tail_and_before_it_corruption() {
        let good = file(&[&[started(1)], &[started(2)]]);
        let last = file(&[&[started(1)]]).len();
        for byte in HEADER.len()..good.len() {
            let mut bytes = good.clone();
            bytes[byte] ^= 0x01;
            match decode(&bytes) {
                Ok((found, tail)) => {
                    assert!(byte >= last, "byte {byte} was not noticed");
                    assert_eq!((found.len(), tail.intact_len), (1, last as u64));
                }
                Err(error) => {
                    let (offset, next_good) = (HEADER.len() as u64, last as u64);
                    assert_eq!(error, DecodeError::Corrupt { offset, next_good }, "byte {byte}");
                    assert!(byte < last);
                }
            }
        }
    }

    #[test]
    fn a_tail_of_zeros_is_torn_and_another_file_is_refused() {
        let mut bytes = file(&[&[started(1)]]);
        let intact = bytes.len();
        bytes.extend([0; 4096]);
        let (_, tail) = decode(&bytes).expect("zeros are a torn tail");
        assert_eq!(tail, at(intact, 4096));
        assert_eq!(decode(b"runmesh journal v2\n"), Err(DecodeError::NotAJournal));
        assert_eq!(decode(b"hello"), Err(DecodeError::NotAJournal));
    }
}
