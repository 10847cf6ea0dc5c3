//! What a relay and its clients do with what is forged, replayed, malformed or too much.

use super::*;

/// Sends so many Hellos that do not open.
pub(super) fn flood(bench: &mut Bench, count: u32) {
    for number in 0..count {
        let mut hello = frame::hello(&[0; 16], &[0x33; 216]);
        let len = hello.len();
        let octets = number.to_be_bytes();
        let source = Source::Udp(SocketAddr::from(([203, 0, octets[2], octets[3]], 1)));
        bench.feed_server(source, &mut hello, len);
        while bench.server.poll_transmit().is_some() {}
    }
}

/// Returns the frames that a client sends on its way in, without carrying them.
fn hello_of(bench: &mut Bench, who: u8) -> Vec<u8> {
    let ticket = ticket(who, 1, wall(Duration::from_secs(300)));
    let mut client = RelayClient::new(bench.server.id(), key(who), Some(ticket), [who + 100; 32]);
    client.connect(bench.now().mono);
    client.poll_transmit().expect("a Hello")
}

fn drops(bench: &Bench, reason: RelayDrop) -> u64 {
    bench.server.counters().dropped(reason)
}

#[test]
fn a_replayed_hello_moves_nobody() {
    let mut bench = pair();
    let mut hello = hello_of(&mut bench, 1);
    let attacker = Source::Udp("203.0.113.66:6".parse().expect("address"));
    let len = hello.len();
    for _ in 0..10 {
        bench.feed_server(attacker, &mut hello.clone(), len);
    }
    bench.feed_server(attacker, &mut hello, len);
    bench.settle();
    bench.send(2, 1, &[b"x"]);
    assert_eq!(bench.inbox(1).len(), 1);
    assert_eq!(bench.server.client_count(), 2);
    bench.advance(Duration::from_secs(11));
    assert_eq!(bench.server.client_count(), 2);
}

#[test]
fn a_replayed_confirm_moves_nobody() {
    let mut bench = pair();
    let mut frames = Vec::new();
    let (client, _) = bench.clients.get_mut(&1).expect("added");
    client.check(Monotonic::from_start(Duration::from_secs(1)));
    frames.extend(client.poll_transmit());
    let mut confirm = frames.pop().expect("a Confirm");
    let len = confirm.len();
    bench.feed_server(Bench::udp(1), &mut confirm.clone(), len);
    bench.settle();
    let attacker = Source::Udp("203.0.113.66:6".parse().expect("address"));
    bench.feed_server(attacker, &mut confirm, len);
    assert_eq!(drops(&bench, RelayDrop::Replayed), 1);
    bench.send(2, 1, &[b"x"]);
    assert_eq!(bench.inbox(1).len(), 1);
}

#[test]
fn a_ticket_of_another_node_or_authority_lets_nobody_in() {
    let mut bench = Bench::new();
    let stolen = ticket(2, 1, wall(Duration::from_secs(300)));
    let forged = RelayTicket {
        node: key(1).public(),
        realm: Realm([1; 16]),
        expires_at: wall(Duration::from_secs(300)),
    };
    let forged = forged.sign(&SigningPrivateKey::from_random([0xbb; 32]));
    let old = ticket(1, 1, wall(Duration::ZERO) - Duration::from_secs(61));
    for bad in [stolen, forged, old] {
        let client = RelayClient::new(bench.server.id(), key(1), Some(bad), [1; 32]);
        bench.clients.insert(1, (client, Bench::udp(1)));
        bench.client(1, RelayClient::connect);
        assert!(!bench.is_up(1));
    }
    assert_eq!(drops(&bench, RelayDrop::BadTicket), 3);
}

#[test]
fn another_relay_key_answers_nothing() {
    let mut bench = Bench::new();
    let ticket = ticket(1, 1, wall(Duration::from_secs(300)));
    let other = types::RelayId(key(0x77).public());
    let client = RelayClient::new(other, key(1), Some(ticket), [1; 32]);
    bench.clients.insert(1, (client, Bench::udp(1)));
    bench.client(1, RelayClient::connect);
    assert_eq!(drops(&bench, RelayDrop::BadHandshake), 1);
}

#[test]
fn a_stranger_cannot_send_through_the_relay() {
    let mut bench = pair();
    bench.send(1, 2, &[b"x"]);
    bench.inbox(2);
    let header = bench.clients[&1].0.header(&key(2).public()).expect("up");
    let mut frame = [header.as_bytes(), b"forged"].concat();
    let len = frame.len();
    bench.feed_server(
        Source::Udp("203.0.113.66:6".parse().expect("address")),
        &mut frame,
        len,
    );
    assert!(bench.inbox(2).is_empty());
    assert_eq!(drops(&bench, RelayDrop::Unbound), 1);
}

