//! The four message types of WireGuard, byte by byte. Integers are little endian; the reserved bytes are zero.
//!
//! | type 1: initiation, 148 bytes | offset | bytes |
//! |---|---|---|
//! | type (1), reserved | 0 | 1 + 3 |
//! | sender index | 4 | 4 |
//! | Noise message: ephemeral key 32, sealed static key 48, sealed timestamp 28 | 8 | 108 |
//! | first MAC, over everything before it | 116 | 16 |
//! | second MAC, over everything before it; zero without a cookie | 132 | 16 |
//!
//! | type 2: response, 92 bytes | offset | bytes |
//! |---|---|---|
//! | type (2), reserved | 0 | 1 + 3 |
//! | sender index | 4 | 4 |
//! | receiver index: the sender index of the initiation | 8 | 4 |
//! | Noise message: ephemeral key 32, sealed nothing 16 | 12 | 48 |
//! | first MAC | 60 | 16 |
//! | second MAC | 76 | 16 |
//!
//! | type 3: cookie reply, 64 bytes | offset | bytes |
//! |---|---|---|
//! | type (3), reserved | 0 | 1 + 3 |
//! | receiver index: the sender index of the message it answers | 4 | 4 |
//! | nonce | 8 | 24 |
//! | sealed cookie | 32 | 32 |
//!
//! | type 4: data, 32 bytes and more | offset | bytes |
//! |---|---|---|
//! | type (4), reserved | 0 | 1 + 3 |
//! | receiver index | 4 | 4 |
//! | counter | 8 | 8 |
//! | sealed packet, padded with zeros; empty in a keepalive | 16 | 16 and more |

use super::counters::DropReason;
use crate::crypto::TAG_LEN;

/// Bytes of an initiation.
pub(crate) const INITIATION_LEN: usize = 148;
/// Bytes of a response.
pub(crate) const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply.
pub(crate) const COOKIE_REPLY_LEN: usize = 64;
/// Bytes before the sealed packet in a data message.
pub(crate) const DATA_HEADER_LEN: usize = 16;
/// Bytes that a data message adds to a packet.
pub(crate) const DATA_OVERHEAD: usize = DATA_HEADER_LEN + TAG_LEN;
/// Bytes of each MAC.
pub(crate) const MAC_LEN: usize = 16;

const INITIATION: u32 = 1;
const RESPONSE: u32 = 2;
const COOKIE_REPLY: u32 = 3;
const DATA: u32 = 4;

/// A datagram of the right shape; nothing in it is authentic yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Initiation(Initiation<'a>),
    Response(Response<'a>),
    CookieReply(CookieReply<'a>),
    Data(Data<'a>),
}

/// A type 1 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Initiation<'a>(&'a [u8; INITIATION_LEN]);

impl<'a> Initiation<'a> {
    pub(crate) fn sender(self) -> u32 {
        u32_at(self.0, 4)
    }

    pub(crate) fn noise(self) -> &'a [u8] {
        &self.0[8..INITIATION_LEN - 2 * MAC_LEN]
    }

    /// Returns the whole message, for its MACs.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// A type 2 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Response<'a>(&'a [u8; RESPONSE_LEN]);

impl<'a> Response<'a> {
    pub(crate) fn sender(self) -> u32 {
        u32_at(self.0, 4)
    }

    pub(crate) fn receiver(self) -> u32 {
        u32_at(self.0, 8)
    }

    pub(crate) fn noise(self) -> &'a [u8] {
        &self.0[12..RESPONSE_LEN - 2 * MAC_LEN]
    }

    /// Returns the whole message, for its MACs.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// A type 3 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CookieReply<'a>(&'a [u8; COOKIE_REPLY_LEN]);

impl<'a> CookieReply<'a> {
    pub(crate) fn receiver(self) -> u32 {
        u32_at(self.0, 4)
    }

    pub(crate) fn nonce(self) -> &'a [u8; 24] {
        self.0[8..32].try_into().expect("24 bytes")
    }

    pub(crate) fn sealed(self) -> &'a [u8; MAC_LEN + TAG_LEN] {
        self.0[32..].try_into().expect("32 bytes")
    }
}

/// A type 4 message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Data<'a> {
    pub(crate) receiver: u32,
    pub(crate) counter: u64,
    /// The packet and its tag.
    pub(crate) sealed: &'a mut [u8],
}

/// Reads a datagram; refuses an unknown type and a length that does not fit the type.
pub(crate) fn parse(bytes: &mut [u8]) -> Result<Message<'_>, DropReason> {
    // The type and the reserved bytes are one field to every implementation.
    let kind = bytes.first_chunk().ok_or(DropReason::BadLength)?;
    match u32::from_le_bytes(*kind) {
        INITIATION => exactly(bytes).map(|bytes| Message::Initiation(Initiation(bytes))),
        RESPONSE => exactly(bytes).map(|bytes| Message::Response(Response(bytes))),
        COOKIE_REPLY => exactly(bytes).map(|bytes| Message::CookieReply(CookieReply(bytes))),
        DATA => parse_data(bytes).map(Message::Data),
        _ => Err(DropReason::UnknownType),
    }
}

/// Writes an initiation whose MACs are still zero.
pub(crate) fn initiation(sender: u32, noise: &[u8; 108]) -> [u8; INITIATION_LEN] {
    let mut message = [0; INITIATION_LEN];
    message[..4].copy_from_slice(&INITIATION.to_le_bytes());
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message[8..116].copy_from_slice(noise);
    message
}

