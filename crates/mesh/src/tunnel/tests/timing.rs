//! What happens when time passes.

use super::*;

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
fn many_peers_due_at_once_are_taken_a_few_at_a_time_and_none_is_forgotten() {
    let mut a = End::new(1);
    for number in 0..1000_u16 {
        let mut seed = [7; 32];
        seed[1..3].copy_from_slice(&number.to_be_bytes());
        let config = PeerConfig {
            public_key: NodePrivateKey::from_random(seed).public(),
            preshared_key: None,
            allowed_ips: Vec::new(),
            endpoint: Some(SocketAddr::from(([192, 0, 2, 7], 1024 + number))),
            mobility: Mobility::Roams,
            persistent_keepalive: Some(25 * SECOND),
        };
        a.tunnel.upsert_peer(config, start());
    }
    let (mut calls, mut sent) = (0, 0);
    while a
        .tunnel
        .poll_timeout()
        .is_some_and(|(due, _)| due <= start().mono)
    {
        a.tunnel.handle_timeout(start());
        let now = a.transmits().len();
        assert!(now <= TIMEOUT_PEERS_MAX, "{now} at once");
        (calls, sent) = (calls + 1, sent + now);
    }
    assert_eq!((calls, sent), (1000_usize.div_ceil(TIMEOUT_PEERS_MAX), 1000));
    assert_eq!(a.tunnel.counters().dropped_total(), 0);
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
fn a_doubted_session_is_renewed_at_once_and_used_until_then() {
    let (mut a, mut b) = connected();
    let later = start() + 20 * SECOND;
    pass(&mut a, &mut b, start(), 20 * SECOND);
    for _ in 0..3 {
        a.tunnel.renew(&b.key(), later).expect("a peer");
    }
    a.send(&b, "on the old one", later);
    let sent: Vec<_> = a
        .transmits()
        .iter()
        .map(|transmit| (transmit.segment_len, transmit.bytes.len()))
        .collect();
    assert_eq!(sent, [(148, 148 + 80)], "one initiation, and data at once");

    let (mut a, mut b) = connected();
    pass(&mut a, &mut b, start(), 20 * SECOND);
    // The peer has lost everything but its key.
    b.tunnel = Tunnel::new(NodePrivateKey::from_random([2; 32]), [77; 32]);
    b.tunnel.upsert_peer(a.config_for(), later);
    a.send(&b, "lost", later);
    settle(&mut a, &mut b, later);
    assert_eq!(b.texts(), [""; 0]);
    a.tunnel.renew(&b.key(), later).expect("a peer");
    settle(&mut a, &mut b, later);
    a.send(&b, "found again", later);
    settle(&mut a, &mut b, later);
    assert_eq!(b.texts(), ["found again"]);
    assert!(
        a.events
            .iter()
            .all(|event| !matches!(event, TunnelEvent::SessionDown { .. }))
    );
}

#[test]
fn doubts_soon_after_an_initiation_wait_until_five_seconds_are_over() {
    let (mut a, mut b) = connected();
    let soon = start() + SECOND;
    a.tunnel.renew(&b.key(), soon).expect("a peer");
    assert!(a.transmits().is_empty());
    let fired = pass(&mut a, &mut b, soon, 5 * SECOND);
    assert_eq!(fired[0], Timer::RetransmitHandshake);
    assert_eq!(
        (a.tunnel.counters().handshakes, b.tunnel.counters().handshakes),
        (2, 2)
    );
    assert_eq!(a.tunnel.renew(&a.key(), soon), Err(SendError::UnknownPeer));
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
fn a_persistent_keepalive_outlives_handshakes_without_an_answer_however_short_it_is() {
    for span in [1, 3, 5, 25] {
        let (mut a, mut b) = pair();
        let mut config = b.config_for();
        config.persistent_keepalive = Some(span * SECOND);
        a.tunnel.upsert_peer(config, start());
        // Nobody is there for ten minutes; then the peer is, and has nothing to say of its own.
        let end = start() + 600 * SECOND;
        while let Some((due, _)) = a.tunnel.poll_timeout().filter(|(due, _)| *due <= end.mono) {
            a.tunnel.handle_timeout(start() + due.since(start().mono));
            a.transmits();
        }
        pass(&mut a, &mut b, end, 35 * SECOND);
        assert!(b.status_of(&a).has_session, "{span}");
    }
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
