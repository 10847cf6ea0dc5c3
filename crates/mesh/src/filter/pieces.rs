//! Datagrams that come in pieces: held until they are whole, so that one judgement is made on all that a datagram says.
//!
//! # Why they are put together here
//!
//! Only the first fragment names ports, and what stands in the others may overwrite it, in one system and not in another
//! (RFC 1858, RFC 5722). A verdict on the first piece that the others follow would have to foresee what each host's kernel
//! makes of them; what is put together here is judged as it will be read. A peer learns nothing of the host's own table
//! of fragments, nor can it fill it, and what follows (the userspace stacks) needs no second table.
//!
//! # What is taken
//!
//! A piece that overlaps another, lies behind the end, is empty, or leaves a rest of eight bytes before more, ends its datagram:
//! all that came of it is dropped and counted. So is the oldest of a peer when there is no more room, and what did not
//! become whole in [`PIECES_TIME`]; no timer rings for that, the next piece finds it.
//!
//! Per peer at most [`DATAGRAMS_MAX`] datagrams and [`PIECES_BYTES_PEER_MAX`] bytes wait, of all peers together
//! [`PIECES_BYTES_MAX`]. Whoever comes when that is full makes room from its own or is refused.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use types::{Monotonic, NodePublicKey};

use crate::ip::{IP6_HEADER_LEN, PACKET_BYTES_MAX, Piece, renew_header_sum};

/// How many datagrams of one peer wait for their pieces.
pub const DATAGRAMS_MAX: usize = 16;

/// How many bytes of one peer wait: three of the longest datagrams.
pub const PIECES_BYTES_PEER_MAX: usize = 256 * 1024;

/// How many bytes wait in all.
pub const PIECES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a datagram may take to become whole.
///
/// Pieces leave back to back, and only what keeps packets of one path apart keeps them apart. The identification of IPv4 comes
/// around after 65,536 datagrams: longer would join pieces of different ones (RFC 4963).
pub const PIECES_TIME: Duration = Duration::from_secs(5);

/// How many separate stretches of a datagram may be there at a time: pieces that come in order or backwards are one.
const STRETCHES_MAX: usize = 32;

/// What a datagram counts for besides its bytes, so that small pieces are not free.
const COST: usize = 256;

/// How often the waiting of all peers is looked through when there is no room.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What tells the datagrams of a peer apart (RFC 791; RFC 8200 section 4.5, where the protocol is not part of it).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Name {
    source: IpAddr,
    destination: IpAddr,
    protocol: Option<u8>,
    identification: u32,
}

/// A datagram of which something came.
#[derive(Debug)]
struct Datagram {
    name: Name,
    since: Monotonic,
    /// The headers of the first piece, once that is there.
    headers: Option<Headers>,
    bytes: Vec<u8>,
    /// Which of the bytes are there: in order, apart from one another.
    there: Vec<Range<usize>>,
    /// How long it is, once its last piece is there.
    len: Option<usize>,
    pieces: u64,
}

#[derive(Debug)]
struct Headers {
    bytes: Vec<u8>,
    next: u8,
    next_at: usize,
}

/// The pieces of all peers that wait.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    waiting: BTreeMap<NodePublicKey, VecDeque<Datagram>>,
    bytes: usize,
    swept: Option<Monotonic>,
    /// Pieces that were dropped.
    pub(super) lost: u64,
}

impl Pieces {
    /// Takes a piece of `packet`; returns its datagram as one packet when that is whole, and `None` when it waits. What is
    /// refused is counted, with the rest of its datagram, in [`Pieces::lost`].
    pub(super) fn take(
        &mut self,
        from: &NodePublicKey,
        (packet, ends, piece): (&[u8], (IpAddr, IpAddr), &Piece),
        now: Monotonic,
    ) -> Result<Option<Vec<u8>>, ()> {
        let mut own = self.waiting.remove(from).unwrap_or_default();
        self.expire(&mut own, now);
        let name = Name {
            source: ends.0,
            destination: ends.1,
            protocol: ends.0.is_ipv4().then_some(piece.next),
            identification: piece.identification,
        };
        let known = own.iter().position(|datagram| datagram.name == name);
        let mut datagram = match known.and_then(|index| own.remove(index)) {
            Some(datagram) => {
                self.bytes -= datagram.cost();
                datagram
            }
            None => Datagram::new(name, now),
        };
        datagram.pieces += 1;
        let outcome = if datagram.add(packet, piece) {
            if datagram.is_whole() {
                let pieces = datagram.pieces;
                datagram.joined().map(Some).ok_or(pieces)
            } else if self.has_room(&mut own, datagram.cost(), now) {
                self.bytes += datagram.cost();
                own.push_back(datagram);
                Ok(None)
            } else {
                Err(datagram.pieces)
            }
        } else {
            Err(datagram.pieces)
        };
        if !own.is_empty() {
            self.waiting.insert(*from, own);
        }
        outcome.map_err(|lost| self.lost += lost)
    }

