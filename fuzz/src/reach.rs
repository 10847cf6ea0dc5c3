//! The targets of who may reach what: the packet filter, and the policy documents that it is made from.

use std::net::IpAddr;
use std::time::Duration;

use mesh::filter::{Filter, FilterDrop};
use mesh::ip::IpPacket;
use types::{
    AllowedIp, Decision, Evaluation, Monotonic, NodeId, NodeKind, NodePrivateKey, PacketFilter, Policy,
    Service, Subject, UserId,
};

/// Feeds packets to the packet filter.
///
/// The first byte chooses the rules: 0, none open anything; 1, some ports are open; 2, everything is. Then packets follow,
/// each behind a byte whose lowest bit says that it leaves and whose other bits are its length. What comes, whole or in
/// pieces, is of one peer.
pub fn filter(input: &[u8]) {
    let Some((mode, mut rest)) = input.split_first() else {
        return;
    };
    let everybody = |ports: &str| PacketFilter::everybody(ports.parse().expect("ports"));
    let rules = match mode % 3 {
        0 => PacketFilter::default(),
        1 => everybody("tcp:22"),
        _ => everybody("*"),
    };
    let mut filter = Filter::default();
    filter.set(Some(&rules));
    let peer = NodePrivateKey::from_random([1; 32]).public();
    let (mut incoming, mut left) = (0, false);
    let mut now = Monotonic::from_start(Duration::from_secs(1000));
    while let Some((head, after)) = rest.split_first() {
        let (packet, after) = after.split_at(usize::from(head >> 1).min(after.len()));
        rest = after;
        now = now + Duration::from_secs(1);
        if head & 1 != 0 {
            filter.outgoing(packet, now);
            left = true;
            continue;
        }
        incoming += 1;
        let is_piece = IpPacket::read(packet).is_ok_and(|packet| packet.piece.is_some());
        let verdict = filter.take_in(&peer, packet, now);
        assert!(
            mode % 3 != 0 || left || !matches!(verdict, Ok(Some(_))),
            "it answers nothing"
        );
        assert!(
            mode % 3 != 2 || verdict != Err(FilterDrop::Denied),
            "everything is open"
        );
        if let Ok(Some(whole)) = verdict {
            let whole = IpPacket::read(whole).expect("what passes is in order");
            assert!(whole.piece.is_none() && (is_piece || whole.payload.len() <= packet.len()));
        }
        assert!(is_piece || verdict != Ok(None), "what is whole waits for nothing");
        if !is_piece && let Err(reason) = verdict {
            assert_eq!(
                filter.take_in(&peer, packet, now),
                Err(reason),
                "a refusal changes nothing"
            );
            incoming += 1;
        }
    }
    let counters = filter.counters();
    let dropped: u64 = counters.drops().map(|(_, count)| count).sum();
    // Pieces wait, and many that pass are one packet.
    assert!(counters.passed + dropped <= incoming);
}

/// Reads a policy document, and compares what it means for a few nodes with what it means for each pair of them.
pub fn policy(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(policy) = Policy::parse(text) else {
        return;
    };
    assert_eq!(Policy::parse(&policy.to_text()).as_ref(), Ok(&policy));
    let nodes: Vec<Subject> = (1..7).map(subject).collect();
    let evaluation = Evaluation::new(&policy, nodes.clone());
    for dst in nodes.iter().filter(|dst| dst.kind != NodeKind::Platform) {
        let filter = evaluation.filter(dst.id);
        for src in nodes.iter().filter(|src| src.id != dst.id) {
            for service in [Service::Tcp(22), Service::Udp(53), Service::Icmp] {
                let opens = filter.rules.iter().any(|rule| {
                    let is_from = |block: &AllowedIp| block.contains(src.blocks[0].address());
                    rule.from.iter().any(is_from) && rule.to.iter().any(|ports| ports.covers(service))
                });
                assert_eq!(opens, policy.decide(src, dst, service) != Decision::Deny);
            }
        }
    }
    let _ = policy.failures(&nodes);
}

fn subject(number: u8) -> Subject {
    Subject {
        id: NodeId::from_random([number; 16]),
        name: format!("n{number}").parse().ok(),
        kind: [NodeKind::Device, NodeKind::Sandbox, NodeKind::Platform][usize::from(number % 3)],
        tags: ["ci", "prod"][..usize::from(number % 3)]
            .iter()
            .map(|tag| tag.parse().expect("a label"))
            .collect(),
        owner: number
            .is_multiple_of(2)
            .then(|| UserId::from_random([number % 4; 16])),
        blocks: vec![AllowedIp::host(IpAddr::from([100, 64, 0, number]))],
    }
}
