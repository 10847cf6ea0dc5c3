//! The relay's end: who its clients are, and where each frame goes.
//!
//! # Kinds of methods
//!
//! - *Inputs*: [`handle_frames`](RelayServer::handle_frames), [`stream_closed`](RelayServer::stream_closed),
//!   [`expel`](RelayServer::expel), [`drain`](RelayServer::drain), [`handle_timeout`](RelayServer::handle_timeout).
//! - *Outputs*: data frames leave through the [`Forward`] handed to `handle_frames`, in the buffer in which they came;
//!   everything else through [`poll_transmit`](RelayServer::poll_transmit). [`poll_timeout`](RelayServer::poll_timeout)
//!   says when to come back and why.
//!
//! The caller owes: every `poll_transmit` after every input, a `now` whose monotonic side never goes back, and a seed that
//! no other relay has.

mod admission;
mod allowance;
mod clients;
mod counters;
mod expulsions;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use types::relay::RelayExpulsionError;
use types::{
    Monotonic, NodePrivateKey, NodePublicKey, Now, Realm, RelayId, SignedRelayExpulsion, SigningPublicKey,
};

use self::admission::{Admission, Verdict};
use self::clients::{Client, Clients};
pub use self::clients::{Quota, RelayTimer};
pub use self::counters::{RelayCounters, RelayDrop};
use self::expulsions::Expulsions;
pub use self::expulsions::{EXPULSIONS_MAX, EXPULSIONS_PER_REALM_MAX};
use super::frame::{
    self, ClientNumber, DATA_BY_KEY_HEADER_LEN, DATA_HEADER_LEN, Frame, Hello, KeyBytes, UnreachableReason,
};
use super::handshake::Responding;
use super::sealed::{ExpulsionEcho, Message, OpenError};
use crate::stun;

/// How many answers wait at most for a caller that does not collect them.
pub const ANSWERS_MAX: usize = 4096;

/// Where a client is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    /// Its UDP address.
    Udp(SocketAddr),
    /// A WebSocket.
    Stream {
        /// The caller's number for it, never used twice.
        id: u64,
        /// The address of its other end.
        remote: SocketAddr,
    },
}

impl Source {
    fn address(self) -> SocketAddr {
        match self {
            Self::Udp(address) => address,
            Self::Stream { remote, .. } => remote,
        }
    }
}

/// Takes data frames on their way to a client.
pub trait Forward {
    /// Sends `frames` to `to`: each `frame_len` bytes, the last may be shorter. What cannot be sent is dropped.
    fn forward(&mut self, to: Source, frames: &[u8], frame_len: usize);
}

/// What a relay is told when it starts.
pub struct RelayConfig {
    /// Its key; the public half is its id.
    pub private_key: NodePrivateKey,
    /// The key that signs tickets: the control plane's.
    pub authority: SigningPublicKey,
    /// What one client may send.
    pub quota: Quota,
    /// How many clients it takes; more are not answered.
    pub clients_max: usize,
    /// 32 bytes of the operating system's randomness.
    pub seed: [u8; 32],
}

/// A relay as a state machine.
pub struct RelayServer {
    private_key: NodePrivateKey,
    authority: SigningPublicKey,
    rng: ChaCha20Rng,
    admission: Admission,
    expulsions: Expulsions,
    clients: Clients,
    clients_max: usize,
    quota: Quota,
    answers: VecDeque<(Source, Vec<u8>)>,
    counters: RelayCounters,
    is_draining: bool,
}

impl RelayServer {
    /// Makes a relay without clients.
    #[must_use]
    pub fn new(config: RelayConfig) -> Self {
        Self {
            private_key: config.private_key,
            authority: config.authority,
            rng: ChaCha20Rng::from_seed(config.seed),
            admission: Admission::default(),
            expulsions: Expulsions::default(),
            clients: Clients::default(),
            clients_max: config.clients_max,
            quota: config.quota,
            answers: VecDeque::new(),
            counters: RelayCounters::default(),
            is_draining: false,
        }
    }

    /// Returns the relay's id.
    #[must_use]
    pub fn id(&self) -> RelayId {
        RelayId(self.private_key.public())
    }

    /// Returns what went through and what was dropped.
    #[must_use]
    pub fn counters(&self) -> &RelayCounters {
        &self.counters
    }

