//! Clients and a relay side by side, frames carried by hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use types::{
    Monotonic, NodePrivateKey, NodePublicKey, Now, Realm, RelayTicket, SignedRelayTicket, SigningPrivateKey,
    Timestamp,
};

use super::client::{ClientEvent, ClientTimer, RelayClient};
use super::frame;
use super::server::{Forward, Quota, RelayConfig, RelayDrop, RelayServer, RelayTimer, Source};
use super::{CLIENT_SILENCE_MAX, CONFIRM_INTERVAL};
use crate::load::LOAD_PER_SECOND;

mod expulsions;
mod hostile;

const QUOTA: Quota = Quota {
    bytes_per_second: 1_000_000,
    burst_bytes: 100_000,
};

fn key(who: u8) -> NodePrivateKey {
    NodePrivateKey::from_random([who; 32])
}

fn authority() -> SigningPrivateKey {
    SigningPrivateKey::from_random([0xaa; 32])
}

fn ticket(who: u8, realm: u8, expires: Timestamp) -> SignedRelayTicket {
    let ticket = RelayTicket {
        node: key(who).public(),
        realm: Realm([realm; 16]),
        expires_at: expires,
    };
    ticket.sign(&authority())
}

fn wall(now: Duration) -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000) + now
}

fn known(bytes: &[u8; 32]) -> Option<NodePublicKey> {
    (1..=9)
        .map(|who| key(who).public())
        .find(|key| key.as_bytes() == bytes)
}

/// What reached one client: from whom, and what.
type Inbox = Vec<(NodePublicKey, Vec<u8>)>;

/// A relay, clients by number, and the time.
struct Bench {
    server: RelayServer,
    clients: BTreeMap<u8, (RelayClient, Source)>,
    inboxes: BTreeMap<u8, Inbox>,
    events: Vec<(u8, ClientEvent)>,
    elapsed: Duration,
    /// Frames from or to these are lost.
    cut: Vec<u8>,
}

#[derive(Default)]
struct Forwarded(Vec<(Source, Vec<u8>, usize)>);

impl Forward for Forwarded {
    fn forward(&mut self, to: Source, frames: &[u8], frame_len: usize) {
        self.0.push((to, frames.to_vec(), frame_len));
    }
}

impl Bench {
    fn new() -> Self {
        let server = RelayServer::new(RelayConfig {
            private_key: key(0xee),
            authority: authority().public(),
            quota: QUOTA,
            clients_max: 100,
            seed: [7; 32],
        });
        Self {
            server,
            clients: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            events: Vec::new(),
            elapsed: Duration::ZERO,
            cut: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: Monotonic::from_start(self.elapsed),
            wall: wall(self.elapsed),
        }
    }

    fn udp(who: u8) -> Source {
        Source::Udp(SocketAddr::from(([192, 0, 2, who], 4000)))
    }

    fn add(&mut self, who: u8, realm: u8) {
        let ticket = ticket(who, realm, wall(Duration::from_secs(300)));
        let client = RelayClient::new(self.server.id(), key(who), Some(ticket), [who; 32]);
        self.clients.insert(who, (client, Self::udp(who)));
        self.client(who, |client, now| client.connect(now));
    }

    fn client<T>(&mut self, who: u8, act: impl FnOnce(&mut RelayClient, Monotonic) -> T) -> T {
        let now = self.now().mono;
        let done = act(&mut self.clients.get_mut(&who).expect("added").0, now);
        self.settle();
        done
    }

    /// Carries frames until nobody has any left.
    fn settle(&mut self) {
        loop {
            let mut is_quiet = true;
            for who in self.clients.keys().copied().collect::<Vec<_>>() {
                let (client, source) = self.clients.get_mut(&who).expect("added");
                let source = *source;
                while let Some(event) = client.poll_event() {
                    self.events.push((who, event));
                }
                let (client, _) = self.clients.get_mut(&who).expect("added");
                let frames: Vec<_> = std::iter::from_fn(|| client.poll_transmit()).collect();
                for mut frame in frames {
                    is_quiet = false;
                    if !self.cut.contains(&who) {
                        let len = frame.len();
                        self.feed_server(source, &mut frame, len);
                    }
                }
            }
            while let Some((to, frame)) = self.server.poll_transmit() {
                is_quiet = false;
                self.deliver(to, frame);
            }
            if is_quiet {
                return;
            }
        }
    }

    fn feed_server(&mut self, source: Source, bytes: &mut [u8], frame_len: usize) {
        let now = self.now();
        let mut forwarded = Forwarded::default();
        self.server
            .handle_frames(source, bytes, frame_len, &mut forwarded, now);
        for (to, frames, len) in forwarded.0 {
            for frame in frames.chunks(len) {
                self.deliver(to, frame.to_vec());
            }
        }
    }

