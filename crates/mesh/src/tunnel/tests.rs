//! Two tunnels side by side, datagrams carried by hand. Long and lossy runs are in the crate `sim`.

use std::time::Duration;

use types::{AllowedIp, Timestamp};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct End {
    tunnel: Tunnel,
    place: SocketAddr,
    ip: IpAddr,
    got: Vec<(NodePublicKey, Vec<u8>)>,
    events: Vec<TunnelEvent>,
}

struct Sink<'a>(&'a mut Vec<(NodePublicKey, Vec<u8>)>);

impl PacketSink for Sink<'_> {
    fn packet(&mut self, from: &NodePublicKey, packet: &[u8]) {
        self.0.push((*from, packet.to_vec()));
    }
}

impl End {
    fn new(number: u8) -> Self {
        let private = NodePrivateKey::from_random([number; 32]);
        Self {
            tunnel: Tunnel::new(private, [number; 32]),
            place: SocketAddr::from(([192, 0, 2, number], 51820)),
            ip: IpAddr::from([100, 64, 0, number]),
            got: Vec::new(),
            events: Vec::new(),
        }
    }

    fn key(&self) -> NodePublicKey {
        self.tunnel.public_key()
    }

    fn config_for(&self) -> PeerConfig {
        PeerConfig {
            public_key: self.key(),
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(self.ip)],
            endpoint: Some(self.place),
            persistent_keepalive: None,
        }
    }

    fn receive(&mut self, source: SocketAddr, mut bytes: Vec<u8>, segment_len: usize, now: Now) {
        let received = Received {
            source,
            bytes: &mut bytes,
            segment_len,
        };
        self.tunnel
            .handle_received(received, &mut Sink(&mut self.got), now);
        self.collect_events();
    }

    fn collect_events(&mut self) {
        self.events
            .extend(std::iter::from_fn(|| self.tunnel.poll_event()));
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.tunnel.counters().dropped(reason)
    }

    fn transmits(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.tunnel.poll_transmit()).collect()
    }

    fn send(&mut self, to: &End, text: &str, now: Now) {
        let packet = packet(self.ip, to.ip, text.as_bytes());
        self.tunnel
            .send_packets(&to.key(), &[&packet], now)
            .expect("a peer");
    }

    fn texts(&mut self) -> Vec<String> {
        let texts = self
            .got
            .iter()
            .map(|(_, packet)| String::from_utf8_lossy(&packet[20..]).into_owned());
        let texts = texts.collect();
        self.got.clear();
        texts
    }

    fn status_of(&self, peer: &End) -> PeerStatus {
        self.tunnel.peer_status(&peer.key()).expect("a peer")
    }
}

fn packet(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
        panic!("IPv4");
    };
    let len = u16::try_from(20 + payload.len()).expect("short");
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet.extend_from_slice(payload);
    packet
}

fn start() -> Now {
    Now {
        mono: Monotonic::from_start(1000 * SECOND),
        wall: Timestamp::from_unix_ms(1_700_000_000_000),
    }
}

fn pair() -> (End, End) {
    let (mut a, mut b) = (End::new(1), End::new(2));
    a.tunnel.upsert_peer(b.config_for(), start());
    b.tunnel.upsert_peer(a.config_for(), start());
    (a, b)
}

/// Carries what `from` has to send to `to`, and says how many datagrams that was.
fn carry(from: &mut End, to: &mut End, now: Now) -> usize {
    let transmits = from.transmits();
    let count = transmits
        .iter()
        .map(|transmit| transmit.bytes.len().div_ceil(transmit.segment_len))
        .sum();
    for transmit in transmits {
        to.receive(from.place, transmit.bytes, transmit.segment_len, now);
    }
    from.collect_events();
    count
}

fn settle(a: &mut End, b: &mut End, now: Now) {
    while carry(a, b, now) + carry(b, a, now) > 0 {}
}

fn connected() -> (End, End) {
    let (mut a, mut b) = pair();
    a.send(&b, "first", start());
    settle(&mut a, &mut b, start());
    assert_eq!(b.texts(), ["first"]);
    (a, b)
}

