//! The relays of a mesh: at which we are, over what, how near they are, and which is home.

mod expulsions;
mod link;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use types::{Monotonic, NodePrivateKey, NodePublicKey, RelayId, SignedRelayExpulsion, SignedRelayTicket};

use self::expulsions::Expulsions;
use super::{Datagrams, MeshTimer, Output};
use crate::endpoint::SocketNumber;
use crate::relay::client::{ClientEvent, Delivered, RelayClient};
use crate::relay::frame;
use crate::stun;
use crate::tunnel::RELAY_HEADROOM;

/// How long UDP may stay without an answer before the relay is tried over TLS too.
const UDP_PATIENCE: Duration = Duration::from_millis(1500);

/// How soon a relay that is reached over TLS is asked by UDP: what stopped it may have been a moment's trouble. Doubled each
/// time.
const UDP_RETRY_MIN: Duration = Duration::from_secs(2);

/// How often it is asked at least.
const UDP_RETRY_MAX: Duration = Duration::from_secs(30);

/// How long after its end a WebSocket is opened anew.
const STREAM_RETRY: Duration = Duration::from_secs(5);

/// How long a WebSocket stays open after UDP works again: what the relay had already sent there still comes in, and should
/// the relay not answer by UDP after all, the WebSocket goes on.
const STREAM_LINGER: Duration = Duration::from_secs(1);

/// Another relay must be so much nearer to become home: a third and 10 ms.
fn is_much_nearer(rtt: Duration, than: Duration) -> bool {
    rtt + Duration::from_millis(10) < than.mul_f64(2.0 / 3.0)
}

/// A relay that a node may use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayConfig {
    /// Which relay.
    pub id: RelayId,
    /// Its UDP addresses, best first; only those of a family that we have are of use.
    pub udp: Vec<SocketAddr>,
    /// Where it answers STUN besides: what it sees there tells what our NAT does.
    pub stun: Vec<SocketAddr>,
    /// Whether it can be reached over a WebSocket.
    pub has_stream: bool,
}

/// A relay as a node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayView {
    /// Which relay.
    pub id: RelayId,
    /// Whether it passes on what we send.
    pub is_up: bool,
    /// Whether it is reached over a WebSocket.
    pub is_stream: bool,
    /// Our address as it sees it.
    pub observed: Option<SocketAddr>,
    /// Our address as its second port sees it.
    pub observed_besides: Option<SocketAddr>,
    /// How long it took to answer last.
    pub rtt: Option<Duration>,
    /// Whether it said that it stops soon.
    pub is_draining: bool,
}

/// Over what frames go to a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stream {
    Closed,
    Opening,
    Open,
    /// It still takes what comes, and nothing is sent there.
    Leaving,
}

struct Link {
    config: RelayConfig,
    client: RelayClient,
    view: RelayView,
    /// Which of its UDP addresses is used.
    address: usize,
    stream: Stream,
    /// When the other transport is tried, and which request would answer that UDP works again.
    transport_due: Option<Monotonic>,
    udp_retry: Duration,
    question: Option<stun::TransactionId>,
    /// Which request would tell how its second port sees us.
    question_besides: Option<stun::TransactionId>,
    /// Whether UDP had no answer since it was tried last.
    is_udp_silent: bool,
    /// Whether the frame that is being looked at came over the WebSocket.
    is_from_stream: bool,
}

pub(super) struct Relays {
    private_key: NodePrivateKey,
    /// Whether the relays still know us by the key before: they go on doing so until there is a ticket for this one.
    is_key_new: bool,
    ticket: Option<SignedRelayTicket>,
    expulsions: Expulsions,
    rng: ChaCha20Rng,
    links: BTreeMap<RelayId, Link>,
    by_address: BTreeMap<SocketAddr, RelayId>,
    home: Option<RelayId>,
    is_home_news: bool,
    out: VecDeque<Output>,
    events: VecDeque<(RelayId, ClientEvent)>,
}

