//! What each fuzz target does with an input, through the public API of `mesh` and `types` only.
//!
//! `cargo fuzz run <target>` feeds these functions; a test of `mesh` replays the committed corpora through them on a
//! stable compiler, so that what once failed cannot fail again unseen. A function panics when a promise is broken.

mod names;
mod netmap;
mod reach;

pub use names::dns;
pub use netmap::{netmap, netmap_delta};
pub use reach::{filter, policy};

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh::control_stream::{Initiator, PIECE_MAX, Responder};
use mesh::frame;
use mesh::port_mapping::word::Word;
use mesh::probe::Probe;
use mesh::proxy::{Progress, Target, http_connect, socks5};
use mesh::relay::client::RelayClient;
use mesh::relay::server::{Forward, Quota, RelayConfig, RelayServer, Source};
use mesh::stun;
use mesh::tunnel::{Mobility, PacketSink, PeerConfig, Received, Tunnel};
use types::{
    AllowedIp, Monotonic, NodePrivateKey, NodePublicKey, Now, Realm, RelayExpulsion, RelayTicket,
    SignedRelayExpulsion, SigningPrivateKey, Timestamp,
};

/// Feeds datagrams to a WireGuard tunnel with one peer.
///
/// The first byte chooses: 0, a raw batch whose segment length are the next two bytes; 1 to 3, a genuine initiation,
/// response or data message changed by the rest; 4, a packet that the peer seals, so that it is read after decryption.
pub fn wireguard_datagram(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    let mut pair = Pair::new();
    match mode % 5 {
        0 => {
            let Some((segment_len, bytes)) = rest.split_first_chunk::<2>() else {
                return;
            };
            // Without a session, whose handshake would cost a hundred times the rest; mode 3 has one.
            pair.feed_b(bytes, usize::from(u16::from_le_bytes(*segment_len)));
            assert!(pair.received.is_empty(), "nothing here is genuine");
        }
        1 => {
            let initiation = pair.initiation();
            pair.feed_b(&changed(&initiation, rest), 0);
        }
        2 => {
            let initiation = pair.initiation();
            pair.feed_b(&initiation, 0);
            let response = pair.b.poll_transmit().expect("an answer").bytes;
            pair.feed_a(&changed(&response, rest));
        }
        3 => {
            pair.connect();
            pair.send(&ip_packet());
            let data = pair.a.poll_transmit().expect("a session").bytes;
            let forged = changed(&data, rest);
            pair.feed_b(&forged, 0);
            assert_eq!(
                pair.received.len(),
                1 + usize::from(forged == data),
                "a forgery was taken"
            );
        }
        _ => {
            pair.connect();
            pair.send(rest);
            while let Some(transmit) = pair.a.poll_transmit() {
                pair.feed_b(&transmit.bytes, transmit.segment_len);
            }
            let from_a = |packet: &[u8]| packet[0] >> 4 == 4 && packet[12..16] == [100, 64, 0, 1];
            assert!(
                pair.received.iter().all(|packet| from_a(packet)),
                "a source address was forged"
            );
        }
    }
    pair.check_outputs();
}

