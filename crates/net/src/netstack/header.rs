//! What must be known of an IP packet before a stack sees it: addresses, and the TCP ports and flags.

use std::net::{IpAddr, SocketAddr};

use mesh::ip::{IpPacket, Malformed, TCP};
use smoltcp::wire::TcpPacket;

/// The addresses of a well-formed packet and, when it carries one, of its TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Who sent it.
    pub source: IpAddr,
    /// For whom it is.
    pub destination: IpAddr,
    /// Its TCP segment, unless it carries something else, or is a fragment that does not begin with one.
    pub segment: Option<Segment>,
    /// Whether a stack can make something of it: it is whole, and has no IPv6 extension headers.
    pub is_plain: bool,
}

/// The end points of a TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Who sent it.
    pub source: SocketAddr,
    /// For whom it is.
    pub destination: SocketAddr,
    /// SYN without ACK, RST or FIN: it begins a connection.
    pub is_opening: bool,
}

impl Header {
    /// Reads the headers of `packet`; of a fragment, too.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let ip = IpPacket::read(packet)?;
        let segment = match ip.protocol {
            TCP if !ip.is_later_piece() => Some(Segment::parse(ip.source, ip.destination, ip.payload)?),
            _ => None,
        };
        Ok(Self {
            source: ip.source,
            destination: ip.destination,
            segment,
            is_plain: ip.piece.is_none() && !ip.is_extended,
        })
    }
}

impl Segment {
    fn parse(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Result<Self, Malformed> {
        let tcp = TcpPacket::new_checked(payload).map_err(|_| Malformed)?;
        Ok(Self {
            source: (source, tcp.src_port()).into(),
            destination: (destination, tcp.dst_port()).into(),
            is_opening: tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn_v4() -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[3] = 40;
        packet[9] = 6;
        packet[12..20].copy_from_slice(&[100, 64, 0, 1, 100, 64, 0, 2]);
        packet[20..24].copy_from_slice(&[0x12, 0x34, 0x1c, 0xfc]);
        packet[32] = 5 << 4;
        packet[33] = 0x02;
        packet
    }

    #[test]
    fn a_segment_is_read_and_only_a_bare_syn_opens() {
        let header = Header::parse(&syn_v4()).expect("well-formed");
        let segment = header.segment.expect("tcp");
        assert_eq!(segment.source.to_string(), "100.64.0.1:4660");
        assert_eq!(segment.destination.to_string(), "100.64.0.2:7420");
        assert!(segment.is_opening);
        for flags in [0x12, 0x06, 0x03, 0x10] {
            let mut packet = syn_v4();
            packet[33] = flags;
            let header = Header::parse(&packet).expect("well-formed");
            assert!(!header.segment.expect("tcp").is_opening, "{flags:#x}");
        }
    }

    #[test]
    fn no_segment_hides_behind_extension_headers() {
        for next in [0, 43, 60, 44] {
            let mut packet = vec![0; 40 + 8 + 20];
            packet[0] = 0x60;
            packet[5] = 28;
            packet[6] = next;
            packet[40] = 6;
            packet[48 + 12] = 5 << 4;
            let header = Header::parse(&packet).expect("well-formed");
            assert!(header.segment.is_some() && !header.is_plain, "{next}");
        }
    }

    #[test]
    fn the_first_fragment_has_the_ports_and_the_others_are_not_taken_for_it() {
        let mut fragment = syn_v4();
        fragment[6] = 0x20;
        let header = Header::parse(&fragment).expect("well-formed");
        assert!(header.segment.is_some() && !header.is_plain);
        fragment[7] = 1;
        let header = Header::parse(&fragment).expect("well-formed");
        assert!(header.segment.is_none() && !header.is_plain);
    }

    #[test]
    fn every_truncation_is_refused_without_a_panic() {
        let whole = syn_v4();
        for len in 0..whole.len() {
            assert_eq!(Header::parse(&whole[..len]), Err(Malformed), "{len}");
        }
        for first in 0..=255_u8 {
            let mut packet = syn_v4();
            packet[0] = first;
            let _ = Header::parse(&packet);
        }
    }
}
