//! The client's end: getting in at one relay and staying in, and the headers of what is sent through it.
//!
//! # Kinds of methods
//!
//! - *Inputs*: [`connect`](RelayClient::connect), [`disconnect`](RelayClient::disconnect),
//!   [`set_ticket`](RelayClient::set_ticket), [`set_key`](RelayClient::set_key), [`network_changed`](RelayClient::network_changed),
//!   [`confirm_anew`](RelayClient::confirm_anew), [`check`](RelayClient::check), [`hand_over`](RelayClient::hand_over), [`handle_frame`](RelayClient::handle_frame),
//!   [`handle_timeout`](RelayClient::handle_timeout).
//! - *Outputs*: [`poll_transmit`](RelayClient::poll_transmit), [`poll_event`](RelayClient::poll_event),
//!   [`poll_timeout`](RelayClient::poll_timeout), which is `None` only while nothing is wanted.
//! - *Data*: [`header`](RelayClient::header) says what to put before a datagram; `handle_frame` returns what came.
//!
//! How frames get to the relay (which address, which family, UDP or a WebSocket) is the caller's business.

mod handover;
mod numbers;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use types::{Monotonic, NodePrivateKey, NodePublicKey, RelayId, SignedRelayExpulsion, SignedRelayTicket};

use self::handover::Handover;
use self::numbers::Numbers;
use super::CONFIRM_INTERVAL;
use super::frame::{
    self, COOKIE_LEN, ClientNumber, DATA_BY_KEY_HEADER_LEN, DATA_HEADER_LEN, Frame, FrameError, KeyBytes,
    UnreachableReason,
};
use super::handshake::Initiating;
use super::sealed::{Message, SealedChannel};
use crate::tunnel::cookie::COOKIE_LIFETIME;

/// How long a client waits for the answer to its first Hello; doubled with every one after.
pub const HELLO_TIMEOUT: Duration = Duration::from_millis(500);

/// The longest wait between two Hellos.
pub const HELLO_TIMEOUT_MAX: Duration = Duration::from_secs(16);

/// How long a client waits for the answer to a Confirm; half as long again as the last one took, where that is longer.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_millis(400);

/// The longest that it waits, where a round trip took longer than that: more than by way of two satellites.
const CONFIRM_TIMEOUT_MAX: Duration = Duration::from_millis(1500);

/// How many Confirms in a row may stay unanswered before the relay counts as lost.
pub const CONFIRMS_UNANSWERED_MAX: u32 = 3;

/// How often a client believes, without a Confirm of its own being due, that the relay forgot it.
const UNBOUND_INTERVAL: Duration = Duration::from_secs(1);

/// What a client waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ClientTimer {
    /// A Hello had no answer: send another.
    HelloTimeout,
    /// A Confirm had no answer: send another, or give the session up after three.
    ConfirmTimeout,
    /// The last Confirm is 20 s old.
    ConfirmDue,
    /// The relay did not say that it knows who is shut out: tell it again, or give up after five times.
    HandoverTimeout,
}

/// Something that happened between a client and its relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientEvent {
    /// The relay passes on what we send, from now on.
    Up {
        /// Our address as the relay sees it.
        observed: SocketAddr,
        /// How long the relay took to answer.
        rtt: Duration,
    },
    /// The relay answered a Confirm.
    Confirmed {
        /// Our address as the relay sees it now.
        observed: SocketAddr,
        /// How long it took.
        rtt: Duration,
    },
    /// The relay does not answer any more; the client goes on trying.
    Down,
    /// The relay stops soon; another one should be used.
    Draining {
        /// How soon.
        left: Duration,
    },
    /// A peer is not at this relay.
    NotHere {
        /// Whose key it was; `None` when only the number is known and that is forgotten.
        peer: Option<NodePublicKey>,
    },
    /// We send more than we may; what is over is dropped.
    TooMuch,
}

/// A datagram that came through the relay.
#[derive(Debug)]
pub struct Delivered<'a> {
    /// Who sent it, as the relay says.
    pub from: NodePublicKey,
    /// The datagram.
    pub datagram: &'a mut [u8],
}

/// What goes before a datagram on its way to the relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// The peer's number is known.
    ByNumber([u8; DATA_HEADER_LEN]),
    /// Only its key is.
    ByKey([u8; DATA_BY_KEY_HEADER_LEN]),
}

impl Header {
    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::ByNumber(bytes) => bytes,
            Self::ByKey(bytes) => bytes,
        }
    }
}

/// One relay as one node sees it.
pub struct RelayClient {
    relay: RelayId,
    private_key: NodePrivateKey,
    ticket: Option<SignedRelayTicket>,
    rng: ChaCha20Rng,
    cookie: Option<([u8; COOKIE_LEN], Monotonic)>,
    state: State,
    numbers: Numbers,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<ClientEvent>,
}

