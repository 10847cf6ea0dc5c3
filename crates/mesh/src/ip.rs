//! The IP layer of a packet: addresses, the chain of headers, and which piece of a datagram it is.
//!
//! Read by the packet filter, and by the shell for what it must know of the host's packets. No checksum is looked at: what
//! comes through the tunnel is authentic, and what the host sends its kernel has made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most IPv6 extension headers before what a packet carries.
pub const EXTENSIONS_MAX: usize = 8;

/// The longest packet, in bytes: what the length of IPv4 can say, and less than that of IPv6 can.
pub const PACKET_BYTES_MAX: usize = 65_535;

/// The protocol number of TCP.
pub const TCP: u8 = 6;
/// The protocol number of UDP.
pub const UDP: u8 = 17;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;

/// Bytes of an IPv4 header without options.
pub(crate) const IP4_HEADER_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub(crate) const IP6_HEADER_LEN: usize = 40;
const FRAGMENT_HEADER_LEN: usize = 8;

/// A packet that is no whole IPv4 or IPv6 packet, has too many extension headers, or names hops of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("is no IP packet in order")]
pub struct Malformed;

/// What the IP layer says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpPacket<'a> {
    /// Who sent it.
    pub source: IpAddr,
    /// For whom it is.
    pub destination: IpAddr,
    /// What it carries, behind all extension headers. Of a piece that is not its datagram's first, what its headers say.
    pub protocol: u8,
    /// The bytes of what it carries.
    pub payload: &'a [u8],
    /// Whether there are IPv6 extension headers.
    pub is_extended: bool,
    /// Which piece of a datagram it is, when it is one.
    pub piece: Option<Piece>,
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where its bytes lie in what was cut, in bytes.
    pub offset: usize,
    /// Whether pieces follow it.
    pub has_more: bool,
    /// What tells datagrams of one sender apart: 16 bits over IPv4.
    pub(crate) identification: u32,
    /// What the datagram carries, or the first of the headers that were cut with it.
    pub(crate) next: u8,
    /// How many bytes of headers each piece has before what was cut, the fragment header of IPv6 not counted.
    pub(crate) header_len: usize,
    /// Where in those headers the number of the fragment header stands; over IPv6 alone.
    pub(crate) next_at: usize,
    /// Where its bytes begin in the packet.
    pub(crate) start: usize,
    /// Where the packet ends.
    pub(crate) end: usize,
}

impl<'a> IpPacket<'a> {
    /// Reads a whole packet; bytes behind it are passed over.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::read_as(bytes, true)
    }

    /// Reads the beginning of a packet, which may be cut short behind its headers.
    pub(crate) fn read_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::read_as(bytes, false)
    }

    /// Tells whether it is a piece that does not begin with the header of what it carries.
    #[must_use]
    pub fn is_later_piece(&self) -> bool {
        self.piece.is_some_and(|piece| piece.offset != 0)
    }

    fn read_as(bytes: &'a [u8], is_whole: bool) -> Result<Self, Malformed> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Self::read_ip4(bytes, is_whole),
            Some(6) => Self::read_ip6(bytes, is_whole),
            _ => Err(Malformed),
        }
    }

    fn read_ip4(bytes: &'a [u8], is_whole: bool) -> Result<Self, Malformed> {
        let header: &[u8; IP4_HEADER_LEN] = bytes.first_chunk().ok_or(Malformed)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < IP4_HEADER_LEN || len < header_len {
            return Err(Malformed);
        }
        let [source, destination] = [12, 16].map(|at| {
            let octets: [u8; 4] = header[at..at + 4].try_into().expect("four bytes");
            IpAddr::from(Ipv4Addr::from(octets))
        });
        let end = end_of(bytes, len, is_whole)?;
        let cut = u16::from_be_bytes([header[6], header[7]]);
        // More pieces follow, or this is not the first.
        let piece = (cut & 0x3fff != 0).then(|| Piece {
            offset: usize::from(cut & 0x1fff) * 8,
            has_more: cut & 0x2000 != 0,
            identification: u32::from(u16::from_be_bytes([header[4], header[5]])),
            next: header[9],
            header_len,
            next_at: 9,
            start: header_len,
            end,
        });
        Ok(Self {
            source,
            destination,
            protocol: header[9],
            payload: bytes.get(header_len..end).ok_or(Malformed)?,
            is_extended: false,
            piece,
        })
    }

    fn read_ip6(bytes: &'a [u8], is_whole: bool) -> Result<Self, Malformed> {
        let header: &[u8; IP6_HEADER_LEN] = bytes.first_chunk().ok_or(Malformed)?;
        let len = IP6_HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let [source, destination] = [8, 24].map(|at| {
            let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes");
            IpAddr::from(Ipv6Addr::from(octets))
        });
        let end = end_of(bytes, len, is_whole)?;
        let chain = Chain::walk(&bytes[..end], header[6])?;
        Ok(Self {
            source,
            destination,
            protocol: chain.protocol,
            payload: bytes.get(chain.start..end).ok_or(Malformed)?,
            is_extended: chain.start != IP6_HEADER_LEN,
            piece: chain.piece,
        })
    }
}