/// Feeds handshake and transport messages to both ends of the control stream.
///
/// The first byte chooses: 0 and 1, a raw first or second message; 2 and 3, a genuine one changed by the rest; 4, a raw
/// transport message; 5, a message of the peer's of the rest's length and content, cut into changed transport messages.
pub fn control_stream(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    let (node, control) = (key(1), key(2));
    let initiator = Initiator::new(&node, &control.public(), [3; 32]);
    let first = initiator.message();
    let responder = || Responder::new(&control, [4; 32]);
    let accepted = responder().accept(&first).expect("a genuine message");
    match mode % 6 {
        0 => assert!(responder().accept(rest).is_err() || rest == first),
        1 => assert!(initiator.finish(rest).is_err() || rest == accepted.message),
        2 => {
            let forged = changed(&first, rest);
            assert!(responder().accept(&forged).is_err() || forged == first);
        }
        3 => {
            let forged = changed(&accepted.message, rest);
            assert!(initiator.finish(&forged).is_err() || forged == accepted.message);
        }
        4 => {
            let mut channel = accepted.channel;
            assert!(channel.open(rest).is_err());
            assert!(
                channel.open(rest).is_err() && channel.seal(b"x").is_err(),
                "a broken channel works"
            );
        }
        _ => {
            let mut ours = initiator.finish(&accepted.message).expect("a genuine message");
            let mut theirs = accepted.channel;
            let message = rest.repeat(1 + PIECE_MAX / rest.len().max(1));
            let mut opened = None;
            for sealed in ours.seal(&message).expect("below the limit") {
                assert_eq!(opened, None, "a message ended early");
                opened = theirs.open(&sealed).expect("a genuine message");
            }
            assert_eq!(opened, Some(message));
        }
    }
}