enum State {
    /// Nobody wants this relay.
    Idle,
    Greeting(Box<Greeting>),
    In(Box<Session>),
}

/// Between Hello and Welcome.
struct Greeting {
    initiating: Initiating,
    sent: Monotonic,
    attempt: u32,
}

/// After a Welcome.
struct Session {
    number: ClientNumber,
    channel: SealedChannel,
    /// Whether the relay answered a Confirm, so that it passes things on.
    is_up: bool,
    /// The Confirm that waits for an answer.
    waiting: Option<Waiting>,
    /// How long the relay took to answer last.
    rtt: Duration,
    last_confirm: Monotonic,
    last_unbound: Option<Monotonic>,
    handover: Handover,
}

struct Waiting {
    sent: Monotonic,
    /// How many before it had no answer.
    unanswered: u32,
    /// How many may follow before the relay counts as lost.
    left: u32,
}

impl RelayClient {
    /// Makes a client that wants nothing yet; without a ticket it cannot get in. `seed` is 32 bytes of randomness that nothing else uses.
    #[must_use]
    pub fn new(
        relay: RelayId,
        private_key: NodePrivateKey,
        ticket: Option<SignedRelayTicket>,
        seed: [u8; 32],
    ) -> Self {
        Self {
            relay,
            private_key,
            ticket,
            rng: ChaCha20Rng::from_seed(seed),
            cookie: None,
            state: State::Idle,
            numbers: Numbers::default(),
            out: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Tells whether the relay passes on what we send.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(&self.state, State::In(session) if session.is_up)
    }

    /// Gets in, unless that is done or under way, or there is no ticket.
    pub fn connect(&mut self, now: Monotonic) {
        if matches!(self.state, State::Idle) {
            self.greet(0, now);
        }
    }

    /// Says goodbye.
    pub fn disconnect(&mut self) {
        if let State::In(session) = &mut self.state {
            let close = session.channel.seal(session.number, &Message::Close);
            self.out.push_back(close);
        }
        self.leave();
        self.state = State::Idle;
    }

    /// Takes a newer ticket, and shows it to the relay.
    pub fn set_ticket(&mut self, ticket: SignedRelayTicket) {
        self.ticket = Some(ticket);
        if let State::In(session) = &mut self.state {
            let renew = session.channel.seal(session.number, &Message::Renew(ticket));
            self.out.push_back(renew);
        }
    }

    /// Goes on under another key of ours, with the ticket for that one: the relay knows us by our key, so this says goodbye
    /// and gets in anew.
    pub fn set_key(&mut self, private_key: NodePrivateKey, ticket: SignedRelayTicket, now: Monotonic) {
        self.disconnect();
        self.private_key = private_key;
        self.ticket = Some(ticket);
        self.greet(0, now);
    }

    /// Tells the relay at once where we are now, or tries again at once to get in.
    pub fn network_changed(&mut self, now: Monotonic) {
        self.confirm_anew(CONFIRMS_UNANSWERED_MAX, now);
    }

    /// The same, with as many Confirms as `tries` before the relay counts as lost: fewer where it was reached just now, by STUN
    /// or by opening a WebSocket, since one that leaves them unanswered there has forgotten us.
    pub fn confirm_anew(&mut self, tries: u32, now: Monotonic) {
        match &mut self.state {
            State::Idle => {}
            State::Greeting(_) => self.greet(0, now),
            State::In(session) => self.out.push_back(session.ask(0, tries, now)),
        }
    }

    /// Doubts that the relay is still there: three Confirms without an answer, 1.2 s, and it counts as lost.
    pub fn check(&mut self, now: Monotonic) {
        if let State::In(session) = &mut self.state
            && session.waiting.is_none()
        {
            self.out.push_back(session.confirm(now));
        }
    }

    /// Gets in anew: the relay is there, and does not know us any more.
    fn start_anew(&mut self, now: Monotonic) {
        if matches!(self.state, State::In(_)) {
            self.leave();
            self.greet(0, now);
        }
    }

    /// Tells whether the relay left the last Confirm unanswered and counts as there still.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        let State::In(session) = &self.state else {
            return false;
        };
        let unanswered = session.waiting.as_ref().map_or(0, |waiting| waiting.unanswered);
        session.is_up && unanswered > 0
    }

    /// Tells the relay that a node is shut out, until it says that it knows. Without a session there is nobody to tell:
    /// [`ClientEvent::Up`] says when there is.
    pub fn hand_over(&mut self, expulsion: SignedRelayExpulsion, now: Monotonic) {
        if let State::In(session) = &mut self.state
            && session.is_up
        {
            let messages = session.handover.add(expulsion, now);
            self.out.extend(session.seal_all(&messages));
        }
    }

    /// Returns what to put before a datagram to `peer`; `None` while the relay passes nothing on.
    #[must_use]
    pub fn header(&self, peer: &NodePublicKey) -> Option<Header> {
        if !self.is_up() {
            return None;
        }
        Some(match self.numbers.of(peer) {
            Some(number) => Header::ByNumber(frame::data_header(number)),
            None => Header::ByKey(frame::data_by_key_header(ClientNumber(0), peer.as_bytes())),
        })
    }

    /// Takes a frame of the relay; returns the datagram in it, if there is one of somebody that `known` knows.
    ///
    /// Frames that are malformed, forged or of strangers change nothing.
    pub fn handle_frame<'a>(
        &mut self,
        bytes: &'a mut [u8],
        known: impl Fn(&KeyBytes) -> Option<NodePublicKey>,
        now: Monotonic,
    ) -> Result<Option<Delivered<'a>>, FrameError> {
        match frame::parse(bytes)? {
            Frame::Data { number, datagram } => {
                let from = self.numbers.whose(number);
                return Ok(from.map(|from| Delivered { from, datagram }));
            }
            Frame::DataByKey {
                number,
                key,
                datagram,
            } => {
                let Some(from) = known(&key) else {
                    return Ok(None);
                };
                self.numbers.learn(number, from);
                return Ok(Some(Delivered { from, datagram }));
            }
            Frame::Known { number, key } => {
                if let Some(peer) = known(&key) {
                    self.numbers.learn(number, peer);
                }
            }
            Frame::Challenge { echo, cookie } => self.on_challenge(*echo, *cookie, now),
            Frame::Welcome(noise) => self.on_welcome(noise, now),
            Frame::Sealed {
                number,
                counter,
                text,
            } => self.on_sealed(number, counter, text, now),
            Frame::Unreachable { reason, number, key } => match reason {
                UnreachableReason::TooMuch => self.events.push_back(ClientEvent::TooMuch),
                UnreachableReason::NotHere => {
                    let peer = self.numbers.forget(number).or_else(|| known(&key));
                    self.events.push_back(ClientEvent::NotHere { peer });
                }
            },
            Frame::Unbound => self.on_unbound(now),
            Frame::Hello(_) => {}
        }
        Ok(None)
    }

    /// Returns the next frame to send to the relay.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// Returns the next thing that happened.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Returns when [`RelayClient::handle_timeout`] must be called next, and for which timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Monotonic, ClientTimer)> {
        match &self.state {
            State::Idle => None,
            State::Greeting(greeting) => {
                let wait = hello_timeout(greeting.attempt);
                Some((greeting.sent + wait, ClientTimer::HelloTimeout))
            }
            State::In(session) => {
                let confirm = match &session.waiting {
                    Some(waiting) => (
                        waiting.sent + confirm_timeout(session.rtt),
                        ClientTimer::ConfirmTimeout,
                    ),
                    None => (session.last_confirm + CONFIRM_INTERVAL, ClientTimer::ConfirmDue),
                };
                let handover = session.handover.due();
                let handover = handover.map(|due| (due, ClientTimer::HandoverTimeout));
                Some(handover.map_or(confirm, |handover| handover.min(confirm)))
            }
        }
    }

    /// Acts on the timer that is due.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        let Some((_, timer)) = self.poll_timeout().filter(|(due, _)| *due <= now) else {
            return;
        };
        match (timer, &mut self.state) {
            (ClientTimer::HelloTimeout, State::Greeting(greeting)) => {
                let attempt = greeting.attempt.saturating_add(1);
                self.greet(attempt, now);
            }
            (ClientTimer::ConfirmTimeout, State::In(session)) => match &session.waiting {
                Some(Waiting { left: 0, .. }) => self.start_anew(now),
                _ => self.out.push_back(session.confirm(now)),
            },
            (ClientTimer::HandoverTimeout, State::In(session)) => {
                let messages = session.handover.handle_timeout(now);
                self.out.extend(session.seal_all(&messages));
            }
            (_, State::In(session)) => self.out.push_back(session.confirm(now)),
            (_, State::Idle | State::Greeting(_)) => {}
        }
    }

    fn greet(&mut self, attempt: u32, now: Monotonic) {
        let Some(ticket) = &self.ticket else {
            return;
        };
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let initiating = Initiating::start(&self.private_key, self.relay, ticket, seed);
        let cookie = self
            .cookie
            .filter(|(_, got)| now.since(*got) < COOKIE_LIFETIME)
            .map_or([0; COOKIE_LEN], |(cookie, _)| cookie);
        self.out.push_back(frame::hello(&cookie, &initiating.noise));
        self.state = State::Greeting(Box::new(Greeting {
            initiating,
            sent: now,
            attempt,
        }));
    }

    /// Forgets what belonged to a session that is over.
    fn leave(&mut self) {
        if self.is_up() {
            self.events.push_back(ClientEvent::Down);
        }
        self.numbers = Numbers::default();
    }

    fn on_challenge(&mut self, echo: [u8; 16], cookie: [u8; COOKIE_LEN], now: Monotonic) {
        let State::Greeting(greeting) = &self.state else {
            return;
        };
        // One cookie for each Hello: whoever answers again and again must not make us send again and again.
        if greeting.initiating.noise[..16] == echo {
            self.cookie = Some((cookie, now));
            self.greet(greeting.attempt.saturating_add(1), now);
        }
    }

    fn on_welcome(&mut self, noise: &[u8], now: Monotonic) {
        let State::Greeting(greeting) = &mut self.state else {
            return;
        };
        let Ok((number, _, channel)) = greeting.initiating.finish(noise) else {
            return;
        };
        let mut session = Box::new(Session {
            number,
            channel,
            is_up: false,
            waiting: None,
            rtt: now.since(greeting.sent),
            last_confirm: now,
            last_unbound: None,
            handover: Handover::default(),
        });
        self.out.push_back(session.confirm(now));
        self.state = State::In(session);
    }

    fn on_sealed(&mut self, number: ClientNumber, counter: u64, text: &mut [u8], now: Monotonic) {
        let State::In(session) = &mut self.state else {
            return;
        };
        if number != session.number {
            return;
        }
        match session.channel.open(counter, text) {
            Ok(Message::Confirmed(observed)) => {
                let Some(waiting) = session.waiting.take() else {
                    return;
                };
                let rtt = now.since(waiting.sent);
                session.rtt = rtt;
                let is_first = !std::mem::replace(&mut session.is_up, true);
                self.events.push_back(if is_first {
                    ClientEvent::Up { observed, rtt }
                } else {
                    ClientEvent::Confirmed { observed, rtt }
                });
            }
            Ok(Message::Draining(left)) => self.events.push_back(ClientEvent::Draining { left }),
            Ok(Message::Expelled(echo)) => {
                let messages = session.handover.confirmed(echo, now);
                self.out.extend(session.seal_all(&messages));
            }
            Ok(Message::Confirm | Message::Renew(_) | Message::Close | Message::Expel(_)) | Err(_) => {}
        }
    }

    /// The relay knows nothing of our address: it may have restarted, or our address have changed, or this is a lie. A
    /// Confirm finds out.
    fn on_unbound(&mut self, now: Monotonic) {
        if let State::In(session) = &mut self.state
            && session.waiting.is_none()
            && session
                .last_unbound
                .is_none_or(|last| now.since(last) >= UNBOUND_INTERVAL)
        {
            session.last_unbound = Some(now);
            self.out.push_back(session.confirm(now));
        }
    }
}

