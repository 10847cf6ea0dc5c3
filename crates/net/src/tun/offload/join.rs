//! Packets of one stream become one segment again, so that the host's kernel is asked once for many.

use mesh::ip::{add_to_sum, folded, renew_header_sum};

use super::{
    CUT_TCP4, CUT_TCP6, HEADER_LEN, NEEDS_CHECKSUM, PACKET_BYTES_MAX, TCP, TCP_CHECKSUM_AT, VnetHeader,
    pseudo_sum, set_len,
};
use crate::netstack::Packets;

/// Between how many streams a packet looks for its own.
const STREAMS_MAX: usize = 8;

/// How many packets are joined at most: 64 KiB are 53 full ones.
pub const GROUP_MAX: u64 = 64;

/// The longest headers of a packet that is joined: IPv6 without extensions, TCP with all options.
const HEADERS_MAX: usize = 100;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Finds out which packets of a batch go to the kernel together; keeps its memory.
#[derive(Debug, Default)]
pub struct Join {
    groups: Vec<Group>,
    /// For each packet the one behind it in its group.
    next: Vec<Option<usize>>,
    /// The groups that may still grow, by number.
    growing: Vec<usize>,
}

/// Packets that go to the kernel as one.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    first: usize,
    last: usize,
    /// How many packets it is of.
    pub count: u64,
    payload_len: usize,
    /// What the first packet carries; a later one that carries less is the last.
    piece_len: usize,
    next_sequence: u32,
    headers_len: usize,
    ip_len: usize,
}

/// What must be known of a packet that is part of a TCP stream.
struct Segment<'a> {
    packet: &'a [u8],
    ip_len: usize,
    headers_len: usize,
}

impl Join {
    /// Sorts a batch into groups, in the order of the first packet of each.
    pub fn sort(&mut self, batch: &Packets) -> &[Group] {
        self.groups.clear();
        self.growing.clear();
        self.next.clear();
        self.next.resize(batch.len(), None);
        for number in 0..batch.len() {
            self.place(batch, number);
        }
        &self.groups
    }

    /// Returns the groups of the last batch.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Returns what is to be written of a group: the header before it, with the headers of its packet, and then what each of
    /// its packets carries. One packet alone goes as it is, its checksum not looked at.
    pub fn parts<'b>(&self, group: &Group, batch: &'b Packets) -> (Head, impl Iterator<Item = &'b [u8]>) {
        let first = batch.packet(group.first);
        let (head, skipped) = if group.count == 1 {
            (Head::plain(), 0)
        } else {
            (
                Head::of(group, first, batch.packet(group.last)),
                group.headers_len,
            )
        };
        let members = std::iter::successors(Some(group.first), |number| self.next[*number]);
        (head, members.map(move |number| &batch.packet(number)[skipped..]))
    }

    fn place(&mut self, batch: &Packets, number: usize) {
        let packet = batch.packet(number);
        let alone = Group::alone(number);
        let Some(segment) = Segment::read(packet) else {
            return self.groups.push(alone);
        };
        let streams = self.growing.iter();
        let known = streams.copied().enumerate().find(|(_, group)| {
            let first = batch.packet(self.groups[*group].first);
            segment.is_of_stream_of(first)
        });
        // What carries nothing, or says more than that data was received, stays in its place behind what came before it.
        let joins = segment.may_join();
        if let Some((slot, group)) = known {
            let first = batch.packet(self.groups[group].first);
            let has_place = joins && self.groups[group].takes(&segment, first);
            if has_place {
                let last = self.groups[group].last;
                self.next[last] = Some(number);
                if !self.groups[group].add(&segment, number) {
                    self.growing.swap_remove(slot);
                }
                return;
            }
            self.growing.swap_remove(slot);
        }
        if joins && !segment.is_last() {
            if self.growing.len() == STREAMS_MAX {
                self.growing.remove(0);
            }
            self.growing.push(self.groups.len());
            self.groups.push(Group::begun_by(&segment, number));
        } else {
            self.groups.push(alone);
        }
    }
}

impl Group {
    fn alone(number: usize) -> Self {
        Self {
            first: number,
            last: number,
            count: 1,
            payload_len: 0,
            piece_len: 0,
            next_sequence: 0,
            headers_len: 0,
            ip_len: 0,
        }
    }

    fn begun_by(segment: &Segment<'_>, number: usize) -> Self {
        let len = segment.payload_len();
        Self {
            payload_len: len,
            piece_len: len,
            next_sequence: segment.sequence().wrapping_add(len as u32),
            headers_len: segment.headers_len,
            ip_len: segment.ip_len,
            ..Self::alone(number)
        }
    }

    /// Tells whether a segment of the same stream is the continuation of `first` and its followers.
    fn takes(&self, segment: &Segment<'_>, first: &[u8]) -> bool {
        self.count < GROUP_MAX
            && segment.sequence() == self.next_sequence
            && segment.payload_len() <= self.piece_len
            && self.headers_len + self.payload_len + segment.payload_len() <= PACKET_BYTES_MAX
            && segment.has_headers_like(first, self.headers_len, self.count)
    }

    /// Adds a segment; tells whether another one may follow.
    fn add(&mut self, segment: &Segment<'_>, number: usize) -> bool {
        let len = segment.payload_len();
        self.last = number;
        self.count += 1;
        self.payload_len += len;
        self.next_sequence = self.next_sequence.wrapping_add(len as u32);
        len == self.piece_len && !segment.is_last()
    }
}

