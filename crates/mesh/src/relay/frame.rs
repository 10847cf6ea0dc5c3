//! The frames between client and relay, byte by byte. Integers are little endian unless said otherwise; reserved bytes are
//! zero and not looked at.
//!
//! Types start at 0x80: WireGuard's are 1 to 4, and STUN's first byte is below 0x40, so that one socket can carry all three.
//!
//! | type | name | from | layout after the type byte |
//! |---|---|---|---|
//! | 0x80 | Hello | client | version 1, reserved 2, cookie 16 (zero when none), Noise message one 216 |
//! | 0x81 | Challenge | relay | reserved 3, first 16 bytes of the Hello's Noise message, cookie 16 |
//! | 0x82 | Welcome | relay | reserved 3, Noise message two 70 |
//! | 0x83 | Sealed | both | reserved 3, the client's number 4, counter 8, sealed text and its tag |
//! | 0x84 | Data | both | reserved 3, number of the other client 4, datagram |
//! | 0x85 | DataByKey | both | reserved 3, number 4 (from the client: zero), key of the other client 32, datagram |
//! | 0x86 | Known | relay | reserved 3, number 4, key 32 |
//! | 0x87 | Unreachable | relay | reason 1, reserved 2, number 4, key 32 (each zero where unknown) |
//! | 0x88 | Unbound | relay | reserved 3: nothing is known of the address you send from |
//!
//! The payload of Noise message one is the relay ticket (120 bytes); that of message two the client's number (4) and the
//! address as the relay saw it (18). An address is 16 bytes of IPv6 (IPv4 mapped into it) and a port, big endian as in
//! every other protocol.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use types::relay::RELAY_TICKET_LEN;

/// The only version so far.
pub const VERSION: u8 = 1;

/// Bytes before the datagram in a data frame that names its client by number.
pub const DATA_HEADER_LEN: usize = 8;
/// Bytes before the datagram in a data frame that names its client by key.
pub const DATA_BY_KEY_HEADER_LEN: usize = 40;

/// Bytes of Noise message one: ephemeral key 32, sealed static key 48, sealed ticket.
pub const NOISE_ONE_LEN: usize = 32 + 48 + RELAY_TICKET_LEN + 16;
/// Bytes of Noise message two: ephemeral key 32, sealed number and address.
pub const NOISE_TWO_LEN: usize = 32 + WELCOME_LEN + 16;
/// Bytes of an address.
pub const ADDRESS_LEN: usize = 18;
/// Bytes of a Hello: more than any answer to it, so that a relay is no amplifier.
pub const HELLO_LEN: usize = 4 + COOKIE_LEN + NOISE_ONE_LEN;
/// Bytes of a cookie.
pub const COOKIE_LEN: usize = 16;
/// The longest frame: the largest payload of UDP over IPv4.
pub const FRAME_LEN_MAX: usize = 65_507;

pub(super) const WELCOME_LEN: usize = 4 + ADDRESS_LEN;
const CHALLENGE_LEN: usize = 4 + 16 + COOKIE_LEN;
const KEYED_LEN: usize = 8 + 32;

const HELLO: u8 = 0x80;
const CHALLENGE: u8 = 0x81;
const WELCOME: u8 = 0x82;
const SEALED: u8 = 0x83;
const DATA: u8 = 0x84;
const DATA_BY_KEY: u8 = 0x85;
const KNOWN: u8 = 0x86;
const UNREACHABLE: u8 = 0x87;
const UNBOUND: u8 = 0x88;

/// The number that a relay gave to one of its clients; new with every handshake. Zero is nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientNumber(pub u32);

/// The bytes of a node key that nobody has checked: only good for looking up.
pub type KeyBytes = [u8; 32];

/// A frame as it lies in its buffer.
#[derive(Debug)]
pub enum Frame<'a> {
    /// A client wants in.
    Hello(Hello<'a>),
    /// The relay wants to see the cookie first.
    Challenge {
        /// The first bytes of the Hello that it answers.
        echo: &'a [u8; 16],
        /// What the next Hello must carry.
        cookie: &'a [u8; COOKIE_LEN],
    },
    /// The relay lets a client in.
    Welcome(&'a mut [u8]),
    /// A message of the control channel between one client and the relay.
    Sealed {
        /// Which client's.
        number: ClientNumber,
        /// The counter it was sealed under.
        counter: u64,
        /// The sealed text.
        text: &'a mut [u8],
    },
    /// A datagram, the other client named by number.
    Data {
        /// To the relay: for whom. From the relay: from whom.
        number: ClientNumber,
        /// What is carried.
        datagram: &'a mut [u8],
    },
    /// A datagram, the other client named by key.
    DataByKey {
        /// From the relay: the sender's number.
        number: ClientNumber,
        /// To the relay: for whom. From the relay: from whom.
        key: KeyBytes,
        /// What is carried.
        datagram: &'a mut [u8],
    },
    /// Somebody's number.
    Known {
        /// The number.
        number: ClientNumber,
        /// Whose it is.
        key: KeyBytes,
    },
    /// A datagram could not be passed on.
    Unreachable {
        /// Why.
        reason: UnreachableReason,
        /// The number it was for, when it was sent by number.
        number: ClientNumber,
        /// The key it was for, when it was sent by key; otherwise zeros.
        key: KeyBytes,
    },
    /// The relay knows nothing of the address that a frame came from.
    Unbound,
}

/// A Hello.
#[derive(Debug)]
pub struct Hello<'a> {
    /// The cookie; zeros when the client has none.
    pub cookie: &'a [u8; COOKIE_LEN],
    /// Noise message one.
    pub noise: &'a [u8; NOISE_ONE_LEN],
}

