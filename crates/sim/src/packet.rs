//! Numbered IPv4 packets, whose arrival can be checked.

use std::net::Ipv4Addr;

const HEADER_LEN: usize = 20;

/// Makes a packet that carries `number` and `filler` more bytes.
///
/// # Panics
///
/// When the packet would be longer than IPv4 can say.
#[must_use]
pub fn numbered(source: Ipv4Addr, destination: Ipv4Addr, number: u64, filler: usize) -> Vec<u8> {
    let len = HEADER_LEN + 8 + filler;
    let mut packet = vec![0; HEADER_LEN];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(len).expect("a short packet").to_be_bytes());
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend((0..filler).map(|at| filler_byte(number, at)));
    packet
}

/// Reads the number back; `None` when a byte is not as it was made.
#[must_use]
pub fn number(packet: &[u8]) -> Option<u64> {
    let body = packet.get(HEADER_LEN..)?;
    let (number, filler) = body.split_first_chunk::<8>()?;
    let number = u64::from_be_bytes(*number);
    let intact = filler
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte == filler_byte(number, at));
    intact.then_some(number)
}

fn filler_byte(number: u64, at: usize) -> u8 {
    (number as u8).wrapping_add(at as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_survives_and_a_change_shows() {
        let mut packet = numbered(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, 300, 5);
        assert_eq!(number(&packet), Some(300));
        packet[29] ^= 1;
        assert_eq!(number(&packet), None);
        assert_eq!(number(&packet[..27]), None);
    }
}
