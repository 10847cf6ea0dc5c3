//! What a peer does when a data message of one of its sessions arrives.

use types::Now;

use super::Peer;
use crate::endpoint::Endpoint;
use crate::probe;
use crate::tunnel::counters::DropReason;
use crate::tunnel::message::Data;
use crate::tunnel::shared::Shared;
use crate::tunnel::timers::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_TIMEOUT, Timer};

impl Peer {
    /// Opens a data message and returns the padded packet, which is empty in a keepalive.
    pub(crate) fn on_data<'a>(
        &mut self,
        data: Data<'a>,
        source: Endpoint,
        shared: &mut Shared,
        now: Now,
    ) -> Result<&'a [u8], DropReason> {
        let session = self
            .sessions
            .by_index(data.receiver)
            .ok_or(DropReason::UnknownIndex)?;
        let packet = session.open(data.counter, data.sealed, now.mono)?;
        self.after_authentic_received(source, shared, now);
        if let Some(freed) = self.sessions.confirm(data.receiver) {
            shared.free_indices(freed);
            self.confirm(source, shared, now);
            self.flush(shared, now);
        }
        self.sessions
            .settle(data.receiver, shared.identity.public < self.key);
        if !packet.is_empty() && !probe::is_probe(packet) {
            self.after_data_received(now);
        }
        self.renew_at_last_minute(shared, now);
        Ok(packet)
    }

    /// Counts a packet that goes to the sink.
    pub(crate) fn count_received(&mut self, bytes: usize) {
        self.bytes_received = self.bytes_received.wrapping_add(bytes as u64);
    }

    /// Keeps what goes by any authentic datagram of the peer.
    pub(super) fn after_authentic_received(&mut self, source: Endpoint, shared: &mut Shared, now: Now) {
        self.last_received = Some(now.mono);
        self.hear_from(source, shared);
        self.timers.disarm(Timer::Unanswered);
        self.after_traffic(now);
    }

    fn after_data_received(&mut self, now: Now) {
        self.last_packet = Some(now.mono);
        if self.timers.is_armed(Timer::PassiveKeepalive) {
            self.owes_another_keepalive = true;
        } else {
            self.timers
                .arm(Timer::PassiveKeepalive, now.mono + KEEPALIVE_TIMEOUT);
        }
    }

    /// Renews a session that only receives while there is still time: nothing we send would renew it.
    fn renew_at_last_minute(&mut self, shared: &mut Shared, now: Now) {
        let last_minute = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;
        let current = self.sessions.current.as_deref();
        let is_due = current
            .is_some_and(|session| session.is_initiator && now.mono.since(session.created) >= last_minute);
        if is_due && !self.handshakes.started_at_last_minute {
            self.handshakes.started_at_last_minute = true;
            self.start_handshake(shared, now);
        }
    }
}
