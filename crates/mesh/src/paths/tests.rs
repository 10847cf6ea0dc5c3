//! The paths of one peer, told by hand what happens.

mod calling;
mod guessing;
mod silence;
mod starting_anew;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use types::{Monotonic, NodePrivateKey, NodePublicKey, PathKind, PathReason, RelayId};

use super::*;
use crate::endpoint::Endpoint;
use crate::probe::{Candidate, CandidateKind, Mapping, Probe};

const MS: Duration = Duration::from_millis(1);

fn key(number: u8) -> NodePublicKey {
    NodePrivateKey::from_random([number; 32]).public()
}

fn relayed() -> Endpoint {
    Endpoint::Relayed {
        relay: RelayId(key(9)),
        peer: key(2),
    }
}

fn direct(host: u8) -> Endpoint {
    SocketAddr::from(([198, 51, 100, host], 41_641)).into()
}

fn candidate(host: u8) -> Candidate {
    Candidate {
        kind: CandidateKind::Reflexive,
        address: direct(host).remote().expect("direct"),
    }
}

struct Bench {
    paths: PeerPaths,
    now: Monotonic,
    liveness: Liveness,
    /// Where Pings are answered at once.
    answers: Option<Endpoint>,
}

impl Bench {
    /// A peer with a session, through the relay.
    fn new() -> Self {
        let paths = PeerPaths::new(key(2), Arc::default(), [7; 32]);
        let now = Monotonic::from_start(Duration::from_secs(100));
        let liveness = Liveness::default();
        let mut bench = Self {
            paths,
            now,
            liveness,
            answers: None,
        };
        bench.paths.set_relays(vec![RelayId(key(9))], now);
        bench.paths.session(true, now);
        bench
    }

    fn actions(&mut self) -> Vec<PathAction> {
        std::iter::from_fn(|| self.paths.poll_action()).collect()
    }

    /// Returns the Pings to an endpoint among what is to be done.
    fn pings(&mut self, to: Endpoint) -> Vec<Probe> {
        let probes = self.actions().into_iter().filter_map(|action| match action {
            PathAction::Probe(endpoint, probe @ Probe::Ping(_)) if endpoint == to => Some(probe),
            _ => None,
        });
        probes.collect()
    }

    fn hear(&mut self, from: Endpoint, probe: Probe) {
        self.paths.handle_probe(from, probe, self.now);
    }

    fn candidates(&mut self, mapping: Mapping, hosts: &[u8]) {
        let list = hosts.iter().map(|host| candidate(*host)).collect();
        self.hear(relayed(), Probe::Candidates(mapping, list));
    }

    fn answer(&mut self, at: Endpoint, ping: &Probe) {
        let Probe::Ping(transaction) = ping else {
            panic!("a Ping");
        };
        self.hear(at, Probe::Pong(*transaction, None));
    }

    /// Lets time pass, acting on every timer when it is due.
    fn pass(&mut self, span: Duration) -> Vec<PathAction> {
        let end = self.now + span;
        let mut done = self.actions();
        while let Some((due, _)) = self.paths.poll_timeout().filter(|(due, _)| *due <= end) {
            self.now = self.now.max(due);
            self.paths.handle_timeout(self.liveness, self.now);
            for action in self.actions() {
                if let PathAction::Probe(to, ping @ Probe::Ping(_)) = &action
                    && self.answers == Some(*to)
                {
                    self.answer(*to, ping);
                    self.liveness.heard = Some((*to, self.now));
                }
                done.push(action);
            }
        }
        self.now = end;
        done
    }

    fn kind(&self) -> Option<PathKind> {
        self.paths.view().kind
    }

    /// Brings the peer to a direct path.
    fn promote(&mut self, host: u8) {
        self.candidates(Mapping::EndpointIndependent, &[host]);
        let ping = self.pings(direct(host)).remove(0);
        self.now = self.now + 20 * MS;
        self.answer(direct(host), &ping);
        assert_eq!(self.paths.view().endpoint, Some(direct(host)));
        self.actions();
    }
}

