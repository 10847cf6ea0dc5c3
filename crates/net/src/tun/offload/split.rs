//! What the kernel hands over becomes packets of the mesh: segments are cut, checksums completed.

use mesh::ip::{IpPacket, add_to_sum, folded, renew_header_sum};
use types::MESH_MTU;

use super::{
    CUT_NOTHING, CUT_TCP4, CUT_TCP6, CUT_UDP, NEEDS_CHECKSUM, Refused, SEGMENTS_MAX, TCP, TCP_CHECKSUM_AT,
    UDP, UDP_CHECKSUM_AT, VnetHeader, pseudo_sum, set_len,
};
use crate::netstack::Packets;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Appends the packets that `packet` is to be cut into; none of them when it is refused.
pub fn split(header: &VnetHeader, packet: &[u8], out: &mut Packets) -> Result<(), Refused> {
    if header.cut != CUT_NOTHING {
        return Segment::read(header, packet)?.cut(out);
    }
    if packet.is_empty() || packet.len() > MESH_MTU {
        return Err(Refused);
    }
    if header.flags & NEEDS_CHECKSUM == 0 {
        out.push_with(packet.len(), |room| room.copy_from_slice(packet));
        return Ok(());
    }
    let start = usize::from(header.sum_start);
    let at = start + usize::from(header.sum_at);
    // The header of IP is before what the checksum covers.
    if start < 20 || at + 2 > packet.len() {
        return Err(Refused);
    }
    // The field holds the sum of the pseudo-header, as it comes from the kernel.
    let sum = !folded(add_to_sum(&packet[start..], 0));
    // Zero would mean that there is no checksum of UDP, and is the same number (RFC 768); to TCP both are right.
    let sum = if sum == 0 { 0xffff } else { sum };
    out.push_with(packet.len(), |room| {
        room.copy_from_slice(packet);
        room[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    });
    Ok(())
}

/// A segment that is to be cut.
struct Segment<'a> {
    ip: IpPacket<'a>,
    headers: &'a [u8],
    /// Where the header of TCP or UDP begins.
    start: usize,
    payload: &'a [u8],
    piece_len: usize,
}

impl<'a> Segment<'a> {
    fn read(header: &VnetHeader, packet: &'a [u8]) -> Result<Self, Refused> {
        let ip = IpPacket::read(packet).map_err(|_| Refused)?;
        let (protocol, sum_at) = match (header.cut, ip.source.is_ipv4()) {
            (CUT_TCP4, true) | (CUT_TCP6, false) => (TCP, TCP_CHECKSUM_AT),
            (CUT_UDP, _) => (UDP, UDP_CHECKSUM_AT),
            _ => return Err(Refused),
        };
        // Bytes behind the packet would be sent with it.
        let start = packet.len().checked_sub(ip.payload.len()).ok_or(Refused)?;
        let ends_with_packet = ip.payload.as_ptr_range().end == packet.as_ptr_range().end;
        let own_len = match protocol {
            UDP => 8,
            _ => usize::from(*ip.payload.get(12).ok_or(Refused)? >> 4) * 4,
        };
        let is_borne_out = ip.protocol == protocol
            && ip.piece.is_none()
            && ends_with_packet
            && header.flags & NEEDS_CHECKSUM != 0
            && usize::from(header.sum_start) == start
            && usize::from(header.sum_at) == sum_at
            && own_len >= if protocol == TCP { 20 } else { 8 }
            && own_len < ip.payload.len();
        if !is_borne_out {
            return Err(Refused);
        }
        let (headers, payload) = packet.split_at(start + own_len);
        let piece_len = usize::from(header.piece_len);
        let fits = piece_len > 0
            && headers.len() + piece_len.min(payload.len()) <= MESH_MTU
            && payload.len().div_ceil(piece_len) <= SEGMENTS_MAX;
        fits.then_some(Self {
            ip,
            headers,
            start,
            payload,
            piece_len,
        })
        .ok_or(Refused)
    }

    fn cut(&self, out: &mut Packets) -> Result<(), Refused> {
        let last = self.payload.len().div_ceil(self.piece_len) - 1;
        for (number, piece) in self.payload.chunks(self.piece_len).enumerate() {
            let ends = (number == 0, number == last);
            out.push_with(self.headers.len() + piece.len(), |room| {
                let (headers, payload) = room.split_at_mut(self.headers.len());
                headers.copy_from_slice(self.headers);
                payload.copy_from_slice(piece);
                self.write_ip(headers, number, piece.len());
                self.write_own(headers, piece, number, ends);
            });
        }
        Ok(())
    }

    fn write_ip(&self, headers: &mut [u8], number: usize, len: usize) {
        set_len(headers, self.headers.len() + len);
        if self.ip.source.is_ipv4() {
            let identification = u16::from_be_bytes([headers[4], headers[5]]);
            let identification = identification.wrapping_add(number as u16);
            headers[4..6].copy_from_slice(&identification.to_be_bytes());
            renew_header_sum(&mut headers[..self.start]);
        }
    }

    fn write_own(&self, headers: &mut [u8], piece: &[u8], number: usize, (is_first, is_last): (bool, bool)) {
        let (ip, own) = headers.split_at_mut(self.start);
        let len = own.len() + piece.len();
        let sum_at = if self.ip.protocol == TCP {
            let sequence = u32::from_be_bytes([own[4], own[5], own[6], own[7]]);
            let sequence = sequence.wrapping_add((number * self.piece_len) as u32);
            own[4..8].copy_from_slice(&sequence.to_be_bytes());
            // What ends a segment is in the last piece, and that the sender has slowed down is said once.
            own[13] &= !(if is_last { 0 } else { FIN | PSH } | if is_first { 0 } else { CWR });
            TCP_CHECKSUM_AT
        } else {
            let len = u16::try_from(len).expect("shorter than a packet");
            own[4..6].copy_from_slice(&len.to_be_bytes());
            UDP_CHECKSUM_AT
        };
        own[sum_at..sum_at + 2].fill(0);
        let sum = pseudo_sum(ip, self.ip.protocol, len);
        // The header's length is even, so that the payload's words are those of the whole.
        let sum = !folded(add_to_sum(piece, add_to_sum(own, sum)));
        let sum = if sum == 0 { 0xffff } else { sum };
        own[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}
