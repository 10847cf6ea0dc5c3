//! When ports are guessed, how much, and what a guess can and cannot do, told by hand.

use super::*;
use crate::endpoint::SocketNumber;
use crate::probe::Transaction;

const SECOND: Duration = Duration::from_secs(1);

/// A bench whose own NAT maps so.
fn bench(mapping: Mapping) -> Bench {
    let mut bench = Bench::new();
    bench.paths.own_changed(&Arc::new(own(mapping)), bench.now);
    bench.liveness.sent = Some(bench.now);
    bench
}

fn own(mapping: Mapping) -> OwnCandidates {
    let mut own = OwnCandidates::default();
    let ports: &[u16] = match mapping {
        Mapping::EndpointDependent => &[1, 2],
        Mapping::EndpointIndependent => &[1, 1],
        Mapping::Unknown | Mapping::Blocked => &[1],
    };
    for (number, port) in (20..).zip(ports) {
        let seen = SocketAddr::from(([203, 0, 113, 9], 50_000 + port));
        own.set_observed(RelayId(key(number)), [Some(seen), None]);
    }
    assert_eq!(own.mapping(), mapping);
    own
}

fn asked(actions: &[PathAction]) -> Vec<usize> {
    let asked = actions.iter().filter_map(|action| match action {
        PathAction::Guess(count) => Some(*count),
        _ => None,
    });
    asked.collect()
}

fn sockets() -> Vec<SocketNumber> {
    (1..=GUESS_SOCKETS as u16).map(SocketNumber).collect()
}

fn from(socket: u16, host: u8) -> Endpoint {
    Endpoint::Direct {
        socket: SocketNumber(socket),
        remote: direct(host).remote().expect("direct"),
    }
}

fn closed(actions: &[PathAction]) -> usize {
    let closed = actions.iter().map(|action| match action {
        PathAction::CloseSockets(sockets) => sockets.len(),
        _ => 0,
    });
    closed.sum()
}

impl Bench {
    /// Runs the first round in vain; returns what was asked for.
    fn search(&mut self, mapping: Mapping) -> Vec<usize> {
        self.candidates(mapping, &[1]);
        asked(&self.pass(ROUND))
    }

    /// Begins an attempt with all its sockets open.
    fn open(mapping: Mapping) -> Self {
        let mut bench = bench(Mapping::EndpointDependent);
        assert_eq!(bench.search(mapping), [GUESS_SOCKETS]);
        bench.paths.guess_answered(Ok(sockets()), bench.now);
        bench
    }

    /// Has the peer answer the last Ping to an endpoint.
    fn prove(&mut self, endpoint: Endpoint) {
        self.hear(endpoint, Probe::Ping([9; 12]));
        let ping = self.pings(endpoint).pop().expect("asked back");
        self.answer(endpoint, &ping);
    }
}

#[test]
fn only_the_end_that_maps_by_destination_opens_sockets_and_only_when_the_other_can_be_told() {
    use Mapping::{Blocked, EndpointDependent as Dependent, EndpointIndependent as Independent, Unknown};
    for (own, peer, opens) in [
        (Dependent, Independent, true),
        (Dependent, Unknown, true),
        (Dependent, Dependent, false),
        (Dependent, Blocked, false),
        (Independent, Dependent, false),
        (Independent, Independent, false),
        (Unknown, Dependent, false),
    ] {
        let expected: &[usize] = if opens { &[GUESS_SOCKETS] } else { &[] };
        assert_eq!(bench(own).search(peer), expected, "{own:?} {peer:?}");
    }
    let mut both = bench(Dependent);
    both.search(Dependent);
    assert_eq!(both.paths.view().reason, PathReason::SymmetricBoth);
}

#[test]
fn the_other_end_tries_ports_when_asked_through_a_relay_and_at_no_other_time() {
    use Mapping::{EndpointDependent as Dependent, EndpointIndependent as Independent, Unknown};
    for (own, peer, tries) in [
        (Independent, Dependent, true),
        (Unknown, Dependent, true),
        (Dependent, Dependent, false),
        (Independent, Independent, false),
        (Independent, Unknown, false),
    ] {
        let mut bench = bench(own);
        bench.search(peer);
        bench.hear(direct(1), Probe::GuessOffer);
        assert!(asked(&bench.actions()).is_empty(), "not through a relay");
        bench.hear(relayed(), Probe::GuessOffer);
        let expected: &[usize] = if tries { &[0] } else { &[] };
        assert_eq!(asked(&bench.actions()), expected, "{own:?} {peer:?}");
    }
}

#[test]
fn a_pair_that_says_nothing_guesses_nothing() {
    for (ago, asks) in [(GUESS_DEMAND, 1), (GUESS_DEMAND + MS, 0)] {
        let mut bench = bench(Mapping::EndpointDependent);
        let end = bench.now + ROUND;
        bench.candidates(Mapping::EndpointIndependent, &[1]);
        bench.liveness.sent = Some(Monotonic::from_start(end.since_start() - ago));
        assert_eq!(asked(&bench.pass(ROUND)).len(), asks, "{ago:?}");
    }
}