/// Feeds a byte stream to the frame decoder: the first byte is the limit in units of 16 bytes, the second how much is
/// pushed at a time.
pub fn frame(input: &[u8]) {
    let [limit, step, stream @ ..] = input else {
        return;
    };
    let limit = usize::from(*limit) * 16;
    let mut decoder = frame::Decoder::new(limit);
    let mut again = Vec::new();
    let mut failed = false;
    for chunk in stream.chunks(usize::from(*step).max(1)) {
        decoder.push(chunk);
        loop {
            match decoder.next() {
                Ok(Some(payload)) => {
                    assert!(!failed && payload.len() <= limit);
                    again.extend(frame::encode_within(&payload, limit).expect("within the limit"));
                }
                Ok(None) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
    }
    assert!(
        stream.starts_with(&again),
        "what was decoded is not what was sent"
    );
    assert!(failed || !decoder.is_at_boundary() || again == stream);
}

/// Feeds the content of a data message to the decoder of probes: what it takes it writes back as it came.
pub fn probe(input: &[u8]) {
    if let Some(probe) = Probe::decode(input) {
        let written = probe.encode();
        assert_eq!(Probe::decode(&written), Some(probe));
    }
}

/// Feeds a datagram to the STUN decoders.
pub fn stun(input: &[u8]) {
    if let Some((transaction, address)) = stun::parse_response(input) {
        let written = stun::response(transaction, address);
        let read =
            stun::parse_response(&written).map(|(id, read)| (id, read.ip().to_canonical(), read.port()));
        assert_eq!(
            read,
            Some((transaction, address.ip().to_canonical(), address.port()))
        );
    }
    if let Some(request) = stun::parse_request(input) {
        let written = stun::request_for(request.transaction, request.answer);
        assert_eq!(stun::parse_request(&written), Some(request));
    }
}

/// Feeds what a router might say of itself. It is read whole or not at all, and no longer message is a word.
pub fn router_word(input: &[u8]) {
    if let Some(word) = Word::read(input) {
        assert!((12..=1100).contains(&input.len()));
        assert_eq!(matches!(word, Word::NatPmp { .. }), input[0] == 0);
        assert_eq!(Word::read(&input[..input.len() - 1]), None);
    }
}

/// Feeds what a SOCKS5 client might send: the first byte chooses greeting, password or request.
pub fn socks5(input: &[u8]) {
    let Some((mode, message)) = input.split_first() else {
        return;
    };
    match mode % 3 {
        0 => check_prefixes(message, socks5::MESSAGE_LEN_MAX, |bytes| {
            socks5::parse_greeting(bytes).map(drop_value)
        }),
        1 => check_prefixes(message, socks5::MESSAGE_LEN_MAX, |bytes| {
            socks5::parse_password(bytes).map(drop_value)
        }),
        _ => {
            check_prefixes(message, socks5::MESSAGE_LEN_MAX, |bytes| {
                socks5::parse_request(bytes).map(drop_value)
            });
            if let Ok(Progress::Done { value, .. }) = socks5::parse_request(message) {
                check_target(&value);
            }
        }
    }
}

/// Feeds what an HTTP client might send.
pub fn http_connect(input: &[u8]) {
    check_prefixes(input, http_connect::HEAD_LEN_MAX, |bytes| {
        http_connect::parse(bytes).map(drop_value)
    });
    if let Ok(Progress::Done { value, .. }) = http_connect::parse(input) {
        check_target(&value.target);
    }
}

fn drop_value<T>(progress: Progress<T>) -> Progress<()> {
    match progress {
        Progress::More => Progress::More,
        Progress::Done { len, .. } => Progress::Done { value: (), len },
    }
}

/// However a message is cut on its way: it is whole with its last byte and not before, and nothing that follows changes it.
fn check_prefixes<E>(bytes: &[u8], len_max: usize, parse: impl Fn(&[u8]) -> Result<Progress<()>, E>) {
    let end = match parse(bytes) {
        Ok(Progress::Done { len, .. }) => len,
        Ok(Progress::More) => return assert!(bytes.len() < len_max, "it waits for ever"),
        Err(_) => return,
    };
    assert!(0 < end && end <= len_max.min(bytes.len()));
    // The last places tell as much as all of them, which would cost too much.
    for cut in (0..end).rev().take(32) {
        assert!(
            matches!(parse(&bytes[..cut]), Ok(Progress::More)),
            "{cut} of {end} bytes"
        );
    }
    assert!(matches!(parse(&bytes[..end]), Ok(Progress::Done { len, .. }) if len == end));
}

/// A target is written as it is read.
fn check_target(target: &Target) {
    assert_ne!(target.port, 0);
    let again: Target = target.to_string().parse().expect("a target");
    assert_eq!(again, *target);
}

/// Feeds frames to a relay with two clients, and to one of them.
///
/// The first byte chooses: 0, a raw batch to the relay whose frame length are the next two bytes; 1, a raw frame to the
/// client; 2, a genuine Hello changed by the rest; 3, a genuine Confirm changed by the rest; 4, a genuine
/// expulsion changed by the rest, which a client brings.
pub fn relay(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    let mut bench = RelayBench::new();
    match mode % 5 {
        0 => {
            let Some((frame_len, bytes)) = rest.split_first_chunk::<2>() else {
                return;
            };
            bench.feed_relay(1, bytes, usize::from(u16::from_le_bytes(*frame_len)));
        }
        1 => {
            let now = bench.now.mono;
            let _ = bench.clients[0].handle_frame(&mut rest.to_vec(), known, now);
        }
        2 => {
            let mut late = bench.client(3);
            late.connect(bench.now.mono);
            let hello = late.poll_transmit().expect("a Hello");
            let forged = changed(&hello, rest);
            bench.feed_relay(3, &forged, 0);
            // Version, type and the Noise message are all that an answer depends on.
            let is_as_it_was = forged.len() == hello.len() && forged[20..] == hello[20..];
            // A message of another type is no Hello: its sender is told that it is unknown (a type and three zeros), no more.
            let is_another = forged.first() != hello.first();
            if let Some((_, answer)) = bench.server.poll_transmit() {
                assert!(is_as_it_was || is_another && answer.len() == 4);
            }
        }
        4 => {
            // Sealed by a client, so that it is read after decryption.
            let genuine = bench.expulsion(2);
            let bytes = changed(genuine.as_bytes(), rest);
            let Ok(bytes) = bytes.try_into() else {
                return;
            };
            let brought = SignedRelayExpulsion::from_bytes(bytes);
            bench.clients[0].hand_over(brought, bench.now.mono);
            bench.settle();
            assert_eq!(bench.server.has_client(&key(2).public()), brought != genuine);
            assert!(bench.server.has_client(&key(1).public()));
        }
        _ => {
            bench.clients[0].check(bench.now.mono);
            let confirm = bench.clients[0].poll_transmit().expect("a Confirm");
            let forged = changed(&confirm, rest);
            bench.feed_relay(9, &forged, 0);
            let moved = bench
                .server
                .poll_transmit()
                .is_some_and(|(_, answer)| answer.len() > 4);
            assert!(!moved || forged[4..] == confirm[4..], "a forgery moved a client");
        }
    }
    bench.settle();
}

fn known(bytes: &[u8; 32]) -> Option<NodePublicKey> {
    (1..=3)
        .map(|who| key(who).public())
        .find(|key| key.as_bytes() == bytes)
}

struct RelayBench {
    server: RelayServer,
    clients: Vec<RelayClient>,
    now: Now,
}

/// Checks that what is passed on is what somebody of the realm may be sent.
struct Forwarded;

impl Forward for Forwarded {
    fn forward(&mut self, to: Source, frames: &[u8], frame_len: usize) {
        assert!(!frames.is_empty() && frame_len > 8);
        assert!(matches!(to, Source::Udp(address) if address == place(1) || address == place(2)));
    }
}

impl RelayBench {
    fn new() -> Self {
        let now = Now {
            mono: Monotonic::from_start(Duration::from_secs(1000)),
            wall: Timestamp::from_unix_ms(1_700_000_000_000),
        };
        let server = RelayServer::new(RelayConfig {
            private_key: key(0xee),
            authority: SigningPrivateKey::from_random([0xaa; 32]).public(),
            quota: Quota {
                bytes_per_second: 1_000_000,
                burst_bytes: 1_000_000,
            },
            clients_max: 10,
            seed: [7; 32],
        });
        let mut bench = Self {
            server,
            clients: Vec::new(),
            now,
        };
        for who in [1, 2] {
            let mut client = bench.client(who);
            client.connect(now.mono);
            bench.clients.push(client);
        }
        bench.settle();
        assert!(bench.clients.iter().all(RelayClient::is_up));
        bench
    }

    fn client(&self, who: u8) -> RelayClient {
        let ticket = RelayTicket {
            node: key(who).public(),
            realm: Realm([1; 16]),
            expires_at: self.now.wall + Duration::from_secs(300),
        };
        let ticket = ticket.sign(&SigningPrivateKey::from_random([0xaa; 32]));
        RelayClient::new(self.server.id(), key(who), Some(ticket), [who; 32])
    }

    /// What the control plane signs to shut a client out.
    fn expulsion(&self, who: u8) -> SignedRelayExpulsion {
        let expulsion = RelayExpulsion::of_tickets_until(self.now.wall, key(who).public(), Realm([1; 16]));
        expulsion.sign(&SigningPrivateKey::from_random([0xaa; 32]))
    }

    fn feed_relay(&mut self, who: u8, bytes: &[u8], frame_len: usize) {
        let source = Source::Udp(place(who));
        self.server
            .handle_frames(source, &mut bytes.to_vec(), frame_len, &mut Forwarded, self.now);
    }

    /// Carries frames until nobody has any left; both ends answer each other a few times at most.
    fn settle(&mut self) {
        for _ in 0..20 {
            for who in 0..self.clients.len() {
                while let Some(frame) = self.clients[who].poll_transmit() {
                    self.feed_relay(who as u8 + 1, &frame, 0);
                }
                while self.clients[who].poll_event().is_some() {}
            }
            let Some((to, mut frame)) = self.server.poll_transmit() else {
                return;
            };
            // Answers to STUN are read before a client is asked.
            if stun::is_stun(&frame) {
                continue;
            }
            for (who, client) in (1..).zip(&mut self.clients) {
                if to == Source::Udp(place(who)) {
                    let delivered = client.handle_frame(&mut frame, known, self.now.mono);
                    delivered.expect("a relay sends well-formed frames");
                }
            }
        }
    }
}

fn key(byte: u8) -> NodePrivateKey {
    NodePrivateKey::from_random([byte; 32])
}

/// Changes a message by the input: pairs of place and difference; an odd last byte cuts the end off.
fn changed(message: &[u8], input: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let pairs = input.chunks_exact(2);
    if let [cut] = pairs.remainder() {
        message.truncate(message.len().saturating_sub(usize::from(*cut)));
    }
    for pair in pairs {
        let len = message.len();
        if let Some(byte) = message.get_mut(usize::from(pair[0]) % len.max(1)) {
            *byte ^= pair[1];
        }
    }
    message
}

fn ip_packet() -> Vec<u8> {
    let mut packet = vec![0; 24];
    packet[0] = 0x45;
    packet[3] = 24;
    packet[12..16].copy_from_slice(&[100, 64, 0, 1]);
    packet
}

fn place(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51820))
}