/// Why a datagram was not passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnreachableReason {
    /// Nobody of the sender's realm has this key or number here.
    NotHere,
    /// The sender sent more than it may.
    TooMuch,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The type is none of the protocol's.
    #[error("the frame has an unknown type")]
    UnknownType,
    /// The length does not fit the type.
    #[error("the frame has a wrong length")]
    BadLength,
    /// The version is not ours.
    #[error("the frame is of another version")]
    BadVersion,
}

/// Tells whether a datagram may be a frame, by its first byte.
#[must_use]
pub fn is_frame(datagram: &[u8]) -> bool {
    datagram
        .first()
        .is_some_and(|first| (HELLO..=UNBOUND).contains(first))
}

/// Reads a frame.
pub fn parse(bytes: &mut [u8]) -> Result<Frame<'_>, FrameError> {
    let len = bytes.len();
    if !(4..=FRAME_LEN_MAX).contains(&len) {
        return Err(FrameError::BadLength);
    }
    let demand = |fits: bool| if fits { Ok(()) } else { Err(FrameError::BadLength) };
    match bytes[0] {
        HELLO => {
            demand(len == HELLO_LEN)?;
            if bytes[1] != VERSION {
                return Err(FrameError::BadVersion);
            }
            Ok(Frame::Hello(Hello {
                cookie: bytes[4..20].try_into().expect("16 bytes"),
                noise: bytes[20..].try_into().expect("checked"),
            }))
        }
        CHALLENGE => {
            demand(len == CHALLENGE_LEN)?;
            Ok(Frame::Challenge {
                echo: bytes[4..20].try_into().expect("16 bytes"),
                cookie: bytes[20..].try_into().expect("16 bytes"),
            })
        }
        WELCOME => demand(len == 4 + NOISE_TWO_LEN).map(|()| Frame::Welcome(&mut bytes[4..])),
        SEALED => {
            demand(len >= 16 + 17)?;
            Ok(Frame::Sealed {
                number: number_at(bytes, 4),
                counter: u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")),
                text: &mut bytes[16..],
            })
        }
        DATA => {
            demand(len > DATA_HEADER_LEN)?;
            Ok(Frame::Data {
                number: number_at(bytes, 4),
                datagram: &mut bytes[DATA_HEADER_LEN..],
            })
        }
        DATA_BY_KEY => {
            demand(len > DATA_BY_KEY_HEADER_LEN)?;
            Ok(Frame::DataByKey {
                number: number_at(bytes, 4),
                key: key_at(bytes, 8),
                datagram: &mut bytes[DATA_BY_KEY_HEADER_LEN..],
            })
        }
        KNOWN => {
            demand(len == KEYED_LEN)?;
            let (number, key) = (number_at(bytes, 4), key_at(bytes, 8));
            Ok(Frame::Known { number, key })
        }
        UNREACHABLE => {
            demand(len == KEYED_LEN)?;
            Ok(Frame::Unreachable {
                reason: UnreachableReason::of(bytes[1]),
                number: number_at(bytes, 4),
                key: key_at(bytes, 8),
            })
        }
        UNBOUND => demand(len == 4).map(|()| Frame::Unbound),
        _ => Err(FrameError::UnknownType),
    }
}

/// Tells whether a frame is a Data frame.
#[must_use]
pub fn is_data(bytes: &[u8]) -> bool {
    bytes.first() == Some(&DATA)
}

/// Returns the number in the header of a Data frame; `None` when it is too short to carry anything.
#[must_use]
pub fn data_number(bytes: &[u8]) -> Option<ClientNumber> {
    (bytes.len() > DATA_HEADER_LEN).then(|| number_at(bytes, 4))
}

