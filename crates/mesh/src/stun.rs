//! STUN binding requests and their answers (RFC 8489), as far as a node needs them to learn its address as others see it.
//!
//! Only the binding method; of answers only the attribute XOR-MAPPED-ADDRESS, of requests only those that say where the answer
//! shall come from or go to (RFC 5780, to find out how a NAT filters); no authentication, no fingerprint demanded. Who
//! accepts an answer compares the transaction id and the source itself.
//!
//! | offset | bytes | what (integers big endian) |
//! |---|---|---|
//! | 0 | 2 | 0x0001 request, 0x0101 success |
//! | 2 | 2 | length of the attributes |
//! | 4 | 4 | magic cookie 0x2112A442 |
//! | 8 | 12 | transaction id |
//! | 20 | | attributes: type 2, length 2, value, padded to a multiple of 4 |
//!
//! XOR-MAPPED-ADDRESS (0x0020): zero 1, family 1 (1 IPv4, 2 IPv6), port xor the cookie's upper half 2, address xor the cookie
//! (IPv6: cookie and transaction id) 4 or 16. CHANGE-REQUEST (0x0003): flags 4, of which 2 means another port; 4, another
//! address, is not served. RESPONSE-PORT (0x0027): port 2, padding 2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a binding request without attributes.
pub const REQUEST_LEN: usize = 20;
/// Bytes of our longest answer.
pub const RESPONSE_LEN_MAX: usize = 44;
/// The longest message that is looked at: what one unfragmented datagram holds (RFC 8489, section 6.1).
pub const MESSAGE_LEN_MAX: usize = 1280;

const MAGIC: u32 = 0x2112_A442;
const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const CHANGE_REQUEST: u16 = 0x0003;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const RESPONSE_PORT: u16 = 0x0027;

const CHANGE_PORT: u32 = 2;

/// The lowest port to which an answer is sent other than the one that asked: below are the system's services.
const RESPONSE_PORT_MIN: u16 = 1024;

/// What ties an answer to its request; 12 random bytes.
pub type TransactionId = [u8; 12];

/// How a request is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// From where it was sent to, to where it came from.
    Plain,
    /// From the other port of the same machine.
    OtherPort,
    /// To another port of who asked, from 1024 on.
    ToPort(u16),
}

/// A binding request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What the answer repeats.
    pub transaction: TransactionId,
    /// How it is to be answered.
    pub answer: Answer,
}

/// Tells whether a datagram looks like STUN: the two leading zero bits, the magic cookie, a length that fits.
#[must_use]
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= REQUEST_LEN
        && datagram.len() <= MESSAGE_LEN_MAX
        && datagram[0] & 0xc0 == 0
        && datagram[4..8] == MAGIC.to_be_bytes()
        && usize::from(u16_at(datagram, 2)) == datagram.len() - REQUEST_LEN
        && datagram.len().is_multiple_of(4)
}

/// Writes a binding request.
#[must_use]
pub fn request(transaction: TransactionId) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    bytes.copy_from_slice(&header(REQUEST, 0, &transaction));
    bytes
}

/// Writes a binding request that says how it is to be answered.
#[must_use]
pub fn request_for(transaction: TransactionId, answer: Answer) -> Vec<u8> {
    let (kind, value) = match answer {
        Answer::Plain => return request(transaction).to_vec(),
        Answer::OtherPort => (CHANGE_REQUEST, CHANGE_PORT.to_be_bytes()),
        Answer::ToPort(port) => {
            let [high, low] = port.to_be_bytes();
            (RESPONSE_PORT, [high, low, 0, 0])
        }
    };
    let mut bytes = header(REQUEST, 8, &transaction);
    bytes.extend(kind.to_be_bytes());
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes
}

