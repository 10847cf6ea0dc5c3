//! Calling a peer on our links: when, how often, and when not.

use super::*;

/// A peer without a session to which somebody wants to send, and to which no relay leads.
fn wanted() -> Bench {
    let mut bench = Bench::new();
    bench.paths = PeerPaths::new(key(2), Arc::default(), [7; 32]);
    bench.liveness.is_handshaking = true;
    assert!(bench.paths.is_resting());
    bench.paths.wanted(bench.now);
    assert!(!bench.paths.is_resting(), "once is enough");
    bench
}

/// Lets time pass, with every call made; returns when each was.
fn calls(bench: &mut Bench, span: Duration) -> Vec<Duration> {
    let (start, end) = (bench.now, bench.now + span);
    let mut made = Vec::new();
    while let Some((due, _)) = bench.paths.poll_timeout().filter(|(due, _)| *due <= end) {
        bench.now = bench.now.max(due);
        bench.paths.handle_timeout(bench.liveness, bench.now);
        for action in bench.actions() {
            if action == PathAction::Call {
                made.push(bench.now.since(start));
                bench.paths.called(true, bench.now);
            }
        }
    }
    bench.now = end;
    made
}

#[test]
fn a_peer_that_nobody_knows_where_to_find_is_called_ever_more_rarely() {
    let mut bench = wanted();
    let made = calls(&mut bench, Duration::from_secs(300));
    assert_eq!(made[0], CALL_PATIENCE);
    let waits: Vec<_> = made
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs())
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn who_is_not_wanted_is_not_called() {
    let mut bench = wanted();
    bench.liveness.is_handshaking = false;
    assert!(calls(&mut bench, Duration::from_secs(300)).is_empty());
    let mut quiet = Bench::new();
    quiet.promote(1);
    quiet.paths.set_relays(Vec::new(), quiet.now);
    quiet.liveness.sent = Some(quiet.now);
    let made = calls(&mut quiet, Duration::from_secs(300));
    assert!(!made.is_empty());
    assert!(
        made.iter().all(|at| *at <= CALL_DEMAND + Duration::from_secs(1)),
        "{made:?}"
    );
}

#[test]
fn nobody_is_called_to_whom_a_relay_leads_unless_the_peer_is_not_there() {
    let mut bench = wanted();
    let relay = RelayId(key(9));
    bench.paths.set_relays(vec![relay], bench.now);
    assert!(calls(&mut bench, Duration::from_secs(60)).is_empty());
    bench.paths.not_here(relay, bench.now);
    assert_eq!(calls(&mut bench, Duration::from_secs(1)).len(), 1);
    bench.paths.set_relays(vec![], bench.now);
    bench.paths.set_relays(vec![relay], bench.now);
    assert!(calls(&mut bench, Duration::from_secs(60)).is_empty());
}

#[test]
fn nobody_is_called_who_answers_directly_within_the_time_that_takes() {
    let mut bench = Bench::new();
    bench.promote(1);
    bench.paths.set_relays(Vec::new(), bench.now);
    bench.answers = Some(direct(1));
    bench.liveness.sent = Some(bench.now);
    assert!(!bench.pass(Duration::from_secs(9)).contains(&PathAction::Call));
    // Another network: it answers there, too.
    bench.paths.network_changed(&Arc::default(), bench.now);
    bench.liveness.sent = Some(bench.now);
    assert!(!bench.pass(Duration::from_secs(9)).contains(&PathAction::Call));
}

#[test]
fn a_session_whose_ends_both_moved_is_called_for_as_soon_as_nothing_answers() {
    let mut bench = Bench::new();
    bench.promote(1);
    bench.paths.set_relays(Vec::new(), bench.now);
    bench.liveness.sent = Some(bench.now);
    bench.paths.network_changed(&Arc::default(), bench.now);
    assert_eq!(calls(&mut bench, CALL_PATIENCE), [CALL_PATIENCE]);
    bench.paths.link_changed(bench.now);
    let again = calls(&mut bench, Duration::from_secs(2));
    assert_eq!(
        again[0], CALL_WAIT_MIN,
        "a link that comes and goes makes no flood"
    );
}

#[test]
fn a_call_that_cannot_be_made_is_put_off_and_costs_no_patience() {
    let mut bench = wanted();
    for _ in 0..5 {
        assert!(bench.pass(CALL_WAIT_MIN).contains(&PathAction::Call));
        bench.paths.called(false, bench.now);
    }
    bench.paths.link_changed(bench.now);
    assert_eq!(calls(&mut bench, CALL_PATIENCE), [CALL_PATIENCE]);
}

#[test]
fn an_answer_to_a_call_is_asked_about_and_proves_nothing_by_itself() {
    let mut bench = Bench::new();
    bench.promote(1);
    bench.paths.set_relays(Vec::new(), bench.now);
    bench.paths.network_changed(&Arc::default(), bench.now);
    bench.actions();
    bench.paths.answered(direct(2), bench.now);
    assert_eq!(bench.paths.view().endpoint, Some(direct(1)));
    let ping = bench.pings(direct(2)).remove(0);
    bench.paths.answered(direct(2), bench.now);
    assert!(bench.pings(direct(2)).is_empty(), "it is being asked");
    bench.answer(direct(2), &ping);
    assert_eq!(bench.paths.view().endpoint, Some(direct(2)));
    bench.paths.answered(relayed(), bench.now);
    assert!(bench.pings(relayed()).is_empty());
}
