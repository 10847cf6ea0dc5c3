//! Names by DNS, asked and read by another implementation; and the bytes, pinned.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::*;
use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use types::netmap::SelfRecord;
use types::{
    AllowedIp, Generation, MeshAddresses, Netmap, NodeId, NodeKind, NodePrivateKey, OrgId, PeerRecord,
    SigningPrivateKey,
};

use super::*;

const ORG: [u8; 16] = [9; 16];

fn in_org(number: u16) -> Ipv6Addr {
    let IpAddr::V6(prefix) = types::address::org_prefix(OrgId::from_random(ORG)).address() else {
        panic!("it is an IPv6 prefix");
    };
    let mut segments = prefix.segments();
    segments[7] = number;
    Ipv6Addr::from(segments)
}

fn peer(seed: u8, name: &str, addresses: &[IpAddr]) -> PeerRecord {
    PeerRecord {
        id: NodeId::from_random([seed; 16]),
        name: name.parse().expect("a label"),
        kind: NodeKind::Device,
        public_key: NodePrivateKey::from_random([seed; 32]).public(),
        allowed_ips: addresses.iter().copied().map(AllowedIp::host).collect(),
        endpoints: Vec::new(),
        home_relay: None,
        signatures: Vec::new(),
    }
}

/// A zone with `here` (this node), `laptop` (both families), `six` (IPv6 only) and `wide`, which has 16 addresses.
fn zone() -> Zone {
    let long = "w".repeat(63);
    let wide: Vec<IpAddr> = (100..116).map(|number| in_org(number).into()).collect();
    let ip4 = |last| IpAddr::from([100, 64, 1, last]);
    let netmap = Netmap {
        generation: Generation(0x1_0000_0007),
        org_id: OrgId::from_random(ORG),
        org_name: "home".parse().expect("a label"),
        org_signing_key: SigningPrivateKey::from_random([7; 32]).public(),
        node: SelfRecord {
            id: NodeId::from_random([1; 16]),
            name: "here".parse().expect("a label"),
            public_key: NodePrivateKey::from_random([1; 32]).public(),
            addresses: MeshAddresses {
                mesh_ip4: [100, 64, 1, 1].into(),
                mesh_ip6: in_org(1),
            },
            key_life: None,
        },
        peers: [
            peer(2, "laptop", &[ip4(2), in_org(2).into()]),
            peer(3, "six", &[in_org(3).into()]),
            peer(4, &long, &wide),
        ]
        .map(Arc::new)
        .into_iter()
        .collect(),
        relays: Vec::new(),
        filter: None,
        orchestrator: None,
    };
    Zone::new(&netmap)
}

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    query_with(name, kind.into(), CLASS::IN.into(), None)
}

fn query_with(name: &str, kind: QTYPE, class: QCLASS, edns: Option<(u16, u8)>) -> Vec<u8> {
    let mut packet = Packet::new_query(0x1234);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new_unchecked(name);
    packet.questions.push(Question::new(name, kind, class, false));
    *packet.opt_mut() = edns.map(|(udp_packet_size, version)| OPT {
        opt_codes: Vec::new(),
        udp_packet_size,
        version,
    });
    packet.build_bytes_vec().expect("a query")
}

fn ask(message: &[u8]) -> Vec<u8> {
    answer(Some(&zone()), message, Asker::Host, Transport::Udp).expect("an answer")
}

/// Asks as a program on this device, and returns the code, the texts of the answers, and whether there is a SOA besides.
fn told(name: &str, kind: TYPE) -> (RCODE, Vec<String>, bool) {
    told_to(Asker::Host, name, kind)
}

fn told_to(asker: Asker, name: &str, kind: TYPE) -> (RCODE, Vec<String>, bool) {
    let message = query(name, kind);
    let bytes = answer(Some(&zone()), &message, asker, Transport::Udp).expect("an answer");
    let packet = Packet::parse(&bytes).expect("well-formed");
    assert_eq!(packet.id(), 0x1234);
    assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
    let is_ours = packet.rcode() != RCODE::Refused;
    assert_eq!(packet.has_flags(PacketFlag::AUTHORITATIVE_ANSWER), is_ours);
    assert_eq!(packet.questions[0].qname.to_string(), name);
    for record in packet.answers.iter().chain(&packet.name_servers) {
        assert_eq!((record.ttl, record.class), (TTL_SECONDS, CLASS::IN));
    }
    let texts = packet.answers.iter().map(|record| {
        assert_eq!(record.name.to_string(), name);
        match &record.rdata {
            RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
            RData::AAAA(aaaa) => Ipv6Addr::from(aaaa.address).to_string(),
            RData::PTR(ptr) => ptr.0.to_string(),
            RData::SOA(soa) => format!("{} {}", soa.mname, soa.serial),
            other => panic!("{other:?}"),
        }
    });
    let texts = texts.collect();
    (packet.rcode(), texts, packet.name_servers.len() == 1)
}

fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
            let mut labels: Vec<String> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            labels.reverse();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}

const NOTHING: (RCODE, Vec<String>, bool) = (RCODE::NoError, Vec::new(), true);
const NO_SUCH_NAME: (RCODE, Vec<String>, bool) = (RCODE::NameError, Vec::new(), true);
const REFUSED: (RCODE, Vec<String>, bool) = (RCODE::Refused, Vec::new(), false);

fn just(text: impl ToString) -> (RCODE, Vec<String>, bool) {
    (RCODE::NoError, vec![text.to_string()], false)
}

#[test]
fn nodes_have_addresses_and_addresses_have_names() {
    assert_eq!(told("laptop.home.mesh.internal", TYPE::A), just("100.64.1.2"));
    assert_eq!(told("laptop.home.mesh.internal", TYPE::AAAA), just(in_org(2)));
    assert_eq!(told("here.home.mesh.internal", TYPE::A), just("100.64.1.1"));
    assert_eq!(told("LapTop.HOME.mesh.InTernal", TYPE::A), just("100.64.1.2"));
    for (address, name) in [
        (IpAddr::from([100, 64, 1, 2]), "laptop.home.mesh.internal"),
        (in_org(3).into(), "six.home.mesh.internal"),
        (IpAddr::from([100, 64, 1, 1]), "here.home.mesh.internal"),
    ] {
        assert_eq!(told(&reverse(address), TYPE::PTR), just(name));
        assert_eq!(told(&reverse(address).to_uppercase(), TYPE::PTR), just(name));
    }
    let soa = "here.home.mesh.internal 7";
    assert_eq!(told("home.mesh.internal", TYPE::SOA), just(soa));
    assert_eq!(told("64.100.in-addr.arpa", TYPE::SOA), just(soa));
}

#[test]
fn what_is_not_there_is_told_from_what_has_no_such_record() {
    for (name, kind) in [
        ("six.home.mesh.internal", TYPE::A),
        ("laptop.home.mesh.internal", TYPE::TXT),
        ("laptop.home.mesh.internal", TYPE::PTR),
        ("home.mesh.internal", TYPE::A),
        ("home.mesh.internal", TYPE::NS),
        ("64.100.in-addr.arpa", TYPE::PTR),
        ("1.64.100.in-addr.arpa", TYPE::PTR),
        ("2.1.64.100.in-addr.arpa", TYPE::A),
    ] {
        assert_eq!(told(name, kind), NOTHING, "{name}");
    }
    let partly = reverse(in_org(2).into())[20..].to_owned();
    assert_eq!(told(&partly, TYPE::PTR), NOTHING);
    let six = reverse(in_org(2).into());
    for name in [
        "nobody.home.mesh.internal",
        "a.laptop.home.mesh.internal",
        "lap_top.home.mesh.internal",
        "-laptop.home.mesh.internal",
        "3.1.64.100.in-addr.arpa",
        "02.1.64.100.in-addr.arpa",
        "+2.1.64.100.in-addr.arpa",
        "256.1.64.100.in-addr.arpa",
        "1.2.1.64.100.in-addr.arpa",
        &format!("0.{six}"),
        &format!("g{}", &six[1..]),
        &format!("22{}", &six[1..]),
    ] {
        assert_eq!(told(name, TYPE::A), NO_SUCH_NAME, "{name}");
    }
}

#[test]
fn what_lies_outside_is_refused() {
    let mut other = in_org(2).segments();
    other[1] ^= 1;
    for name in [
        "example.com",
        "laptop.work.mesh.internal",
        "mesh.internal",
        "laptop",
        "homemesh.internal",
        "in-addr.arpa",
        "100.in-addr.arpa",
        "1.1.63.100.in-addr.arpa",
        "1.1.128.100.in-addr.arpa",
        "1.1.64.10.in-addr.arpa",
        "ip6.arpa",
        "d.f.ip6.arpa",
        &reverse(Ipv6Addr::from(other).into()),
    ] {
        assert_eq!(told(name, TYPE::A), REFUSED, "{name}");
    }
    let root = told("", TYPE::SOA);
    assert_eq!(root, REFUSED);
    let chaos = query_with(
        "here.home.mesh.internal",
        TYPE::TXT.into(),
        CLASS::CH.into(),
        None,
    );
    assert_eq!(
        Packet::parse(&ask(&chaos)).expect("well-formed").rcode(),
        RCODE::Refused
    );
    let transfer = query_with("home.mesh.internal", QTYPE::AXFR, CLASS::IN.into(), None);
    assert_eq!(
        Packet::parse(&ask(&transfer)).expect("well-formed").rcode(),
        RCODE::Refused
    );
}

