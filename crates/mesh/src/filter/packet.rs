//! What the filter reads of a packet: addresses, and ports or what stands for them.

use std::net::IpAddr;

use crate::ip::{IpPacket, Malformed, TCP, UDP};

const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// Why a packet is not looked at further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    Malformed,
    Fragment,
}

impl From<Malformed> for Refusal {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// One packet, or the beginning of one that an error quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) content: Content,
}

/// What a packet carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Tcp {
        source: u16,
        destination: u16,
        flags: TcpFlags,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    EchoRequest {
        identifier: u16,
    },
    EchoReply {
        identifier: u16,
    },
    /// An ICMP or ICMPv6 error, and the packet it is about if that can be read.
    Error {
        about: Option<Quoted>,
    },
    /// Other messages of ICMP and ICMPv6.
    Icmp,
    /// Other protocols.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct TcpFlags {
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
}

impl TcpFlags {
    fn read(byte: u8) -> Self {
        Self {
            fin: byte & 0x01 != 0,
            syn: byte & 0x02 != 0,
            rst: byte & 0x04 != 0,
            ack: byte & 0x10 != 0,
        }
    }

    /// SYN alone: it begins a connection.
    pub(super) fn opens(self) -> bool {
        self.syn && !self.ack && !self.fin && !self.rst
    }
}

/// The beginning of a packet that an error quotes: an error about an error there is not (RFC 1122 section 3.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Quoted {
    source: IpAddr,
    destination: IpAddr,
    carries: Carried,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Carried {
    Tcp(u16, u16),
    Udp(u16, u16),
    Request(u16),
    Reply(u16),
}

impl Quoted {
    /// Returns it as the packet that it was.
    pub(super) fn sent(&self) -> Packet {
        let content = match self.carries {
            Carried::Tcp(source, destination) => Content::Tcp {
                source,
                destination,
                flags: TcpFlags::default(),
            },
            Carried::Udp(source, destination) => Content::Udp { source, destination },
            Carried::Request(identifier) => Content::EchoRequest { identifier },
            Carried::Reply(identifier) => Content::EchoReply { identifier },
        };
        Packet {
            source: self.source,
            destination: self.destination,
            content,
        }
    }
}

impl Packet {
    /// Reads a whole packet.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let outer = IpPacket::read(bytes)?;
        if outer.piece.is_some() {
            return Err(Refusal::Fragment);
        }
        Self::of(&outer)
    }

    /// Reads a packet that is whole, or the first piece of one, which has the ports.
    pub(super) fn parse_beginning(bytes: &[u8]) -> Result<Self, Refusal> {
        let outer = IpPacket::read(bytes)?;
        if outer.is_later_piece() {
            return Err(Refusal::Fragment);
        }
        Self::of(&outer)
    }

    fn of(outer: &IpPacket<'_>) -> Result<Self, Refusal> {
        let content = match (outer.protocol, outer.source) {
            (TCP, _) => read_tcp(outer.payload)?,
            (UDP, _) => read_udp(outer.payload)?,
            (ICMP, IpAddr::V4(_)) => read_icmp(outer.payload, &[3, 11, 12], (8, 0))?,
            (ICMP6, IpAddr::V6(_)) => read_icmp(outer.payload, &[1, 2, 3, 4], (128, 129))?,
            _ => Content::Other,
        };
        Ok(Self {
            source: outer.source,
            destination: outer.destination,
            content,
        })
    }

    /// Tells whether this went where `error` comes from, and came from where `error` goes.
    pub(super) fn is_between(&self, error: &Self) -> bool {
        self.source == error.destination && self.destination == error.source
    }

    /// Returns the packet to which this would be the answer.
    pub(super) fn answered(&self) -> Self {
        let content = match self.content {
            Content::Tcp {
                source,
                destination,
                flags,
            } => Content::Tcp {
                source: destination,
                destination: source,
                flags,
            },
            Content::Udp { source, destination } => Content::Udp {
                source: destination,
                destination: source,
            },
            Content::EchoReply { identifier } => Content::EchoRequest { identifier },
            Content::EchoRequest { identifier } => Content::EchoReply { identifier },
            other @ (Content::Error { .. } | Content::Icmp | Content::Other) => other,
        };
        Self {
            source: self.destination,
            destination: self.source,
            content,
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([two[0], two[1]]))
}

fn read_tcp(segment: &[u8]) -> Result<Content, Refusal> {
    let header: &[u8; 20] = segment.first_chunk().ok_or(Refusal::Malformed)?;
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 || header_len > segment.len() {
        return Err(Refusal::Malformed);
    }
    Ok(Content::Tcp {
        source: u16::from_be_bytes([header[0], header[1]]),
        destination: u16::from_be_bytes([header[2], header[3]]),
        flags: TcpFlags::read(header[13]),
    })
}

fn read_udp(datagram: &[u8]) -> Result<Content, Refusal> {
    let header: &[u8; 8] = datagram.first_chunk().ok_or(Refusal::Malformed)?;
    Ok(Content::Udp {
        source: u16::from_be_bytes([header[0], header[1]]),
        destination: u16::from_be_bytes([header[2], header[3]]),
    })
}

/// Reads a message; the numbers of errors and of echoes differ between the two versions.
fn read_icmp(message: &[u8], errors: &[u8], (request, reply): (u8, u8)) -> Result<Content, Refusal> {
    let header: &[u8; 8] = message.first_chunk().ok_or(Refusal::Malformed)?;
    let identifier = u16::from_be_bytes([header[4], header[5]]);
    let kind = header[0];
    Ok(if kind == request {
        Content::EchoRequest { identifier }
    } else if kind == reply {
        Content::EchoReply { identifier }
    } else if errors.contains(&kind) {
        Content::Error {
            about: read_quoted(&message[8..]),
        }
    } else {
        Content::Icmp
    })
}

fn read_quoted(bytes: &[u8]) -> Option<Quoted> {
    let quoted = IpPacket::read_quoted(bytes).ok()?;
    if quoted.is_later_piece() {
        return None;
    }
    let payload = quoted.payload;
    let ports = || Some((number(payload, 0)?, number(payload, 2)?));
    let echo = |request: u8, reply: u8| match *payload.first()? {
        kind if kind == request => number(payload, 4).map(Carried::Request),
        kind if kind == reply => number(payload, 4).map(Carried::Reply),
        _ => None,
    };
    let carries = match (quoted.protocol, quoted.source) {
        (TCP, _) => ports().map(|(source, destination)| Carried::Tcp(source, destination)),
        (UDP, _) => ports().map(|(source, destination)| Carried::Udp(source, destination)),
        (ICMP, IpAddr::V4(_)) => echo(8, 0),
        (ICMP6, IpAddr::V6(_)) => echo(128, 129),
        _ => None,
    }?;
    Some(Quoted {
        source: quoted.source,
        destination: quoted.destination,
        carries,
    })
}