#[test]
fn a_relay_that_comes_up_late_carries_what_comes_first() {
    let mut paths = PeerPaths::new(key(2), Arc::default(), [7; 32]);
    let now = Monotonic::from_start(Duration::from_secs(100));
    paths.set_named(&[direct(1).remote().expect("direct")], now);
    assert_eq!(paths.view().endpoint, Some(direct(1)), "there is nothing better");
    paths.set_relays(vec![RelayId(key(9))], now);
    assert_eq!(paths.view().endpoint, Some(relayed()));
}

#[test]
fn a_peer_that_says_it_is_elsewhere_is_reached_through_the_relay_until_it_answers() {
    let mut bench = Bench::new();
    bench.promote(1);
    bench.candidates(Mapping::EndpointIndependent, &[1, 2]);
    assert_eq!(
        bench.paths.view().endpoint,
        Some(direct(1)),
        "it is where it was, too"
    );
    bench.candidates(Mapping::Unknown, &[3]);
    assert_eq!(bench.paths.view().endpoint, Some(relayed()));
    let ping = bench.pings(direct(3)).remove(0);
    bench.answer(direct(3), &ping);
    assert_eq!(bench.paths.view().endpoint, Some(direct(3)));
}

#[test]
fn a_path_is_used_when_it_answered_and_not_before() {
    let mut bench = Bench::new();
    bench.candidates(Mapping::EndpointIndependent, &[1]);
    assert_eq!(
        (bench.kind(), bench.paths.view().reason),
        (Some(PathKind::Relay), PathReason::Probing)
    );
    let ping = bench.pings(direct(1)).remove(0);
    bench.now = bench.now + 30 * MS;
    bench.answer(direct(1), &ping);
    let view = bench.paths.view();
    assert_eq!(
        (view.kind, view.reason),
        (Some(PathKind::Direct), PathReason::EndpointAnswered)
    );
    assert_eq!(view.rtt, Some(30 * MS));
    assert!(bench.actions().contains(&PathAction::Use(Some(direct(1)))));
}

#[test]
fn a_plain_wireguard_is_followed_and_one_of_ours_is_not() {
    let mut bench = Bench::new();
    bench.paths.heard(direct(7), bench.now);
    assert_eq!(bench.paths.view().endpoint, Some(direct(7)));
    bench.paths.heard(direct(8), bench.now);
    assert_eq!(bench.paths.view().endpoint, Some(direct(8)));
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.paths.view().endpoint, Some(direct(8)));
    bench.hear(direct(8), Probe::Ping([1; 12]));
    bench.paths.heard(direct(9), bench.now);
    assert_eq!(bench.paths.view().endpoint, Some(direct(8)));
}

#[test]
fn an_answer_that_was_not_asked_for_or_comes_from_elsewhere_moves_nothing() {
    let mut bench = Bench::new();
    bench.candidates(Mapping::EndpointIndependent, &[1, 2]);
    let ping = bench.pings(direct(1)).remove(0);
    bench.hear(direct(1), Probe::Pong([0; 12], None));
    bench.answer(direct(2), &ping);
    bench.answer(direct(3), &ping);
    assert_eq!(bench.kind(), Some(PathKind::Relay));
    bench.answer(direct(1), &ping);
    assert_eq!(bench.kind(), Some(PathKind::Direct));
}

#[test]
fn pings_that_answer_pings_come_to_an_end() {
    let mut bench = Bench::new();
    let mut pings = 0;
    for number in 0..1000_u32 {
        let mut transaction = [0; 12];
        transaction[..4].copy_from_slice(&number.to_be_bytes());
        bench.hear(direct(1), Probe::Ping(transaction));
        pings += bench.pings(direct(1)).len();
    }
    assert_eq!(pings, 1);
}

#[test]
fn a_peer_that_names_ever_more_addresses_is_not_followed() {
    let mut bench = Bench::new();
    for host in 0..=255 {
        bench.hear(direct(host), Probe::Ping([host; 12]));
    }
    let asked = bench
        .pass(10 * Duration::from_secs(1))
        .into_iter()
        .filter_map(|action| match action {
            PathAction::Probe(to, Probe::Ping(_)) => to.remote(),
            _ => None,
        });
    let asked: std::collections::BTreeSet<_> = asked.collect();
    assert!(asked.len() <= ENDPOINTS_MAX, "{}", asked.len());
}