#[test]
fn a_peer_is_told_of_this_node_and_itself_and_of_nothing_else() {
    let laptop = Asker::Peer([100, 64, 1, 2].into());
    let stranger = Asker::Peer([100, 64, 9, 9].into());
    for asker in [laptop, stranger] {
        assert_eq!(
            told_to(asker, "here.home.mesh.internal", TYPE::A),
            just("100.64.1.1")
        );
        let name = reverse(in_org(1).into());
        assert_eq!(told_to(asker, &name, TYPE::PTR), just("here.home.mesh.internal"));
        for name in [
            "six.home.mesh.internal",
            "nobody.home.mesh.internal",
            "home.mesh.internal",
            "1.64.100.in-addr.arpa",
            &reverse(in_org(3).into()),
            &reverse(in_org(77).into()),
        ] {
            assert_eq!(told_to(asker, name, TYPE::AAAA), REFUSED, "{name}");
        }
    }
    assert_eq!(
        told_to(laptop, "laptop.home.mesh.internal", TYPE::AAAA),
        just(in_org(2))
    );
    assert_eq!(
        told_to(stranger, "laptop.home.mesh.internal", TYPE::AAAA),
        REFUSED
    );
}

#[test]
fn the_question_comes_back_as_it_was_mixed() {
    let message = query("lApToP.hOmE.mEsH.iNtErNaL", TYPE::A);
    let bytes = ask(&message);
    assert_eq!(bytes[HEADER..message.len()], message[HEADER..]);
}

const HEADER: usize = 12;

#[test]
fn without_a_netmap_the_asker_is_to_come_again() {
    let message = query("here.home.mesh.internal", TYPE::A);
    let bytes = answer(None, &message, Asker::Host, Transport::Udp).expect("an answer");
    assert_eq!(bytes[3] & 15, 2);
}

#[test]
fn the_bytes_of_an_answer_are_these() {
    let message = query("here.home.mesh.internal", TYPE::A);
    let mut expected = vec![0x12, 0x34, 0x85, 0x00, 0, 1, 0, 1, 0, 0, 0, 0];
    expected.extend(b"\x04here\x04home\x04mesh\x08internal\0\0\x01\0\x01");
    expected.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4, 100, 64, 1, 1]);
    assert_eq!(ask(&message), expected);
    let message = query_with(
        "no.home.mesh.internal",
        TYPE::A.into(),
        CLASS::IN.into(),
        Some((4096, 0)),
    );
    let mut expected = vec![0x12, 0x34, 0x85, 0x03, 0, 1, 0, 0, 0, 1, 0, 1];
    expected.extend(b"\x02no\x04home\x04mesh\x08internal\0\0\x01\0\x01");
    expected.extend([0xc0, 15, 0, 6, 0, 1, 0, 0, 0, 10, 0, 61]);
    expected.extend(b"\x04here\x04home\x04mesh\x08internal\0\x06nobody\x07invalid\0");
    expected.extend([
        0, 0, 0, 7, 0, 0, 0x0e, 0x10, 0, 0, 2, 0x58, 0, 1, 0x51, 0x80, 0, 0, 0, 10,
    ]);
    expected.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask(&message), expected);
}