#[test]
fn a_flood_costs_the_flooder_only() {
    let mut bench = pair();
    bench.add(3, 1);
    bench.send(1, 2, &[b"x"]);
    bench.inbox(2);
    bench.events.clear();
    let datagram = [0; 1400];
    for _ in 0..200 {
        bench.send(1, 2, &[&datagram]);
    }
    let passed = bench.inbox(2).len();
    assert!((60..=72).contains(&passed), "{passed}");
    let complaints = bench
        .events
        .iter()
        .filter(|(_, event)| *event == ClientEvent::TooMuch);
    assert_eq!(complaints.count(), 1);
    bench.send(3, 2, &[b"unhurt"]);
    assert_eq!(bench.inbox(2).len(), 1);
    bench.advance(Duration::from_millis(10));
    bench.send(1, 2, &[&datagram]);
    assert_eq!(bench.inbox(2).len(), 1, "the quota fills again");
}

#[test]
fn of_a_batch_over_the_quota_as_many_pass_as_fit() {
    let mut bench = pair();
    bench.send(1, 2, &[b"x"]);
    bench.inbox(2);
    let datagram = vec![0; 1992];
    bench.send(1, 2, &vec![datagram.as_slice(); 60]);
    // 100,000 bytes at once, of which the first datagram took 41: 49 frames of 2,000 bytes.
    assert_eq!(bench.inbox(2).len(), 49);
    assert_eq!(drops(&bench, RelayDrop::TooMuch), 11);
    let counters = bench.server.counters();
    assert_eq!(
        (counters.datagrams_forwarded, counters.bytes_forwarded),
        (50, 1 + 49 * 1992)
    );
}

#[test]
fn clients_beyond_the_limit_are_not_answered_but_those_inside_come_back() {
    let mut bench = pair();
    bench.server = RelayServer::new(RelayConfig {
        private_key: key(0xee),
        authority: authority().public(),
        quota: QUOTA,
        clients_max: 1,
        seed: [7; 32],
    });
    bench.clients.clear();
    bench.add(1, 1);
    bench.add(2, 1);
    assert!(bench.is_up(1) && !bench.is_up(2));
    assert_eq!(drops(&bench, RelayDrop::Full), 1);
    bench.add(1, 1);
    assert!(bench.is_up(1));
}

#[test]
fn a_forged_welcome_or_challenge_does_not_stop_a_client() {
    let mut bench = Bench::new();
    let ticket = ticket(1, 1, wall(Duration::from_secs(300)));
    let client = RelayClient::new(bench.server.id(), key(1), Some(ticket), [1; 32]);
    bench.clients.insert(1, (client, Bench::udp(1)));
    let now = bench.now().mono;
    let (client, _) = bench.clients.get_mut(&1).expect("added");
    client.connect(now);
    let mut welcome = frame::welcome(&[0x11; 70]);
    assert!(
        client
            .handle_frame(&mut welcome, known, now)
            .expect("a frame")
            .is_none()
    );
    let bytes = [0x44; 216];
    let other = frame::Hello {
        cookie: &[0; 16],
        noise: &bytes,
    };
    let mut challenge = frame::challenge(&other, &[5; 16]);
    assert!(
        client
            .handle_frame(&mut challenge, known, now)
            .expect("a frame")
            .is_none()
    );
    bench.settle();
    assert!(bench.is_up(1));
}

#[test]
fn lies_of_being_unbound_cost_one_confirm_a_second() {
    let mut bench = pair();
    let now = bench.now().mono;
    let (client, _) = bench.clients.get_mut(&1).expect("added");
    let mut confirms = 0;
    for _ in 0..100 {
        let mut lie = frame::unbound();
        client.handle_frame(&mut lie, known, now).expect("a frame");
        confirms += std::iter::from_fn(|| client.poll_transmit()).count();
    }
    assert_eq!(confirms, 1);
}

proptest! {
    #[test]
    fn no_bytes_bring_either_end_down(
        kind in 0x7f_u8..0x8a,
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        frame_len in 0_usize..320,
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let mut bench = pair();
        let now = bench.now();
        bench.server.handle_frames(Bench::udp(1), &mut bytes.clone(), frame_len, &mut Forwarded::default(), now);
        let (client, _) = bench.clients.get_mut(&1).expect("added");
        let _ = client.handle_frame(&mut bytes, known, now.mono);
        bench.settle();
    }
}
