//! What must be known of an IP packet before a stack sees it: addresses, and the TCP ports and flags.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket};

/// The addresses of a well-formed packet and, when it carries one, of its TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Who sent it.
    pub source: IpAddr,
    /// For whom it is.
    pub destination: IpAddr,
    /// Its TCP segment, unless it carries something else.
    pub segment: Option<Segment>,
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

/// Why a packet is not looked at further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// It is no whole IPv4 or IPv6 packet.
    #[error("is no whole IP packet")]
    Malformed,
    /// It is a piece of a larger packet; inside the tunnel nobody needs to make those.
    #[error("is an IP fragment")]
    Fragment,
    /// It has IPv6 extension headers: nobody needs those inside the tunnel, and a segment behind them would not be seen here.
    #[error("has IPv6 extension headers")]
    Extended,
}

impl Header {
    /// Reads the headers of `packet`.
    pub fn parse(packet: &[u8]) -> Result<Self, HeaderError> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            _ => Err(HeaderError::Malformed),
        }
    }

    fn parse_v4(packet: &[u8]) -> Result<Self, HeaderError> {
        let packet = Ipv4Packet::new_checked(packet).map_err(|_| HeaderError::Malformed)?;
        if packet.header_len() < 20 {
            return Err(HeaderError::Malformed);
        }
        if packet.more_frags() || packet.frag_offset() != 0 {
            return Err(HeaderError::Fragment);
        }
        let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
        Self::with_payload(source, destination, packet.next_header(), packet.payload())
    }

    fn parse_v6(packet: &[u8]) -> Result<Self, HeaderError> {
        let packet = Ipv6Packet::new_checked(packet).map_err(|_| HeaderError::Malformed)?;
        let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
        match packet.next_header() {
            IpProtocol::Ipv6Frag => Err(HeaderError::Fragment),
            IpProtocol::HopByHop | IpProtocol::Ipv6Route | IpProtocol::Ipv6Opts => Err(HeaderError::Extended),
            protocol => Self::with_payload(source, destination, protocol, packet.payload()),
        }
    }

    fn with_payload(
        source: IpAddr,
        destination: IpAddr,
        protocol: IpProtocol,
        payload: &[u8],
    ) -> Result<Self, HeaderError> {
        let segment = match protocol {
            IpProtocol::Tcp => Some(Segment::parse(source, destination, payload)?),
            _ => None,
        };
        Ok(Self {
            source,
            destination,
            segment,
        })
    }
}

impl Segment {
    fn parse(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Result<Self, HeaderError> {
        let tcp = TcpPacket::new_checked(payload).map_err(|_| HeaderError::Malformed)?;
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
        for (next, expected) in [
            (0, Err(HeaderError::Extended)),
            (43, Err(HeaderError::Extended)),
            (60, Err(HeaderError::Extended)),
            (44, Err(HeaderError::Fragment)),
            (58, Ok(None)),
            (59, Ok(None)),
        ] {
            let mut packet = vec![0; 40 + 8 + 20];
            packet[0] = 0x60;
            packet[5] = 28;
            packet[6] = next;
            packet[40] = 6;
            let parsed = Header::parse(&packet).map(|header| header.segment);
            assert_eq!(parsed, expected, "{next}");
        }
    }

    #[test]
    fn fragments_and_every_truncation_are_refused_without_a_panic() {
        let mut fragment = syn_v4();
        fragment[6] = 0x20;
        assert_eq!(Header::parse(&fragment), Err(HeaderError::Fragment));
        let whole = syn_v4();
        for len in 0..whole.len() {
            assert_eq!(Header::parse(&whole[..len]), Err(HeaderError::Malformed), "{len}");
        }
        for first in 0..=255_u8 {
            let mut packet = syn_v4();
            packet[0] = first;
            let _ = Header::parse(&packet);
        }
    }
}
