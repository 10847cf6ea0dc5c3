//! UDP datagrams, as far as they need no socket: one that came, and the answer to it.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr};

use super::{Header, Packets};

const UDP_HEADER_LEN: usize = 8;

/// The hop limit of what is sent: nothing inside the mesh is a hop.
const HOP_LIMIT: u8 = 64;

/// A datagram that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram<'p> {
    /// Who sent it.
    pub source: SocketAddr,
    /// For whom it is.
    pub destination: SocketAddr,
    /// What it carries.
    pub payload: &'p [u8],
}

impl<'p> Datagram<'p> {
    /// Reads the datagram of a packet whose header was read; `None` when it carries no whole one. As for TCP, no checksum is
    /// looked at: the tunnel has checked more.
    #[must_use]
    pub fn read(header: &Header, packet: &'p [u8]) -> Option<Self> {
        let payload = match header.destination {
            IpAddr::V4(_) => {
                let packet = Ipv4Packet::new_checked(packet).ok()?;
                (packet.next_header() == IpProtocol::Udp).then(|| packet.payload())?
            }
            IpAddr::V6(_) => {
                let packet = Ipv6Packet::new_checked(packet).ok()?;
                (packet.next_header() == IpProtocol::Udp).then(|| packet.payload())?
            }
        };
        let udp = UdpPacket::new_checked(payload).ok()?;
        Some(Self {
            source: (header.source, udp.src_port()).into(),
            destination: (header.destination, udp.dst_port()).into(),
            payload: udp.payload(),
        })
    }

    /// Writes the packet that answers it with `payload`, unless that would be longer than `mtu`; tells whether it did.
    pub fn reply(&self, payload: &[u8], mtu: usize, out: &mut Packets) -> bool {
        let (from, to) = (self.destination, self.source);
        let header_len = if from.is_ipv4() { 20 } else { 40 };
        let udp_len = UDP_HEADER_LEN + payload.len();
        if header_len + udp_len > mtu {
            return false;
        }
        let checksums = ChecksumCapabilities::default();
        out.push_with(header_len + udp_len, |packet| {
            match (from.ip(), to.ip()) {
                (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
                    let header = Ipv4Repr {
                        src_addr,
                        dst_addr,
                        next_header: IpProtocol::Udp,
                        payload_len: udp_len,
                        hop_limit: HOP_LIMIT,
                    };
                    header.emit(&mut Ipv4Packet::new_unchecked(&mut *packet), &checksums);
                }
                (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
                    let header = Ipv6Repr {
                        src_addr,
                        dst_addr,
                        next_header: IpProtocol::Udp,
                        payload_len: udp_len,
                        hop_limit: HOP_LIMIT,
                    };
                    header.emit(&mut Ipv6Packet::new_unchecked(&mut *packet));
                }
                _ => unreachable!("both addresses come from one header"),
            }
            let ports = UdpRepr {
                src_port: from.port(),
                dst_port: to.port(),
            };
            ports.emit(
                &mut UdpPacket::new_unchecked(&mut packet[header_len..]),
                &from.ip().into(),
                &to.ip().into(),
                payload.len(),
                |room| room.copy_from_slice(payload),
                &checksums,
            );
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(source: &str, destination: &str) -> (SocketAddr, SocketAddr) {
        let at = |text: &str| text.parse().expect("an address");
        (at(source), at(destination))
    }

    #[test]
    fn an_answer_goes_back_to_where_the_question_came_from_with_a_right_checksum() {
        for (source, destination) in [
            ask("100.64.0.2:5353", "100.64.0.1:53"),
            ask("[fd00::2]:5353", "[fd00::1]:53"),
        ] {
            let question = Datagram {
                source: destination,
                destination: source,
                payload: &[],
            };
            let mut out = Packets::default();
            // Written as the answer to its own answer, it is the question.
            assert!(question.reply(b"what", 1280, &mut out));
            let packet = out.packet(0);
            let header = Header::parse(packet).expect("well-formed");
            let read = Datagram::read(&header, packet).expect("a datagram");
            assert_eq!(
                (read.source, read.destination, read.payload),
                (source, destination, b"what".as_slice())
            );
            let udp = UdpPacket::new_checked(&packet[if source.is_ipv4() { 20 } else { 40 }..]);
            let (from, to) = (source.ip().into(), destination.ip().into());
            assert!(udp.expect("whole").verify_checksum(&from, &to));
            for len in 0..packet.len() {
                let cut = Header::parse(&packet[..len]).map(|header| Datagram::read(&header, &packet[..len]));
                assert!(!matches!(cut, Ok(Some(_))), "{len}");
            }
        }
    }

    #[test]
    fn what_is_too_long_for_a_packet_is_not_sent() {
        let (source, destination) = ask("[fd00::2]:5353", "[fd00::1]:53");
        let question = Datagram {
            source,
            destination,
            payload: &[],
        };
        let mut out = Packets::default();
        assert!(question.reply(&[0; 1232], 1280, &mut out));
        assert!(!question.reply(&[0; 1233], 1280, &mut out));
        assert_eq!(out.len(), 1);
    }
}
