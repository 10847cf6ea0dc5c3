//! One count per reason for which a datagram or packet was dropped, and what went through.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)+) => {
        /// Why a datagram or packet went no further.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
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

drop_reasons! {
    /// Received: the type is none of WireGuard's four, or a reserved byte is not zero.
    UnknownType = "unknown_type",
    /// Received: the length does not fit the type.
    BadLength = "bad_length",
    /// Received: the first MAC of a handshake message is wrong: the sender does not know our public key.
    BadMac1 = "bad_mac1",
    /// Received: a handshake message without a valid second MAC while under load; it was answered with a cookie.
    CookieRequired = "cookie_required",
    /// Received: one source sends handshake messages faster than allowed while under load.
    RateLimited = "rate_limited",
    /// Received: a handshake message that does not open: a forgery, another key, a low-order point or a wrong preshared key.
    BadHandshake = "bad_handshake",
    /// Received: a handshake message of a key that is no peer.
    UnknownPeer = "unknown_peer",
    /// Received: an initiation whose timestamp is not greater than the greatest seen: a replay, or a clock set back.
    OldTimestamp = "old_timestamp",
    /// Received: an initiation less than 20 ms after the peer's last one.
    InitiationFlood = "initiation_flood",
    /// Received from our links: no handshake initiation, which is all that is taken from there.
    NoCall = "no_call",
    /// Received from our links: an initiation for somebody else, as most there are; our own come back, too.
    CallForOthers = "call_for_others",
    /// Received: a receiver index that names no session or handshake of ours.
    UnknownIndex = "unknown_index",
    /// Received: a cookie reply that does not open, or that nobody waits for.
    BadCookieReply = "bad_cookie_reply",
    /// Received: a data message of a session that is too old or used up.
    SessionExpired = "session_expired",
    /// Received: a counter that was seen before, or lies behind the window.
    Replayed = "replayed",
    /// Received: a data message that does not open.
    BadData = "bad_data",
    /// Received: the packet inside is no well-formed IPv4 or IPv6 packet.
    BadPacket = "bad_packet",
    /// Received: the packet inside comes from an address that is not the peer's.
    SpoofedSource = "spoofed_source",
    /// To send: the packet is empty or longer than a datagram can carry.
    BadSendLength = "bad_send_length",
    /// To send: the queue of packets that wait for a handshake was full; the oldest went.
    QueueFull = "queue_full",
    /// To send: the handshake they waited for failed, or the peer was removed.
    QueueAbandoned = "queue_abandoned",
    /// To send: the peer has no endpoint.
    NoEndpoint = "no_endpoint",
    /// To send: the caller did not collect what was ready; there is no more room.
    OutboxFull = "outbox_full",
    /// The caller did not collect events; the oldest went.
    EventsFull = "events_full",
}

/// What a tunnel did since it was made. Every count only grows, and starts again at zero after 2^64.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    dropped: [u64; DropReason::ALL.len()],
    /// Data packets sealed, empty ones not counted.
    pub packets_sent: u64,
    /// Bytes in those, without padding.
    pub bytes_sent: u64,
    /// Data packets handed to the sink.
    pub packets_received: u64,
    /// Bytes in those.
    pub bytes_received: u64,
    /// Handshakes that gave a session.
    pub handshakes: u64,
    /// Cookie replies sent.
    pub cookies_sent: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            dropped: [0; DropReason::ALL.len()],
            packets_sent: 0,
            bytes_sent: 0,
            packets_received: 0,
            bytes_received: 0,
            handshakes: 0,
            cookies_sent: 0,
        }
    }
}

impl Counters {
    /// Returns how often something was dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Returns how often anything was dropped.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    /// Returns every reason that occurred, with its count.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        let all = DropReason::ALL.iter().copied().zip(self.dropped);
        all.filter(|(_, count)| *count > 0)
    }

    pub(crate) fn drop_for(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    pub(crate) fn drop_many(&mut self, reason: DropReason, count: usize) {
        let slot = &mut self.dropped[reason as usize];
        *slot = slot.wrapping_add(count as u64);
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.packets_sent = self.packets_sent.wrapping_add(1);
        self.bytes_sent = self.bytes_sent.wrapping_add(bytes as u64);
    }

    pub(crate) fn received(&mut self, bytes: usize) {
        self.packets_received = self.packets_received.wrapping_add(1);
        self.bytes_received = self.bytes_received.wrapping_add(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_count_of_its_own() {
        let mut counters = Counters::default();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            counters.drop_many(*reason, index + 1);
        }
        let words: std::collections::BTreeSet<_> =
            DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), DropReason::ALL.len());
        for (index, (reason, count)) in counters.drops().enumerate() {
            assert_eq!((reason, count), (DropReason::ALL[index], index as u64 + 1));
        }
        let all = DropReason::ALL.len() as u64;
        assert_eq!(counters.dropped_total(), all * (all + 1) / 2);
    }
}
