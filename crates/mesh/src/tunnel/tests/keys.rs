//! Other keys: our own, and a peer's.

use super::*;

fn another_key() -> NodePrivateKey {
    NodePrivateKey::from_random([77; 32])
}

fn first_key() -> NodePrivateKey {
    NodePrivateKey::from_random([1; 32])
}

/// Lets `a` renew its session; the time is late enough for an initiation.
fn renew(a: &mut End, b: &mut End, peer: &NodePublicKey, now: Now) {
    a.tunnel.renew(peer, now).expect("a peer");
    settle(a, b, now);
}

#[test]
fn a_session_outlives_the_change_of_a_key_and_is_renewed_under_the_new_one() {
    let (mut a, mut b) = connected();
    let old = a.key();
    a.tunnel.set_keys(another_key(), Some(first_key()));
    assert!(b.tunnel.rename_peer(&old, a.key(), start()));
    assert_eq!(b.tunnel.peer_status(&old), None);
    a.send(&b, "in the old session", start());
    b.send(&a, "and back", start());
    settle(&mut a, &mut b, start());
    assert_eq!(b.texts(), ["in the old session"]);
    assert_eq!(a.texts(), ["and back"]);
    assert_eq!(a.tunnel.counters().handshakes, 1);

    let later = start() + 10 * SECOND;
    let peer = b.key();
    renew(&mut a, &mut b, &peer, later);
    assert_eq!(a.status_of(&b).last_handshake, Some((later.mono, later.wall)));
    let peer = a.key();
    let later = later + 10 * SECOND;
    renew(&mut b, &mut a, &peer, later);
    assert_eq!(b.status_of(&a).last_handshake, Some((later.mono, later.wall)));
}

#[test]
fn a_handshake_with_the_key_that_a_peer_had_is_a_strangers() {
    let (mut a, mut b) = connected();
    assert!(b.tunnel.rename_peer(&a.key(), another_key().public(), start()));
    let later = start() + 10 * SECOND;
    let peer = b.key();
    renew(&mut a, &mut b, &peer, later);
    assert_eq!(b.dropped(DropReason::UnknownPeer), 1);
    assert_eq!(a.tunnel.counters().handshakes, 1);
}

#[test]
fn a_peer_that_knows_only_the_old_key_is_answered_and_greeted_with_it_until_it_is_given_up() {
    let (mut a, mut b) = connected();
    let old = a.key();
    a.tunnel.set_keys(another_key(), Some(first_key()));
    let mut now = start() + 10 * SECOND;
    renew(&mut b, &mut a, &old, now);
    assert_eq!(a.status_of(&b).last_handshake, Some((now.mono, now.wall)));

    now = now + 10 * SECOND;
    let peer = b.key();
    renew(&mut a, &mut b, &peer, now);
    assert_eq!(
        b.dropped(DropReason::UnknownPeer),
        1,
        "it does not know the new key"
    );
    let fired = pass(&mut a, &mut b, now, 8 * SECOND);
    assert!(fired.contains(&Timer::RetransmitHandshake));
    let renewed = a.status_of(&b).last_handshake.expect("a handshake").0;
    assert!(renewed > now.mono, "the old key was tried next");

    a.tunnel.set_keys(another_key(), None);
    now = now + 20 * SECOND;
    b.collect_events();
    renew(&mut b, &mut a, &old, now);
    assert_eq!(a.dropped(DropReason::BadMac1), 1);
}

#[test]
fn a_peer_that_knows_the_new_key_already_is_answered_before_we_speak_as_it() {
    let (mut a, mut b) = pair();
    let old = a.key();
    a.tunnel.set_keys(first_key(), Some(another_key()));
    assert!(b.tunnel.rename_peer(&old, another_key().public(), start()));
    let packet = packet(b.ip, a.ip, b"first");
    let to = another_key().public();
    b.tunnel.send_packets(&to, &[&packet], start()).expect("a peer");
    settle(&mut a, &mut b, start());
    assert_eq!(a.texts(), ["first"]);
}

#[test]
fn a_handshake_under_way_goes_on_with_the_key_that_the_peer_has_now() {
    let (mut a, mut b) = pair();
    b.send(&a, "waits", start());
    b.transmits();
    let old = a.key();
    a.tunnel.set_keys(another_key(), None);
    assert!(b.tunnel.rename_peer(&old, a.key(), start()));
    settle(&mut a, &mut b, start());
    assert_eq!(a.texts(), ["waits"]);
}

#[test]
fn a_key_that_is_somebodys_is_not_taken_by_another() {
    let (mut a, b) = pair();
    let c = End::new(3);
    a.tunnel.upsert_peer(c.config_for(), start());
    assert!(!a.tunnel.rename_peer(&b.key(), c.key(), start()));
    let own = a.key();
    assert!(!a.tunnel.rename_peer(&b.key(), own, start()));
    a.tunnel.set_keys(first_key(), Some(another_key()));
    assert!(!a.tunnel.rename_peer(&b.key(), another_key().public(), start()));
    assert!(
        !a.tunnel
            .rename_peer(&another_key().public(), End::new(4).key(), start())
    );
    assert!(a.tunnel.peer_status(&b.key()).is_some());
}