impl<'a> Segment<'a> {
    /// Reads a packet of TCP that has neither IP options, extension headers nor bytes behind it, and is no fragment.
    fn read(packet: &'a [u8]) -> Option<Self> {
        let ip_len = match packet.first()? {
            0x45 => 20,
            first if first >> 4 == 6 => 40,
            _ => return None,
        };
        if packet.len() < ip_len + 20 {
            return None;
        }
        let (protocol, len) = if ip_len == 20 {
            (packet[9], usize::from(u16::from_be_bytes([packet[2], packet[3]])))
        } else {
            (
                packet[6],
                40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
            )
        };
        let is_piece = ip_len == 20 && u16::from_be_bytes([packet[6], packet[7]]) & 0xbfff != 0;
        let headers_len = ip_len + usize::from(packet[ip_len + 12] >> 4) * 4;
        let is_in_order = protocol == TCP
            && !is_piece
            && len == packet.len()
            && (ip_len + 20..=packet.len().min(HEADERS_MAX)).contains(&headers_len);
        is_in_order.then_some(Self {
            packet,
            ip_len,
            headers_len,
        })
    }

    fn payload_len(&self) -> usize {
        self.packet.len() - self.headers_len
    }

    fn sequence(&self) -> u32 {
        let at = self.ip_len + 4;
        u32::from_be_bytes(self.packet[at..at + 4].try_into().expect("four bytes"))
    }

    fn flags(&self) -> u8 {
        self.packet[self.ip_len + 13]
    }

    /// What the sender pushes is not held back for more.
    fn is_last(&self) -> bool {
        self.flags() & PSH != 0
    }

    /// Tells whether it carries data, says nothing but that data was received, and is as its sender made it.
    fn may_join(&self) -> bool {
        self.payload_len() > 0 && self.flags() & !PSH == ACK && self.has_right_sum()
    }

    /// The kernel believes the checksum of what was joined: it must be right before.
    fn has_right_sum(&self) -> bool {
        let segment = &self.packet[self.ip_len..];
        let pseudo = pseudo_sum(self.packet, TCP, segment.len());
        folded(add_to_sum(segment, pseudo)) == 0xffff
    }

    /// Tells whether the first packet of a group, which was read before, is of the same stream.
    fn is_of_stream_of(&self, first: &[u8]) -> bool {
        let addresses = if self.ip_len == 20 { 12..20 } else { 8..40 };
        let ports = self.ip_len..self.ip_len + 4;
        first[0] >> 4 == self.packet[0] >> 4
            && first[addresses.clone()] == self.packet[addresses]
            && first[ports.clone()] == self.packet[ports]
    }

    /// Tells whether all is as in the first packet but for what differs from segment to segment.
    fn has_headers_like(&self, first: &[u8], headers_len: usize, before: u64) -> bool {
        let (one, other, at) = (first, self.packet, self.ip_len);
        let is_ip_like = if at == 20 {
            let number = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
            let follows = number(one).wrapping_add(before as u16) == number(other);
            let may_be_any = one[6] & 0x40 != 0;
            one[1] == other[1] && one[6..10] == other[6..10] && (follows || may_be_any)
        } else {
            one[..4] == other[..4] && one[6..8] == other[6..8]
        };
        // Acknowledgement and length, window, options.
        is_ip_like
            && self.headers_len == headers_len
            && one[at + 8..at + 13] == other[at + 8..at + 13]
            && one[at + 14..at + 16] == other[at + 14..at + 16]
            && one[at + 18..headers_len] == other[at + 18..headers_len]
    }
}

/// What is written before the bytes that packets carry.
#[derive(Debug)]
pub struct Head {
    bytes: [u8; HEADER_LEN + HEADERS_MAX],
    len: usize,
}

impl Head {
    fn plain() -> Self {
        Self {
            bytes: [0; HEADER_LEN + HEADERS_MAX],
            len: HEADER_LEN,
        }
    }

    fn of(group: &Group, first: &[u8], last: &[u8]) -> Self {
        let mut head = Self::plain();
        head.len += group.headers_len;
        let own_len = group.headers_len - group.ip_len + group.payload_len;
        let number = |len: usize| u16::try_from(len).expect("shorter than a packet");
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            cut: if group.ip_len == 20 { CUT_TCP4 } else { CUT_TCP6 },
            headers_len: number(group.headers_len),
            piece_len: number(group.piece_len),
            sum_start: number(group.ip_len),
            sum_at: number(TCP_CHECKSUM_AT),
        };
        head.bytes[..HEADER_LEN].copy_from_slice(&header.to_bytes());
        let headers = &mut head.bytes[HEADER_LEN..][..group.headers_len];
        headers.copy_from_slice(&first[..group.headers_len]);
        set_len(headers, group.headers_len + group.payload_len);
        if group.ip_len == 20 {
            renew_header_sum(&mut headers[..20]);
        }
        let own = &mut headers[group.ip_len..];
        own[13] |= last[group.ip_len + 13] & PSH;
        // What the kernel completes begins as the sum of the pseudo-header.
        let sum = folded(pseudo_sum(first, TCP, own_len));
        own[TCP_CHECKSUM_AT..TCP_CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
        head
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