/// Returns how many of the bytes belong together: all leading Data frames with one header, or one frame of another type.
///
/// Frames have `frame_len` bytes, the last may be shorter.
#[must_use]
pub fn run_len(bytes: &[u8], frame_len: usize) -> usize {
    let first = frame_len.min(bytes.len());
    if !is_data(bytes) || first <= DATA_HEADER_LEN {
        return first;
    }
    let header = &bytes[..DATA_HEADER_LEN];
    let frames = bytes.chunks(frame_len);
    frames
        .take_while(|frame| frame.len() > DATA_HEADER_LEN && frame[..DATA_HEADER_LEN] == *header)
        .map(<[u8]>::len)
        .sum()
}

/// Writes `number` into the header of every Data frame of a run.
pub fn readdress(run: &mut [u8], frame_len: usize, number: ClientNumber) {
    let header = data_header(number);
    for frame in run.chunks_mut(frame_len) {
        frame[..DATA_HEADER_LEN].copy_from_slice(&header);
    }
}

/// Writes a Hello.
#[must_use]
pub fn hello(cookie: &[u8; COOKIE_LEN], noise: &[u8; NOISE_ONE_LEN]) -> Vec<u8> {
    [&[HELLO, VERSION, 0, 0], cookie.as_slice(), noise].concat()
}

/// Writes the Challenge to a Hello.
#[must_use]
pub fn challenge(hello: &Hello<'_>, cookie: &[u8; COOKIE_LEN]) -> Vec<u8> {
    [&[CHALLENGE, 0, 0, 0], &hello.noise[..16], cookie].concat()
}

/// Writes a Welcome.
#[must_use]
pub fn welcome(noise: &[u8; NOISE_TWO_LEN]) -> Vec<u8> {
    [&[WELCOME, 0, 0, 0], noise.as_slice()].concat()
}

/// Writes a Sealed frame.
#[must_use]
pub fn sealed(number: ClientNumber, counter: u64, text: &[u8]) -> Vec<u8> {
    [
        &[SEALED, 0, 0, 0],
        number.0.to_le_bytes().as_slice(),
        &counter.to_le_bytes(),
        text,
    ]
    .concat()
}

/// Writes the header of a Data frame; the datagram follows it.
#[must_use]
pub fn data_header(number: ClientNumber) -> [u8; DATA_HEADER_LEN] {
    let mut header = [DATA, 0, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&number.0.to_le_bytes());
    header
}

/// Writes the header of a DataByKey frame; the datagram follows it.
#[must_use]
pub fn data_by_key_header(number: ClientNumber, key: &KeyBytes) -> [u8; DATA_BY_KEY_HEADER_LEN] {
    keyed(DATA_BY_KEY, 0, number, key)
}

/// Writes a Known frame.
#[must_use]
pub fn known(number: ClientNumber, key: &KeyBytes) -> [u8; KEYED_LEN] {
    keyed(KNOWN, 0, number, key)
}

/// Writes an Unreachable frame.
#[must_use]
pub fn unreachable(reason: UnreachableReason, number: ClientNumber, key: &KeyBytes) -> [u8; KEYED_LEN] {
    keyed(UNREACHABLE, reason as u8, number, key)
}

/// Writes an Unbound frame.
#[must_use]
pub fn unbound() -> [u8; 4] {
    [UNBOUND, 0, 0, 0]
}

/// Writes an address.
#[must_use]
pub fn address(address: SocketAddr) -> [u8; ADDRESS_LEN] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; ADDRESS_LEN];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

/// Reads an address; IPv4 comes back as IPv4.
#[must_use]
pub fn parse_address(bytes: &[u8; ADDRESS_LEN]) -> SocketAddr {
    let ip: [u8; 16] = bytes[..16].try_into().expect("16 bytes");
    let ip = IpAddr::from(Ipv6Addr::from(ip)).to_canonical();
    SocketAddr::new(ip, u16::from_be_bytes([bytes[16], bytes[17]]))
}

impl UnreachableReason {
    fn of(byte: u8) -> Self {
        if byte == Self::TooMuch as u8 {
            Self::TooMuch
        } else {
            Self::NotHere
        }
    }
}

fn keyed(kind: u8, detail: u8, number: ClientNumber, key: &KeyBytes) -> [u8; KEYED_LEN] {
    let mut bytes = [0; KEYED_LEN];
    bytes[0] = kind;
    bytes[1] = detail;
    bytes[4..8].copy_from_slice(&number.0.to_le_bytes());
    bytes[8..].copy_from_slice(key);
    bytes
}

fn number_at(bytes: &[u8], at: usize) -> ClientNumber {
    let number = bytes[at..at + 4].try_into().expect("four bytes");
    ClientNumber(u32::from_le_bytes(number))
}

fn key_at(bytes: &[u8], at: usize) -> KeyBytes {
    bytes[at..at + 32].try_into().expect("32 bytes")
}