#[test]
fn a_socket_that_was_met_and_answers_is_used_and_the_others_are_closed() {
    let mut bench = Bench::open(Mapping::EndpointIndependent);
    bench.pass(2 * SECOND);
    assert_eq!(
        (bench.kind(), bench.paths.view().reason),
        (Some(PathKind::Relay), PathReason::Probing)
    );
    bench.hear(from(7, 1), Probe::Ping([8; 12]));
    bench.prove(from(5, 1));
    assert_eq!(bench.paths.view().endpoint, Some(from(5, 1)));
    let done = bench.actions();
    assert!(done.contains(&PathAction::GuessOver));
    assert_eq!(
        closed(&done),
        GUESS_SOCKETS - 2,
        "both on which something was heard stay"
    );
    bench.liveness.heard = Some((from(5, 1), bench.now));
    bench.answers = Some(from(5, 1));
    let done = bench.pass(GUESS_SETTLE);
    assert!(
        done.contains(&PathAction::CloseSockets(vec![SocketNumber(7)])),
        "until both ends have settled"
    );
    assert_eq!(bench.paths.view().endpoint, Some(from(5, 1)));
}

#[test]
fn a_guess_that_is_not_answered_or_answered_by_a_forger_moves_nothing_and_closes_everything() {
    let mut bench = Bench::open(Mapping::EndpointIndependent);
    let mut transactions: Vec<Transaction> = Vec::new();
    let mut done = Vec::new();
    for _ in 0..100 {
        for action in bench.pass(GUESS_TIME / 100) {
            if let PathAction::Probe(Endpoint::Direct { .. }, Probe::Ping(transaction)) = &action {
                transactions.push(*transaction);
            }
            done.push(action);
        }
        // Whoever answers a guess itself, from wherever, has proven nothing; nor has who asks and does not answer.
        let transaction = transactions.last().copied().unwrap_or_default();
        bench.hear(from(3, 1), Probe::Pong(transaction, None));
        bench.hear(from(4, 8), Probe::Ping([1; 12]));
        bench.hear(direct(8), Probe::Pong(transaction, None));
        assert_eq!(bench.kind(), Some(PathKind::Relay));
    }
    done.extend(bench.pass(SECOND));
    assert!(done.contains(&PathAction::GuessOver));
    assert_eq!(closed(&done), GUESS_SOCKETS);
    assert!(!done.iter().any(|action| matches!(action, PathAction::Use(_))));
    assert_eq!(bench.paths.view().reason, PathReason::SymmetricOne);
}

#[test]
fn what_is_met_finds_room_however_many_addresses_the_peer_named() {
    let mut bench = bench(Mapping::EndpointDependent);
    let hosts: Vec<u8> = (1..=16).collect();
    bench.candidates(Mapping::EndpointIndependent, &hosts);
    for host in 100..200 {
        bench.hear(direct(host), Probe::Ping([host; 12]));
    }
    assert_eq!(asked(&bench.pass(ROUND)), [GUESS_SOCKETS]);
    bench.paths.guess_answered(Ok(sockets()), bench.now);
    bench.prove(from(5, 1));
    assert_eq!(bench.paths.view().endpoint, Some(from(5, 1)));
    let mut more = Bench::open(Mapping::EndpointIndependent);
    for socket in 1..=GUESS_SOCKETS as u16 {
        more.hear(from(socket, 1), Probe::Ping([1; 12]));
    }
    let pinged: std::collections::BTreeSet<_> = more
        .pass(SECOND)
        .into_iter()
        .filter_map(|action| match action {
            PathAction::Probe(to, Probe::Pong(..)) => Some(to),
            _ => None,
        })
        .collect();
    assert_eq!(pinged.len(), GUESS_SOCKETS, "all are answered");
    more.prove(from(1, 1));
    let open = GUESS_SOCKETS - closed(&more.actions());
    assert!(open <= ENDPOINTS_MAX + GUESSED_MAX, "{open} stay open");
}

#[test]
fn a_hopeless_pair_is_tried_ever_more_seldom() {
    let mut bench = bench(Mapping::EndpointDependent);
    bench.candidates(Mapping::EndpointIndependent, &[1]);
    let (mut starts, mut open) = (Vec::new(), 0);
    for second in (0..12 * 3600_u64).step_by(5) {
        bench.liveness.sent = Some(bench.now);
        bench.liveness.heard = Some((relayed(), bench.now));
        if bench.paths.is_resting() {
            bench.paths.wanted(bench.now);
        }
        let done = bench.pass(5 * SECOND);
        open -= closed(&done);
        if !asked(&done).is_empty() {
            bench.paths.guess_answered(Ok(sockets()), bench.now);
            open += GUESS_SOCKETS;
            starts.push(second);
        }
    }
    let gaps: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((4..=5).contains(&starts.len()), "{starts:?}");
    let rests = GUESS_RESTS.iter().chain([&GUESS_RESTS[2]]);
    assert!(
        gaps.iter().zip(rests).all(|(gap, rest)| *gap >= rest.as_secs()),
        "{gaps:?}"
    );
    assert_eq!(open, 0);
}