impl Session {
    /// Asks, or asks once more.
    fn confirm(&mut self, now: Monotonic) -> Vec<u8> {
        let before = self.waiting.as_ref();
        let (unanswered, left) = before.map_or((0, CONFIRMS_UNANSWERED_MAX), |before| {
            (before.unanswered + 1, before.left)
        });
        self.ask(unanswered, left, now)
    }

    /// Asks after so many questions without an answer; with this one, `left` may be asked.
    fn ask(&mut self, unanswered: u32, left: u32, now: Monotonic) -> Vec<u8> {
        self.waiting = Some(Waiting {
            sent: now,
            unanswered,
            left: left.saturating_sub(1),
        });
        self.last_confirm = now;
        self.channel.seal(self.number, &Message::Confirm)
    }

    fn seal_all(&mut self, messages: &[Message]) -> Vec<Vec<u8>> {
        let seal = |message| self.channel.seal(self.number, message);
        messages.iter().map(seal).collect()
    }
}

impl std::fmt::Debug for RelayClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayClient")
            .field("relay", &self.relay)
            .field("is_up", &self.is_up())
            .finish_non_exhaustive()
    }
}

fn confirm_timeout(rtt: Duration) -> Duration {
    (rtt * 3 / 2).clamp(CONFIRM_TIMEOUT, CONFIRM_TIMEOUT_MAX)
}

fn hello_timeout(attempt: u32) -> Duration {
    let doubled = HELLO_TIMEOUT.saturating_mul(1 << attempt.min(8));
    doubled.min(HELLO_TIMEOUT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_far_away_has_longer_to_answer_and_none_has_for_ever() {
        let ms = Duration::from_millis;
        let cases = [(0, 400), (266, 400), (400, 600), (1000, 1500), (60_000, 1500)];
        for (rtt, timeout) in cases {
            assert_eq!(confirm_timeout(ms(rtt)), ms(timeout), "{rtt} ms");
        }
    }
}