/// Returns where a packet of `len` bytes ends.
fn end_of(bytes: &[u8], len: usize, is_whole: bool) -> Result<usize, Malformed> {
    if is_whole && len > bytes.len() {
        return Err(Malformed);
    }
    Ok(len.min(bytes.len()))
}

/// The extension headers of a packet.
struct Chain {
    protocol: u8,
    start: usize,
    piece: Option<Piece>,
}

impl Chain {
    /// Walks the extension headers. Each begins with the next header's number and, but for the fragment header, its own length
    /// (RFC 8200 section 4). Behind the fragment header of a later piece there are no headers.
    fn walk(packet: &[u8], first: u8) -> Result<Self, Malformed> {
        let (mut protocol, mut at, mut next_at) = (first, IP6_HEADER_LEN, 6);
        let mut piece = None;
        for _ in 0..=EXTENSIONS_MAX {
            let is_later = piece.is_some_and(|piece: Piece| piece.offset != 0);
            let is_header = matches!(protocol, HOP_BY_HOP | ROUTING | OPTIONS | FRAGMENT);
            if is_later || !is_header {
                return Ok(Self {
                    protocol,
                    start: at,
                    piece,
                });
            }
            let header: &[u8; 8] = packet.get(at..).and_then(<[u8]>::first_chunk).ok_or(Malformed)?;
            let mut len = 8 + usize::from(header[1]) * 8;
            match protocol {
                // A second one would be a piece of a piece.
                FRAGMENT if piece.is_some() => return Err(Malformed),
                FRAGMENT => {
                    len = FRAGMENT_HEADER_LEN;
                    piece = Some(fragment(header, (at, next_at), packet.len()));
                }
                ROUTING if header[3] != 0 => return Err(Malformed),
                _ => {}
            }
            (protocol, next_at) = (header[0], at);
            at += len;
            if at > packet.len() {
                return Err(Malformed);
            }
        }
        Err(Malformed)
    }
}

/// Reads a fragment header: next header, a byte reserved, 13 bits of offset in units of 8, two bits reserved, one that says
/// that more follow, identification.
fn fragment(header: &[u8; 8], (at, next_at): (usize, usize), end: usize) -> Piece {
    let [next, _, high, low, a, b, c, d] = *header;
    let cut = u16::from_be_bytes([high, low]);
    Piece {
        offset: usize::from(cut & 0xfff8),
        has_more: cut & 1 != 0,
        identification: u32::from_be_bytes([a, b, c, d]),
        next,
        header_len: at,
        next_at,
        start: at + FRAGMENT_HEADER_LEN,
        end,
    }
}

/// Adds 16-bit words in ones' complement to a sum (RFC 1071); an odd last byte counts as if a zero followed. Sums begin with
/// zero and are of the machine's byte order until they are [`folded`].
#[must_use]
pub fn add_to_sum(bytes: &[u8], sum: u64) -> u64 {
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    // 64 bits hold the sum of any packet.
    let word = |four: &[u8]| u64::from(u32::from_ne_bytes(four.try_into().expect("four bytes")));
    let whole: u64 = words.map(word).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + whole + u64::from(u32::from_ne_bytes(last))
}

/// Returns a sum as the 16 bits that a checksum is the complement of.
#[must_use]
pub fn folded(mut sum: u64) -> u16 {
    while let high @ 1.. = sum >> 16 {
        sum = (sum & 0xffff) + high;
    }
    u16::from_be(sum as u16)
}

/// Writes the checksum of an IPv4 header anew.
pub fn renew_header_sum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = !folded(add_to_sum(header, 0));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sum_is_that_of_its_words_one_by_one(bytes in prop::collection::vec(any::<u8>(), 0..200), before in any::<u16>()) {
            let mut slow = u32::from(before);
            for pair in bytes.chunks(2) {
                slow += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte));
                slow = (slow & 0xffff) + (slow >> 16);
            }
            prop_assert_eq!(folded(add_to_sum(&bytes, u64::from(before.to_be()))), slow as u16);
        }

        #[test]
        fn any_bytes_are_read_within_themselves(mut bytes in prop::collection::vec(any::<u8>(), 1..200), is_6 in any::<bool>()) {
            bytes[0] = if is_6 { 0x60 } else { 0x45 };
            for packet in [IpPacket::read(&bytes), IpPacket::read_quoted(&bytes)].into_iter().flatten() {
                if let Some(piece) = packet.piece {
                    prop_assert!(piece.start <= piece.end && piece.end <= bytes.len());
                    prop_assert!(piece.next_at < piece.header_len && piece.header_len <= piece.start);
                }
            }
        }
    }
}