    fn deliver(&mut self, to: Source, mut frame: Vec<u8>) {
        let now = self.now().mono;
        let found = self.clients.iter_mut().find(|(_, (_, source))| *source == to);
        let Some((who, (client, _))) = found else {
            return;
        };
        if self.cut.contains(who) {
            return;
        }
        let delivered = client.handle_frame(&mut frame, known, now).expect("a frame");
        if let Some(delivered) = delivered {
            let datagram = delivered.datagram.to_vec();
            self.inboxes
                .entry(*who)
                .or_default()
                .push((delivered.from, datagram));
        }
    }

    /// Sends equal datagrams in one batch.
    fn send(&mut self, from: u8, to: u8, datagrams: &[&[u8]]) {
        let (client, source) = &self.clients[&from];
        let source = *source;
        let header = client.header(&key(to).public()).expect("up");
        let mut bytes = Vec::new();
        for datagram in datagrams {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(datagram);
        }
        let frame_len = header.as_bytes().len() + datagrams[0].len();
        self.feed_server(source, &mut bytes, frame_len);
        self.settle();
    }

    fn advance(&mut self, span: Duration) {
        let end = self.elapsed + span;
        loop {
            let clients = self
                .clients
                .values()
                .filter_map(|(client, _)| client.poll_timeout());
            let next = clients
                .map(|(due, _)| due)
                .chain(self.server.poll_timeout().map(|(due, _)| due))
                .min();
            let end_mono = Monotonic::from_start(end);
            let Some(next) = next.filter(|next| *next <= end_mono) else {
                self.elapsed = end;
                return;
            };
            self.elapsed = self
                .elapsed
                .max(next.since(Monotonic::from_start(Duration::ZERO)));
            let now = self.now();
            self.server.handle_timeout(now);
            for (client, _) in self.clients.values_mut() {
                client.handle_timeout(now.mono);
            }
            self.settle();
        }
    }

    fn inbox(&mut self, who: u8) -> Inbox {
        std::mem::take(self.inboxes.entry(who).or_default())
    }

    fn is_up(&self, who: u8) -> bool {
        self.clients[&who].0.is_up()
    }
}

fn pair() -> Bench {
    let mut bench = Bench::new();
    bench.add(1, 1);
    bench.add(2, 1);
    bench
}

#[test]
fn a_client_is_in_after_two_round_trips_and_learns_its_address() {
    let bench = pair();
    assert!(bench.is_up(1) && bench.is_up(2));
    let observed = "192.0.2.1:4000".parse().expect("address");
    assert!(matches!(bench.events[0], (1, ClientEvent::Up { observed: seen, .. }) if seen == observed));
    assert_eq!(bench.server.client_count(), 2);
}

#[test]
fn datagrams_pass_by_key_first_and_then_by_number_in_batches() {
    let mut bench = pair();
    bench.send(1, 2, &[b"first"]);
    assert_eq!(bench.inbox(2), [(key(1).public(), b"first".to_vec())]);
    let header = |bench: &Bench, from: u8, to: u8| bench.clients[&from].0.header(&key(to).public());
    // Both know the other's number after one datagram.
    for (from, to) in [(1, 2), (2, 1)] {
        assert_eq!(header(&bench, from, to).expect("up").as_bytes().len(), 8);
    }
    bench.send(2, 1, &[b"one", b"two", b"3"]);
    let from = key(2).public();
    assert_eq!(
        bench.inbox(1),
        [
            (from, b"one".to_vec()),
            (from, b"two".to_vec()),
            (from, b"3".to_vec())
        ]
    );
    let counters = bench.server.counters();
    assert_eq!((counters.datagrams_forwarded, counters.bytes_forwarded), (4, 12));
}

#[test]
fn who_is_not_here_is_said_not_to_be() {
    let mut bench = pair();
    bench.events.clear();
    bench.send(1, 3, &[b"nobody"]);
    let peer = Some(key(3).public());
    assert_eq!(bench.events, [(1, ClientEvent::NotHere { peer })]);
    // One who has left is forgotten with the number.
    bench.send(1, 2, &[b"x"]);
    bench.client(2, |client, _| client.disconnect());
    bench.events.clear();
    bench.send(1, 2, &[b"x"]);
    let peer = Some(key(2).public());
    assert_eq!(bench.events, [(1, ClientEvent::NotHere { peer })]);
    let header = bench.clients[&1].0.header(&key(2).public()).expect("up");
    assert_eq!(header.as_bytes().len(), 40);
}

