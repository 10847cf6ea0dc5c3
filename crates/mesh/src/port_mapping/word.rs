//! What routers say of themselves by PCP and NAT-PMP, when they are asked or when they begin anew: that they speak it, for how
//! long they have known what they know, and by NAT-PMP their outer address. Mappings are a library's matter.
//!
//! # PCP: ANNOUNCE (RFC 6887 sections 7 and 14.1, integers big endian)
//!
//! | offset | bytes | question | answer |
//! |---|---|---|---|
//! | 0 | 1 | version 2 | version 2 |
//! | 1 | 1 | opcode 0 | 0x80 |
//! | 2 | 2 | 0 | a byte, then the result: 0 |
//! | 4 | 4 | lifetime 0 | lifetime |
//! | 8 | 4 | the asker's address, 16 bytes: `::ffff:a.b.c.d` | epoch, in seconds |
//! | 12 | 12 | | reserved; options may follow, up to 1,100 bytes in all |
//!
//! # NAT-PMP: the outer address (RFC 6886 section 3.2)
//!
//! | offset | bytes | question | answer |
//! |---|---|---|---|
//! | 0 | 1 | version 0 | version 0 |
//! | 1 | 1 | opcode 0 | 0x80 |
//! | 2 | 2 | | result: 0 |
//! | 4 | 4 | | epoch, in seconds |
//! | 8 | 4 | | the outer address |
//!
//! The same answers go to everybody, unasked, at port [`LISTENER_PORT`], when a router has lost what it knew.

use std::net::Ipv4Addr;

/// Where routers are asked, by UDP.
pub const ROUTER_PORT: u16 = 5351;

/// Where routers tell everybody that they begin anew, by UDP.
pub const LISTENER_PORT: u16 = 5350;

/// The longest message of either, in bytes (RFC 6887 section 7).
pub const LEN_MAX: usize = 1100;

/// The question for the outer address by NAT-PMP.
pub const ASK_NAT_PMP: [u8; 2] = [0, 0];

/// What a router said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// It speaks PCP.
    Pcp {
        /// For how many seconds it has known what it knows.
        epoch: u32,
    },
    /// It speaks NAT-PMP.
    NatPmp {
        /// For how many seconds it has known what it knows.
        epoch: u32,
        /// Its outer address.
        outer: Ipv4Addr,
    },
}

/// Writes the question whether a router speaks PCP, which it answers to `asker`.
#[must_use]
pub fn ask_pcp(asker: Ipv4Addr) -> [u8; 24] {
    let mut question = [0; 24];
    question[0] = 2;
    question[8..].copy_from_slice(&asker.to_ipv6_mapped().octets());
    question
}

impl Word {
    /// Reads one; `None` when it is another message, or says that the question was not understood.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        match message {
            [2, 0x80, _, 0, rest @ ..]
                if (20..=LEN_MAX - 4).contains(&rest.len()) && rest.len().is_multiple_of(4) =>
            {
                let epoch = number(&rest[4..8])?;
                Some(Self::Pcp { epoch })
            }
            [0, 0x80, 0, 0, rest @ ..] if rest.len() == 8 => Some(Self::NatPmp {
                epoch: number(&rest[..4])?,
                outer: number(&rest[4..])?.into(),
            }),
            _ => None,
        }
    }

    /// Returns for how many seconds the router has known what it knows.
    #[must_use]
    pub fn epoch(self) -> u32 {
        match self {
            Self::Pcp { epoch } | Self::NatPmp { epoch, .. } => epoch,
        }
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNOUNCED: [u8; 24] = [
        2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    const OUTER: [u8; 12] = [0, 0x80, 0, 0, 0, 0, 1, 4, 203, 0, 113, 7];

    #[test]
    fn the_bytes_are_those_of_the_rfcs() {
        let asked = [
            2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 2,
        ];
        assert_eq!(ask_pcp([192, 168, 1, 2].into()), asked);
        assert_eq!(Word::read(&ANNOUNCED), Some(Word::Pcp { epoch: 260 }));
        let outer = [203, 0, 113, 7].into();
        assert_eq!(Word::read(&OUTER), Some(Word::NatPmp { epoch: 260, outer }));
        let with_option = [&ANNOUNCED[..], &[0; 8]].concat();
        assert_eq!(Word::read(&with_option).map(Word::epoch), Some(260));
    }

    #[test]
    fn what_is_cut_refused_or_something_else_is_no_word() {
        for whole in [&ANNOUNCED[..], &OUTER] {
            for len in 0..whole.len() {
                assert_eq!(Word::read(&whole[..len]), None, "{len}");
            }
            for (at, value) in [(0, 1), (1, 0), (1, 0x81), (3, 1)] {
                let mut other = whole.to_vec();
                other[at] = value;
                assert_eq!(Word::read(&other), None, "{at}");
            }
            assert_eq!(Word::read(&[whole, &[0]].concat()), None);
        }
        let long = [&ANNOUNCED[..], &[0; LEN_MAX]].concat();
        assert_eq!(Word::read(&long), None);
        // A router that speaks NAT-PMP only says so to who asks by PCP.
        assert_eq!(Word::read(&[0, 0x80, 0, 1, 0, 0, 1, 4]), None);
    }
}