impl Relays {
    pub(super) fn new(private_key: NodePrivateKey, seed: [u8; 32]) -> Self {
        Self {
            private_key,
            is_key_new: false,
            ticket: None,
            expulsions: Expulsions::default(),
            rng: ChaCha20Rng::from_seed(seed),
            links: BTreeMap::new(),
            by_address: BTreeMap::new(),
            home: None,
            is_home_news: false,
            out: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes the relays there are. Without a ticket none is used.
    pub(super) fn set(&mut self, configs: Vec<RelayConfig>, now: Monotonic) {
        let gone: Vec<_> = self
            .links
            .keys()
            .filter(|id| configs.iter().all(|config| config.id != **id))
            .copied()
            .collect();
        for id in gone {
            self.leave(id);
        }
        for config in configs {
            self.upsert(config, now);
        }
        self.by_address = self
            .links
            .iter()
            .flat_map(|(id, link)| link.config.addresses().map(|address| (address, *id)))
            .collect();
        self.connect(now);
    }

    pub(super) fn set_ticket(&mut self, ticket: SignedRelayTicket, now: Monotonic) {
        self.ticket = Some(ticket);
        let is_key_new = std::mem::take(&mut self.is_key_new);
        for link in self.links.values_mut() {
            if is_key_new {
                link.client.set_key(self.private_key.clone(), ticket, now);
                link.transport_due = Some(now + UDP_PATIENCE);
            } else {
                link.client.set_ticket(ticket);
            }
        }
        self.connect(now);
    }

    /// Takes who is shut out, and tells it every relay at which we are, and those at which we get in meanwhile.
    pub(super) fn expel(&mut self, expulsion: SignedRelayExpulsion, now: Monotonic) {
        if self.expulsions.add(expulsion, now) {
            for link in self.links.values_mut() {
                link.client.hand_over(expulsion, now);
            }
            self.collect(now);
        }
    }

    /// Takes another key of ours; the relays hear of it with the ticket for it, which comes next.
    pub(super) fn set_key(&mut self, private_key: NodePrivateKey) {
        self.private_key = private_key;
        self.is_key_new = true;
        self.ticket = None;
    }

    /// Returns the relay from which a datagram is, if it looks like one of a relay.
    pub(super) fn whose(&self, source: SocketAddr, bytes: &[u8]) -> Option<RelayId> {
        let may_be = frame::is_frame(bytes) || stun::is_stun(bytes);
        self.by_address.get(&source).copied().filter(|_| may_be)
    }

    pub(super) fn views(&self) -> impl Iterator<Item = RelayView> + '_ {
        self.links.values().map(|link| link.view)
    }

    pub(super) fn home(&self) -> Option<RelayId> {
        self.home
    }

    pub(super) fn view(&self, id: RelayId) -> Option<RelayView> {
        self.links.get(&id).map(|link| link.view)
    }

    /// Returns the relays that are up: those among `homes` first, where a peer is found best, then the nearest; those about to
    /// stop last.
    pub(super) fn common(&self, homes: &[RelayId]) -> Vec<RelayId> {
        let up = self
            .links
            .values()
            .map(|link| link.view)
            .filter(|view| view.is_up);
        let mut common: Vec<_> = up
            .map(|view| {
                let is_away = !homes.contains(&view.id);
                let is_far = Some(view.id) != self.home;
                (view.is_draining, is_away, is_far, view.rtt, view.id)
            })
            .collect();
        common.sort_unstable();
        common.into_iter().map(|(.., id)| id).collect()
    }

    /// Returns the relays that said that they stop soon, when there is another one.
    pub(super) fn leaving(&self) -> Vec<RelayId> {
        let has_other = self.views().any(|view| view.is_up && !view.is_draining);
        let leaving = self.views().filter(|view| view.is_draining && has_other);
        leaving.map(|view| view.id).collect()
    }

    /// Tells whether no relay answers by UDP although one is reached over TLS.
    pub(super) fn is_udp_blocked(&self) -> bool {
        let mut with_udp = self.links.values().filter(|link| !link.config.udp.is_empty());
        let is_reached = self.views().any(|view| view.is_up && view.is_stream);
        is_reached && with_udp.all(|link| link.is_udp_silent)
    }

    /// Returns the home relay if it is another one than when this was asked last.
    pub(super) fn take_home_change(&mut self) -> Option<Option<RelayId>> {
        std::mem::take(&mut self.is_home_news).then_some(self.home)
    }

    /// Doubts that a relay is still there.
    pub(super) fn check(&mut self, id: RelayId, now: Monotonic) {
        if let Some(link) = self.links.get_mut(&id) {
            link.check(now);
        }
        self.collect(now);
    }

    /// Doubts that any relay is still there.
    pub(super) fn check_all(&mut self, now: Monotonic) {
        for link in self.links.values_mut() {
            link.check(now);
        }
        self.collect(now);
    }

    pub(super) fn network_changed(&mut self, now: Monotonic) {
        for link in self.links.values_mut() {
            link.is_udp_silent = false;
            link.address = 0;
            // Seen in the network that was left.
            link.view.observed = None;
            link.view.observed_besides = None;
            link.client.network_changed(now);
            link.transport_due = Some(now + UDP_PATIENCE);
        }
        self.collect(now);
    }

    pub(super) fn stream_opened(&mut self, id: RelayId, now: Monotonic) {
        let opening = self.links.get_mut(&id);
        // One that is given up meanwhile closes, as it was told to.
        if let Some(link) = opening.filter(|link| link.stream == Stream::Opening) {
            if link.works_by_udp() {
                // It answered after all.
                link.is_udp_silent = false;
                link.stream = Stream::Closed;
                self.out.push_back(Output::CloseStream(id));
                return;
            }
            link.use_stream(now);
        }
        self.collect(now);
    }

    pub(super) fn stream_closed(&mut self, id: RelayId, now: Monotonic) {
        if let Some(link) = self.links.get_mut(&id)
            && link.stream != Stream::Closed
        {
            let was_used = std::mem::replace(&mut link.stream, Stream::Closed) != Stream::Opening;
            link.view.is_stream = false;
            link.transport_due = Some(now + STREAM_RETRY);
            // One that was prepared in doubt and failed takes nothing from the time that UDP has to answer.
            if was_used || !link.view.is_up {
                link.client.network_changed(now);
            }
        }
        self.collect(now);
    }

    /// Takes a frame of a relay, or its answer to a STUN request.
    pub(super) fn handle_frame<'a>(
        &mut self,
        (id, is_from_stream): (RelayId, bool),
        bytes: &'a mut [u8],
        known: impl Fn(&[u8; 32]) -> Option<NodePublicKey>,
        now: Monotonic,
    ) -> Option<Delivered<'a>> {
        let link = self.links.get_mut(&id)?;
        link.is_from_stream = is_from_stream;
        if let Some((transaction, observed)) = stun::parse_response(bytes) {
            let is_it = |question: &mut stun::TransactionId| *question == transaction;
            if link.question.take_if(is_it).is_some() {
                self.back_to_udp(id, now);
            } else if link.question_besides.take_if(is_it).is_some() {
                self.events
                    .extend(link.seen_besides(observed).map(|event| (id, event)));
            }
            return None;
        }
        let is_data = frame::is_data(bytes);
        let delivered = link.client.handle_frame(bytes, known, now).unwrap_or(None);
        // Data frames come by the million, and change nothing.
        if !is_data {
            self.collect(now);
        }
        delivered
    }

    /// Puts the relay's header before each datagram. Without a session at the relay the buffer comes back.
    pub(super) fn wrap(
        &mut self,
        id: RelayId,
        peer: &NodePublicKey,
        mut bytes: Vec<u8>,
        segment_len: usize,
    ) -> Result<Output, Vec<u8>> {
        let header = self.links.get(&id).and_then(|link| link.client.header(peer));
        let (Some(link), Some(header)) = (self.links.get(&id), header) else {
            return Err(bytes);
        };
        let header = header.as_bytes();
        if header.len() == RELAY_HEADROOM {
            for frame in bytes.chunks_mut(segment_len) {
                frame[..RELAY_HEADROOM].copy_from_slice(header);
            }
            return link.output(bytes, segment_len).ok_or_else(Vec::new);
        }
        let more = header.len() - RELAY_HEADROOM;
        let frames = bytes.len().div_ceil(segment_len);
        let mut longer = Vec::with_capacity(bytes.len() + frames * more);
        for frame in bytes.chunks(segment_len) {
            longer.extend_from_slice(header);
            longer.extend_from_slice(&frame[RELAY_HEADROOM..]);
        }
        link.output(longer, segment_len + more).ok_or(bytes)
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<(RelayId, ClientEvent)> {
        self.events.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<(Monotonic, MeshTimer)> {
        let clients = self.links.values().filter_map(|link| link.client.poll_timeout());
        let clients = clients.map(|(due, timer)| (due, MeshTimer::Relay(timer)));
        let transports = self.links.values().filter_map(|link| link.transport_due);
        let transports = transports.map(|due| (due, MeshTimer::RelayTransport));
        clients.chain(transports).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Monotonic) {
        let mut late = Vec::new();
        for (id, link) in &mut self.links {
            link.client.handle_timeout(now);
            if link.transport_due.take_if(|due| *due <= now).is_some() {
                late.push(*id);
            }
        }
        // A Confirm that is due goes before the question by STUN, so that its answer comes first.
        self.collect(now);
        for id in late {
            self.try_other_transport(id, now);
        }
        self.collect(now);
    }

    fn upsert(&mut self, config: RelayConfig, now: Monotonic) {
        if let Some(link) = self.links.get_mut(&config.id) {
            if link.config != config {
                // Whoever answers at the new place need not know us yet.
                link.config = config;
                link.address = 0;
                link.client.network_changed(now);
            }
            return;
        }
        let link = Link::new(config, self.ticket, &self.private_key, &mut self.rng);
        self.links.insert(link.view.id, link);
    }

    fn leave(&mut self, id: RelayId) {
        if let Some(mut link) = self.links.remove(&id) {
            link.client.disconnect();
            while let Some(frame) = link.client.poll_transmit() {
                let len = frame.len();
                self.out.extend(link.output(frame, len));
            }
            if link.stream != Stream::Closed {
                self.out.push_back(Output::CloseStream(id));
            }
            self.choose_home();
        }
    }

    fn connect(&mut self, now: Monotonic) {
        if self.ticket.is_none() {
            return;
        }
        for link in self.links.values_mut() {
            if link.client.poll_timeout().is_none() {
                link.client.connect(now);
                link.transport_due = Some(now + UDP_PATIENCE);
            }
        }
        self.collect(now);
    }

    /// Carries out what the clients want and takes what happened to them.
    fn collect(&mut self, now: Monotonic) {
        for (id, link) in &mut self.links {
            while let Some(event) = link.client.poll_event() {
                link.note(event, now);
                self.events.push_back((*id, event));
                if matches!(event, ClientEvent::Up { .. }) {
                    for expulsion in self.expulsions.live(now) {
                        link.client.hand_over(expulsion, now);
                    }
                }
                if matches!(event, ClientEvent::Up { .. } | ClientEvent::Confirmed { .. }) {
                    let mut transaction = [0; 12];
                    self.rng.fill_bytes(&mut transaction);
                    self.out.extend(link.ask_besides(transaction));
                }
            }
            while let Some(frame) = link.client.poll_transmit() {
                let len = frame.len();
                if let Some(output) = link.output(frame, len) {
                    self.out.push_back(output);
                }
            }
        }
        self.choose_home();
    }

    fn choose_home(&mut self) {
        let usable = |view: &RelayView| view.is_up && !view.is_draining;
        let nearest = self.views().filter(usable).min_by_key(|view| (view.rtt, view.id));
        let current = self.home.and_then(|home| self.view(home)).filter(usable);
        let next = match (current, nearest) {
            (Some(current), Some(nearest)) => {
                let is_nearer = match (nearest.rtt, current.rtt) {
                    (Some(near), Some(far)) => is_much_nearer(near, far),
                    _ => false,
                };
                Some(if is_nearer { nearest.id } else { current.id })
            }
            (None, nearest) => nearest.map(|view| view.id),
            (Some(current), None) => Some(current.id),
        };
        if next != self.home {
            self.home = next;
            self.is_home_news = true;
        }
    }

    fn try_other_transport(&mut self, id: RelayId, now: Monotonic) {
        let mut transaction = [0; 12];
        self.rng.fill_bytes(&mut transaction);
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.stream == Stream::Leaving {
            if link.view.observed.is_some() {
                link.stream = Stream::Closed;
                self.out.push_back(Output::CloseStream(id));
            } else {
                link.use_stream(now);
                self.collect(now);
            }
            return;
        }
        if link.works_by_udp() {
            link.is_udp_silent = false;
            return;
        }
        link.is_udp_silent = !link.config.udp.is_empty();
        link.transport_due = Some(now + link.next_udp_retry());
        if link.stream == Stream::Closed && link.config.has_stream {
            link.stream = Stream::Opening;
            self.out.push_back(Output::OpenStream(id));
        }
        if !link.view.is_up {
            // The next address may be of a family that works.
            link.address = (link.address + 1) % link.config.udp.len().max(1);
        }
        if let Some(to) = link.udp() {
            link.question = Some(transaction);
            self.out.push_back(stun_request(to, transaction));
        }
    }

    /// UDP works again: the session moves there with one Confirm. If it was there all the time and a Confirm had no answer, one
    /// more says whether the relay was restarted.
    fn back_to_udp(&mut self, id: RelayId, now: Monotonic) {
        if let Some(link) = self.links.get_mut(&id) {
            link.is_udp_silent = false;
            let may_have_forgotten = !link.view.is_stream && link.client.is_in_doubt();
            let before = link.stream;
            link.stream = match before {
                Stream::Open | Stream::Leaving => Stream::Leaving,
                Stream::Opening | Stream::Closed => Stream::Closed,
            };
            if before == Stream::Opening {
                self.out.push_back(Output::CloseStream(id));
            }
            link.view.is_stream = false;
            link.view.observed = None;
            link.client
                .confirm_anew(if may_have_forgotten { 1 } else { 2 }, now);
            link.transport_due = Some(now + link.patience());
        }
        self.collect(now);
    }
}

impl RelayConfig {
    fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.udp.iter().chain(&self.stun).copied()
    }
}

fn stun_request(to: SocketAddr, transaction: stun::TransactionId) -> Output {
    let bytes = stun::request(transaction).to_vec();
    Output::Datagrams(Datagrams {
        socket: SocketNumber::MAIN,
        to,
        segment_len: bytes.len(),
        bytes,
    })
}