struct Pair {
    a: Tunnel,
    b: Tunnel,
    received: Vec<Vec<u8>>,
    now: Now,
}

struct Sink<'a>(&'a mut Vec<Vec<u8>>);

impl PacketSink for Sink<'_> {
    fn packet(&mut self, _from: &NodePublicKey, packet: &[u8]) {
        self.0.push(packet.to_vec());
    }
}

impl Pair {
    fn new() -> Self {
        let now = Now {
            mono: Monotonic::from_start(Duration::from_secs(1000)),
            wall: Timestamp::from_unix_ms(1_700_000_000_000),
        };
        let config = |number: u8| PeerConfig {
            public_key: key(number).public(),
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(IpAddr::from([100, 64, 0, number]))],
            endpoint: Some(place(number)),
            mobility: Mobility::Roams,
            persistent_keepalive: None,
        };
        let (mut a, mut b) = (Tunnel::new(key(1), [1; 32]), Tunnel::new(key(2), [2; 32]));
        a.upsert_peer(config(2), now);
        b.upsert_peer(config(1), now);
        Self {
            a,
            b,
            received: Vec::new(),
            now,
        }
    }

    fn send(&mut self, packet: &[u8]) {
        self.a
            .send_packets(&key(2).public(), &[packet], self.now)
            .expect("a peer");
    }

    fn initiation(&mut self) -> Vec<u8> {
        self.send(&ip_packet());
        self.a.poll_transmit().expect("an initiation").bytes
    }

    fn connect(&mut self) {
        let initiation = self.initiation();
        self.feed_b(&initiation, 0);
        let response = self.b.poll_transmit().expect("a response").bytes;
        self.feed_a(&response);
        let data = self.a.poll_transmit().expect("the packet that waited").bytes;
        self.feed_b(&data, 0);
        assert_eq!(self.received.len(), 1);
    }

    fn feed_a(&mut self, bytes: &[u8]) {
        let received = Received {
            source: place(2).into(),
            bytes: &mut bytes.to_vec(),
            segment_len: 0,
        };
        self.a
            .handle_received(received, &mut Sink(&mut Vec::new()), self.now);
    }

    fn feed_b(&mut self, bytes: &[u8], segment_len: usize) {
        let received = Received {
            source: place(1).into(),
            bytes: &mut bytes.to_vec(),
            segment_len,
        };
        self.b
            .handle_received(received, &mut Sink(&mut self.received), self.now);
    }

    fn check_outputs(&mut self) {
        for tunnel in [&mut self.a, &mut self.b] {
            while let Some(transmit) = tunnel.poll_transmit() {
                let segments = transmit.bytes.chunks(transmit.segment_len).len();
                assert!(segments <= mesh::tunnel::SEGMENTS_MAX);
                assert!(transmit.bytes.len() <= mesh::tunnel::TRANSMIT_BYTES_MAX);
            }
            while tunnel.poll_event().is_some() {}
            if let Some((due, _)) = tunnel.poll_timeout() {
                tunnel.handle_timeout(self.now + due.since(self.now.mono));
            }
        }
    }
}
