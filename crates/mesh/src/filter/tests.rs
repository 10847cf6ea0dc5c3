//! Tests of the packet filter, packet by packet.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use types::FilterRule;

use super::rules::NEW_SETS_MAX;
use super::*;
use crate::ip::EXTENSIONS_MAX;

const PEER: &str = "100.64.0.2";
const US: &str = "100.64.0.1";
const PEER6: &str = "fd00::2";
const US6: &str = "fd00::1";

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const FIN: u8 = 0x11;

fn at(seconds: u64) -> Monotonic {
    Monotonic::from_start(Duration::from_secs(seconds))
}

fn ip4(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().expect("an address").octets();
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend(octets(source));
    packet.extend(octets(destination));
    packet.extend(payload);
    let len = u16::try_from(packet.len()).expect("short");
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

fn ip6(source: &str, destination: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let len = u16::try_from(payload.len()).expect("short").to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, len[0], len[1], next, 64];
    packet.extend(octets(source));
    packet.extend(octets(destination));
    packet.extend(payload);
    packet
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend([0, 0, 0, 0, 0, 0, 0, 0, 5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    segment
}

fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut datagram = ports(source, destination);
    datagram.extend([0, 8, 0, 0]);
    datagram
}

fn icmp(kind: u8, identifier: u16, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend([0, 1]);
    message.extend(rest);
    message
}

fn tcp_in(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    ip4(PEER, US, 6, &tcp(source, destination, flags))
}

fn tcp_out(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    ip4(US, PEER, 6, &tcp(source, destination, flags))
}

fn udp_in(source: u16, destination: u16) -> Vec<u8> {
    ip4(PEER, US, 17, &udp(source, destination))
}

fn udp_out(source: u16, destination: u16) -> Vec<u8> {
    ip4(US, PEER, 17, &udp(source, destination))
}

fn rules(rules: &[(&[&str], &[&str])]) -> PacketFilter {
    let rule = |(from, to): &(&[&str], &[&str])| FilterRule {
        from: from.iter().map(|text| text.parse().expect("a block")).collect(),
        to: to.iter().map(|text| text.parse().expect("ports")).collect(),
    };
    PacketFilter {
        rules: rules.iter().map(rule).collect(),
    }
}

fn filter(of: &[(&[&str], &[&str])]) -> Filter {
    let mut filter = Filter::default();
    filter.set(Some(&rules(of)));
    filter
}

fn closed() -> Filter {
    filter(&[])
}

const DENIED: Result<(), FilterDrop> = Err(FilterDrop::Denied);

#[test]
fn without_rules_everything_passes_and_with_none_nothing() {
    let mut open = Filter::default();
    assert_eq!(open.incoming(&tcp_in(9, 22, SYN), at(0)), Ok(()));
    let mut closed = closed();
    for packet in [
        tcp_in(9, 22, SYN),
        tcp_in(9, 22, ACK),
        udp_in(9, 53),
        ip4(PEER, US, 1, &icmp(8, 7, &[])),
        ip4(PEER, US, 1, &icmp(0, 7, &[])),
        ip4(PEER, US, 1, &icmp(5, 0, &[])),
        ip4(PEER, US, 47, &[0; 8]),
        ip6(PEER6, US6, 6, &tcp(9, 22, SYN)),
    ] {
        assert_eq!(closed.incoming(&packet, at(0)), DENIED, "{packet:?}");
    }
    assert_eq!(closed.counters().dropped(FilterDrop::Denied), 8);
    assert_eq!(closed.counters().passed, 0);
}

#[test]
fn a_rule_opens_its_ports_to_its_sources_in_both_families() {
    let mut filter = filter(&[
        (
            &["100.64.0.2/32", "fd00::2/128"],
            &["tcp:22", "udp:5000-5002", "icmp"],
        ),
        (&["100.64.0.0/10"], &["tcp:80"]),
    ]);
    let mut check = |packet: Vec<u8>, expected| assert_eq!(filter.incoming(&packet, at(0)), expected);
    for destination in [22, 80] {
        check(tcp_in(9, destination, SYN), Ok(()));
    }
    check(tcp_in(9, 23, SYN), DENIED);
    check(udp_in(9, 22), DENIED);
    for (port, expected) in [(4999, DENIED), (5000, Ok(())), (5002, Ok(())), (5003, DENIED)] {
        check(udp_in(9, port), expected);
    }
    check(ip4(PEER, US, 1, &icmp(8, 7, &[])), Ok(()));
    check(ip4(PEER, US, 1, &icmp(5, 7, &[])), DENIED);
    check(ip4("100.64.0.3", US, 6, &tcp(9, 80, SYN)), Ok(()));
    check(ip4("100.64.0.3", US, 6, &tcp(9, 22, SYN)), DENIED);
    check(ip6(PEER6, US6, 6, &tcp(9, 22, SYN)), Ok(()));
    check(ip6(PEER6, US6, 58, &icmp(128, 7, &[])), Ok(()));
    check(ip6("fd00::3", US6, 6, &tcp(9, 22, SYN)), DENIED);
    check(ip4(PEER, US, 58, &icmp(128, 7, &[])), DENIED);
}

#[test]
fn a_star_opens_every_protocol() {
    let mut filter = filter(&[(&["0.0.0.0/0", "::/0"], &["*"])]);
    for packet in [
        tcp_in(1, 2, SYN),
        udp_in(1, 2),
        ip4(PEER, US, 47, &[]),
        ip6(PEER6, US6, 58, &icmp(135, 0, &[])),
    ] {
        assert_eq!(filter.incoming(&packet, at(0)), Ok(()));
    }
}

#[test]
fn answers_to_a_connection_of_ours_pass_and_nothing_beside_them() {
    let mut filter = closed();
    filter.outgoing(&tcp_out(40_000, 80, SYN), at(0));
    assert_eq!(filter.incoming(&tcp_in(80, 40_000, SYN_ACK), at(1)), Ok(()));
    assert_eq!(filter.incoming(&tcp_in(81, 40_000, SYN_ACK), at(1)), DENIED);
    assert_eq!(filter.incoming(&tcp_in(80, 40_001, SYN_ACK), at(1)), DENIED);
    let other = ip4("100.64.0.3", US, 6, &tcp(80, 40_000, SYN_ACK));
    assert_eq!(filter.incoming(&other, at(1)), DENIED);
    assert_eq!(filter.incoming(&udp_in(80, 40_000), at(1)), DENIED);
}

#[test]
fn only_a_syn_begins_a_connection_of_ours() {
    let mut filter = closed();
    for flags in [ACK, SYN_ACK, FIN, SYN | 0x04] {
        filter.outgoing(&tcp_out(40_000, 80, flags), at(0));
        assert_eq!(
            filter.incoming(&tcp_in(80, 40_000, ACK), at(0)),
            DENIED,
            "{flags:#x}"
        );
    }
}

#[test]
fn each_state_of_a_connection_lives_as_long_as_its_timer_says() {
    let check = |packets: &[(bool, u8)], timer: FlowTimer| {
        let lives_until = |seconds: u64| {
            let mut filter = closed();
            for (is_ours, flags) in packets {
                if *is_ours {
                    filter.outgoing(&tcp_out(40_000, 80, *flags), at(0));
                } else {
                    assert_eq!(filter.incoming(&tcp_in(80, 40_000, *flags), at(0)), Ok(()));
                }
            }
            filter.incoming(&tcp_in(80, 40_000, ACK), at(seconds)).is_ok()
        };
        let lifetime = timer.lifetime().as_secs();
        assert!(lives_until(lifetime - 1), "{timer:?}");
        assert!(!lives_until(lifetime), "{timer:?}");
    };
    check(&[(true, SYN)], FlowTimer::TcpOpening);
    check(&[(true, SYN), (false, SYN_ACK)], FlowTimer::TcpOpening);
    check(&[(true, SYN), (false, SYN_ACK), (true, ACK)], FlowTimer::TcpOpen);
    check(
        &[(true, SYN), (true, ACK), (true, FIN), (true, ACK)],
        FlowTimer::TcpClosing,
    );
    check(&[(true, SYN), (true, ACK), (false, 0x04)], FlowTimer::TcpClosing);
}

#[test]
fn what_goes_through_a_flow_keeps_it() {
    let mut filter = closed();
    filter.outgoing(&udp_out(40_000, 53), at(0));
    for round in 1..10 {
        assert_eq!(filter.incoming(&udp_in(53, 40_000), at(round * 299)), Ok(()));
    }
    assert_eq!(filter.incoming(&udp_in(53, 40_000), at(9 * 299 + 300)), DENIED);
}

#[test]
fn an_echo_of_ours_is_answered_and_no_other() {
    let mut filter = closed();
    filter.outgoing(&ip4(US, PEER, 1, &icmp(8, 77, &[])), at(0));
    assert_eq!(
        filter.incoming(&ip4(PEER, US, 1, &icmp(0, 77, &[])), at(59)),
        Ok(())
    );
    assert_eq!(
        filter.incoming(&ip4(PEER, US, 1, &icmp(0, 78, &[])), at(59)),
        DENIED
    );
    assert_eq!(
        filter.incoming(&ip4(PEER, US, 1, &icmp(0, 77, &[])), at(119)),
        DENIED
    );
    filter.outgoing(&ip6(US6, PEER6, 58, &icmp(128, 5, &[])), at(200));
    assert_eq!(
        filter.incoming(&ip6(PEER6, US6, 58, &icmp(129, 5, &[])), at(201)),
        Ok(())
    );
}

#[test]
fn a_request_does_not_pass_as_the_answer_to_ours() {
    let mut filter = closed();
    filter.outgoing(&ip4(US, PEER, 1, &icmp(8, 77, &[])), at(0));
    assert_eq!(
        filter.incoming(&ip4(PEER, US, 1, &icmp(8, 77, &[])), at(1)),
        DENIED
    );
}

#[test]
fn errors_pass_when_they_are_about_what_we_sent() {
    let mut filter = filter(&[(&["100.64.0.2/32"], &["tcp:22"])]);
    filter.outgoing(&udp_out(40_000, 53), at(0));
    let about = |quoted: &[u8]| ip4(PEER, US, 1, &icmp(3, 0, quoted));
    let stray = Err(FilterDrop::StrayError);
    assert_eq!(filter.incoming(&about(&udp_out(40_000, 53)), at(1)), Ok(()));
    assert_eq!(filter.incoming(&about(&udp_out(40_000, 54)), at(1)), stray);
    // We may answer on port 22, and the answer may be too large.
    assert_eq!(filter.incoming(&about(&tcp_out(22, 9, ACK)[..28]), at(1)), Ok(()));
    assert_eq!(filter.incoming(&about(&tcp_out(23, 9, ACK)[..28]), at(1)), stray);
    assert_eq!(
        filter.incoming(&about(&udp_in(40_000, 53)), at(1)),
        stray,
        "it is not ours"
    );
    assert_eq!(filter.incoming(&about(&[]), at(1)), stray);
    assert_eq!(
        filter.incoming(&about(&about(&udp_out(40_000, 53))), at(1)),
        stray
    );
    let from_elsewhere = ip4("100.64.0.3", US, 1, &icmp(3, 0, &udp_out(40_000, 53)));
    assert_eq!(filter.incoming(&from_elsewhere, at(1)), stray);
    filter.outgoing(&ip6(US6, PEER6, 6, &tcp(40_000, 80, SYN)), at(1));
    let too_big = icmp(2, 0, &ip6(US6, PEER6, 6, &tcp(40_000, 80, ACK)));
    assert_eq!(filter.incoming(&ip6(PEER6, US6, 58, &too_big), at(2)), Ok(()));
    assert_eq!(filter.counters().dropped(FilterDrop::StrayError), 6);
}

#[test]
fn what_peers_opened_ends_with_the_rule_that_let_them() {
    let mut filter = filter(&[(&["100.64.0.2/32"], &["tcp:22", "udp:53"])]);
    assert_eq!(filter.incoming(&tcp_in(9, 22, SYN), at(0)), Ok(()));
    filter.outgoing(&tcp_out(22, 9, SYN_ACK), at(0));
    assert_eq!(filter.incoming(&udp_in(9, 53), at(0)), Ok(()));
    filter.outgoing(&udp_out(53, 9), at(0));
    let (us, peer) = (format!("{US}:22"), format!("{PEER}:9"));
    let address = |text: &str| text.parse().expect("an address");
    assert!(filter.admits_tcp(address(&us), address(&peer), at(1)));
    filter.set(Some(&rules(&[])));
    assert!(!filter.admits_tcp(address(&us), address(&peer), at(1)));
    assert_eq!(filter.incoming(&tcp_in(9, 22, ACK), at(1)), DENIED);
    assert_eq!(filter.incoming(&udp_in(9, 53), at(1)), DENIED);
    // Our own part goes on for a while, and must not open the way again.
    for second in 2..400 {
        filter.outgoing(&tcp_out(22, 9, ACK), at(second));
        filter.outgoing(&udp_out(53, 9), at(second));
    }
    assert_eq!(filter.incoming(&tcp_in(9, 22, ACK), at(400)), DENIED);
    assert_eq!(filter.incoming(&udp_in(9, 53), at(400)), DENIED);
}

#[test]
fn what_we_opened_outlives_a_change_of_the_rules() {
    let mut filter = filter(&[(&["0.0.0.0/0"], &["*"])]);
    filter.outgoing(&tcp_out(40_000, 80, SYN), at(0));
    filter.set(Some(&rules(&[])));
    assert_eq!(filter.incoming(&tcp_in(80, 40_000, SYN_ACK), at(1)), Ok(()));
    let (us, peer) = (format!("{US}:40000"), format!("{PEER}:80"));
    assert!(filter.admits_tcp(
        us.parse().expect("address"),
        peer.parse().expect("address"),
        at(1)
    ));
}

#[test]
fn what_may_be_fragmented_passes_as_it_is_when_it_is_not() {
    let mut filter = filter(&[(&["0.0.0.0/0", "::/0"], &["tcp:22"])]);
    let peer = types::NodePrivateKey::from_random([1; 32]).public();
    let mut unfragmented = tcp_in(9, 22, SYN);
    unfragmented[6] = 0x40;
    let options = ip6(
        PEER6,
        US6,
        60,
        &[&[6, 0, 1, 4, 0, 0, 0, 0], tcp(9, 22, SYN).as_slice()].concat(),
    );
    for packet in [unfragmented, options] {
        assert_eq!(filter.take_in(&peer, &packet, at(0)), Ok(Some(packet.as_slice())));
    }
}

#[test]
fn ports_are_found_behind_extension_headers_up_to_the_limit() {
    let mut filter = filter(&[(&["::/0"], &["tcp:22"])]);
    let chain = |count: usize, port: u16| {
        let mut payload = Vec::new();
        for left in (0..count).rev() {
            payload.extend([if left == 0 { 6 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        payload.extend(tcp(9, port, SYN));
        ip6(PEER6, US6, if count == 0 { 6 } else { 60 }, &payload)
    };
    for count in 0..=EXTENSIONS_MAX {
        assert_eq!(filter.incoming(&chain(count, 22), at(0)), Ok(()), "{count}");
        assert_eq!(filter.incoming(&chain(count, 23), at(0)), DENIED, "{count}");
    }
    let malformed = Err(FilterDrop::Malformed);
    assert_eq!(filter.incoming(&chain(EXTENSIONS_MAX + 1, 22), at(0)), malformed);
    let routed = |hops_left: u8| {
        let header = [6, 0, 0, hops_left, 0, 0, 0, 0];
        ip6(PEER6, US6, 43, &[&header, tcp(9, 22, SYN).as_slice()].concat())
    };
    assert_eq!(filter.incoming(&routed(0), at(0)), Ok(()));
    assert_eq!(filter.incoming(&routed(1), at(0)), malformed);
}

#[test]
fn every_truncation_is_malformed_or_denied_without_a_panic() {
    let mut filter = filter(&[(&["0.0.0.0/0", "::/0"], &["tcp:22", "udp:22"])]);
    let whole = [
        tcp_in(9, 22, SYN),
        udp_in(9, 22),
        ip4(PEER, US, 1, &icmp(3, 0, &udp_out(1, 2))),
        ip6(
            PEER6,
            US6,
            60,
            &[&[6, 0, 1, 4, 0, 0, 0, 0], tcp(9, 22, SYN).as_slice()].concat(),
        ),
    ];
    for packet in whole {
        for len in 0..packet.len() {
            assert_eq!(
                filter.incoming(&packet[..len], at(0)),
                Err(FilterDrop::Malformed),
                "{len}"
            );
        }
    }
    // Short payloads whose IP header says so.
    for len in 0..20 {
        assert_eq!(
            filter.incoming(&ip4(PEER, US, 6, &tcp(9, 22, SYN)[..len]), at(0)),
            Err(FilterDrop::Malformed)
        );
    }
    for len in 0..8 {
        assert_eq!(
            filter.incoming(&ip6(PEER6, US6, 17, &udp(9, 22)[..len]), at(0)),
            Err(FilterDrop::Malformed)
        );
    }
    let mut offset = tcp_in(9, 22, SYN);
    offset[32] = 0xf0;
    assert_eq!(filter.incoming(&offset, at(0)), Err(FilterDrop::Malformed));
}

#[test]
fn no_more_flows_are_remembered_than_the_limit_and_dead_ones_make_room() {
    let mut filter = closed();
    let packet = |number: usize| {
        let number = u32::try_from(number).expect("small");
        udp_out((number >> 8) as u16 + 1, (number & 0xff) as u16 + 1)
    };
    for number in 0..FLOWS_MAX {
        filter.outgoing(&packet(number), at(0));
    }
    assert_eq!(filter.counters().flows_refused, 0);
    filter.outgoing(&packet(FLOWS_MAX), at(1));
    filter.outgoing(&packet(FLOWS_MAX), at(1));
    assert_eq!(filter.counters().flows_refused, 2);
    filter.outgoing(&packet(0), at(2));
    assert_eq!(filter.counters().flows_refused, 2, "a known flow needs no room");
    filter.outgoing(&packet(FLOWS_MAX), at(301));
    assert_eq!(filter.counters().flows_refused, 2, "all but one were over");
    assert_eq!(filter.incoming(&udp_in(1, 1), at(301)), Ok(()), "that one lives");
    assert_eq!(filter.incoming(&udp_in(2, 1), at(301)), DENIED);
}

#[test]
fn peers_that_flood_are_served_though_not_remembered() {
    let mut filter = filter(&[(&["0.0.0.0/0"], &["udp:53"])]);
    for number in 0..=FLOWS_MAX {
        let source = u16::try_from(number).expect("small") + 1;
        assert_eq!(filter.incoming(&udp_in(source, 53), at(0)), Ok(()));
    }
    assert_eq!(filter.counters().flows_refused, 0, "they are none of ours");
    filter.outgoing(&udp_out(40_000, 99), at(0));
    assert_eq!(
        filter.incoming(&udp_in(99, 40_000), at(0)),
        Ok(()),
        "ours have their room"
    );
}

#[test]
fn each_reason_has_a_word_and_a_count_of_its_own() {
    let words: std::collections::BTreeSet<_> = FilterDrop::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(words.len(), FilterDrop::ALL.len());
    for (index, reason) in FilterDrop::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, index);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), first in 0_usize..2) {
        let mut bytes = bytes;
        if let Some(version) = bytes.first_mut() {
            *version = [0x45, 0x60][first];
        }
        let mut filter = closed();
        prop_assert!(filter.incoming(&bytes, at(0)).is_err());
        filter.outgoing(&bytes, at(0));
        let _ = filter.incoming(&bytes, at(0));
    }

    #[test]
    fn the_compiled_rules_allow_what_a_look_at_every_rule_allows(
        drawn in prop::collection::vec((0_u8..4, 8_u8..33, 1_u16..6, 0_u16..4), 0..8),
        source in 0_u8..4,
        port in 1_u16..10,
    ) {
        let rules: Vec<FilterRule> = drawn.iter().map(|(host, len, first, more)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*len)).unwrap_or(0);
            let address = std::net::Ipv4Addr::from(u32::from_be_bytes([100, 64, 0, *host]) & mask);
            FilterRule {
                from: vec![AllowedIp::new(address.into(), *len).expect("masked")],
                to: vec![format!("tcp:{first}-{}", first + more).parse().expect("ports")],
            }
        }).collect();
        let from = std::net::IpAddr::from([100, 64, 0, source]);
        let expected = rules.iter().any(|rule| {
            rule.from[0].contains(from) && rule.to[0].covers(types::Service::Tcp(port))
        });
        let mut filter = Filter::default();
        filter.set(Some(&PacketFilter { rules }));
        let packet = ip4(&from.to_string(), US, 6, &tcp(9, port, SYN));
        prop_assert_eq!(filter.incoming(&packet, at(0)).is_ok(), expected);
    }

    #[test]
    fn rules_that_are_changed_allow_what_rules_that_are_set_allow(
        // For each step and host: which of the ports it gets, if any.
        steps in prop::collection::vec(prop::collection::vec(0_u8..8, 24), 2..6),
        open in any::<bool>(),
    ) {
        let host = |number: usize| -> AllowedIp {
            format!("100.64.0.{}/32", number + 1).parse().expect("a block")
        };
        let filter_of = |step: &[u8]| {
            let rule = |bits: u8| FilterRule {
                from: (0..step.len()).filter(|number| step[*number] == bits).map(host).collect(),
                to: (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| {
                    format!("tcp:{}", 20 + bit).parse().expect("ports")
                }).collect(),
            };
            let everybody = open.then(|| PacketFilter::everybody("tcp:9".parse().expect("ports")).rules.remove(0));
            PacketFilter { rules: (1..8).map(rule).chain(everybody).collect() }.canonical()
        };
        let mut changed = Filter::default();
        changed.set(Some(&filter_of(&steps[0])));
        for step in steps.windows(2) {
            // Few at a time, so that not all are compiled anew.
            let mut before = step[0].clone();
            for number in 0..before.len() {
                if before[number] == step[1][number] {
                    continue;
                }
                before[number] = step[1][number];
                changed.change(Some(&filter_of(&before)), &BTreeSet::from([host(number)]));
            }
            let mut set = Filter::default();
            set.set(Some(&filter_of(&step[1])));
            for (number, port) in (0..24).flat_map(|number| [9, 20, 21, 22].map(|port| (number, port))) {
                let packet = ip4(&host(number).address().to_string(), US, 6, &tcp(9, port, SYN));
                let verdicts = [&mut changed, &mut set].map(|filter| filter.incoming(&packet, at(0)));
                prop_assert_eq!(verdicts[0], verdicts[1], "{} {}", number, port);
            }
        }
    }

    #[test]
    fn many_sets_of_ports_one_after_the_other_leave_no_more_than_the_limit(count in 300_u16..700) {
        let hosts: Vec<AllowedIp> =
            (1..200).map(|number| format!("100.64.1.{number}/32").parse().expect("a block")).collect();
        let filter_of = |port: u16| {
            let of_port = |port: u16, from: &[AllowedIp]| FilterRule {
                from: from.to_vec(),
                to: vec![format!("tcp:{port}").parse().expect("ports")],
            };
            PacketFilter { rules: vec![of_port(1, &hosts[1..]), of_port(port, &hosts[..1])] }.canonical()
        };
        let mut filter = Filter::default();
        filter.set(Some(&filter_of(2)));
        for port in 3..count {
            filter.change(Some(&filter_of(port)), &hosts[..1].iter().copied().collect());
            let rules = filter.rules.as_ref().expect("rules");
            prop_assert!(rules.sets_len() <= 2 + NEW_SETS_MAX);
        }
        let packet = |port| ip4("100.64.1.1", US, 6, &tcp(9, port, SYN));
        prop_assert!(filter.incoming(&packet(count - 1), at(0)).is_ok());
        prop_assert!(filter.incoming(&packet(count - 2), at(0)).is_err());
    }
}
