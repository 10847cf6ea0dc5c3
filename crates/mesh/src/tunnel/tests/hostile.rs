//! What strangers, liars and floods achieve: nothing but a count.

use super::*;

#[test]
fn a_peer_roams_by_authentic_datagrams_only() {
    let (mut a, mut b) = connected();
    b.events.clear();
    let elsewhere = Endpoint::from(SocketAddr::from(([198, 51, 100, 7], 4444)));
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
        [TunnelEvent::Heard {
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
    assert_eq!(b.status_of(&a).endpoint, config.endpoint.map(Endpoint::from));
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
    assert_eq!(a.transmits()[0].bytes.len(), TRANSMIT_BYTES_MAX - RELAY_HEADROOM);
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
    let elsewhere = Endpoint::from(SocketAddr::from(([198, 51, 100, 7], 4444)));
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
    for _ in 0..crate::load::LOAD_PER_SECOND {
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
    for number in 0..=crate::load::LOAD_PER_SECOND {
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
