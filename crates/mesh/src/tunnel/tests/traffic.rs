//! What honest peers do.

use super::*;

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
            b.tunnel
                .handle_received(received, &mut Sink(&mut b.got, &mut Vec::new()), start());
            a.tunnel.recycle(transmit.bytes);
        }
    }
    assert!(places.len() <= 2, "one buffer, grown once: {places:?}");
    assert_eq!(b.got.len(), 2000);
}
