//! Direct paths that fall silent: how soon they are given up, and for what.

use super::*;

/// Sends all the time while the path in use was heard until now; returns how long after that another one is used.
fn given_up(
    bench: &mut Bench,
    sending_for: Duration,
    step: Duration,
) -> Option<(Duration, Option<Endpoint>)> {
    let heard = bench.now;
    while bench.now.since(heard) < sending_for {
        bench.liveness.sent = Some(bench.now);
        for action in bench.pass(step) {
            if let PathAction::Use(next) = action {
                return Some((bench.now.since(heard), next));
            }
        }
    }
    None
}

#[test]
fn it_is_given_up_as_soon_whenever_it_was_heard_last() {
    for phase in 0..10 {
        let mut bench = Bench::new();
        bench.promote(1);
        for _ in 0..20 + phase {
            bench.liveness.sent = Some(bench.now);
            bench.liveness.heard = Some((direct(1), bench.now));
            bench.pass(50 * MS);
        }
        bench.liveness.heard = Some((direct(1), bench.now));
        let (after, next) = given_up(&mut bench, Duration::from_secs(4), MS).expect("given up");
        assert_eq!(next, Some(relayed()));
        assert_eq!(
            after,
            SILENCE_MAX + UNANSWERED_MAX * ANSWER_TIMEOUT,
            "phase {phase}"
        );
    }
}

#[test]
fn one_that_answers_after_a_long_round_trip_is_kept() {
    let mut bench = Bench::new();
    bench.candidates(Mapping::EndpointIndependent, &[1]);
    let ping = bench.pings(direct(1)).remove(0);
    let rtt = 900 * MS;
    bench.now = bench.now + rtt;
    bench.answer(direct(1), &ping);
    bench.actions();
    let mut under_way = Vec::new();
    let begin = bench.now;
    while bench.now.since(begin) < Duration::from_secs(20) {
        bench.liveness.sent = Some(bench.now);
        for action in bench.pass(50 * MS) {
            assert!(!matches!(action, PathAction::Use(_)), "{action:?}");
            if let PathAction::Probe(to, ping @ Probe::Ping(_)) = action
                && to == direct(1)
            {
                under_way.push((bench.now + rtt, ping));
            }
        }
        let arrived: Vec<_> = under_way.extract_if(.., |(due, _)| *due <= bench.now).collect();
        for (_, ping) in arrived {
            bench.answer(direct(1), &ping);
            bench.liveness.heard = Some((direct(1), bench.now));
        }
    }
    assert_eq!(bench.kind(), Some(PathKind::Direct));
}

#[test]
fn another_one_that_answers_meanwhile_carries_after_one_question() {
    let mut bench = Bench::new();
    bench.promote(1);
    let begin = bench.now;
    bench.pass(100 * MS);
    // The peer has got another address, and asks from there.
    bench.answers = Some(direct(2));
    bench.hear(direct(2), Probe::Ping([3; 12]));
    let ping = bench.pings(direct(2)).remove(0);
    bench.answer(direct(2), &ping);
    let (_, next) = given_up(&mut bench, Duration::from_secs(4), 10 * MS).expect("given up");
    assert_eq!(next, Some(direct(2)));
    let after = bench.now.since(begin);
    assert!(after <= SILENCE_MAX + ANSWER_TIMEOUT + 10 * MS, "{after:?}");
}

#[test]
fn without_a_relay_a_path_that_died_is_said_to_be_lost_until_it_answers() {
    let mut bench = Bench::new();
    bench.promote(1);
    bench.paths.set_relays(Vec::new(), bench.now);
    let end = bench.now + Duration::from_secs(4);
    while bench.now < end {
        bench.liveness.sent = Some(bench.now);
        bench.pass(50 * MS);
    }
    let view = bench.paths.view();
    assert_eq!(
        (view.endpoint, view.reason),
        (Some(direct(1)), PathReason::PathLost)
    );
    bench.answers = Some(direct(1));
    bench.pass(2 * ROUND);
    assert_eq!(bench.paths.view().reason, PathReason::EndpointAnswered);
}
