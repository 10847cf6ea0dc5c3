//! What stands around a packet on its way from and to a device, as plain functions that every system compiles and tests.
//!
//! # macOS
//!
//! Before each packet of a `utun` socket stand four bytes, the address family as a big-endian number: 2 for IPv4, 30 for
//! IPv6. Linux devices are opened without such a header (`IFF_NO_PI`).

/// `AF_INET` of macOS, as it stands before a packet.
pub const UTUN_IP4: [u8; 4] = [0, 0, 0, 2];

/// `AF_INET6` of macOS, as it stands before a packet.
pub const UTUN_IP6: [u8; 4] = [0, 0, 0, 30];

/// Returns the header for a packet; `None` when it is neither IPv4 nor IPv6.
#[must_use]
pub fn utun_header(packet: &[u8]) -> Option<[u8; 4]> {
    match packet.first()? >> 4 {
        4 => Some(UTUN_IP4),
        6 => Some(UTUN_IP6),
        _ => None,
    }
}

/// Tells whether a header is the right one for the packet behind it.
#[must_use]
pub fn is_utun_header(header: [u8; 4], packet: &[u8]) -> bool {
    utun_header(packet) == Some(header)
}

/// Returns the number to ask a `utun` for by its name, one more than in the name; 0, which takes any free one, for `utun`
/// alone. `None` for a name that no such device has.
#[must_use]
pub fn utun_unit(name: &str) -> Option<u32> {
    match name.strip_prefix("utun")? {
        "" => Some(0),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse::<u32>().ok()?.checked_add(1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_utun_is_the_family_in_big_endian() {
        assert_eq!(utun_header(&[0x45, 0]), Some([0, 0, 0, 2]));
        assert_eq!(utun_header(&[0x60, 0]), Some([0, 0, 0, 30]));
        for nonsense in [&[][..], &[0], &[0x50], &[0xff]] {
            assert_eq!(utun_header(nonsense), None);
        }
        assert!(is_utun_header([0, 0, 0, 30], &[0x60]));
        assert!(!is_utun_header([0, 0, 0, 2], &[0x60]));
        assert!(
            !is_utun_header([0, 0, 0, 10], &[0x60]),
            "Linux has another number"
        );
    }

    #[test]
    fn the_unit_is_one_more_than_the_number_and_any_for_none() {
        assert_eq!(utun_unit("utun"), Some(0));
        assert_eq!(utun_unit("utun0"), Some(1));
        assert_eq!(utun_unit("utun41"), Some(42));
        for bad in ["runmesh0", "utunx", "utun-1", "utun4294967295", ""] {
            assert_eq!(utun_unit(bad), None, "{bad}");
        }
    }
}
