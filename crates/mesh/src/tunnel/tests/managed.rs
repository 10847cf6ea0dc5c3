//! A peer whose endpoint the caller manages: what moves it, what does not, and probes.

use types::RelayId;

use super::*;

fn relayed(to: &End) -> Endpoint {
    Endpoint::Relayed {
        relay: RelayId(NodePrivateKey::from_random([9; 32]).public()),
        peer: to.key(),
    }
}

fn elsewhere() -> Endpoint {
    SocketAddr::from(([198, 51, 100, 7], 4444)).into()
}

fn managed(end: &End) -> PeerConfig {
    PeerConfig {
        endpoint: None,
        mobility: Mobility::Managed,
        ..end.config_for()
    }
}

/// Two ends with a session, both at endpoints that their callers manage.
fn ends() -> (End, End) {
    let (mut a, mut b) = (End::new(1), End::new(2));
    a.tunnel.upsert_peer(managed(&b), start());
    b.tunnel.upsert_peer(managed(&a), start());
    a.tunnel
        .set_endpoint(&b.key(), Some(b.place), start())
        .expect("a peer");
    a.send(&b, "hello", start());
    settle(&mut a, &mut b, start());
    assert!(a.status_of(&b).has_session && b.status_of(&a).has_session);
    (a, b)
}

#[test]
fn an_authentic_datagram_is_reported_and_moves_nothing() {
    let (mut a, mut b) = ends();
    b.events.clear();
    a.send(&b, "from elsewhere", start());
    let genuine = a.transmits().remove(0).bytes;
    b.receive(elsewhere(), genuine, 0, start());
    assert_eq!(b.status_of(&a).endpoint, Some(a.place));
    let endpoint = elsewhere();
    let peer = a.key();
    assert_eq!(b.events, [TunnelEvent::Heard { peer, endpoint }]);
}

#[test]
fn an_initiation_goes_everywhere_and_is_answered_where_it_came_from() {
    let (mut a, mut b) = (End::new(1), End::new(2));
    a.tunnel.upsert_peer(managed(&b), start());
    b.tunnel.upsert_peer(managed(&a), start());
    a.send(&b, "waits", start());
    assert!(a.transmits().is_empty());
    let ways = vec![relayed(&b), elsewhere()];
    a.tunnel
        .set_handshake_endpoints(&b.key(), ways.clone(), start())
        .expect("a peer");
    let sent = a.transmits();
    let to: Vec<_> = sent.iter().map(|transmit| transmit.destination).collect();
    assert_eq!(to, ways);
    assert_eq!(sent[0].bytes[..RELAY_HEADROOM], [0; RELAY_HEADROOM]);
    let initiation = sent[0].bytes[RELAY_HEADROOM..].to_vec();
    assert_eq!(initiation, sent[1].bytes);
    b.receive(relayed(&a), initiation.clone(), 0, start());
    b.receive(a.place, initiation, 0, start());
    assert_eq!(b.dropped(DropReason::OldTimestamp), 1);
    let answers = b.transmits();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].destination, relayed(&a));
    a.receive(
        relayed(&b),
        answers[0].bytes[RELAY_HEADROOM..].to_vec(),
        0,
        start(),
    );
    assert_eq!(a.status_of(&b).endpoint, Some(relayed(&b)), "better than nowhere");
}

#[test]
fn a_probe_travels_where_it_is_sent_and_reaches_the_sink() {
    let (mut a, mut b) = ends();
    let probe = probe::Probe::Ping([3; 12]).encode();
    let carried = a.tunnel.send_probe(&b.key(), elsewhere(), &probe, start());
    assert_eq!(carried, Ok(true));
    let sent = a.transmits().remove(0);
    assert_eq!(sent.destination, elsewhere());
    b.receive(a.place, sent.bytes, 0, start());
    let (from, source, read) = b.probes.remove(0);
    assert_eq!((from, source), (a.key(), a.place));
    assert_eq!(probe::Probe::decode(&read), Some(probe::Probe::Ping([3; 12])));
    assert!(b.got.iter().all(|(_, packet)| packet[0] != 0));
}

#[test]
fn a_peer_that_roams_is_sent_no_probe_and_its_probes_are_bad_packets() {
    let (mut a, mut b) = ends();
    b.tunnel.upsert_peer(a.config_for(), start());
    let probe = probe::Probe::Ping([3; 12]).encode();
    a.tunnel
        .send_probe(&b.key(), b.place, &probe, start())
        .expect("a peer");
    let bytes = a.transmits().remove(0).bytes;
    b.receive(a.place, bytes, 0, start());
    assert!(b.probes.is_empty());
    assert_eq!(b.dropped(DropReason::BadPacket), 1);
}

#[test]
fn without_a_session_no_probe_is_sent() {
    let (mut a, b) = (End::new(1), End::new(2));
    a.tunnel.upsert_peer(managed(&b), start());
    let probe = probe::Probe::Ping([3; 12]).encode();
    let carried = a.tunnel.send_probe(&b.key(), b.place, &probe, start());
    assert_eq!(carried, Ok(false));
    assert!(a.transmits().is_empty());
}

#[test]
fn a_place_that_is_known_a_moment_later_gets_the_same_initiation_and_after_that_another() {
    let (mut a, b) = (End::new(1), End::new(2));
    a.tunnel.upsert_peer(managed(&b), start());
    a.send(&b, "waits", start());
    let mut told = |places: Vec<Endpoint>, at: Now| {
        let set = a.tunnel.set_handshake_endpoints(&b.key(), places, at);
        set.expect("a peer");
        let transmits = a.transmits().into_iter();
        let sent = transmits.map(|sent| (sent.destination, sent.bytes[sent.bytes.len() - 148..].to_vec()));
        sent.collect::<Vec<_>>()
    };
    let first = told(vec![b.place], start());
    let soon = told(vec![b.place, elsewhere()], start() + Duration::from_millis(250));
    assert_eq!(soon.len(), 1, "where it is already is not asked again");
    assert_eq!((soon[0].0, &soon[0].1), (elsewhere(), &first[0].1));
    let late = told(vec![b.place, relayed(&b)], start() + Duration::from_millis(251));
    assert_eq!(late.len(), 2, "another initiation goes everywhere");
    assert_ne!(late[0].1, first[0].1);
}

#[test]
fn who_took_up_our_answer_is_told_with_where_and_how_soon() {
    let (mut a, mut b) = ends();
    let later = start() + Duration::from_secs(10);
    a.tunnel.renew(&b.key(), later).expect("a peer");
    b.events.clear();
    carry(&mut a, &mut b, later);
    carry(&mut b, &mut a, later + Duration::from_millis(10));
    carry(&mut a, &mut b, later + Duration::from_millis(20));
    let peer = a.key();
    let confirmed = |endpoint, rtt| TunnelEvent::Confirmed { peer, endpoint, rtt };
    assert_eq!(b.events, [confirmed(a.place, Some(Duration::from_millis(20)))]);
    let later = later + Duration::from_secs(10);
    a.tunnel.renew(&b.key(), later).expect("a peer");
    b.events.clear();
    carry(&mut a, &mut b, later);
    carry(&mut b, &mut a, later);
    let keepalive = a.transmits().remove(0).bytes;
    b.receive(elsewhere(), keepalive, 0, later);
    assert!(b.events.contains(&confirmed(elsewhere(), None)), "{:?}", b.events);
}