/// Lets time pass for both ends, timer by timer, carrying everything; returns the timers that fired.
fn pass(a: &mut End, b: &mut End, from: Now, span: Duration) -> Vec<Timer> {
    let mut fired = Vec::new();
    let end = from.mono + span;
    loop {
        let next = [a.tunnel.poll_timeout(), b.tunnel.poll_timeout()]
            .into_iter()
            .flatten()
            .min();
        let Some((due, timer)) = next.filter(|(due, _)| *due <= end) else {
            return fired;
        };
        let now = from + due.since(from.mono);
        fired.push(timer);
        a.tunnel.handle_timeout(now);
        b.tunnel.handle_timeout(now);
        settle(a, b, now);
    }
}

#[test]
fn the_first_packet_waits_for_the_handshake_and_arrives() {
    let (mut a, mut b) = pair();
    a.send(&b, "hello", start());
    assert_eq!(a.status_of(&b).packets_queued, 1);
    assert_eq!(carry(&mut a, &mut b, start()), 1, "an initiation");
    assert_eq!(carry(&mut b, &mut a, start()), 1, "a response");
    assert!(
        !b.status_of(&a).has_session,
        "nothing proves yet that the initiator has the session"
    );
    assert_eq!(carry(&mut a, &mut b, start()), 1, "the packet");
    assert_eq!(b.texts(), ["hello"]);
    b.send(&a, "back", start());
    assert_eq!(carry(&mut b, &mut a, start()), 1);
    assert_eq!(a.texts(), ["back"]);
    assert_eq!(a.got.len() + b.got.len(), 0);
    assert_eq!(
        a.tunnel.counters().dropped_total() + b.tunnel.counters().dropped_total(),
        0
    );
    let place = b.place;
    assert_eq!(
        a.events,
        [TunnelEvent::SessionUp {
            peer: b.key(),
            endpoint: place
        }]
    );
    assert_eq!(a.status_of(&b).bytes_sent, 25);
    assert_eq!(b.status_of(&a).bytes_received, 25);
    assert_eq!(a.status_of(&b).last_handshake, Some((start().mono, start().wall)));
}

#[test]
fn a_batch_is_one_send_and_is_received_as_one() {
    let (mut a, mut b) = connected();
    let long = "x".repeat(1400);
    let packets: Vec<_> = (0..70).map(|_| packet(a.ip, b.ip, long.as_bytes())).collect();
    let packets: Vec<_> = packets.iter().map(Vec::as_slice).collect();
    a.tunnel
        .send_packets(&b.key(), &packets, start())
        .expect("a peer");
    let transmits = a.transmits();
    let shape: Vec<_> = transmits
        .iter()
        .map(|transmit| (transmit.segment_len, transmit.bytes.len()))
        .collect();
    assert_eq!(
        shape,
        [(1452, 45 * 1452), (1452, 25 * 1452)],
        "65,507 bytes hold 45 of them"
    );
    for transmit in transmits {
        b.receive(a.place, transmit.bytes, transmit.segment_len, start());
    }
    assert_eq!(b.texts(), vec![long; 70]);
}

#[test]
fn both_ends_may_start_at_the_same_time() {
    let (mut a, mut b) = pair();
    a.send(&b, "from a", start());
    b.send(&a, "from b", start());
    let (from_a, from_b) = (a.transmits(), b.transmits());
    for transmit in from_a {
        b.receive(a.place, transmit.bytes, 0, start());
    }
    for transmit in from_b {
        a.receive(b.place, transmit.bytes, 0, start());
    }
    settle(&mut a, &mut b, start());
    assert_eq!(
        (a.texts(), b.texts()),
        (vec!["from b".into()], vec!["from a".into()])
    );
    a.send(&b, "more", start());
    b.send(&a, "more", start());
    settle(&mut a, &mut b, start());
    assert_eq!((a.texts(), b.texts()), (vec!["more".into()], vec!["more".into()]));
    assert_eq!(
        a.tunnel.counters().dropped_total() + b.tunnel.counters().dropped_total(),
        0
    );
}

#[test]
fn a_preshared_key_must_be_the_same_at_both_ends() {
    let (mut a, mut b) = pair();
    let key = PresharedKey::from_bytes([9; 32]);
    let mut config = b.config_for();
    config.preshared_key = Some(key.clone());
    a.tunnel.upsert_peer(config, start());
    a.send(&b, "hello", start());
    settle(&mut a, &mut b, start());
    assert_eq!(a.dropped(DropReason::BadHandshake), 1);
    assert!(b.texts().is_empty());
    let mut config = a.config_for();
    config.preshared_key = Some(key);
    b.tunnel.upsert_peer(config, start());
    pass(&mut a, &mut b, start(), 6 * SECOND);
    assert_eq!(b.texts(), ["hello"]);
}