#[test]
fn realms_do_not_reach_one_another() {
    let mut bench = pair();
    bench.add(3, 2);
    assert!(bench.is_up(3));
    bench.send(3, 1, &[b"by key"]);
    assert!(bench.inbox(1).is_empty());
    // Nor by a number that was guessed.
    bench.send(1, 2, &[b"x"]);
    let numbered = bench.clients[&1].0.header(&key(2).public()).expect("up");
    let mut frame = [numbered.as_bytes(), b"guessed"].concat();
    let len = frame.len();
    bench.feed_server(Bench::udp(3), &mut frame, len);
    assert_eq!(bench.inbox(2).len(), 1);
    assert_eq!(bench.server.counters().dropped(RelayDrop::NotHere), 2);
}

#[test]
fn a_client_that_changes_its_address_sends_one_datagram_and_is_there() {
    let mut bench = pair();
    bench.send(1, 2, &[b"x"]);
    let moved = Source::Udp("198.51.100.7:9".parse().expect("address"));
    bench.clients.get_mut(&2).expect("added").1 = moved;
    bench.events.clear();
    bench.client(2, |client, now| client.network_changed(now));
    let observed = "198.51.100.7:9".parse().expect("address");
    assert!(
        matches!(bench.events[..], [(2, ClientEvent::Confirmed { observed: seen, .. })] if seen == observed)
    );
    bench.inbox(2);
    bench.send(1, 2, &[b"by the old number"]);
    assert_eq!(bench.inbox(2).len(), 1);
    assert_eq!(bench.server.client_count(), 2);
}

#[test]
fn a_client_whose_address_changed_unnoticed_is_told() {
    let mut bench = pair();
    bench.send(1, 2, &[b"x"]);
    bench.inbox(2);
    bench.clients.get_mut(&1).expect("added").1 = Source::Udp("198.51.100.7:9".parse().expect("address"));
    bench.send(1, 2, &[b"lost"]);
    assert!(bench.inbox(2).is_empty());
    // The answer was enough.
    bench.send(1, 2, &[b"arrives"]);
    assert_eq!(bench.inbox(2).len(), 1);
}

#[test]
fn a_silent_client_is_forgotten_and_a_living_one_is_not() {
    let mut bench = pair();
    assert_eq!(
        bench.clients[&1].0.poll_timeout().map(|(_, timer)| timer),
        Some(ClientTimer::ConfirmDue)
    );
    bench.advance(CONFIRM_INTERVAL * 3);
    assert_eq!(bench.server.client_count(), 2);
    assert_eq!(
        bench.server.poll_timeout().map(|(_, timer)| timer),
        Some(RelayTimer::ClientSilence)
    );
    bench.cut = vec![2];
    bench.advance(CLIENT_SILENCE_MAX + CONFIRM_INTERVAL);
    assert_eq!(bench.server.client_count(), 1);
    assert!(!bench.is_up(2));
}

#[test]
fn a_relay_that_is_gone_is_noticed_and_found_again() {
    let mut bench = pair();
    bench.events.clear();
    bench.cut = vec![1];
    bench.client(1, RelayClient::check);
    bench.advance(Duration::from_millis(1200));
    assert_eq!(bench.events, [(1, ClientEvent::Down)]);
    bench.cut.clear();
    bench.advance(Duration::from_secs(8));
    assert!(bench.is_up(1));
}

#[test]
fn a_restarted_relay_is_found_within_two_seconds_of_the_next_datagram() {
    let mut bench = pair();
    bench.send(1, 2, &[b"x"]);
    bench.server = Bench::new().server;
    bench.send(1, 2, &[b"lost"]);
    bench.advance(Duration::from_secs(2));
    assert!(bench.is_up(1));
    assert_eq!(bench.server.client_count(), 1);
}

#[test]
fn a_ticket_ends_a_session_unless_it_is_renewed() {
    let mut bench = pair();
    let newer = ticket(1, 1, wall(Duration::from_secs(3600)));
    bench.client(1, |client, _| client.set_ticket(newer));
    bench.advance(Duration::from_secs(500));
    assert!(bench.server.has_client(&key(1).public()));
    assert!(!bench.server.has_client(&key(2).public()));
    assert!(bench.server.counters().dropped(RelayDrop::BadTicket) > 0);
}

#[test]
fn a_draining_relay_says_so_and_takes_nobody() {
    let mut bench = pair();
    bench.events.clear();
    bench.server.drain(Duration::from_secs(30));
    bench.settle();
    let left = Duration::from_secs(30);
    let told = ClientEvent::Draining { left };
    assert_eq!(bench.events, [(1, told), (2, told)]);
    bench.add(3, 1);
    assert!(!bench.is_up(3));
    bench.send(1, 2, &[b"still works"]);
    assert_eq!(bench.inbox(2).len(), 1);
}

