//! The packet filter: what peers may open towards this node, and the answers to what the node opened itself.
//!
//! # What passes on the way in
//!
//! 1. *Answers*: packets of a flow that a packet on the way out began, as long as it lives ([`FlowTimer`]). TCP flows begin
//!    with a SYN, UDP flows with any datagram that answers nobody, echo flows with a request.
//! 2. *Errors*: ICMP and ICMPv6 errors about a packet that may have been ours: of a flow of ours, or an answer that a rule
//!    lets us give. They must come from the node that the packet went to, since no router stands inside the mesh.
//! 3. *What a rule allows*: by source address, protocol and port. `icmp` means echo requests; `*` means every protocol.
//!
//! All else is dropped and counted by reason ([`FilterDrop`]). Fragments wait until their datagram is whole, which is judged
//! as one packet, and goes on as one (`pieces`). IPv6 extension headers are walked, at most
//! [`EXTENSIONS_MAX`](crate::ip::EXTENSIONS_MAX); a routing header that has hops left is malformed. Sources were checked
//! against the peer's allowed IPs before (`spoofed_source` of the tunnel's counters), of each fragment.
//!
//! # When the rules change
//!
//! What peers opened passes by the rules alone, so that it ends with them: at once for TCP, whose later packets are no SYN.
//! For UDP it is remembered who began (the flows of *theirs*), lest our next answer count as a flow of our own.
//!
//! # What the caller owes
//!
//! Every packet on its way out, sealed or not, goes through [`Filter::outgoing`], every one on its way in through
//! [`Filter::take_in`]. No timer rings: a flow whose time is over is as good as gone, and makes room when room is needed.
//! Nothing is allocated for a packet, only for the first one of a flow and for fragments.

mod flows;
mod packet;
mod pieces;
mod rules;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use types::{AllowedIp, Monotonic, NodePublicKey, PacketFilter};

pub use self::flows::{FLOWS_MAX, FlowTimer};
use self::flows::{Flows, Key};
use self::packet::{Content, Packet, Refusal, TcpFlags};
use self::pieces::Pieces;
pub use self::pieces::{DATAGRAMS_MAX, PIECES_BYTES_MAX, PIECES_BYTES_PEER_MAX, PIECES_TIME};
use self::rules::Rules;
use crate::ip::IpPacket;

macro_rules! filter_drops {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)+) => {
        /// Why the filter dropped a packet that the tunnel had found in order.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum FilterDrop {
            $($(#[doc = $doc])+ $name,)+
        }

        impl FilterDrop {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Returns the word for programs: lower case, with `_`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

filter_drops! {
    /// No rule lets the peer open this, and it answers nothing of ours.
    Denied = "filter_denied",
    /// An ICMP error about a packet that cannot have been ours.
    StrayError = "filter_stray_error",
    /// An IP fragment whose datagram did not become whole in time, had no room, or has pieces that contradict one another.
    Fragment = "filter_fragment",
    /// The headers are cut short, too many, or name a route of their own.
    Malformed = "filter_malformed",
}

/// What the filter did since it was made. Every count only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FilterCounters {
    dropped: [u64; FilterDrop::ALL.len()],
    /// Packets on the way in that passed.
    pub passed: u64,
    /// Flows that were not remembered, since [`FLOWS_MAX`] others live: answers to them are dropped.
    pub flows_refused: u64,
}

impl FilterCounters {
    /// Returns how often a packet was dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: FilterDrop) -> u64 {
        self.dropped[reason as usize]
    }

    /// Returns every reason that occurred, with its count.
    pub fn drops(&self) -> impl Iterator<Item = (FilterDrop, u64)> + '_ {
        let all = FilterDrop::ALL.iter().copied().zip(self.dropped);
        all.filter(|(_, count)| *count > 0)
    }
}

/// The filter of one node.
#[derive(Debug, Default)]
pub struct Filter {
    /// Without rules everything passes: the control plane knows no policy.
    rules: Option<Rules>,
    ours: Flows,
    theirs: Flows,
    pieces: Pieces,
    /// The last datagram that was put together.
    joined: Vec<u8>,
    counters: FilterCounters,
}

impl Filter {
    /// Takes new rules, at once in force; with `None` everything passes.
    pub fn set(&mut self, filter: Option<&PacketFilter>) {
        self.rules = filter.map(Rules::compile);
    }

    /// Takes rules in the canonical form that differ from those before in what they say of some blocks, and of no other; at
    /// once in force. Costs what they say of these blocks, not what they say of all.
    pub fn change(&mut self, filter: Option<&PacketFilter>, blocks: &BTreeSet<AllowedIp>) {
        match (&mut self.rules, filter) {
            (Some(rules), Some(filter)) => rules.change(filter, blocks),
            _ => self.set(filter),
        }
    }