#[test]
fn a_handshake_is_tried_for_ninety_seconds() {
    let (mut a, b) = pair();
    a.send(&b, "hello", start());
    assert_eq!(a.transmits().len(), 1);
    let mut initiations = 1;
    loop {
        let (due, timer) = a.tunnel.poll_timeout().expect("something to wait for");
        assert_eq!(timer, Timer::RetransmitHandshake);
        a.tunnel.handle_timeout(start() + due.since(start().mono));
        a.collect_events();
        initiations += a.transmits().len();
        if let Some(event) = a.events.pop() {
            assert_eq!(event, TunnelEvent::HandshakeFailed { peer: b.key() });
            let tried = due.since(start().mono);
            assert!(
                tried >= REKEY_ATTEMPT_TIME && tried < REKEY_ATTEMPT_TIME + 6 * SECOND,
                "{tried:?}"
            );
            break;
        }
    }
    assert!((16..=19).contains(&initiations), "{initiations}");
    assert_eq!(a.dropped(DropReason::QueueAbandoned), 1);
    assert_eq!(a.tunnel.poll_timeout(), None, "nothing to wait for");
}

#[test]
fn an_idle_receiver_says_that_it_is_there_after_ten_seconds() {
    let (mut a, mut b) = connected();
    b.collect_events();
    let (due, timer) = b.tunnel.poll_timeout().expect("a timer");
    assert_eq!(
        (due, timer),
        (start().mono + KEEPALIVE_TIMEOUT, Timer::PassiveKeepalive)
    );
    let fired = pass(&mut a, &mut b, start(), 30 * SECOND);
    assert_eq!(
        fired,
        [Timer::PassiveKeepalive],
        "the keepalive keeps the sender from a new handshake"
    );
}

#[test]
fn a_silent_peer_is_asked_for_a_handshake_after_fifteen_seconds() {
    let (mut a, b) = connected();
    a.send(&b, "lost", start() + SECOND);
    a.transmits();
    let (due, timer) = a.tunnel.poll_timeout().expect("a timer");
    assert_eq!(timer, Timer::Unanswered);
    let waited = due.since(start().mono);
    assert!(waited >= 15 * SECOND && waited < 16 * SECOND, "{waited:?}");
    a.tunnel.handle_timeout(start() + waited);
    assert_eq!(a.transmits()[0].bytes.len(), 148);
}

#[test]
fn a_persistent_keepalive_opens_the_path_and_keeps_it_open() {
    let (mut a, mut b) = pair();
    let mut config = b.config_for();
    config.persistent_keepalive = Some(25 * SECOND);
    a.tunnel.upsert_peer(config, start());
    assert_eq!(
        a.tunnel.poll_timeout(),
        Some((start().mono, Timer::PersistentKeepalive))
    );
    let fired = pass(&mut a, &mut b, start(), 100 * SECOND);
    assert_eq!(fired, vec![Timer::PersistentKeepalive; 5]);
    assert!(a.status_of(&b).has_session && b.status_of(&a).has_session);
    // Nothing else flows, and yet the session is renewed again and again.
    pass(&mut a, &mut b, start() + 100 * SECOND, 1000 * SECOND);
    assert!(a.status_of(&b).has_session && b.status_of(&a).has_session);
    assert!(
        a.events
            .iter()
            .chain(&b.events)
            .all(|event| !matches!(event, TunnelEvent::SessionDown { .. }))
    );
}

#[test]
fn a_session_is_renewed_after_two_minutes_of_sending() {
    let (mut a, mut b) = connected();
    for second in 1..=500 {
        let now = start() + second * SECOND;
        a.send(&b, "tick", now);
        settle(&mut a, &mut b, now);
        b.send(&a, "tock", now);
        settle(&mut a, &mut b, now);
        pass(&mut a, &mut b, now, SECOND);
    }
    assert_eq!((b.texts().len(), a.texts().len()), (500, 500));
    assert_eq!(a.tunnel.counters().handshakes, 5);
    assert_eq!(
        a.tunnel.counters().dropped_total() + b.tunnel.counters().dropped_total(),
        0
    );
}

#[test]
fn a_session_that_only_receives_is_renewed_at_the_last_minute() {
    let (mut a, mut b) = connected();
    for second in 1..=400 {
        let now = start() + second * SECOND;
        b.send(&a, "tick", now);
        // Only b's datagrams arrive and a's handshakes; a has no data of its own.
        settle(&mut a, &mut b, now);
    }
    assert_eq!(a.texts().len(), 400);
}

