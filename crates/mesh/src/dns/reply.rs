//! Answers, written. The layout stands in [`super`].

use std::net::IpAddr;

use super::query::{HEADER_LEN, Query};
use super::{TTL_SECONDS, UDP_LEN_MAX};

const RESPONSE: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;

/// What is taken over from the query: the opcode, RD and CD.
const ECHOED: u16 = 0x7800 | 0x0100 | 0x0010;

const INTERNET: u16 = 1;

/// Points to the name of the question.
const TO_QUESTION: u16 = 0xc000 | HEADER_LEN as u16;

/// The first words of a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) id: u16,
    pub(super) flags: u16,
}

/// How it went (RFC 1035 section 4.1.1, RFC 6891 section 9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Code {
    Fine = 0,
    Malformed = 1,
    Failed = 2,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
    BadVersion = 16,
}

/// What there is to say to a question.
#[derive(Debug)]
pub(super) enum Outcome {
    /// What was asked for.
    Records(Vec<Record>),
    /// No such record, or no such name at all.
    None(Code, Authority),
    /// It is nobody's business, or not ours.
    Refused(Code),
}

/// A record of the question's name.
#[derive(Debug)]
pub(super) enum Record {
    Address(IpAddr),
    /// A name, with dots and without a last one.
    Ptr(String),
    Soa(Soa),
}

/// Who says that there is nothing.
#[derive(Debug)]
pub(super) struct Authority {
    /// How many labels of the question's name stand below the zone's.
    pub(super) depth: usize,
    pub(super) soa: Soa,
}

/// What describes the zone.
#[derive(Debug)]
pub(super) struct Soa {
    /// The name of the node that answers.
    pub(super) server: String,
    /// The generation of the netmap, as far as it fits.
    pub(super) serial: u32,
}

/// Writes the answer to a message that cannot be looked up; it has no question.
pub(super) fn refusal(head: Head, code: Code) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN);
    put_u16(&mut bytes, head.id);
    put_u16(&mut bytes, RESPONSE | head.flags & ECHOED | code as u16 & 0x0f);
    bytes.extend([0; 8]);
    bytes
}

/// Writes the answer to a query: without any record, and saying so, where it would be longer than `len_max`.
pub(super) fn reply(query: &Query<'_>, outcome: &Outcome, len_max: usize) -> Vec<u8> {
    let whole = write(query, outcome, 0);
    if whole.len() <= len_max {
        return whole;
    }
    // Neither header, question nor OPT can be too long for 512 bytes.
    write(query, &Outcome::Records(Vec::new()), TRUNCATED)
}

fn write(query: &Query<'_>, outcome: &Outcome, flags: u16) -> Vec<u8> {
    let (code, is_ours) = match outcome {
        Outcome::Records(_) => (Code::Fine, true),
        Outcome::None(code, _) => (*code, true),
        Outcome::Refused(code) => (*code, false),
    };
    let records: &[Record] = match outcome {
        Outcome::Records(records) => records,
        Outcome::None(..) | Outcome::Refused(_) => &[],
    };
    let authority = match outcome {
        Outcome::None(_, authority) => Some(authority),
        Outcome::Records(_) | Outcome::Refused(_) => None,
    };
    let head = query.head;
    let is_ours = if is_ours { AUTHORITATIVE } else { 0 };
    let mut bytes = Vec::with_capacity(UDP_LEN_MAX);
    put_u16(&mut bytes, head.id);
    let flags = RESPONSE | head.flags & ECHOED | is_ours | flags | code as u16 & 0x0f;
    put_u16(&mut bytes, flags);
    let answers = u16::try_from(records.len()).expect("a node has a few addresses");
    for count in [
        1,
        answers,
        u16::from(authority.is_some()),
        u16::from(query.edns.is_some()),
    ] {
        put_u16(&mut bytes, count);
    }
    bytes.extend(query.question.bytes);
    for record in records {
        put_record(&mut bytes, TO_QUESTION, record);
    }
    if let Some(authority) = authority {
        put_soa(&mut bytes, owner(query, authority.depth), &authority.soa);
    }
    if query.edns.is_some() {
        put_opt(&mut bytes, code);
    }
    bytes
}

/// Returns the pointer to what is left of the question's name without its first labels.
fn owner(query: &Query<'_>, depth: usize) -> u16 {
    let below = query.question.name.labels().take(depth);
    let len: usize = below.map(|label| 1 + label.len()).sum();
    TO_QUESTION + u16::try_from(len).expect("a name has at most 255 bytes")
}

fn put_record(bytes: &mut Vec<u8>, owner: u16, record: &Record) {
    match record {
        Record::Address(IpAddr::V4(address)) => put(bytes, owner, 1, &address.octets()),
        Record::Address(IpAddr::V6(address)) => put(bytes, owner, 28, &address.octets()),
        Record::Ptr(name) => put(bytes, owner, 12, &name_bytes(name)),
        Record::Soa(soa) => put_soa(bytes, owner, soa),
    }
}

fn put_soa(bytes: &mut Vec<u8>, owner: u16, soa: &Soa) {
    let mut content = name_bytes(&soa.server);
    // Who answers for the zone by mail: nobody (RFC 2606).
    content.extend(name_bytes("nobody.invalid"));
    content.extend(soa.serial.to_be_bytes());
    // Refresh, retry and expire are for copies of the zone, of which there are none; the last is how long nothing is kept.
    for seconds in [3600, 600, 86_400, TTL_SECONDS] {
        content.extend(seconds.to_be_bytes());
    }
    put(bytes, owner, 6, &content);
}

fn put(bytes: &mut Vec<u8>, owner: u16, kind: u16, content: &[u8]) {
    put_u16(bytes, owner);
    put_u16(bytes, kind);
    put_u16(bytes, INTERNET);
    bytes.extend(TTL_SECONDS.to_be_bytes());
    put_u16(bytes, u16::try_from(content.len()).expect("a name or an address"));
    bytes.extend(content);
}

fn put_opt(bytes: &mut Vec<u8>, code: Code) {
    bytes.push(0);
    put_u16(bytes, 41);
    put_u16(bytes, UDP_LEN_MAX as u16);
    bytes.extend([(code as u16 >> 4) as u8, 0, 0, 0, 0, 0]);
}

/// Writes a name out; every label of it is one of ours, so it is neither empty nor too long.
fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label has at most 63 bytes"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn put_u16(bytes: &mut Vec<u8>, number: u16) {
    bytes.extend(number.to_be_bytes());
}