#[test]
fn a_peer_that_keeps_asking_or_moving_has_its_ports_tried_no_faster() {
    let mut bench = bench(Mapping::EndpointIndependent);
    bench.search(Mapping::EndpointDependent);
    let (mut pings, mut starts, mut refused) = (0, 0, 0);
    let span = Duration::from_secs(600);
    for second in 0..span.as_secs() {
        // Every second it claims to be in another network.
        bench.candidates(Mapping::EndpointDependent, &[(second % 200) as u8 + 1]);
        bench.hear(relayed(), Probe::GuessOffer);
        let mut done = bench.actions();
        if asked(&done) == [0] {
            bench.paths.guess_answered(Ok(vec![]), bench.now);
            starts += 1;
        }
        done.extend(bench.pass(SECOND));
        for action in done {
            pings += usize::from(is_guess(&action));
            refused += usize::from(matches!(action, PathAction::Probe(_, Probe::GuessLater(_))));
        }
    }
    assert_eq!(starts, span.as_secs() / GUESS_GAP.as_secs());
    assert!(refused > 400, "{refused} times told to ask later");
    assert!(pings <= GUESS_PROBES * starts as usize, "{pings}");
}

/// Tells whether a port is tried that the peer did not name.
fn is_guess(action: &PathAction) -> bool {
    let PathAction::Probe(to, Probe::Ping(_)) = action else {
        return false;
    };
    to.remote().is_some_and(|remote| remote.port() != 41_641)
}

#[test]
fn an_attempt_without_room_is_put_off_and_the_peer_is_told() {
    let mut bench = bench(Mapping::EndpointIndependent);
    bench.search(Mapping::EndpointDependent);
    bench.hear(relayed(), Probe::GuessOffer);
    bench.actions();
    bench.paths.guess_answered(Err(30 * SECOND), bench.now);
    let later = PathAction::Probe(relayed(), Probe::GuessLater(31));
    assert!(bench.actions().contains(&later));
    let mut other = Bench::open(Mapping::EndpointIndependent);
    other.hear(relayed(), Probe::GuessLater(60));
    let done = other.actions();
    assert_eq!(
        closed(&done),
        GUESS_SOCKETS,
        "nobody guesses: nothing need be open"
    );
    assert!(done.contains(&PathAction::GuessOver));
}

#[test]
fn a_broken_socket_in_use_loses_the_path_and_the_relay_carries() {
    let mut bench = Bench::open(Mapping::EndpointIndependent);
    bench.prove(from(5, 1));
    bench.actions();
    bench.paths.socket_closed(SocketNumber(6), bench.now);
    assert_eq!(bench.paths.view().endpoint, Some(from(5, 1)));
    bench.paths.socket_closed(SocketNumber(5), bench.now);
    assert_eq!(
        (bench.kind(), bench.paths.view().reason),
        (Some(PathKind::Relay), PathReason::PathLost)
    );
    assert!(bench.actions().contains(&PathAction::Use(Some(relayed()))));
}

#[test]
fn another_network_or_the_end_of_the_session_closes_every_socket() {
    let mut roaming = Bench::open(Mapping::EndpointIndependent);
    roaming.paths.network_changed(&Arc::default(), roaming.now);
    assert_eq!(closed(&roaming.actions()), GUESS_SOCKETS);
    let mut ended = Bench::open(Mapping::EndpointIndependent);
    ended.prove(from(5, 1));
    ended.paths.session(false, ended.now);
    assert_eq!(closed(&ended.actions()), GUESS_SOCKETS);
    let mut late = bench(Mapping::EndpointDependent);
    late.search(Mapping::EndpointIndependent);
    late.paths.network_changed(&Arc::default(), late.now);
    late.paths.guess_answered(Ok(sockets()), late.now);
    assert_eq!(
        closed(&late.actions()),
        GUESS_SOCKETS,
        "an answer that comes too late opens nothing"
    );
}

#[test]
fn private_addresses_are_not_guessed_at() {
    let mut bench = bench(Mapping::EndpointIndependent);
    let inside = Candidate {
        kind: CandidateKind::Reflexive,
        address: "192.168.1.7:5000".parse().expect("address"),
    };
    bench.hear(
        relayed(),
        Probe::Candidates(Mapping::EndpointDependent, vec![inside]),
    );
    bench.hear(relayed(), Probe::GuessOffer);
    assert!(asked(&bench.actions()).is_empty());
}