#[test]
fn an_unused_session_goes_down_after_three_minutes_and_its_keys_after_nine() {
    let (mut a, mut b) = connected();
    a.events.clear();
    b.events.clear();
    let fired = pass(&mut a, &mut b, start(), 179 * SECOND);
    assert_eq!(fired, [Timer::PassiveKeepalive]);
    let fired = pass(&mut a, &mut b, start(), 180 * SECOND);
    assert_eq!(fired, [Timer::SessionExpiry]);
    let reason = DownReason::Expired;
    assert_eq!(
        a.events,
        [TunnelEvent::SessionDown {
            peer: b.key(),
            reason
        }]
    );
    assert_eq!(
        b.events,
        [TunnelEvent::SessionDown {
            peer: a.key(),
            reason
        }]
    );
    let fired = pass(&mut a, &mut b, start(), 1000 * SECOND);
    assert_eq!(fired, [Timer::EraseKeys]);
    let now = start() + 2000 * SECOND;
    a.send(&b, "again", now);
    settle(&mut a, &mut b, now);
    assert_eq!(b.texts(), ["again"]);
}

#[test]
fn a_peer_roams_by_authentic_datagrams_only() {
    let (mut a, mut b) = connected();
    b.events.clear();
    let elsewhere = SocketAddr::from(([198, 51, 100, 7], 4444));
    a.send(&b, "moved", start());
    let genuine = a.transmits().remove(0).bytes;
    let mut forged = genuine.clone();
    forged[20] ^= 1;
    b.receive(elsewhere, forged, 0, start());
    assert_eq!(
        (b.status_of(&a).endpoint, b.dropped(DropReason::BadData)),
        (Some(a.place), 1)
    );
    b.receive(elsewhere, genuine.clone(), 0, start());
    assert_eq!(b.status_of(&a).endpoint, Some(elsewhere));
    assert_eq!(
        b.events,
        [TunnelEvent::EndpointChanged {
            peer: a.key(),
            endpoint: elsewhere
        }]
    );
    b.receive(a.place, genuine, 0, start());
    assert_eq!(
        (b.status_of(&a).endpoint, b.dropped(DropReason::Replayed)),
        (Some(elsewhere), 1)
    );
    // Saying again what was said before does not undo it; saying something new does.
    b.tunnel.upsert_peer(a.config_for(), start());
    assert_eq!(b.status_of(&a).endpoint, Some(elsewhere));
    let mut config = a.config_for();
    config.endpoint = Some(SocketAddr::from(([203, 0, 113, 5], 1)));
    b.tunnel.upsert_peer(config.clone(), start());
    assert_eq!(b.status_of(&a).endpoint, config.endpoint);
}

#[test]
fn no_peer_sends_from_anothers_address_even_when_ranges_nest() {
    let (mut a, mut b) = connected();
    let c = End::new(3);
    // b may send from the whole /24, but one address in it is c's, and one is a's own choice of none.
    let mut config = b.config_for();
    config.allowed_ips = vec!["100.64.0.0/24".parse().expect("a block")];
    a.tunnel.upsert_peer(config, start());
    a.tunnel.upsert_peer(c.config_for(), start());
    assert_eq!(a.tunnel.route(c.ip), Some(c.key()));
    assert_eq!(a.tunnel.route(b.ip), Some(b.key()));
    assert_eq!(a.tunnel.route(IpAddr::from([100, 64, 1, 1])), None);
    for (source, passes) in [
        ([100, 64, 0, 200], true),
        ([100, 64, 0, 3], false),
        ([100, 64, 1, 1], false),
    ] {
        let forged = packet(IpAddr::from(source), a.ip, b"hello");
        b.tunnel
            .send_packets(&a.key(), &[&forged], start())
            .expect("a peer");
        settle(&mut b, &mut a, start());
        assert_eq!(a.texts().len(), usize::from(passes), "{source:?}");
    }
    assert_eq!(a.dropped(DropReason::SpoofedSource), 2);
    // When c is gone, its address is b's again.
    assert!(a.tunnel.remove_peer(&c.key()));
    assert_eq!(a.tunnel.route(c.ip), Some(b.key()));
}

