//! What a peer does when something is to be sent to it.

use types::Now;

use super::Peer;
use crate::endpoint::Endpoint;
use crate::tunnel::counters::DropReason;
use crate::tunnel::message::DATA_OVERHEAD;
use crate::tunnel::session::{PACKET_BYTES_MAX, padded_len};
use crate::tunnel::shared::Shared;
use crate::tunnel::timers::{KEEPALIVE_TIMEOUT, REKEY_TIMEOUT, Timer};

impl Peer {
    /// Seals packets, or queues them and starts a handshake.
    pub(crate) fn send(&mut self, packets: &[&[u8]], shared: &mut Shared, now: Now) {
        let (mut sealed, mut queued) = (false, false);
        for packet in packets {
            if packet.is_empty() || packet.len() > PACKET_BYTES_MAX {
                shared.counters.drop_for(DropReason::BadSendLength);
            } else if self.seal(packet, shared, now) {
                sealed = true;
            } else {
                shared
                    .counters
                    .drop_many(DropReason::QueueFull, self.queue.push(packet));
                queued = true;
            }
        }
        if sealed {
            self.after_data_sent(shared, now);
        }
        if queued {
            self.start_handshake(shared, now);
        }
    }

    /// Sends what waited for a session; tells whether there was anything.
    pub(super) fn flush(&mut self, shared: &mut Shared, now: Now) -> bool {
        let mut sent = false;
        while !self.queue.is_empty() && self.sessions.sealing(now.mono).is_some() {
            if let Some(packet) = self.queue.pop() {
                sent |= self.seal(&packet, shared, now);
            }
        }
        if sent {
            self.after_data_sent(shared, now);
        }
        sent
    }

    /// Sends an empty packet; without a session it starts a handshake, which tells the peer as much.
    pub(super) fn send_keepalive(&mut self, shared: &mut Shared, now: Now) {
        if self.seal(&[], shared, now) {
            self.after_authentic_sent(now);
            self.renew_if_old(shared, now);
        } else {
            self.start_handshake(shared, now);
        }
    }

    /// Keeps the timers that go by any datagram to the peer, handshakes included.
    pub(super) fn after_authentic_sent(&mut self, now: Now) {
        self.timers.disarm(Timer::PassiveKeepalive);
        self.owes_another_keepalive = false;
        self.after_traffic(now);
    }

    /// Keeps the timer that goes by any datagram either way.
    pub(super) fn after_traffic(&mut self, now: Now) {
        if let Some(span) = self.persistent_keepalive {
            self.timers.arm(Timer::PersistentKeepalive, now.mono + span);
        }
    }

    /// Seals one packet; tells whether there was a session to seal it with.
    fn seal(&mut self, packet: &[u8], shared: &mut Shared, now: Now) -> bool {
        let Some(session) = self.sessions.sealing(now.mono) else {
            return false;
        };
        let Some(endpoint) = self.endpoint else {
            return false;
        };
        let padded = padded_len(packet.len(), shared.mtu);
        let Some(out) = shared.outbox.append(endpoint, padded + DATA_OVERHEAD) else {
            shared.counters.drop_for(DropReason::OutboxFull);
            return true;
        };
        session.seal_into(packet, padded, out);
        if !packet.is_empty() {
            shared.counters.sent(packet.len());
            self.bytes_sent = self.bytes_sent.wrapping_add(packet.len() as u64);
        }
        true
    }

    /// Seals a probe and sends it to `endpoint`; tells whether there was a session to seal it with.
    ///
    /// It keeps no timer: a probe that nobody answers says nothing of the session.
    pub(crate) fn send_probe(
        &mut self,
        probe: &[u8],
        endpoint: Endpoint,
        shared: &mut Shared,
        now: Now,
    ) -> bool {
        let Some(session) = self.sessions.sealing(now.mono) else {
            return false;
        };
        let padded = padded_len(probe.len(), shared.mtu);
        match shared.outbox.append(endpoint, padded + DATA_OVERHEAD) {
            Some(out) => session.seal_into(probe, padded, out),
            None => shared.counters.drop_for(DropReason::OutboxFull),
        }
        self.after_traffic(now);
        true
    }

    fn after_data_sent(&mut self, shared: &mut Shared, now: Now) {
        self.last_sent = Some(now.mono);
        self.after_authentic_sent(now);
        if !self.timers.is_armed(Timer::Unanswered) {
            let due = now.mono + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + shared.jitter();
            self.timers.arm(Timer::Unanswered, due);
        }
        self.renew_if_old(shared, now);
    }

    fn renew_if_old(&mut self, shared: &mut Shared, now: Now) {
        let current = self.sessions.current.as_deref();
        if current.is_some_and(|session| session.wants_rekey(now.mono)) {
            self.start_handshake(shared, now);
        }
    }
}