    /// Gives up what waits too long.
    fn expire(&mut self, waiting: &mut VecDeque<Datagram>, now: Monotonic) {
        let (bytes, lost) = (&mut self.bytes, &mut self.lost);
        waiting.retain(|datagram| {
            let is_late = now.since(datagram.since) >= PIECES_TIME;
            if is_late {
                *bytes -= datagram.cost();
                *lost += datagram.pieces;
            }
            !is_late
        });
    }

    /// Makes room for a datagram of a peer, at the cost of what waits of the same one; tells whether there is.
    fn has_room(&mut self, own: &mut VecDeque<Datagram>, cost: usize, now: Monotonic) -> bool {
        let is_due = self.swept.is_none_or(|swept| now.since(swept) >= SWEEP_EVERY);
        if self.bytes + cost > PIECES_BYTES_MAX && is_due {
            self.swept = Some(now);
            let mut all = std::mem::take(&mut self.waiting);
            all.retain(|_, waiting| {
                self.expire(waiting, now);
                !waiting.is_empty()
            });
            self.waiting = all;
        }
        loop {
            let held: usize = own.iter().map(Datagram::cost).sum();
            let fits = own.len() < DATAGRAMS_MAX
                && held + cost <= PIECES_BYTES_PEER_MAX
                && self.bytes + cost <= PIECES_BYTES_MAX;
            if fits {
                return true;
            }
            let Some(oldest) = own.pop_front() else {
                return false;
            };
            self.bytes -= oldest.cost();
            self.lost += oldest.pieces;
        }
    }
}

impl Datagram {
    fn new(name: Name, now: Monotonic) -> Self {
        Self {
            name,
            since: now,
            headers: None,
            bytes: Vec::new(),
            there: Vec::new(),
            len: None,
            pieces: 0,
        }
    }

    fn cost(&self) -> usize {
        let headers = self.headers.as_ref().map_or(0, |headers| headers.bytes.len());
        COST + headers + self.bytes.len()
    }

    /// Takes a piece; `false` when it does not belong to those that are there.
    fn add(&mut self, packet: &[u8], piece: &Piece) -> bool {
        let bytes = &packet[piece.start..piece.end];
        let stretch = piece.offset..piece.offset + bytes.len();
        let is_in_order = !bytes.is_empty() && (!piece.has_more || bytes.len().is_multiple_of(8));
        // The length of IPv6 does not count its own header.
        let counted = match self.name.source {
            IpAddr::V4(_) => piece.header_len,
            IpAddr::V6(_) => piece.header_len - IP6_HEADER_LEN,
        };
        let is_short = counted + stretch.end <= PACKET_BYTES_MAX;
        if !is_in_order || !is_short || !self.has_place(&stretch, piece.has_more) {
            return false;
        }
        if !piece.has_more {
            self.len = Some(stretch.end);
        }
        if self.bytes.len() < stretch.end {
            self.bytes.resize(stretch.end, 0);
        }
        self.bytes[stretch.clone()].copy_from_slice(bytes);
        self.note(stretch);
        if piece.offset == 0 {
            self.headers = Some(Headers {
                bytes: packet[..piece.header_len].to_vec(),
                next: piece.next,
                next_at: piece.next_at,
            });
        }
        self.there.len() <= STRETCHES_MAX
    }

    /// Tells whether a piece overlaps none and agrees with them on where the datagram ends.
    fn has_place(&self, stretch: &Range<usize>, has_more: bool) -> bool {
        let overlaps = |there: &Range<usize>| there.start < stretch.end && stretch.start < there.end;
        let agrees = match self.len {
            Some(len) => has_more && stretch.end <= len,
            None => has_more || self.bytes.len() <= stretch.end,
        };
        agrees && !self.there.iter().any(overlaps)
    }

    /// Notes a stretch that overlaps none.
    fn note(&mut self, stretch: Range<usize>) {
        let index = self.there.partition_point(|there| there.end <= stretch.start);
        self.there.insert(index, stretch);
        for left in [index, index.saturating_sub(1)] {
            let touches = self
                .there
                .get(left + 1)
                .is_some_and(|right| right.start == self.there[left].end);
            if touches {
                self.there[left].end = self.there.remove(left + 1).end;
            }
        }
    }

    fn is_whole(&self) -> bool {
        matches!(self.there.as_slice(), [all] if all.start == 0 && Some(all.end) == self.len)
    }

    /// Returns the packet as it was before it was cut; `None` when its first piece is not there, or has longer headers than
    /// the others, with which it is longer than a packet can be.
    fn joined(self) -> Option<Vec<u8>> {
        let Headers {
            bytes: mut packet,
            next,
            next_at,
        } = self.headers?;
        packet[next_at] = next;
        let header_len = packet.len();
        packet.extend_from_slice(&self.bytes);
        match self.name.source {
            IpAddr::V4(_) => {
                let len = u16::try_from(packet.len()).ok()?;
                packet[2..4].copy_from_slice(&len.to_be_bytes());
                packet[6..8].fill(0);
                renew_header_sum(&mut packet[..header_len]);
            }
            IpAddr::V6(_) => {
                let len = u16::try_from(packet.len() - IP6_HEADER_LEN).ok()?;
                packet[4..6].copy_from_slice(&len.to_be_bytes());
            }
        }
        Some(packet)
    }
}

#[cfg(test)]
mod tests;
