//! Calls on a link: who answers, and what strangers there achieve.

use super::*;
use crate::load::LOAD_PER_SECOND;

#[test]
fn where_calls_go_is_pinned() {
    let groups = (CALL_GROUP_V4.to_string(), CALL_GROUP_V6.to_string());
    assert_eq!(groups, ("239.255.83.65".to_owned(), "ff12::8000:5341".to_owned()));
    assert_eq!((CALL_PORT, CALL_LEN), (21_313, 148));
}

/// Two ends that know each other and not where the other is.
fn strangers() -> (End, End) {
    let (mut a, mut b) = (End::new(1), End::new(2));
    let managed = |end: &End| PeerConfig {
        endpoint: None,
        mobility: Mobility::Managed,
        ..end.config_for()
    };
    a.tunnel.upsert_peer(managed(&b), start());
    b.tunnel.upsert_peer(managed(&a), start());
    (a, b)
}

impl End {
    fn hear(&mut self, source: Endpoint, mut bytes: Vec<u8>, now: Now) {
        let mut sink = Sink(&mut self.got, &mut self.probes);
        self.tunnel.handle_call(source, &mut bytes, &mut sink, now);
        self.collect_events();
    }

    fn call(&mut self, peer: &End, now: Now) -> Vec<u8> {
        self.tunnel.call(&peer.key(), now).expect("a peer");
        let call = self.tunnel.poll_call().expect("a call");
        assert_eq!(self.tunnel.poll_call(), None);
        call.to_vec()
    }
}

#[test]
fn the_peer_that_is_called_answers_and_nobody_else() {
    let (mut a, mut b) = strangers();
    let mut c = End::new(3);
    c.tunnel.upsert_peer(a.config_for(), start());
    a.send(&b, "where are you", start());
    let call = a.call(&b, start());
    assert!(a.transmits().is_empty(), "it is known nowhere else");
    for other in [&mut c, &mut a] {
        let source = SocketAddr::from(([192, 0, 2, 1], 51820)).into();
        other.hear(source, call.clone(), start());
        assert!(other.transmits().is_empty());
        assert_eq!(other.dropped(DropReason::CallForOthers), 1);
    }
    b.hear(a.place, call.clone(), start());
    b.hear(a.place, call, start());
    assert_eq!(b.dropped(DropReason::OldTimestamp), 1, "two links, one answer");
    assert_eq!(carry(&mut b, &mut a, start()), 1);
    let answered = TunnelEvent::Answered {
        peer: b.key(),
        endpoint: b.place,
    };
    assert!(a.events.contains(&answered));
    settle(&mut a, &mut b, start());
    assert_eq!(b.texts(), ["where are you"]);
}

#[test]
fn a_call_says_again_what_was_sent_just_before_and_begins_anew_later() {
    let (mut a, mut b) = strangers();
    a.tunnel
        .set_endpoint(&b.key(), Some(b.place), start())
        .expect("a peer");
    a.send(&b, "hello", start());
    let sent = a.transmits().remove(0).bytes;
    let soon = start() + Duration::from_millis(250);
    assert_eq!(a.call(&b, soon), sent);
    assert!(a.transmits().is_empty());
    let later = start() + SECOND;
    let call = a.call(&b, later);
    assert_ne!(call, sent);
    assert_eq!(
        a.transmits().remove(0).bytes,
        call,
        "it goes where it went before, too"
    );
    b.hear(a.place, call, later);
    settle(&mut b, &mut a, later);
    assert_eq!(b.texts(), ["hello"]);
}

#[test]
fn a_live_session_is_found_again_by_a_call() {
    let (mut a, mut b) = strangers();
    a.tunnel
        .set_endpoint(&b.key(), Some(b.place), start())
        .expect("a peer");
    a.send(&b, "hello", start());
    settle(&mut a, &mut b, start());
    let later = start() + SECOND;
    let call = a.call(&b, later);
    a.transmits();
    let moved = Endpoint::from(SocketAddr::from(([192, 0, 2, 77], 51820)));
    b.hear(moved, call, later);
    let response = b.transmits().remove(0);
    assert_eq!(response.destination, moved);
    a.receive(b.place, response.bytes, 0, later);
    let completed = a.status_of(&b).last_handshake;
    assert_eq!(completed.map(|(at, _)| at), Some(later.mono));
}