/// Reads a binding request; `None` when it is none, or wants to be answered in a way that nobody is served in. Attributes it
/// does not know are skipped.
#[must_use]
pub fn parse_request(datagram: &[u8]) -> Option<Request> {
    if !is_stun(datagram) || u16_at(datagram, 0) != REQUEST {
        return None;
    }
    let mut answer = Answer::Plain;
    let mut rest = &datagram[REQUEST_LEN..];
    while rest.len() >= 4 {
        let (kind, len) = (u16_at(rest, 0), usize::from(u16_at(rest, 2)));
        let value = rest.get(4..4 + len)?;
        answer = match (kind, answer) {
            (CHANGE_REQUEST | RESPONSE_PORT, Answer::Plain) => wanted(kind, value)?,
            (CHANGE_REQUEST | RESPONSE_PORT, _) => return None,
            _ => answer,
        };
        rest = rest.get(4 + len.next_multiple_of(4)..)?;
    }
    Some(Request {
        transaction: transaction(datagram),
        answer,
    })
}

fn wanted(kind: u16, value: &[u8]) -> Option<Answer> {
    let value: [u8; 4] = value.try_into().ok()?;
    match (kind, u32::from_be_bytes(value)) {
        (CHANGE_REQUEST, 0) => Some(Answer::Plain),
        (CHANGE_REQUEST, CHANGE_PORT) => Some(Answer::OtherPort),
        (CHANGE_REQUEST, _) => None,
        _ => {
            let port = u16_at(&value, 0);
            (port >= RESPONSE_PORT_MIN).then_some(Answer::ToPort(port))
        }
    }
}

/// Writes the answer to a request that came from `source`.
#[must_use]
pub fn response(transaction: TransactionId, source: SocketAddr) -> Vec<u8> {
    let (family, mut address) = match source.ip().to_canonical() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    for (byte, mask) in address.iter_mut().zip(mask(&transaction)) {
        *byte ^= mask;
    }
    let len = 4 + address.len();
    let mut bytes = header(SUCCESS, 4 + len as u16, &transaction);
    bytes.extend(XOR_MAPPED_ADDRESS.to_be_bytes());
    bytes.extend((len as u16).to_be_bytes());
    bytes.extend([0, family]);
    bytes.extend((source.port() ^ (MAGIC >> 16) as u16).to_be_bytes());
    bytes.extend(address);
    bytes
}

/// Reads a success answer: the transaction, and the address that the answerer saw. Attributes it does not know are
/// skipped; `None` when anything is malformed.
#[must_use]
pub fn parse_response(datagram: &[u8]) -> Option<(TransactionId, SocketAddr)> {
    if !is_stun(datagram) || u16_at(datagram, 0) != SUCCESS {
        return None;
    }
    let id = transaction(datagram);
    let mut rest = &datagram[REQUEST_LEN..];
    while rest.len() >= 4 {
        let (kind, len) = (u16_at(rest, 0), usize::from(u16_at(rest, 2)));
        let value = rest.get(4..4 + len)?;
        if kind == XOR_MAPPED_ADDRESS {
            return Some((id, xor_address(value, &id)?));
        }
        rest = rest.get(4 + len.next_multiple_of(4)..)?;
    }
    None
}

