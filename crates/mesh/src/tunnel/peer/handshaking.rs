//! A peer's handshakes: those we start, and those we answer.

use std::time::Duration;

use types::{Monotonic, Now, Timestamp};

use super::Peer;
use crate::endpoint::Endpoint;
use crate::tunnel::TunnelEvent;
use crate::tunnel::cookie::CookieJar;
use crate::tunnel::counters::DropReason;
use crate::tunnel::handshake::{Initiating, Responding};
use crate::tunnel::message::{CookieReply, INITIATION_LEN, Response};
use crate::tunnel::session::Session;
use crate::tunnel::shared::Shared;
use crate::tunnel::tai64n::Tai64n;
use crate::tunnel::timers::{REJECT_AFTER_TIME, REKEY_TIMEOUT, Timer};

/// A peer's initiations are at least this far apart; the paper allows fifty a second.
const INITIATION_GAP_MIN: Duration = Duration::from_millis(20);

/// How long the same initiation goes to every further place. The peer answers one of several that come close together, and
/// would answer another one than that whose answer we wait for; what has waited longer was perhaps answered in vain.
const SAME_INITIATION_FOR: Duration = Duration::from_millis(250);

/// What is known of a peer's handshakes.
#[derive(Default)]
pub(super) struct Handshakes {
    attempt: Option<Attempt>,
    pub(super) last_completed: Option<(Monotonic, Timestamp)>,
    /// When our last initiation went out.
    last_sent: Option<Monotonic>,
    /// The timestamp in it.
    last_stamp: Option<Tai64n>,
    /// When the peer's last initiation was answered, and where the answer went.
    last_answered: Option<(Monotonic, Endpoint)>,
    /// The greatest timestamp of the peer's initiations.
    greatest_stamp: Option<Tai64n>,
    /// Whether the current session's coming end made us start a handshake already.
    pub(super) started_at_last_minute: bool,
    /// Whether our next initiation carries the other of our keys, since the peer did not answer to the current one.
    pub(super) speaks_as_other: bool,
    jar: CookieJar,
}

/// A handshake of ours, from its first initiation until it is answered or given up.
struct Attempt {
    initiating: Initiating,
    started: Monotonic,
    /// The initiation that waits for its answer.
    message: [u8; INITIATION_LEN],
}

impl Handshakes {
    pub(super) fn is_under_way(&self) -> bool {
        self.attempt.is_some()
    }

    /// Returns when the attempt under way began.
    pub(super) fn started(&self) -> Option<Monotonic> {
        self.attempt.as_ref().map(|attempt| attempt.started)
    }

    /// The cookie was for the key before.
    pub(super) fn forget_cookie(&mut self) {
        self.jar = CookieJar::default();
    }

    /// Ends the attempt under way; returns the index that is free now.
    pub(super) fn cancel(&mut self) -> Option<u32> {
        self.attempt.take().map(|attempt| attempt.initiating.index)
    }
}

impl Peer {
    /// Starts a handshake unless one is under way; at most one initiation goes out in five seconds.
    pub(crate) fn start_handshake(&mut self, shared: &mut Shared, now: Now) {
        if self.handshakes.is_under_way() {
            return;
        }
        let earliest = self.handshakes.last_sent.map(|sent| sent + REKEY_TIMEOUT);
        match earliest.filter(|earliest| *earliest > now.mono) {
            Some(earliest) => self.timers.arm_if_idle(Timer::RetransmitHandshake, earliest),
            None => self.send_initiation(shared, now),
        }
    }

    /// Sends an initiation, the first or a further one of an attempt.
    pub(super) fn send_initiation(&mut self, shared: &mut Shared, now: Now) {
        let started = self.handshakes.started().unwrap_or(now.mono);
        shared.free_indices(self.handshakes.cancel());
        let stamp = Tai64n::next(self.handshakes.last_stamp, now.wall);
        let (index, seed) = (shared.take_index(self.id), shared.seed());
        let own = shared.speaking_as(self.handshakes.speaks_as_other);
        let (initiating, mut message) = Initiating::start(own, &self.key, index, stamp, seed);
        self.handshakes.jar.stamp(&self.mac_keys, &mut message, now.mono);
        self.handshakes.attempt = Some(Attempt {
            initiating,
            started,
            message,
        });
        self.handshakes.last_stamp = Some(stamp);
        self.handshakes.last_sent = Some(now.mono);
        let due = now.mono + REKEY_TIMEOUT + shared.jitter();
        self.timers.arm(Timer::RetransmitHandshake, due);
        self.after_authentic_sent(now);
        let elsewhere = self.handshake_endpoints.iter().copied();
        let everywhere = elsewhere.filter(|endpoint| Some(*endpoint) != self.endpoint);
        let mut is_sent = false;
        // The peer answers the first that arrives; to it the others are replays.
        for endpoint in self.endpoint.into_iter().chain(everywhere) {
            shared.transmit(endpoint, &message);
            is_sent = true;
        }
        if !is_sent {
            shared.counters.drop_for(DropReason::NoEndpoint);
        }
    }

    /// Has everybody on our links hear of the handshake under way, or of one that begins now.
    pub(crate) fn call(&mut self, shared: &mut Shared, now: Now) {
        if !self.handshakes.is_under_way() || !self.is_initiation_fresh(now) {
            self.send_initiation(shared, now);
        }
        if let Some(message) = self.initiation_under_way(now) {
            shared.call(message);
        }
    }