    /// Returns what it did.
    #[must_use]
    pub fn counters(&self) -> &FilterCounters {
        &self.counters
    }

    /// Takes note of a packet that leaves for a peer.
    pub fn outgoing(&mut self, packet: &[u8], now: Monotonic) {
        // What cannot be read cannot be answered either.
        let Ok(packet) = Packet::parse_beginning(packet) else {
            return;
        };
        let key = Key::outgoing(&packet);
        let content = &packet.content;
        let is_settled = match content {
            Content::Tcp { flags, .. } => self.ours.refresh(&key, content, now) || !flags.opens(),
            Content::Udp { .. } => {
                self.ours.refresh(&key, content, now) || self.theirs.refresh(&key, content, now)
            }
            Content::EchoRequest { .. } => self.ours.refresh(&key, content, now),
            Content::EchoReply { .. } | Content::Error { .. } | Content::Icmp | Content::Other => true,
        };
        if !is_settled && !self.ours.begin(key, content, now) {
            self.counters.flows_refused += 1;
        }
    }

    /// Takes a packet that came from a peer, and returns what may go on: the packet itself, or the datagram whose last missing
    /// piece it is; `None` when it waits for other pieces.
    pub fn take_in<'p>(
        &'p mut self,
        from: &NodePublicKey,
        packet: &'p [u8],
        now: Monotonic,
    ) -> Result<Option<&'p [u8]>, FilterDrop> {
        if !may_be_piece(packet) {
            return self.incoming(packet, now).map(|()| Some(packet));
        }
        let Ok(read) = IpPacket::read(packet) else {
            self.counters.dropped[FilterDrop::Malformed as usize] += 1;
            return Err(FilterDrop::Malformed);
        };
        let Some(piece) = &read.piece else {
            return self.incoming(packet, now).map(|()| Some(packet));
        };
        let ends = (read.source, read.destination);
        let taken = self.pieces.take(from, (packet, ends, piece), now);
        self.counters.dropped[FilterDrop::Fragment as usize] += std::mem::take(&mut self.pieces.lost);
        let Some(joined) = taken.map_err(|()| FilterDrop::Fragment)? else {
            return Ok(None);
        };
        self.incoming(&joined, now)?;
        self.joined = joined;
        Ok(Some(&self.joined))
    }

    /// Says whether a whole packet may go on.
    fn incoming(&mut self, packet: &[u8], now: Monotonic) -> Result<(), FilterDrop> {
        let verdict = self.judge(packet, now);
        match verdict {
            Ok(()) => self.counters.passed += 1,
            Err(reason) => self.counters.dropped[reason as usize] += 1,
        }
        verdict
    }

    /// Says whether a TCP connection between our address and a peer's still may go on, whoever began it.
    #[must_use]
    pub fn admits_tcp(&self, local: SocketAddr, remote: SocketAddr, now: Monotonic) -> bool {
        let Some(rules) = &self.rules else {
            return true;
        };
        let content = Content::Tcp {
            source: remote.port(),
            destination: local.port(),
            flags: TcpFlags::default(),
        };
        let packet = Packet {
            source: remote.ip(),
            destination: local.ip(),
            content,
        };
        rules.allow(&packet) || self.ours.has(&Key::incoming(&packet), now)
    }

    fn judge(&mut self, packet: &[u8], now: Monotonic) -> Result<(), FilterDrop> {
        let Some(rules) = &self.rules else {
            return Ok(());
        };
        let packet = Packet::parse(packet).map_err(|refusal| match refusal {
            Refusal::Malformed => FilterDrop::Malformed,
            Refusal::Fragment => FilterDrop::Fragment,
        })?;
        let key = Key::incoming(&packet);
        let content = &packet.content;
        if let Content::Error { about } = content {
            // An error comes from where the packet went that it is about.
            let ours = about
                .map(|quoted| quoted.sent())
                .filter(|sent| sent.is_between(&packet));
            let is_known =
                |sent: Packet| self.ours.has(&Key::outgoing(&sent), now) || rules.allow(&sent.answered());
            return ours
                .is_some_and(is_known)
                .then_some(())
                .ok_or(FilterDrop::StrayError);
        }
        if self.ours.refresh(&key, content, now) {
            return Ok(());
        }
        if !rules.allow(&packet) {
            return Err(FilterDrop::Denied);
        }
        if matches!(content, Content::Udp { .. }) && !self.theirs.refresh(&key, content, now) {
            // Without room it passes all the same: then our answers count as a flow of our own.
            self.theirs.begin(key, content, now);
        }
        Ok(())
    }
}

/// Tells whether a packet may be a fragment: cheaply, since nearly none is.
fn may_be_piece(packet: &[u8]) -> bool {
    match packet {
        [first, ..] if first >> 4 == 6 => matches!(packet.get(6), Some(0 | 43 | 44 | 60)),
        [_, _, _, _, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]) & 0x3fff != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