#[test]
fn a_second_session_of_a_key_replaces_the_first() {
    let mut bench = pair();
    let ticket = ticket(1, 1, wall(Duration::from_secs(300)));
    let again = RelayClient::new(bench.server.id(), key(1), Some(ticket), [99; 32]);
    let elsewhere = Source::Udp("198.51.100.7:9".parse().expect("address"));
    bench.clients.insert(1, (again, elsewhere));
    bench.client(1, RelayClient::connect);
    assert!(bench.is_up(1));
    assert_eq!(bench.server.client_count(), 2);
    bench.send(2, 1, &[b"x"]);
    assert_eq!(bench.inbox(1).len(), 1);
}

#[test]
fn under_load_a_cookie_is_fetched_and_lets_in() {
    let mut bench = pair();
    hostile::flood(&mut bench, LOAD_PER_SECOND + 1);
    bench.add(3, 1);
    assert!(bench.is_up(3));
    assert!(bench.server.counters().dropped(RelayDrop::CookieRequired) > 0);
}

#[test]
fn a_websocket_is_a_client_like_any_other() {
    let mut bench = Bench::new();
    let remote = "203.0.113.5:1".parse().expect("address");
    let stream = Source::Stream { id: 1, remote };
    bench.add(2, 1);
    let ticket = ticket(1, 1, wall(Duration::from_secs(300)));
    let client = RelayClient::new(bench.server.id(), key(1), Some(ticket), [1; 32]);
    bench.clients.insert(1, (client, stream));
    bench.client(1, RelayClient::connect);
    bench.send(2, 1, &[b"from udp"]);
    bench.send(1, 2, &[b"from a stream"]);
    assert_eq!((bench.inbox(1).len(), bench.inbox(2).len()), (1, 1));
    assert!(bench.server.is_bound(stream));
    bench.server.stream_closed(stream);
    assert!(!bench.server.is_bound(stream));
    assert!(!bench.server.has_client(&key(1).public()));
}

#[test]
fn the_bytes_of_every_frame_are_pinned() {
    let number = frame::ClientNumber(0x0403_0201);
    let peer = [0x55; 32];
    assert_eq!(frame::data_header(number), [0x84, 0, 0, 0, 1, 2, 3, 4]);
    let by_key = frame::data_by_key_header(number, &peer);
    assert_eq!(by_key[..8], [0x85, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(by_key[8..], peer);
    assert_eq!(frame::known(number, &peer)[..8], [0x86, 0, 0, 0, 1, 2, 3, 4]);
    let reasons = [
        (frame::UnreachableReason::NotHere, 0),
        (frame::UnreachableReason::TooMuch, 1),
    ];
    for (reason, byte) in reasons {
        let bytes = frame::unreachable(reason, number, &peer);
        assert_eq!(bytes[..8], [0x87, byte, 0, 0, 1, 2, 3, 4]);
    }
    assert_eq!(frame::unbound(), [0x88, 0, 0, 0]);
    assert_eq!(
        frame::sealed(number, 7, b"x"),
        [0x83, 0, 0, 0, 1, 2, 3, 4, 7, 0, 0, 0, 0, 0, 0, 0, b'x']
    );
    let hello = frame::hello(&[9; 16], &[8; 216]);
    assert_eq!((hello.len(), &hello[..5]), (236, &[0x80, 1, 0, 0, 9][..]));
    let address = frame::address("192.0.2.1:258".parse().expect("address"));
    assert_eq!(
        address,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1, 1, 2]
    );
}

proptest! {
    #[test]
    fn a_batch_is_divided_into_runs_and_nothing_is_lost(lens in prop::collection::vec((0_u32..3, 1_usize..40), 1..30)) {
        let frame_len = 24;
        let mut bytes = Vec::new();
        for (number, _) in &lens {
            bytes.extend_from_slice(&frame::data_header(frame::ClientNumber(*number)));
            bytes.extend_from_slice(&[1; 16]);
        }
        let (mut at, mut runs) = (0, Vec::new());
        while at < bytes.len() {
            let len = frame::run_len(&bytes[at..], frame_len);
            prop_assert!(len > 0);
            runs.push((frame::data_number(&bytes[at..]).expect("long enough"), len / frame_len));
            at += len;
        }
        prop_assert_eq!(at, bytes.len());
        let numbers: Vec<u32> = runs.iter().flat_map(|(number, count)| vec![number.0; *count]).collect();
        let sent: Vec<u32> = lens.iter().map(|(number, _)| *number).collect();
        prop_assert_eq!(numbers, sent);
    }
}