    /// Returns how many clients are there now.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.clients.bound_count()
    }

    /// Tells whether a client with this key is there now.
    #[must_use]
    pub fn has_client(&self, key: &NodePublicKey) -> bool {
        self.clients.by_key(key.as_bytes()).is_some()
    }

    /// Tells whether a client confirmed to be at `source`.
    #[must_use]
    pub fn is_bound(&self, source: Source) -> bool {
        self.clients.at(source).is_some()
    }

    /// Takes what came from `source`: frames of `frame_len` bytes, the last may be shorter; zero means that
    /// `bytes` is one frame.
    ///
    /// What is malformed, forged or not allowed is dropped and counted. The bytes are of no use afterwards.
    pub fn handle_frames(
        &mut self,
        source: Source,
        bytes: &mut [u8],
        frame_len: usize,
        out: &mut impl Forward,
        now: Now,
    ) {
        let frame_len = if frame_len == 0 {
            bytes.len().max(1)
        } else {
            frame_len
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = frame::run_len(rest, frame_len);
            let (run, after) = rest.split_at_mut(len);
            rest = after;
            let taken = if frame::is_data(run) {
                self.on_data(source, run, frame_len, out, now)
            } else {
                self.on_frame(source, run, out, now)
            };
            if let Err(reason) = taken {
                self.counters.drop_for(reason, len.div_ceil(frame_len));
            }
        }
    }

    /// Forgets whoever came over a WebSocket that is closed now.
    pub fn stream_closed(&mut self, source: Source) {
        if let Some(number) = self.clients.at(source) {
            self.clients.remove(number);
        }
    }

    /// Shuts a node out whose tickets the control plane voids: now, and until the last of them could not be taken anyway.
    /// Tells whether it was there.
    pub fn expel(&mut self, expulsion: &SignedRelayExpulsion, now: Now) -> Result<bool, RelayExpulsionError> {
        if self.expulsions.is_old(&expulsion.claim(), now.wall) {
            return Ok(false);
        }
        let expulsion = expulsion.open(&self.authority)?;
        self.counters.expulsions += 1;
        self.expulsions.add(&expulsion, now.wall);
        Ok(self.clients.expel(&expulsion))
    }

    /// Tells every client that the relay stops in `left`, and takes no new ones.
    pub fn drain(&mut self, left: Duration) {
        self.is_draining = true;
        let mut told = Vec::new();
        for (number, client) in self.clients.bound() {
            if let Some(source) = client.source {
                told.push((source, client.channel.seal(number, &Message::Draining(left))));
            }
        }
        for (source, frame) in told {
            self.answer(source, frame);
        }
    }

    /// Returns the next frame to send that is not passed on from another client.
    pub fn poll_transmit(&mut self) -> Option<(Source, Vec<u8>)> {
        self.answers.pop_front()
    }

    /// Returns when [`RelayServer::handle_timeout`] must be called next, and for which timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Monotonic, RelayTimer)> {
        self.clients.first_due()
    }

    /// Forgets every client whose time is over.
    pub fn handle_timeout(&mut self, now: Now) {
        self.clients.remove_due(now.mono);
    }

    /// Passes on data frames with one header between them.
    fn on_data(
        &mut self,
        source: Source,
        run: &mut [u8],
        frame_len: usize,
        out: &mut impl Forward,
        now: Now,
    ) -> Result<(), RelayDrop> {
        let number = frame::data_number(run).ok_or(RelayDrop::BadFrame)?;
        let Some(sender) = self.clients.at(source) else {
            self.answer(source, frame::unbound().to_vec());
            return Err(RelayDrop::Unbound);
        };
        let realm = self.clients.get(sender).map(|client| client.realm);
        let receiver = self
            .clients
            .get(number)
            .filter(|receiver| realm.is_some_and(|realm| realm.reaches(receiver.realm)))
            .and_then(|receiver| receiver.source);
        let Some(to) = receiver else {
            return Err(self.refuse(source, UnreachableReason::NotHere, number, &[0; 32]));
        };
        let allowed = self.charge(sender, source, run.len(), frame_len, now);
        let (run, refused) = run.split_at_mut(allowed);
        self.counters
            .drop_for(RelayDrop::TooMuch, refused.len().div_ceil(frame_len));
        if run.is_empty() {
            return Ok(());
        }
        frame::readdress(run, frame_len, sender);
        let frames = run.len().div_ceil(frame_len);
        self.counters
            .forwarded(frames, run.len() - frames * DATA_HEADER_LEN);
        out.forward(to, run, frame_len);
        Ok(())
    }

    fn on_frame(
        &mut self,
        source: Source,
        bytes: &mut [u8],
        out: &mut impl Forward,
        now: Now,
    ) -> Result<(), RelayDrop> {
        if let Some(request) = stun::parse_request(bytes) {
            // Only the second port, which knows this one, sends an answer another way than its question came.
            if request.answer != stun::Answer::Plain {
                return Err(RelayDrop::BadFrame);
            }
            self.counters.stun_requests += 1;
            self.answer(source, stun::response(request.transaction, source.address()));
            return Ok(());
        }
        match frame::parse(bytes).map_err(|_| RelayDrop::BadFrame)? {
            Frame::Hello(hello) => self.on_hello(source, &hello, now),
            Frame::Sealed {
                number,
                counter,
                text,
            } => self.on_sealed(source, (number, counter, text), now),
            Frame::DataByKey { key, .. } => self.on_data_by_key(source, &key, bytes, out, now),
            Frame::Challenge { .. }
            | Frame::Welcome(_)
            | Frame::Data { .. }
            | Frame::Known { .. }
            | Frame::Unreachable { .. }
            | Frame::Unbound => Err(RelayDrop::BadFrame),
        }
    }

    fn on_hello(&mut self, source: Source, hello: &Hello<'_>, now: Now) -> Result<(), RelayDrop> {
        if self.is_draining {
            return Err(RelayDrop::Draining);
        }
        match self
            .admission
            .judge(source, hello.cookie, &mut self.rng, now.mono)
        {
            Verdict::Admit => {}
            Verdict::Challenge(cookie) => {
                self.answer(source, frame::challenge(hello, &cookie));
                return Err(RelayDrop::CookieRequired);
            }
            Verdict::Refuse => return Err(RelayDrop::TooManyHellos),
        }
        let seed = self.seed();
        let responding =
            Responding::read(&self.private_key, hello.noise, seed).map_err(|_| RelayDrop::BadHandshake)?;
        let ticket = responding.ticket.open(&self.authority, now.wall);
        let ticket = ticket.map_err(|_| RelayDrop::BadTicket)?;
        if ticket.node != responding.node {
            return Err(RelayDrop::BadTicket);
        }
        if self.expulsions.void(&ticket) {
            return Err(RelayDrop::Expelled);
        }
        if self.clients.len() >= self.clients_max && !self.has_client(&ticket.node) {
            return Err(RelayDrop::Full);
        }
        let number = self.clients.draw_number(&mut self.rng);
        let answered = responding.answer(number, source.address());
        let (noise, channel) = answered.map_err(|_| RelayDrop::BadHandshake)?;
        self.clients
            .add(number, Client::new(ticket, channel, self.quota, now));
        self.answer(source, frame::welcome(&noise));
        Ok(())
    }

    fn on_sealed(
        &mut self,
        source: Source,
        (number, counter, text): (ClientNumber, u64, &mut [u8]),
        now: Now,
    ) -> Result<(), RelayDrop> {
        let Some(client) = self.clients.get_mut(number) else {
            self.answer(source, frame::unbound().to_vec());
            return Err(RelayDrop::Unbound);
        };
        let message = client.channel.open(counter, text);
        match message.map_err(RelayDrop::from)? {
            Message::Confirm => {
                if !client.is_newest(counter) {
                    return Err(RelayDrop::Replayed);
                }
                let confirmed = client.channel.seal(number, &Message::Confirmed(source.address()));
                self.clients.bind(number, source, now.mono);
                self.answer(source, confirmed);
            }
            Message::Renew(ticket) => {
                let ticket = Some(ticket).filter(|_| client.may_renew(now.mono));
                let ticket = ticket.ok_or(RelayDrop::TooManyTickets)?;
                let ticket = ticket.open(&self.authority, now.wall);
                let ticket = ticket.map_err(|_| RelayDrop::BadTicket)?;
                if !self.clients.renew(number, &ticket, now) {
                    return Err(RelayDrop::BadTicket);
                }
            }
            Message::Close => self.clients.remove(number),
            Message::Expel(expulsion) => self.on_expel(source, number, &expulsion, now)?,
            Message::Confirmed(_) | Message::Draining(_) | Message::Expelled(_) => {
                return Err(RelayDrop::BadFrame);
            }
        }
        Ok(())
    }

    /// Takes what a client brings that says who is shut out. Anybody may, since only the control plane can have signed it; but
    /// checking that costs, so that a client has it done so often and no more, and all together too. The platform's node
    /// brings everybody's, and is the control plane itself.
    fn on_expel(
        &mut self,
        source: Source,
        number: ClientNumber,
        expulsion: &SignedRelayExpulsion,
        now: Now,
    ) -> Result<(), RelayDrop> {
        let Some(client) = self.clients.get_mut(number) else {
            return Err(RelayDrop::Unbound);
        };
        let is_old = self.expulsions.is_old(&expulsion.claim(), now.wall);
        let may_check =
            is_old || client.realm == Realm::PLATFORM || self.expulsions.may_check(&client.key, now.mono);
        if !may_check {
            return Err(RelayDrop::TooManyExpulsions);
        }
        // Sealed first: it may be the client itself that goes.
        let echo = Message::Expelled(ExpulsionEcho::of(expulsion));
        let answer = client.channel.seal(number, &echo);
        self.expel(expulsion, now).map_err(|_| RelayDrop::BadExpulsion)?;
        self.answer(source, answer);
        Ok(())
    }

    fn on_data_by_key(
        &mut self,
        source: Source,
        key: &KeyBytes,
        bytes: &mut [u8],
        out: &mut impl Forward,
        now: Now,
    ) -> Result<(), RelayDrop> {
        let Some(sender) = self.clients.at(source) else {
            self.answer(source, frame::unbound().to_vec());
            return Err(RelayDrop::Unbound);
        };
        let Some((realm, sender_key)) = self.clients.get(sender).map(|client| (client.realm, client.key))
        else {
            return Err(RelayDrop::Unbound);
        };
        let receiver = self.clients.by_key(key);
        let to = receiver.and_then(|(number, client)| {
            client
                .realm
                .reaches(realm)
                .then_some(client.source)
                .flatten()
                .map(|to| (number, to))
        });
        let Some((number, to)) = to else {
            return Err(self.refuse(source, UnreachableReason::NotHere, ClientNumber(0), key));
        };
        if self.charge(sender, source, bytes.len(), bytes.len(), now) < bytes.len() {
            return Err(RelayDrop::TooMuch);
        }
        self.answer(source, frame::known(number, key).to_vec());
        let header = frame::data_by_key_header(sender, sender_key.as_bytes());
        bytes[..DATA_BY_KEY_HEADER_LEN].copy_from_slice(&header);
        self.counters.forwarded(1, bytes.len() - DATA_BY_KEY_HEADER_LEN);
        out.forward(to, bytes, bytes.len());
        Ok(())
    }

    /// Takes frames of `frame_len` bytes, `bytes` in all, from what a client may send; returns how many bytes of them it may:
    /// whole frames, from the first on.
    fn charge(
        &mut self,
        sender: ClientNumber,
        source: Source,
        bytes: usize,
        frame_len: usize,
        now: Now,
    ) -> usize {
        let Some(client) = self.clients.get_mut(sender) else {
            return 0;
        };
        let allowed = client.bucket.take(bytes, frame_len, now.mono);
        if allowed < bytes && client.bucket.may_complain(now.mono) {
            self.refuse(source, UnreachableReason::TooMuch, ClientNumber(0), &[0; 32]);
        }
        allowed
    }

    fn refuse(
        &mut self,
        source: Source,
        reason: UnreachableReason,
        number: ClientNumber,
        key: &KeyBytes,
    ) -> RelayDrop {
        self.answer(source, frame::unreachable(reason, number, key).to_vec());
        match reason {
            UnreachableReason::NotHere => RelayDrop::NotHere,
            UnreachableReason::TooMuch => RelayDrop::TooMuch,
        }
    }

    fn answer(&mut self, to: Source, frame: Vec<u8>) {
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back((to, frame));
        } else {
            self.counters.drop_for(RelayDrop::AnswersFull, 1);
        }
    }

    fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }
}

impl std::fmt::Debug for RelayServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayServer")
            .field("id", &self.id())
            .field("clients", &self.clients.len())
            .finish_non_exhaustive()
    }
}

impl From<OpenError> for RelayDrop {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotAuthentic => Self::BadSealed,
            OpenError::Replayed => Self::Replayed,
            OpenError::Unknown => Self::BadFrame,
        }
    }
}