#[test]
fn a_peer_that_has_been_in_many_networks_is_still_found_in_the_next() {
    let mut bench = Bench::new();
    for host in 1..=200 {
        bench.candidates(Mapping::EndpointIndependent, &[host]);
        let pinged = bench.pings(direct(host)).len();
        assert_eq!(pinged, 1, "network {host}");
        bench.pass(Duration::from_secs(2));
    }
}

#[test]
fn nobody_makes_us_send_to_our_own_loopback() {
    let mut bench = Bench::new();
    let own = Candidate {
        kind: CandidateKind::Local,
        address: "127.0.0.1:22".parse().expect("address"),
    };
    bench.hear(relayed(), Probe::Candidates(Mapping::Unknown, vec![own]));
    assert!(bench.pings(own.address.into()).is_empty());
}

#[test]
fn a_silent_path_is_asked_and_given_up_within_two_seconds_of_sending() {
    let mut bench = Bench::new();
    bench.promote(1);
    let begin = bench.now;
    let mut lost = None;
    while bench.now.since(begin) < Duration::from_secs(4) && lost.is_none() {
        bench.liveness.sent = Some(bench.now);
        if bench.pass(50 * MS).contains(&PathAction::Use(Some(relayed()))) {
            lost = Some(bench.now.since(begin));
        }
    }
    let lost = lost.expect("given up");
    assert!(lost <= Duration::from_secs(2), "{lost:?}");
    assert_eq!(bench.paths.view().reason, PathReason::PathLost);
    // It answers again while it is still looked for: then nothing is lost any more.
    bench.answers = Some(direct(1));
    bench.pass(2 * Duration::from_secs(1));
    assert_eq!(bench.kind(), Some(PathKind::Direct));
    assert_eq!(bench.paths.view().reason, PathReason::EndpointAnswered);
}

#[test]
fn a_peer_that_speaks_through_the_relay_again_has_its_path_asked_at_once() {
    for answers in [None, Some(direct(1))] {
        let mut bench = Bench::new();
        bench.promote(1);
        bench.answers = answers;
        bench.liveness.sent = Some(bench.now);
        bench.liveness.heard = Some((direct(1), bench.now));
        bench.candidates(Mapping::EndpointIndependent, &[1]);
        bench.pass(UNANSWERED_MAX * ANSWER_TIMEOUT + MS);
        let kind = if answers.is_some() {
            PathKind::Direct
        } else {
            PathKind::Relay
        };
        assert_eq!(bench.kind(), Some(kind));
    }
}

#[test]
fn a_relay_through_which_the_peer_does_not_answer_is_passed_over_and_tried_again() {
    let other = Endpoint::Relayed {
        relay: RelayId(key(8)),
        peer: key(2),
    };
    let mut bench = Bench::new();
    bench
        .paths
        .set_relays(vec![RelayId(key(9)), RelayId(key(8))], bench.now);
    bench.hear(relayed(), Probe::Ping([1; 12]));
    let mut used = Vec::new();
    for _ in 0..80 {
        bench.liveness.sent = Some(bench.now);
        // What is heard another way says nothing of this relay.
        bench.liveness.heard = Some((direct(1), bench.now));
        bench.pass(50 * MS);
        let endpoint = bench.paths.view().endpoint;
        if used.last() != Some(&endpoint) {
            used.push(endpoint);
        }
    }
    assert!(
        used.starts_with(&[Some(relayed()), Some(other), Some(relayed())]),
        "{used:?}"
    );
}

#[test]
fn a_relay_that_stops_soon_is_left_for_another_and_kept_when_there_is_none() {
    let mut bench = Bench::new();
    bench.paths.relay_leaves(RelayId(key(9)), bench.now);
    assert_eq!(bench.paths.view().endpoint, Some(relayed()));
    bench
        .paths
        .set_relays(vec![RelayId(key(8)), RelayId(key(9))], bench.now);
    assert_eq!(
        bench.paths.view().endpoint,
        Some(relayed()),
        "a change of order moves nothing"
    );
    bench.paths.relay_leaves(RelayId(key(9)), bench.now);
    let left = bench.paths.view().endpoint;
    assert!(matches!(left, Some(Endpoint::Relayed { relay, .. }) if relay == RelayId(key(8))));
}

