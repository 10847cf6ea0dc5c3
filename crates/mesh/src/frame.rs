//! Length-prefixed frames on a byte stream, as the dispatch session uses them.
//!
//! Not a message format: a frame carries any bytes. The layout is
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | length of the payload, unsigned, big endian |
//! | 4 | length | the payload |

/// Bytes before a payload.
pub const HEADER_LEN: usize = 4;

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The payload is longer than the limit; on a stream there is no way to go on after it.
    #[error("a frame of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// The length of the payload.
        len: usize,
        /// The limit in force.
        limit: usize,
    },
}

/// Puts a payload into a frame; refuses one whose length does not fit into 32 bits.
pub fn encode(payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    encode_within(payload, u32::MAX as usize)
}

/// Puts a payload into a frame; refuses one longer than `limit` bytes, the receiver's limit.
pub fn encode_within(payload: &[u8], limit: usize) -> Result<Vec<u8>, FrameError> {
    let len = payload.len();
    let header = u32::try_from(len).ok().filter(|_| len <= limit);
    let header = header.ok_or(FrameError::TooLong { len, limit })?;
    let mut frame = Vec::with_capacity(HEADER_LEN + len);
    frame.extend_from_slice(&header.to_be_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// Cuts a byte stream into payloads.
///
/// After every [`Decoder::push`] the caller takes payloads with [`Decoder::next`] until there is none. Then the decoder
/// never holds more than one frame within the limit plus what one push brought. After the first error every further
/// call gives the same error, and what is pushed is dropped: the caller closes the stream.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    buffer: Vec<u8>,
    /// How much of `buffer` was handed out already.
    taken: usize,
    broken: Option<FrameError>,
}

impl Decoder {
    /// Makes a decoder that refuses payloads longer than `limit` bytes before it stores any of them.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            buffer: Vec::new(),
            taken: 0,
            broken: None,
        }
    }

    /// Takes the next bytes of the stream, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        self.forget_taken();
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next whole payload; `None` when more bytes are needed.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not say `more bytes needed`"
    )]
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let Some((header, rest)) = self.buffer[self.taken..].split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if len > self.limit {
            let error = FrameError::TooLong {
                len,
                limit: self.limit,
            };
            self.broken = Some(error);
            self.buffer = Vec::new();
            self.taken = 0;
            return Err(error);
        }
        let Some(payload) = rest.get(..len) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.taken += HEADER_LEN + len;
        Ok(Some(payload))
    }

    /// Tells whether the stream may end here: no frame has begun that is not whole.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.broken.is_none() && self.taken == self.buffer.len()
    }

    fn forget_taken(&mut self) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        // One large frame must not keep its memory for the life of an idle stream.
        if self.buffer.is_empty() && self.buffer.capacity() > 64 * 1024 {
            self.buffer = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(decoder: &mut Decoder) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut payloads = Vec::new();
        while let Some(payload) = decoder.next()? {
            payloads.push(payload);
        }
        Ok(payloads)
    }

    #[test]
    fn the_bytes_of_a_frame_are_pinned() {
        assert_eq!(encode(b"hello").expect("short"), b"\x00\x00\x00\x05hello");
        assert_eq!(encode(b"").expect("short"), b"\x00\x00\x00\x00");
        assert_eq!(encode(&[1; 258]).expect("short")[..5], [0, 0, 1, 2, 1]);
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_at_both_ends() {
        let too_long = FrameError::TooLong { len: 5, limit: 4 };
        assert_eq!(encode_within(b"hello", 4), Err(too_long));
        let mut decoder = Decoder::new(4);
        decoder.push(&5_u32.to_be_bytes());
        assert_eq!(decoder.next(), Err(too_long));
        decoder.push(&encode(b"ok").expect("short"));
        assert_eq!(decoder.next(), Err(too_long), "a broken stream stays broken");
        assert!(!decoder.is_at_boundary());
    }

    #[test]
    fn the_longest_length_allocates_nothing() {
        let mut decoder = Decoder::new(1 << 20);
        decoder.push(&[0xff; 64]);
        assert!(decoder.next().is_err());
        assert_eq!(decoder.buffer.capacity(), 0);
    }

    #[test]
    fn a_half_frame_is_no_boundary() {
        let mut decoder = Decoder::new(16);
        assert!(decoder.is_at_boundary());
        decoder.push(&[0, 0, 0]);
        assert_eq!(decoder.next(), Ok(None));
        assert!(!decoder.is_at_boundary());
        decoder.push(&[1, b'x']);
        assert_eq!(decoder.next(), Ok(Some(b"x".to_vec())));
        assert!(decoder.is_at_boundary());
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            cuts in prop::collection::vec(1_usize..64, 1..40),
        ) {
            let mut stream = Vec::new();
            for payload in &payloads {
                stream.extend(encode_within(payload, 200).expect("within"));
            }
            let mut decoder = Decoder::new(200);
            let mut seen = Vec::new();
            let mut cuts = cuts.iter().cycle();
            let mut rest = stream.as_slice();
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at((*cuts.next().expect("cycle")).min(rest.len()));
                decoder.push(chunk);
                seen.extend(decode_all(&mut decoder).expect("own frames"));
                rest = after;
            }
            prop_assert_eq!(seen, payloads);
            prop_assert!(decoder.is_at_boundary());
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16)) {
            let mut decoder = Decoder::new(1000);
            for chunk in chunks {
                decoder.push(&chunk);
                if let Ok(payloads) = decode_all(&mut decoder) {
                    prop_assert!(payloads.iter().all(|payload| payload.len() <= 1000));
                }
                prop_assert!(decoder.buffer.len() <= 1000 + HEADER_LEN + 64);
            }
        }
    }
}