/// Writes a response whose MACs are still zero.
pub(crate) fn response(sender: u32, receiver: u32, noise: &[u8; 48]) -> [u8; RESPONSE_LEN] {
    let mut message = [0; RESPONSE_LEN];
    message[..4].copy_from_slice(&RESPONSE.to_le_bytes());
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message[8..12].copy_from_slice(&receiver.to_le_bytes());
    message[12..60].copy_from_slice(noise);
    message
}

/// Writes a cookie reply.
pub(crate) fn cookie_reply(receiver: u32, nonce: &[u8; 24], sealed: &[u8; 32]) -> [u8; COOKIE_REPLY_LEN] {
    let mut message = [0; COOKIE_REPLY_LEN];
    message[..4].copy_from_slice(&COOKIE_REPLY.to_le_bytes());
    message[4..8].copy_from_slice(&receiver.to_le_bytes());
    message[8..32].copy_from_slice(nonce);
    message[32..].copy_from_slice(sealed);
    message
}

/// Writes what stands before the sealed packet of a data message.
pub(crate) fn data_header(receiver: u32, counter: u64) -> [u8; DATA_HEADER_LEN] {
    let mut header = [0; DATA_HEADER_LEN];
    header[..4].copy_from_slice(&DATA.to_le_bytes());
    header[4..8].copy_from_slice(&receiver.to_le_bytes());
    header[8..].copy_from_slice(&counter.to_le_bytes());
    header
}

fn parse_data(bytes: &mut [u8]) -> Result<Data<'_>, DropReason> {
    let (header, sealed) = bytes
        .split_first_chunk_mut::<DATA_HEADER_LEN>()
        .ok_or(DropReason::BadLength)?;
    if sealed.len() < TAG_LEN {
        return Err(DropReason::BadLength);
    }
    Ok(Data {
        receiver: u32_at(header, 4),
        counter: u64::from_le_bytes(header[8..].try_into().expect("eight bytes")),
        sealed,
    })
}

fn exactly<const LEN: usize>(bytes: &[u8]) -> Result<&[u8; LEN], DropReason> {
    bytes.try_into().map_err(|_| DropReason::BadLength)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_of_an_initiation_are_pinned() {
        let mut bytes = initiation(0x0403_0201, &[0xaa; 108]);
        assert_eq!(bytes[..9], [1, 0, 0, 0, 1, 2, 3, 4, 0xaa]);
        assert_eq!(bytes[115..117], [0xaa, 0]);
        let Ok(Message::Initiation(message)) = parse(&mut bytes) else {
            panic!("an initiation");
        };
        assert_eq!(
            (message.sender(), message.noise()),
            (0x0403_0201, [0xaa; 108].as_slice())
        );
    }

    #[test]
    fn the_bytes_of_a_response_are_pinned() {
        let mut bytes = response(0x0403_0201, 0x0807_0605, &[0xaa; 48]);
        assert_eq!(bytes[..13], [2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xaa]);
        assert_eq!(bytes[59..61], [0xaa, 0]);
        let Ok(Message::Response(message)) = parse(&mut bytes) else {
            panic!("a response");
        };
        assert_eq!((message.sender(), message.receiver()), (0x0403_0201, 0x0807_0605));
        assert_eq!(message.noise(), [0xaa; 48]);
    }

    #[test]
    fn the_bytes_of_a_cookie_reply_are_pinned() {
        let mut bytes = cookie_reply(0x0403_0201, &[0xaa; 24], &[0xbb; 32]);
        assert_eq!(bytes[..9], [3, 0, 0, 0, 1, 2, 3, 4, 0xaa]);
        assert_eq!(bytes[31..33], [0xaa, 0xbb]);
        let Ok(Message::CookieReply(message)) = parse(&mut bytes) else {
            panic!("a cookie reply");
        };
        assert_eq!(message.receiver(), 0x0403_0201);
        assert_eq!((message.nonce(), message.sealed()), (&[0xaa; 24], &[0xbb; 32]));
    }

    #[test]
    fn the_bytes_of_a_data_header_are_pinned() {
        let header = data_header(0x0403_0201, 0x0c0b_0a09_0807_0605);
        assert_eq!(header, [4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let mut bytes = [header.as_slice(), &[0xcc; 20]].concat();
        let Ok(Message::Data(message)) = parse(&mut bytes) else {
            panic!("data");
        };
        assert_eq!(
            (message.receiver, message.counter),
            (0x0403_0201, 0x0c0b_0a09_0807_0605)
        );
        assert_eq!(message.sealed, [0xcc; 20]);
    }

    #[test]
    fn a_reserved_byte_that_is_not_zero_is_an_unknown_type() {
        for at in 1..4 {
            let mut bytes = initiation(1, &[0; 108]);
            bytes[at] = 1;
            assert_eq!(parse(&mut bytes), Err(DropReason::UnknownType));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_of_their_length_or_refused(kind in 0_u8..6, mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(head) = bytes.first_chunk_mut() {
                *head = u32::from(kind).to_le_bytes();
            }
            let len = bytes.len();
            match parse(&mut bytes) {
                Ok(Message::Initiation(_)) => prop_assert_eq!((kind, len), (1, 148)),
                Ok(Message::Response(_)) => prop_assert_eq!((kind, len), (2, 92)),
                Ok(Message::CookieReply(_)) => prop_assert_eq!((kind, len), (3, 64)),
                Ok(Message::Data(data)) => {
                    prop_assert!(kind == 4 && len >= 32);
                    prop_assert_eq!(data.sealed.len(), len - 16);
                }
                Err(DropReason::UnknownType) => prop_assert!(kind == 0 || kind == 5),
                Err(reason) => prop_assert_eq!(reason, DropReason::BadLength),
            }
        }
    }
}