#[test]
fn an_answer_that_is_too_long_says_so_and_comes_whole_by_tcp() {
    let name = format!("{}.home.mesh.internal", "w".repeat(63));
    let ask = |edns, transport| {
        let message = query_with(&name, TYPE::AAAA.into(), CLASS::IN.into(), edns);
        answer(Some(&zone()), &message, Asker::Host, transport).expect("an answer")
    };
    let whole = ask(None, Transport::Tcp);
    assert!(whole.len() > UDP_LEN_MIN && whole.len() <= UDP_LEN_MAX);
    assert_eq!(Packet::parse(&whole).expect("well-formed").answers.len(), 16);
    let exactly = u16::try_from(whole.len()).expect("short") + 11;
    for (edns, is_whole) in [
        (None, false),
        (Some((0, 0)), false),
        (Some((512, 0)), false),
        (Some((exactly - 1, 0)), false),
        (Some((exactly, 0)), true),
        (Some((u16::MAX, 0)), true),
    ] {
        let bytes = ask(edns, Transport::Udp);
        let packet = Packet::parse(&bytes).expect("well-formed");
        assert_eq!(packet.has_flags(PacketFlag::TRUNCATION), !is_whole, "{edns:?}");
        assert_eq!(packet.answers.len(), if is_whole { 16 } else { 0 });
        assert_eq!(packet.opt().is_some(), edns.is_some());
    }
}

#[test]
fn another_version_of_edns_and_another_opcode_are_not_understood() {
    let name = "here.home.mesh.internal";
    let mut message = query_with(name, TYPE::A.into(), CLASS::IN.into(), Some((1232, 0)));
    // Written by hand: the other implementation looks for the version elsewhere than RFC 6891 puts it.
    let version = message.len() - 5;
    message[version] = 1;
    let bytes = ask(&message);
    assert_eq!((bytes[3], bytes[7]), (0, 0));
    assert_eq!(bytes[bytes.len() - 11..], [0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]);
    let mut message = query(name, TYPE::A);
    message[2] |= 0x28;
    assert_eq!(ask(&message)[2..4], [0xa9, 0x04]);
}

#[test]
fn malformed_queries_are_refused_and_answers_are_not_answered() {
    let good = query_with(
        "here.home.mesh.internal",
        TYPE::A.into(),
        CLASS::IN.into(),
        Some((1232, 0)),
    );
    let is_malformed = |message: &[u8]| {
        let bytes = ask(message);
        assert_eq!(bytes.len(), HEADER, "{message:?}");
        bytes[3] & 15 == 1
    };
    for len in 0..good.len() {
        if len < HEADER {
            assert_eq!(
                answer(Some(&zone()), &good[..len], Asker::Host, Transport::Udp),
                None
            );
        } else {
            assert!(is_malformed(&good[..len]), "{len}");
        }
    }
    assert!(is_malformed(&[good.as_slice(), &[0]].concat()), "a byte too many");
    for (at, byte) in [
        (5, 0),
        (5, 2),
        (7, 1),
        (9, 1),
        (11, 2),
        (11, 3),
        (12, 0xc0),
        (12, 0x40),
    ] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert!(is_malformed(&bad), "{byte} at {at}");
    }
    let mut two = good.clone();
    two[11] = 2;
    two.extend_from_slice(&good[good.len() - 11..]);
    assert!(is_malformed(&two), "two OPT");
    let mut reply = good.clone();
    reply[2] |= 0x80;
    assert_eq!(answer(Some(&zone()), &reply, Asker::Host, Transport::Udp), None);
    let long = [good.as_slice(), &[0; QUERY_LEN_MAX]].concat();
    assert_eq!(
        answer(
            Some(&zone()),
            &long[..=QUERY_LEN_MAX],
            Asker::Host,
            Transport::Tcp
        ),
        None
    );
    assert!(is_malformed(&long[..QUERY_LEN_MAX]));
}

#[test]
fn a_name_may_have_255_bytes_and_no_more() {
    let of = |last: usize| {
        let long = "a".repeat(63);
        [long.as_str(), &long, &long, &"b".repeat(last)].join(".")
    };
    let longest = ask(&query(&of(61), TYPE::A));
    assert_eq!(longest[3] & 15, 5);
    let longer = ask(&query(&of(62), TYPE::A));
    assert_eq!(longer[3] & 15, 1);
}

#[test]
fn the_domains_are_those_that_are_answered() {
    let domains = zone().domains();
    assert_eq!(domains.len(), 66);
    for domain in &domains {
        assert_eq!(told(domain, TYPE::SOA).0, RCODE::NoError, "{domain}");
    }
}

proptest! {
    #[test]
    fn every_message_is_answered_within_its_limit_or_not_at_all(message in prop::collection::vec(any::<u8>(), 0..80)) {
        for asker in [Asker::Host, Asker::Peer([100, 64, 1, 2].into())] {
            if let Some(bytes) = answer(Some(&zone()), &message, asker, Transport::Udp) {
                prop_assert!(bytes.len() <= UDP_LEN_MAX && bytes[..2] == message[..2]);
                prop_assert!(Packet::parse(&bytes).is_ok());
            }
        }
    }
}
