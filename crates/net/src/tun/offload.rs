//! Segmentation offload of a TUN device, as plain functions that every system compiles and tests: how one large segment that
//! the kernel hands over becomes packets of the mesh, and how packets of one stream become one segment again.
//!
//! # The header
//!
//! Before each packet stand ten bytes (`struct virtio_net_hdr`, numbers in the byte order of the machine):
//!
//! | bytes | |
//! |---|---|
//! | 0 | flags: 1, the checksum is to be completed |
//! | 1 | what is to be cut: 0 nothing, 1 TCP over IPv4, 4 TCP over IPv6, 5 UDP |
//! | 2–3 | the length of all headers; a hint, not believed |
//! | 4–5 | how many bytes each piece carries |
//! | 6–7 | where what the checksum covers begins |
//! | 8–9 | where the checksum is, from there |
//!
//! A header that does not fit its packet is refused: nothing is cut by numbers that the packet itself does not bear out.

mod join;
mod split;
#[cfg(test)]
mod tests;

pub use join::{GROUP_MAX, Group, Head, Join};
pub use split::split;

use mesh::ip::{TCP, UDP, add_to_sum};

/// Bytes of the header.
pub const HEADER_LEN: usize = 10;

/// The longest packet that may stand behind it, in bytes.
pub const PACKET_BYTES_MAX: usize = mesh::ip::PACKET_BYTES_MAX;

/// How many packets one segment may be cut into: as many as 64 KiB are with the smallest segments that Linux makes, of 48 bytes.
pub const SEGMENTS_MAX: usize = 1366;

const NEEDS_CHECKSUM: u8 = 1;
const CUT_NOTHING: u8 = 0;
const CUT_TCP4: u8 = 1;
const CUT_TCP6: u8 = 4;
const CUT_UDP: u8 = 5;

/// Where the checksum stands in a TCP header.
const TCP_CHECKSUM_AT: usize = 16;
/// Where it stands in a UDP header.
const UDP_CHECKSUM_AT: usize = 6;

/// The header that stands before each packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHeader {
    flags: u8,
    cut: u8,
    headers_len: u16,
    piece_len: u16,
    sum_start: u16,
    sum_at: u16,
}

/// A header that its packet does not bear out, or a packet that is longer than the mesh's are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("is no packet that the mesh carries")]
pub struct Refused;

impl VnetHeader {
    /// Reads a header.
    #[must_use]
    pub fn read(bytes: [u8; HEADER_LEN]) -> Self {
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            cut: bytes[1],
            headers_len: number(2),
            piece_len: number(4),
            sum_start: number(6),
            sum_at: number(8),
        }
    }

    /// Writes it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [a, b] = self.headers_len.to_ne_bytes();
        let [c, d] = self.piece_len.to_ne_bytes();
        let [e, f] = self.sum_start.to_ne_bytes();
        let [g, h] = self.sum_at.to_ne_bytes();
        [self.flags, self.cut, a, b, c, d, e, f, g, h]
    }
}

/// Returns the sum of the pseudo-header of a TCP segment or UDP datagram (RFC 9293 section 3.1, RFC 8200 section 8.1), by the
/// addresses where they stand in its packet.
fn pseudo_sum(packet: &[u8], protocol: u8, len: usize) -> u64 {
    let addresses = if packet[0] >> 4 == 4 { 12..20 } else { 8..40 };
    let len = u32::try_from(len).expect("shorter than a packet").to_be_bytes();
    let sum = add_to_sum(&[0, 0, 0, protocol], add_to_sum(&len, 0));
    add_to_sum(&packet[addresses], sum)
}

/// Writes the length of a packet into its IP header.
fn set_len(packet: &mut [u8], len: usize) {
    let (at, counted) = if packet[0] >> 4 == 4 {
        (2, len)
    } else {
        (4, len - 40)
    };
    let counted = u16::try_from(counted).expect("shorter than the longest packet");
    packet[at..at + 2].copy_from_slice(&counted.to_be_bytes());
}