fn xor_address(value: &[u8], id: &TransactionId) -> Option<SocketAddr> {
    let (head, address) = value.split_at_checked(4)?;
    let port = u16_at(head, 2) ^ (MAGIC >> 16) as u16;
    let plain: Vec<u8> = address
        .iter()
        .zip(mask(id))
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    let ip = match (head[1], plain.len(), address.len()) {
        (1, 4, 4) => Ipv4Addr::from(<[u8; 4]>::try_from(plain).ok()?).into(),
        (2, 16, 16) => Ipv6Addr::from(<[u8; 16]>::try_from(plain).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn header(kind: u16, len: u16, transaction: &TransactionId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RESPONSE_LEN_MAX);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(MAGIC.to_be_bytes());
    bytes.extend(transaction);
    bytes
}

fn mask(transaction: &TransactionId) -> impl Iterator<Item = u8> {
    MAGIC.to_be_bytes().into_iter().chain(*transaction)
}

fn transaction(datagram: &[u8]) -> TransactionId {
    datagram[8..20].try_into().expect("twelve bytes")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: TransactionId = [
        0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
    ];

    #[test]
    fn the_bytes_are_those_of_the_standard() {
        // RFC 5769, section 2.2: 192.0.2.1 port 32853 under this transaction id.
        let bytes = response(ID, "192.0.2.1:32853".parse().expect("address"));
        let attribute = [
            0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43,
        ];
        assert_eq!(bytes[20..], attribute);
        assert_eq!(bytes[..8], [0x01, 0x01, 0x00, 0x0c, 0x21, 0x12, 0xa4, 0x42]);
        // Section 2.3: the same for 2001:db8:1234:5678:11:2233:4455:6677.
        let v6 = "[2001:db8:1234:5678:11:2233:4455:6677]:32853"
            .parse()
            .expect("address");
        let bytes = response(ID, v6);
        assert_eq!(bytes[20..28], [0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47]);
        assert_eq!(bytes[28..32], [0x01, 0x13, 0xa9, 0xfa]);
        assert_eq!(request(ID)[..8], [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    }

    #[test]
    fn an_answer_brings_the_address_back() {
        for source in ["192.0.2.1:32853", "[2001:db8::7]:1", "255.255.255.255:65535"] {
            let source = source.parse().expect("address");
            assert_eq!(parse_response(&response(ID, source)), Some((ID, source)));
        }
    }

    #[test]
    fn a_request_says_how_it_is_to_be_answered() {
        for answer in [Answer::Plain, Answer::OtherPort, Answer::ToPort(1024)] {
            let request = Request {
                transaction: ID,
                answer,
            };
            assert_eq!(parse_request(&request_for(ID, answer)), Some(request));
        }
        // RFC 5780, sections 7.2 and 7.5.
        assert_eq!(request_for(ID, Answer::OtherPort)[20..], [0, 3, 0, 4, 0, 0, 0, 2]);
        assert_eq!(
            request_for(ID, Answer::ToPort(0x1234))[20..],
            [0, 0x27, 0, 4, 0x12, 0x34, 0, 0]
        );
    }

    #[test]
    fn what_nobody_is_served_is_no_request() {
        let with = |attributes: &[u8]| {
            let mut bytes = request(ID).to_vec();
            bytes.extend(attributes);
            bytes[3] = attributes.len() as u8;
            parse_request(&bytes)
        };
        assert_eq!(with(&[0, 3, 0, 4, 0, 0, 0, 4]), None, "another address");
        assert_eq!(with(&[0, 3, 0, 4, 0, 0, 0, 6]), None, "another address and port");
        assert_eq!(with(&[0, 0x27, 0, 4, 3, 255, 0, 0]), None, "a port of a service");
        assert_eq!(with(&[0, 3, 0, 2, 0, 2, 0, 0]), None, "a short value");
        assert_eq!(with(&[0, 3, 0, 5, 0, 0, 0, 2]), None, "a cut value");
        let both = [0, 3, 0, 4, 0, 0, 0, 2, 0, 0x27, 0, 4, 4, 0, 0, 0];
        assert_eq!(with(&both), None, "two wishes at once");
        let unknown = with(&[0x80, 0x22, 0, 4, b'a', b'b', b'c', b'd']);
        assert_eq!(unknown.map(|request| request.answer), Some(Answer::Plain));
    }

    #[test]
    fn unknown_attributes_are_skipped() {
        let source = "192.0.2.1:32853".parse().expect("address");
        let plain = response(ID, source);
        let mut bytes = plain[..20].to_vec();
        bytes.extend([0x80, 0x22, 0x00, 0x03, b'a', b'b', b'c', 0]);
        bytes.extend(&plain[20..]);
        bytes[3] = (bytes.len() - 20) as u8;
        assert_eq!(parse_response(&bytes), Some((ID, source)));
    }

    #[test]
    fn requests_are_no_answers_and_truncated_answers_are_nothing() {
        assert_eq!(parse_response(&request(ID)), None);
        let whole = response(ID, "192.0.2.1:1".parse().expect("address"));
        assert_eq!(parse_request(&whole), None);
        for len in 0..whole.len() {
            assert_eq!(parse_response(&whole[..len]), None, "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_bring_the_decoders_down(mut bytes in prop::collection::vec(any::<u8>(), 0..100), stun in any::<bool>()) {
            if stun && bytes.len() >= 20 {
                bytes.truncate(bytes.len() / 4 * 4);
                bytes[..2].copy_from_slice(&[1, 1]);
                let len = (bytes.len() - 20) as u16;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[4..8].copy_from_slice(&MAGIC.to_be_bytes());
            }
            let _ = parse_response(&bytes);
            let _ = parse_request(&bytes);
        }
    }
}