#[test]
fn nothing_but_an_initiation_is_taken_from_a_link() {
    let (mut a, mut b) = strangers();
    a.tunnel
        .set_endpoint(&b.key(), Some(b.place), start())
        .expect("a peer");
    a.send(&b, "hello", start());
    let initiation = a.transmits().remove(0).bytes;
    b.receive(a.place, initiation.clone(), 0, start());
    let response = b.transmits().remove(0).bytes;
    a.receive(b.place, response.clone(), 0, start());
    let data = a.transmits().remove(0).bytes;
    let mut long = initiation.clone();
    long.push(0);
    let mut marked = initiation.clone();
    marked[1] = 1;
    let garbage: [&[u8]; 7] = [
        &response,
        &data,
        &long,
        &marked,
        &initiation[..147],
        &[],
        &[0xff; 1500],
    ];
    for bytes in garbage {
        b.hear(a.place, bytes.to_vec(), start());
        a.hear(b.place, bytes.to_vec(), start());
    }
    assert_eq!(b.dropped(DropReason::NoCall), 7);
    assert_eq!(a.dropped(DropReason::NoCall), 7);
    assert!(b.transmits().is_empty() && b.texts().is_empty());
}

#[test]
fn forgeries_and_strangers_who_know_our_key_get_no_answer() {
    let (mut a, mut b) = strangers();
    let call = a.call(&b, start());
    for index in 4..call.len() - 16 {
        let mut forged = call.clone();
        forged[index] ^= 1;
        b.hear(a.place, forged, start());
    }
    assert_eq!(b.dropped(DropReason::CallForOthers), 128);
    let mut stranger = End::new(3);
    stranger.tunnel.upsert_peer(b.config_for(), start());
    let call = stranger.call(&b, start());
    stranger.transmits();
    b.hear(stranger.place, call, start());
    assert_eq!(b.dropped(DropReason::UnknownPeer), 1);
    assert!(b.transmits().is_empty());
}

#[test]
fn a_flood_of_calls_for_us_is_answered_by_less_than_it_sends_and_a_peer_with_a_cookie_comes_through() {
    let (mut a, mut b) = strangers();
    let mut stranger = End::new(3);
    stranger.tunnel.upsert_peer(b.config_for(), start());
    let flood = stranger.call(&b, start());
    for _ in 0..2 * LOAD_PER_SECOND {
        b.hear(stranger.place, flood.clone(), start());
    }
    let answered: usize = b.transmits().iter().map(|transmit| transmit.bytes.len()).sum();
    assert_eq!(
        answered,
        LOAD_PER_SECOND as usize * 64,
        "a cookie each, once under load"
    );
    assert!(answered < 2 * LOAD_PER_SECOND as usize * flood.len() / 4);
    let call = a.call(&b, start());
    a.transmits();
    b.hear(a.place, call, start());
    assert_eq!(carry(&mut b, &mut a, start()), 1, "a cookie, to the caller alone");
    let later = start() + SECOND;
    let call = a.call(&b, later);
    a.transmits();
    b.hear(a.place, call, later);
    settle(&mut b, &mut a, later);
    assert!(a.status_of(&b).has_session);
}

#[test]
fn calls_that_nobody_collects_are_limited() {
    let (mut a, b) = strangers();
    for second in 0..CALLS_WAITING_MAX as u32 + 5 {
        a.tunnel
            .call(&b.key(), start() + SECOND * second)
            .expect("a peer");
    }
    let waiting = std::iter::from_fn(|| a.tunnel.poll_call()).count();
    assert_eq!(
        (waiting, a.dropped(DropReason::OutboxFull)),
        (CALLS_WAITING_MAX, 5)
    );
}
