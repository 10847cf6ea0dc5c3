//! The little that a tunnel reads of the packets it carries: version, length and source address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a packet comes from, and how long it is without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PacketHeader {
    pub(crate) source: IpAddr,
    pub(crate) len: usize,
}

/// Reads the header of an IPv4 or IPv6 packet, which padding may follow; `None` when it is neither.
pub(crate) fn parse(packet: &[u8]) -> Option<PacketHeader> {
    let header = match packet.first()? >> 4 {
        4 => parse_ip4(packet.first_chunk()?)?,
        6 => parse_ip6(packet.first_chunk()?),
        _ => return None,
    };
    (header.len <= packet.len()).then_some(header)
}

fn parse_ip4(header: &[u8; 20]) -> Option<PacketHeader> {
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let source: [u8; 4] = header[12..16].try_into().expect("four bytes");
    (header_len >= 20 && len >= header_len).then(|| PacketHeader {
        source: IpAddr::V4(Ipv4Addr::from(source)),
        len,
    })
}

fn parse_ip6(header: &[u8; 40]) -> PacketHeader {
    let source: [u8; 16] = header[8..24].try_into().expect("sixteen bytes");
    PacketHeader {
        source: IpAddr::V6(Ipv6Addr::from(source)),
        len: 40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip4(len: u16) -> Vec<u8> {
        let mut packet = vec![0; usize::from(len).max(20)];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[12..16].copy_from_slice(&[100, 64, 0, 1]);
        packet
    }

    #[test]
    fn padding_is_not_part_of_a_packet() {
        let mut packet = ip4(30);
        packet.extend([0; 2]);
        let source = IpAddr::from([100, 64, 0, 1]);
        assert_eq!(parse(&packet), Some(PacketHeader { source, len: 30 }));
        let mut packet = vec![0; 48];
        packet[0] = 0x60;
        packet[5] = 3;
        packet[8] = 0xfd;
        let source = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&packet), Some(PacketHeader { source, len: 43 }));
    }

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        assert_eq!(parse(&ip4(19)), None);
        assert_eq!(parse(&ip4(30)[..29]), None);
        let mut long_header = ip4(30);
        long_header[0] = 0x4f;
        assert_eq!(parse(&long_header), None);
        let mut short_header = ip4(30);
        short_header[0] = 0x44;
        assert_eq!(parse(&short_header), None);
        let mut ip6 = vec![0; 40];
        ip6[0] = 0x60;
        ip6[5] = 1;
        assert_eq!(parse(&ip6), None);
        assert_eq!(parse(&ip6[..39]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_within_them_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(header) = parse(&bytes) {
                prop_assert!(header.len <= bytes.len() && header.len >= 20);
            }
        }
    }
}
