//! A peer whose program started anew: it has forgotten the session, and may be elsewhere.

use super::*;

#[test]
fn a_peer_that_begins_a_session_elsewhere_is_sent_to_where_it_took_up_our_answer() {
    let mut bench = Bench::new();
    bench.promote(1);
    bench.paths.confirmed(direct(2), Some(20 * MS), bench.now);
    let view = bench.paths.view();
    assert_eq!((view.endpoint, view.rtt), (Some(direct(2)), Some(20 * MS)));
}

#[test]
fn a_session_begun_through_the_relay_puts_every_direct_path_in_doubt_until_it_answers() {
    let mut bench = Bench::new();
    bench.promote(1);
    bench.paths.confirmed(relayed(), Some(20 * MS), bench.now);
    assert_eq!(bench.kind(), Some(PathKind::Relay));
    let ping = bench.pings(direct(1)).remove(0);
    bench.answer(direct(1), &ping);
    assert_eq!(
        bench.paths.view().endpoint,
        Some(direct(1)),
        "it was there all along"
    );
}

#[test]
fn a_session_confirmed_from_elsewhere_than_it_was_answered_moves_nothing_and_has_the_path_asked() {
    let mut bench = Bench::new();
    bench.promote(1);
    bench.paths.confirmed(direct(2), None, bench.now);
    assert_eq!(bench.paths.view().endpoint, Some(direct(1)));
    assert_eq!(bench.pings(direct(1)).len(), 1);
    bench.paths.confirmed(direct(1), None, bench.now);
    assert!(
        bench.actions().is_empty(),
        "where it is in use it says nothing new"
    );
}

#[test]
fn the_first_session_is_direct_at_once_where_the_peer_took_up_our_answer() {
    let mut bench = Bench::new();
    bench.paths.confirmed(direct(1), Some(20 * MS), bench.now);
    assert_eq!(bench.paths.view().endpoint, Some(direct(1)));
}

#[test]
fn a_silent_relay_has_the_session_renewed_after_three_questions() {
    let mut bench = Bench::new();
    bench.hear(relayed(), Probe::Ping([1; 12]));
    bench.liveness.sent = Some(bench.now);
    let soon = bench.pass(RELAY_SILENCE_MAX * 4 - MS);
    assert!(!soon.contains(&PathAction::Renew));
    assert!(bench.pass(2 * MS).contains(&PathAction::Renew));
}
