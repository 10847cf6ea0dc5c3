//! Names of the mesh by DNS: the server of one small zone, as bytes in and bytes out. It asks nobody else anything.
//!
//! What it knows stands in a [`Zone`], made from a netmap: `<node>.<org>.mesh.internal`, and the reverse names of the org's
//! addresses. [`answer`] reads one message and writes the one that answers it.
//!
//! # A query (RFC 1035 section 4, integers big endian)
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 2 | id, echoed |
//! | 2 | 2 | flags: QR 0x8000 (0 in a query), opcode 0x7800, AA 0x0400, TC 0x0200, RD 0x0100, RA 0x0080, CD 0x0010, code 0x000f |
//! | 4 | 2 | questions: 1 |
//! | 6 | 2 | answers: 0 |
//! | 8 | 2 | authority records: 0 |
//! | 10 | 2 | additional records: at most 2, of which OPT is read |
//! | 12 | | the question: name, type 2, class 2; then the additional records |
//!
//! A name is labels (length 1 to 63, then so many bytes) up to a zero byte, at most 255 bytes in all. **No compression pointer
//! is ever followed**: in a question, where nothing stands before the name to point to, one makes the query malformed, and
//! the names of additional records are only passed over. OPT (RFC 6891): name zero byte, type 41, class = longest answer by
//! UDP, then extended code 1, version 1, flags 2, length 2, options, which are passed over.
//!
//! # An answer
//!
//! The header with QR; RD and CD as asked; AA when the name stands in the zone; never RA. The question byte for byte, so that
//! a client that mixes upper and lower case to tell forgeries finds its own mixture. Records of the question's name
//! (pointer 0xc00c), class IN, time to live [`TTL_SECONDS`]; or, when there are none, SOA in the authority section (RFC
//! 2308), whose owner is a pointer into the question. Names within records are written out. An OPT when the query had one.
//!
//! An answer that is longer than the asker takes by UDP (512 bytes without OPT, at most [`UDP_LEN_MAX`] with it) carries no
//! record and TC, and the asker comes back by TCP, where each message has its length, 2 bytes, before it.

mod query;
mod reply;
#[cfg(test)]
mod tests;
mod zone;

use std::net::IpAddr;

pub use self::zone::Zone;

use self::query::{Class, Kind, Query, Unread};
use self::reply::{Code, Outcome, Record};
use self::zone::{Found, Place};

/// The longest query that is read, in bytes: one name and a few options need no more, and it fits into one packet of the mesh.
pub const QUERY_LEN_MAX: usize = 1232;

/// The longest answer by UDP to who takes as much, in bytes: no path of IPv6 has to cut it (RFC 9715).
pub const UDP_LEN_MAX: usize = 1232;

/// The longest answer by UDP to who says nothing, in bytes (RFC 1035 section 4.2.1).
pub const UDP_LEN_MIN: usize = 512;

/// For how long an answer may be kept, that there is no such name included, in seconds: a netmap changes at any time.
pub const TTL_SECONDS: u32 = 10;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A program on this device: it may know whatever the device knows.
    Host,
    /// The peer with this address. It is told what it knows anyway, this node's name and its own: each node has a netmap
    /// of its own, and what stands in ours is not for others.
    Peer(IpAddr),
}

/// How a query came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// By UDP: the answer's length is limited.
    Udp,
    /// By TCP.
    Tcp,
}

/// Answers one message; `None` when it is no query or too long, and then nothing is said. Without a zone, which is so while
/// there is no netmap, the asker is told to try again later (SERVFAIL).
#[must_use]
pub fn answer(zone: Option<&Zone>, message: &[u8], asker: Asker, transport: Transport) -> Option<Vec<u8>> {
    if message.len() > QUERY_LEN_MAX {
        return None;
    }
    let query = match Query::read(message) {
        Ok(query) => query,
        Err(Unread::NoQuery) => return None,
        Err(Unread::Refused(head, code)) => return Some(reply::refusal(head, code)),
    };
    let len_max = match (transport, query.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => UDP_LEN_MIN,
        (Transport::Udp, Some(edns)) => usize::from(edns.len_max).clamp(UDP_LEN_MIN, UDP_LEN_MAX),
    };
    let outcome = match zone {
        Some(zone) => outcome(zone, &query, asker),
        None => Outcome::Refused(Code::Failed),
    };
    Some(reply::reply(&query, &outcome, len_max))
}

fn outcome(zone: &Zone, query: &Query<'_>, asker: Asker) -> Outcome {
    let question = &query.question;
    if query.edns.is_some_and(|edns| edns.version > 0) {
        return Outcome::Refused(Code::BadVersion);
    }
    if question.class == Class::Other || question.kind == Kind::Transfer {
        return Outcome::Refused(Code::Refused);
    }
    let labels: Vec<&[u8]> = question.name.labels().collect();
    let Some(Place { depth, found }) = zone.find(&labels, asker) else {
        return Outcome::Refused(Code::Refused);
    };
    let records = match (found, question.kind) {
        (Found::Nothing, _) => {
            return Outcome::None(Code::NoSuchName, zone.authority(depth));
        }
        (Found::Apex, Kind::Soa | Kind::Any) => vec![Record::Soa(zone.authority(depth).soa)],
        (Found::Node(addresses), kind) => addresses
            .iter()
            .filter(|address| kind.asks_for(**address))
            .map(|address| Record::Address(*address))
            .collect(),
        (Found::Name(name), Kind::Ptr | Kind::Any) => vec![Record::Ptr(name)],
        (Found::Apex | Found::Name(_) | Found::Between, _) => Vec::new(),
    };
    if records.is_empty() {
        return Outcome::None(Code::Fine, zone.authority(depth));
    }
    Outcome::Records(records)
}