#[test]
fn a_peer_with_another_key_is_where_it_was() {
    let mut bench = Bench::new();
    bench.paths.not_here(RelayId(key(9)), bench.now);
    bench.paths.renamed(key(5), bench.now);
    let there = Endpoint::Relayed {
        relay: RelayId(key(9)),
        peer: key(5),
    };
    assert_eq!(bench.paths.view().endpoint, Some(there));
    bench.promote(1);
    bench.paths.renamed(key(6), bench.now);
    assert_eq!(bench.paths.view().endpoint, Some(direct(1)));
}

#[test]
fn a_path_on_which_something_is_heard_is_not_asked() {
    let mut bench = Bench::new();
    bench.promote(1);
    for _ in 0..100 {
        bench.liveness.sent = Some(bench.now);
        bench.liveness.heard = Some((direct(1), bench.now));
        let done = bench.pass(100 * MS);
        assert!(
            !done
                .iter()
                .any(|action| matches!(action, PathAction::Probe(to, Probe::Ping(_)) if *to == direct(1)))
        );
    }
    assert_eq!(bench.kind(), Some(PathKind::Direct));
}

#[test]
fn an_unused_path_is_kept_open_for_five_minutes_and_then_sleeps() {
    let mut bench = Bench::new();
    bench.promote(1);
    bench.liveness.sent = Some(bench.now);
    bench.answers = Some(direct(1));
    let done = bench.pass(Duration::from_secs(400)).into_iter();
    let pings =
        done.filter(|action| matches!(action, PathAction::Probe(to, Probe::Ping(_)) if *to == direct(1)));
    let pings = pings.count();
    assert!((10..=18).contains(&pings), "{pings}");
    assert!(bench.paths.is_resting() && bench.paths.poll_timeout().is_none());
    bench.paths.wanted(bench.now);
    assert!(bench.actions().contains(&PathAction::Use(Some(relayed()))));
    assert!(!bench.paths.is_resting());
}

#[test]
fn every_relayed_pair_has_its_reason() {
    let cases = [
        (Mapping::EndpointIndependent, &[1][..], PathReason::NoAnswer),
        (Mapping::EndpointDependent, &[1], PathReason::SymmetricOne),
        (Mapping::Blocked, &[], PathReason::PeerUdpBlocked),
        (Mapping::Unknown, &[], PathReason::NoCandidate),
    ];
    for (mapping, hosts, reason) in cases {
        let mut bench = Bench::new();
        bench.candidates(mapping, hosts);
        bench.pass(ROUND + MS);
        assert_eq!(
            (bench.kind(), bench.paths.view().reason),
            (Some(PathKind::Relay), reason)
        );
    }
    let mut own = OwnCandidates::default();
    own.set_udp_blocked(true);
    let mut bench = Bench::new();
    bench.paths.own_changed(&Arc::new(own), bench.now);
    assert_eq!(bench.paths.view().reason, PathReason::UdpBlocked);
}

#[test]
fn ends_without_a_family_in_common_say_so_and_one_address_in_common_is_enough() {
    let ipv6: SocketAddr = "[2001:db8::1]:41641".parse().expect("address");
    for (local, reason) in [
        (vec![ipv6], PathReason::NoCommonFamily),
        (vec![ipv6, candidate(7).address], PathReason::NoAnswer),
    ] {
        let mut own = OwnCandidates::default();
        own.set_local(local);
        let mut bench = Bench::new();
        bench.paths.own_changed(&Arc::new(own), bench.now);
        bench.candidates(Mapping::Unknown, &[1]);
        bench.pass(ROUND + MS);
        assert_eq!(bench.paths.view().reason, reason);
    }
}

#[test]
fn a_peer_that_is_at_no_relay_is_asleep_and_tried_directly() {
    let mut bench = Bench::new();
    bench.paths.session(false, bench.now);
    bench.paths.set_named(&[candidate(1).address], bench.now);
    bench.paths.not_here(RelayId(key(9)), bench.now);
    assert_eq!(
        (bench.kind(), bench.paths.view().reason),
        (None, PathReason::PeerAsleep)
    );
    let handshake = bench.actions().into_iter().rev().find_map(|action| match action {
        PathAction::Handshake(endpoints) => Some(endpoints),
        _ => None,
    });
    assert_eq!(handshake, Some(vec![relayed(), direct(1)]));
}