    /// Has the handshake under way tried at further places.
    pub(super) fn spread_initiation(&mut self, places: &[Endpoint], shared: &mut Shared, now: Now) {
        if !self.is_initiation_fresh(now) {
            self.send_initiation(shared, now);
        } else if let Some(message) = self.initiation_under_way(now) {
            for place in places {
                shared.transmit(*place, &message);
            }
        }
    }

    /// Tells whether the initiation that was sent last can be sent once more.
    fn is_initiation_fresh(&self, now: Now) -> bool {
        let sent = self.handshakes.last_sent;
        sent.is_some_and(|sent| now.mono.since(sent) <= SAME_INITIATION_FOR)
    }

    /// Returns the initiation of the handshake under way, to be sent once more: there may be a cookie by now.
    fn initiation_under_way(&mut self, now: Now) -> Option<[u8; INITIATION_LEN]> {
        let attempt = self.handshakes.attempt.as_mut()?;
        self.handshakes
            .jar
            .stamp(&self.mac_keys, &mut attempt.message, now.mono);
        Some(attempt.message)
    }

    /// Answers an initiation that opened.
    pub(crate) fn on_initiation(
        &mut self,
        responding: Responding,
        source: Endpoint,
        shared: &mut Shared,
        now: Now,
    ) -> Result<(), DropReason> {
        let stamp = responding.stamp;
        if self
            .handshakes
            .greatest_stamp
            .is_some_and(|greatest| stamp <= greatest)
        {
            return Err(DropReason::OldTimestamp);
        }
        let last = self.handshakes.last_answered;
        if last.is_some_and(|(at, _)| now.mono.since(at) < INITIATION_GAP_MIN) {
            return Err(DropReason::InitiationFlood);
        }
        let index = shared.take_index(self.id);
        let Ok((mut message, keys, remote_index)) = responding.answer(self.preshared_key.as_ref(), index)
        else {
            shared.free_indices([index]);
            return Err(DropReason::BadHandshake);
        };
        self.handshakes.jar.stamp(&self.mac_keys, &mut message, now.mono);
        self.handshakes.greatest_stamp = Some(stamp);
        self.handshakes.last_answered = Some((now.mono, source));
        let session = Session::new(&keys, (index, remote_index), false, now.mono);
        shared.free_indices(self.sessions.install_responded(session));
        self.timers
            .arm(Timer::EraseKeys, now.mono + 3 * REJECT_AFTER_TIME);
        self.after_authentic_received(source, shared, now);
        shared.transmit(source, &message);
        self.after_authentic_sent(now);
        Ok(())
    }

    /// Takes the answer to our initiation.
    pub(crate) fn on_response(
        &mut self,
        response: Response<'_>,
        source: Endpoint,
        shared: &mut Shared,
        now: Now,
    ) -> Result<(), DropReason> {
        let attempt = self.handshakes.attempt.as_mut();
        let attempt = attempt.filter(|attempt| attempt.initiating.index == response.receiver());
        let initiating = &mut attempt.ok_or(DropReason::UnknownIndex)?.initiating;
        let keys = initiating.finish(self.preshared_key.as_ref(), response);
        let keys = keys.map_err(|_| DropReason::BadHandshake)?;
        let session = Session::new(&keys, (response.receiver(), response.sender()), true, now.mono);
        shared.free_indices(self.sessions.install_initiated(session));
        // The index goes on as that of the session.
        self.handshakes.attempt = None;
        self.timers
            .arm(Timer::EraseKeys, now.mono + 3 * REJECT_AFTER_TIME);
        self.after_authentic_received(source, shared, now);
        let is_first = !self.is_up;
        self.complete_handshake(source, shared, now);
        // Without a session nothing tells whether the path in use works, and this way did just now, there and back.
        let in_use = self.endpoint;
        if is_first {
            self.endpoint = Some(source);
        }
        // The responder may not send before it has heard from us on the new session.
        if !self.flush(shared, now) {
            self.send_keepalive(shared, now);
        }
        self.endpoint = in_use;
        if self.is_managed() {
            shared.event(TunnelEvent::Answered {
                peer: self.key,
                endpoint: source,
            });
        }
        Ok(())
    }

    /// Takes a cookie; the next initiation will carry it.
    pub(crate) fn on_cookie_reply(&mut self, reply: CookieReply<'_>, now: Now) -> Result<(), DropReason> {
        let taken = self.handshakes.jar.take(&self.mac_keys, reply, now.mono);
        taken.then_some(()).ok_or(DropReason::BadCookieReply)
    }

    /// Notes that the peer uses the session that our last answer made.
    pub(super) fn confirm(&mut self, source: Endpoint, shared: &mut Shared, now: Now) {
        self.complete_handshake(source, shared, now);
        let answered = self.handshakes.last_answered;
        let rtt = answered
            .filter(|(_, to)| *to == source)
            .map(|(at, _)| now.mono.since(at));
        shared.event(TunnelEvent::Confirmed {
            peer: self.key,
            endpoint: source,
            rtt,
        });
    }

    /// Notes that a handshake gave a current session, whoever started it.
    fn complete_handshake(&mut self, source: Endpoint, shared: &mut Shared, now: Now) {
        shared.free_indices(self.handshakes.cancel());
        self.timers.disarm(Timer::RetransmitHandshake);
        self.handshakes.started_at_last_minute = false;
        self.handshakes.last_completed = Some((now.mono, now.wall));
        shared.counters.handshakes = shared.counters.handshakes.wrapping_add(1);
        self.set_up(source, shared);
    }
}