#[test]
fn what_is_no_ip_packet_is_dropped_after_decryption() {
    let (mut a, mut b) = connected();
    let mut long = packet(a.ip, b.ip, b"hello");
    long[3] = 0xff;
    let packets: [&[u8]; 3] = [b"no packet at all, just text", &[0x45; 3], &long];
    a.tunnel
        .send_packets(&b.key(), &packets, start())
        .expect("a peer");
    settle(&mut a, &mut b, start());
    assert_eq!((b.texts().len(), b.dropped(DropReason::BadPacket)), (0, 3));
}

#[test]
fn an_empty_or_giant_packet_is_not_sent() {
    let (mut a, b) = connected();
    let giant = vec![0x45; PACKET_BYTES_MAX + 1];
    a.tunnel
        .send_packets(&b.key(), &[&[], &giant], start())
        .expect("a peer");
    assert_eq!(
        (a.transmits().len(), a.dropped(DropReason::BadSendLength)),
        (0, 2)
    );
    a.tunnel
        .send_packets(&b.key(), &[&giant[1..]], start())
        .expect("a peer");
    assert_eq!(a.transmits()[0].bytes.len(), TRANSMIT_BYTES_MAX);
}

#[test]
fn a_removed_peer_is_cut_off_at_once() {
    let (mut a, mut b) = connected();
    a.send(&b, "late", start());
    assert!(b.tunnel.remove_peer(&a.key()));
    assert!(!b.tunnel.remove_peer(&a.key()));
    settle(&mut a, &mut b, start());
    assert_eq!((b.texts().len(), b.dropped(DropReason::UnknownIndex)), (0, 1));
    assert_eq!(
        b.events.last(),
        Some(&TunnelEvent::SessionDown {
            peer: a.key(),
            reason: DownReason::Removed
        })
    );
    assert_eq!(b.tunnel.peer_status(&a.key()), None);
    assert_eq!(b.tunnel.route(a.ip), None);
    assert_eq!(b.tunnel.poll_timeout(), None);
    assert_eq!(
        b.tunnel.send_packets(&a.key(), &[], start()),
        Err(SendError::UnknownPeer)
    );
    // Its next handshake is one of a stranger.
    pass(&mut a, &mut b, start(), 20 * SECOND);
    assert!(b.dropped(DropReason::UnknownPeer) > 0);
}

#[test]
fn a_replayed_handshake_changes_nothing() {
    let (mut a, mut b) = pair();
    a.send(&b, "hello", start());
    let initiation = a.transmits().remove(0).bytes;
    b.receive(a.place, initiation.clone(), 0, start());
    let response = b.transmits().remove(0).bytes;
    a.receive(b.place, response.clone(), 0, start());
    settle(&mut a, &mut b, start());
    let elsewhere = SocketAddr::from(([198, 51, 100, 7], 4444));
    b.receive(elsewhere, initiation, 0, start() + SECOND);
    a.receive(elsewhere, response, 0, start() + SECOND);
    assert_eq!(b.dropped(DropReason::OldTimestamp), 1);
    assert_eq!(a.dropped(DropReason::UnknownIndex), 1);
    assert_eq!(
        (a.status_of(&b).endpoint, b.status_of(&a).endpoint),
        (Some(b.place), Some(a.place))
    );
    assert!(a.transmits().is_empty() && b.transmits().is_empty());
}

#[test]
fn initiations_of_one_peer_are_twenty_milliseconds_apart() {
    let (mut a, mut b) = pair();
    let mut initiation = |secs| {
        let now = start() + secs * SECOND;
        a.send(&b, "hello", now);
        a.tunnel.handle_timeout(now);
        a.transmits().remove(0).bytes
    };
    let (first, second) = (initiation(0), initiation(10));
    b.receive(a.place, first, 0, start());
    b.receive(a.place, second.clone(), 0, start() + Duration::from_millis(19));
    assert_eq!(b.dropped(DropReason::InitiationFlood), 1);
    b.receive(a.place, second, 0, start() + Duration::from_millis(20));
    let answers = b.transmits();
    assert_eq!((answers[0].segment_len, answers[0].bytes.len()), (92, 2 * 92));
}