#[test]
fn rounds_through_a_relay_come_ever_more_seldom() {
    let mut bench = Bench::new();
    bench.candidates(Mapping::EndpointIndependent, &[1]);
    bench.actions();
    let mut rounds = Vec::new();
    for second in 0..600_u64 {
        bench.liveness.sent = Some(bench.now);
        if bench.paths.is_resting() {
            bench.paths.wanted(bench.now);
        }
        bench.liveness.heard = Some((relayed(), bench.now));
        bench.liveness.received = Some(bench.now);
        let done = bench.pass(Duration::from_secs(1));
        if done
            .iter()
            .any(|action| matches!(action, PathAction::Probe(_, Probe::Candidates(..))))
        {
            rounds.push(second);
        }
    }
    let gaps: Vec<_> = rounds.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.windows(2).all(|pair| pair[0] < pair[1]), "{gaps:?}");
    assert!(rounds.len() <= 7, "{rounds:?}");
}

/// The pings that were asked for and answered among what is to be done.
fn pongs(actions: &[PathAction]) -> Vec<Pong> {
    let pongs = actions.iter().filter_map(|action| match action {
        PathAction::Answered(pong) => Some(*pong),
        _ => None,
    });
    pongs.collect()
}

#[test]
fn a_ping_that_is_asked_for_waits_for_the_session_and_tells_its_path_and_time() {
    let now = Monotonic::from_start(Duration::from_secs(100));
    let mut paths = PeerPaths::new(key(2), Arc::default(), [7; 32]);
    paths.set_relays(vec![RelayId(key(9))], now);
    let transaction = paths.ask(now);
    let is_it = |action: &PathAction| *action == PathAction::Probe(relayed(), Probe::Ping(transaction));
    assert!(!std::iter::from_fn(|| paths.poll_action()).any(|action| is_it(&action)));
    let now = now + 400 * MS;
    paths.session(true, now);
    assert!(std::iter::from_fn(|| paths.poll_action()).any(|action| is_it(&action)));
    let now = now + 30 * MS;
    paths.handle_probe(direct(1), Probe::Pong(transaction, None), now);
    let elsewhere: Vec<_> = std::iter::from_fn(|| paths.poll_action()).collect();
    assert_eq!(pongs(&elsewhere), [], "an answer from elsewhere");
    for answers in [1, 0] {
        paths.handle_probe(relayed(), Probe::Pong(transaction, None), now);
        let done: Vec<_> = std::iter::from_fn(|| paths.poll_action()).collect();
        let wanted = Pong {
            transaction,
            endpoint: relayed(),
            reason: PathReason::Probing,
            rtt: 30 * MS,
        };
        assert_eq!(pongs(&done), vec![wanted; answers]);
    }
}

#[test]
fn pings_alone_notice_that_a_direct_path_is_dead() {
    let mut bench = Bench::new();
    bench.promote(1);
    bench.pass(Duration::from_secs(30));
    for _ in 0..4 {
        bench.paths.ask(bench.now);
        bench.pass(Duration::from_secs(1));
    }
    assert_eq!(bench.kind(), Some(PathKind::Relay));
}

#[test]
fn a_peer_that_answers_no_ping_may_have_lost_the_session() {
    let mut bench = Bench::new();
    bench.hear(relayed(), Probe::Ping([1; 12]));
    bench.actions();
    bench.paths.ask(bench.now);
    assert!(
        !bench
            .pass(RELAY_SILENCE_MAX * 4 - MS)
            .contains(&PathAction::Renew)
    );
    assert!(bench.pass(2 * MS).contains(&PathAction::Renew));
}

#[test]
fn no_more_pings_wait_than_may() {
    let mut paths = PeerPaths::new(key(2), Arc::default(), [7; 32]);
    let now = Monotonic::from_start(Duration::from_secs(100));
    paths.set_relays(vec![RelayId(key(9))], now);
    let asked: Vec<_> = (0..100).map(|_| paths.ask(now)).collect();
    paths.session(true, now);
    let sent: Vec<_> = std::iter::from_fn(|| paths.poll_action())
        .filter_map(|action| match action {
            PathAction::Probe(_, Probe::Ping(transaction)) => Some(transaction),
            _ => None,
        })
        .filter(|transaction| asked.contains(transaction))
        .collect();
    assert_eq!(sent, asked[36..]);
}
