//! Queries, read. The layout stands in [`super`].

use std::net::IpAddr;

use super::reply::{Code, Head};

/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 12;

/// The longest name, its last byte included (RFC 1035 section 2.3.4).
const NAME_LEN_MAX: usize = 255;

/// How many additional records are looked at: OPT, and a signature beside it that nobody here can check.
const ADDITIONAL_MAX: u16 = 2;

/// The bit that an answer has and a query has not.
const RESPONSE: u16 = 0x8000;

const OPCODE: u16 = 0x7800;

const OPT: u16 = 41;

/// A query with one question.
#[derive(Debug)]
pub(super) struct Query<'a> {
    pub(super) head: Head,
    pub(super) question: Question<'a>,
    pub(super) edns: Option<Edns>,
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// As it stands in the query.
    pub(super) bytes: &'a [u8],
    pub(super) name: Name<'a>,
    pub(super) kind: Kind,
    pub(super) class: Class,
}

/// A name without pointers, as it stands in a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a>(&'a [u8]);

/// The type that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    A,
    Aaaa,
    Ptr,
    Soa,
    Any,
    /// The whole zone, or what changed in it.
    Transfer,
    Other,
}

/// The class that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// The internet's, or any.
    Internet,
    Other,
}

/// What OPT says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Edns {
    pub(super) len_max: u16,
    pub(super) version: u8,
}

/// Why a message is no query that can be looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unread {
    /// Nothing is said: an answer to an answer, or to noise, could go on for ever.
    NoQuery,
    /// The asker is told so.
    Refused(Head, Code),
}

impl<'a> Query<'a> {
    pub(super) fn read(message: &'a [u8]) -> Result<Self, Unread> {
        let (header, rest) = message.split_at_checked(HEADER_LEN).ok_or(Unread::NoQuery)?;
        let head = Head {
            id: u16_at(header, 0),
            flags: u16_at(header, 2),
        };
        if head.flags & RESPONSE != 0 {
            return Err(Unread::NoQuery);
        }
        if head.flags & OPCODE != 0 {
            return Err(Unread::Refused(head, Code::NotImplemented));
        }
        let malformed = Unread::Refused(head, Code::Malformed);
        let [questions, answers, authority, additional] = [4, 6, 8, 10].map(|at| u16_at(header, at));
        if questions != 1 || answers != 0 || authority != 0 || additional > ADDITIONAL_MAX {
            return Err(malformed);
        }
        let (question, rest) = Question::read(rest).ok_or(malformed)?;
        let edns = read_additional(rest, additional).ok_or(malformed)?;
        Ok(Self { head, question, edns })
    }
}

impl<'a> Question<'a> {
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let name = Name::read(bytes)?;
        let len = name.0.len() + 4;
        let (question, rest) = bytes.split_at_checked(len)?;
        let read = Self {
            bytes: question,
            name,
            kind: Kind::of(u16_at(question, len - 4)),
            class: Class::of(u16_at(question, len - 2)),
        };
        Some((read, rest))
    }
}

impl<'a> Name<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut at = 0;
        loop {
            let len = *bytes.get(at)?;
            at += 1 + usize::from(len);
            if at > NAME_LEN_MAX {
                return None;
            }
            match len {
                0 => return Some(Self(&bytes[..at])),
                // A length that reaches beyond the message is found by the next step.
                1..=63 => {}
                // A pointer, or a kind of label that nobody uses.
                _ => return None,
            }
        }
    }

    /// Returns the labels, the last of which is the topmost; that of the root is none.
    pub(super) fn labels(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (len, behind) = rest.split_first()?;
            let (label, behind) = behind.split_at_checked(usize::from(*len))?;
            rest = behind;
            (!label.is_empty()).then_some(label)
        })
    }
}

/// Reads the additional records, which must be the end of the message; `None` when they are malformed.
fn read_additional(mut rest: &[u8], count: u16) -> Option<Option<Edns>> {
    let mut edns = None;
    for _ in 0..count {
        let name_len = passed_over(rest)?;
        let (fixed, behind) = rest.get(name_len..)?.split_at_checked(10)?;
        if u16_at(fixed, 0) == OPT {
            let is_first = edns.is_none();
            if name_len != 1 || !is_first {
                return None;
            }
            edns = Some(Edns {
                len_max: u16_at(fixed, 2),
                version: fixed[5],
            });
        }
        rest = behind.get(usize::from(u16_at(fixed, 8))..)?;
    }
    rest.is_empty().then_some(edns)
}

/// Returns how many bytes a name takes, which may end in a pointer.
fn passed_over(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < NAME_LEN_MAX {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += 1 + usize::from(len),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
    None
}

impl Kind {
    fn of(number: u16) -> Self {
        match number {
            1 => Self::A,
            6 => Self::Soa,
            12 => Self::Ptr,
            28 => Self::Aaaa,
            251 | 252 => Self::Transfer,
            255 => Self::Any,
            _ => Self::Other,
        }
    }

    /// Tells whether an address is among what is asked for.
    pub(super) fn asks_for(self, address: IpAddr) -> bool {
        match self {
            Self::A => address.is_ipv4(),
            Self::Aaaa => address.is_ipv6(),
            Self::Any => true,
            Self::Ptr | Self::Soa | Self::Transfer | Self::Other => false,
        }
    }
}

impl Class {
    fn of(number: u16) -> Self {
        match number {
            1 | 255 => Self::Internet,
            _ => Self::Other,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