#[test]
fn a_flood_of_handshakes_brings_out_the_cookies_and_honest_peers_still_connect() {
    let (mut a, mut b) = pair();
    a.send(&b, "hello", start());
    let initiation = a.transmits().remove(0).bytes;
    for _ in 0..LOAD_PER_SECOND {
        b.receive(a.place, initiation.clone(), 0, start());
    }
    b.transmits();
    b.receive(a.place, initiation, 0, start());
    let reply = b.transmits().remove(0).bytes;
    assert_eq!((reply.len(), b.dropped(DropReason::CookieRequired)), (64, 1));
    a.receive(b.place, reply.clone(), 0, start());
    assert_eq!(a.dropped(DropReason::BadCookieReply), 0);
    a.receive(b.place, reply, 0, start());
    assert_eq!(a.dropped(DropReason::BadCookieReply), 1);
    // The load goes on; a's next initiation carries its cookie.
    let (due, _) = a.tunnel.poll_timeout().expect("a timer");
    let now = start() + due.since(start().mono);
    for number in 0..=LOAD_PER_SECOND {
        let mut other = End::new(3 + (number % 200) as u8);
        other.tunnel.upsert_peer(b.config_for(), now);
        other.send(&b, "flood", now);
        carry(&mut other, &mut b, now);
    }
    b.transmits();
    a.tunnel.handle_timeout(now);
    settle(&mut a, &mut b, now);
    assert_eq!(b.texts(), ["hello"]);
}

#[test]
fn a_packet_waits_for_an_endpoint_too() {
    let (mut a, mut b) = pair();
    let mut unknown = b.config_for();
    unknown.endpoint = None;
    let mut a2 = End::new(1);
    a2.tunnel.upsert_peer(unknown, start());
    a2.send(&b, "hello", start());
    assert_eq!((a2.transmits().len(), a2.dropped(DropReason::NoEndpoint)), (0, 1));
    a2.tunnel.upsert_peer(b.config_for(), start());
    settle(&mut a2, &mut b, start());
    assert_eq!(b.texts(), ["hello"]);
    // Or the peer comes by itself.
    let mut unknown = a.config_for();
    unknown.endpoint = None;
    let mut b2 = End::new(2);
    b2.tunnel.upsert_peer(unknown, start());
    b2.send(&a, "waiting", start());
    a.send(&b2, "knock", start());
    settle(&mut a, &mut b2, start());
    assert_eq!(
        (a.texts(), b2.texts()),
        (vec!["waiting".into()], vec!["knock".into()])
    );
}

#[test]
fn the_queue_keeps_the_newest_packets() {
    let (mut a, mut b) = pair();
    for number in 0..100 {
        a.send(&b, &number.to_string(), start());
    }
    assert_eq!(a.dropped(DropReason::QueueFull), 36);
    settle(&mut a, &mut b, start());
    let expected: Vec<_> = (36..100).map(|number| number.to_string()).collect();
    assert_eq!(b.texts(), expected);
}

#[test]
fn a_peer_with_our_own_key_is_ignored() {
    let mut a = End::new(1);
    a.tunnel.upsert_peer(a.config_for(), start());
    assert_eq!(a.tunnel.peer_status(&a.key()), None);
}

#[test]
fn rubbish_is_counted_and_answered_by_nothing() {
    let (mut a, mut b) = connected();
    for bytes in [vec![], vec![1], vec![9; 148], vec![1; 148], vec![4, 0, 0, 0, 1]] {
        b.receive(a.place, bytes, 0, start());
    }
    a.send(&b, "cut", start());
    let sealed = a.transmits().remove(0).bytes;
    for len in 0..sealed.len() {
        b.receive(a.place, sealed[..len].to_vec(), 0, start());
    }
    assert!(b.transmits().is_empty());
    assert_eq!(
        (b.texts().len(), b.tunnel.counters().dropped_total()),
        (0, 5 + sealed.len() as u64)
    );
}

#[test]
fn the_steady_path_reuses_its_buffers() {
    let (mut a, mut b) = connected();
    let packet = packet(a.ip, b.ip, &[7; 1400]);
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let batch = [packet.as_slice(); 20];
        a.tunnel.send_packets(&b.key(), &batch, start()).expect("a peer");
        while let Some(mut transmit) = a.tunnel.poll_transmit() {
            places.insert((transmit.bytes.as_ptr() as usize, transmit.bytes.capacity()));
            let bytes = transmit.bytes.as_mut_slice();
            let received = Received {
                source: a.place,
                bytes,
                segment_len: transmit.segment_len,
            };
            b.tunnel.handle_received(received, &mut Sink(&mut b.got), start());
            a.tunnel.recycle(transmit.bytes);
        }
    }
    assert!(places.len() <= 2, "one buffer, grown once: {places:?}");
    assert_eq!(b.got.len(), 2000);
}
