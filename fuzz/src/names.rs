//! The target of names: DNS messages, answered from a small zone.

use std::net::IpAddr;
use std::sync::Arc;

use mesh::dns::{Asker, QUERY_LEN_MAX, Transport, UDP_LEN_MAX, UDP_LEN_MIN, Zone, answer};
use types::netmap::SelfRecord;
use types::{
    AllowedIp, Generation, MeshAddresses, Netmap, NodeId, NodeKind, NodePrivateKey, OrgId, PeerRecord,
    SigningPrivateKey,
};

/// The node that peers must not be told of.
const SECRET: [u8; 4] = [100, 64, 0, 3];

/// Feeds a message to the server of names. The lowest bit of the first byte says whether a peer asks, the next one
/// whether by TCP; the rest is the message.
pub fn dns(input: &[u8]) {
    let Some((mode, message)) = input.split_first() else {
        return;
    };
    let asker = match mode & 1 {
        0 => Asker::Host,
        _ => Asker::Peer(IpAddr::from([100, 64, 0, 2])),
    };
    let transport = match mode & 2 {
        0 => Transport::Udp,
        _ => Transport::Tcp,
    };
    let zone = zone();
    let Some(bytes) = answer(Some(&zone), message, asker, transport) else {
        assert!(message.len() < 12 || message[2] & 0x80 != 0 || message.len() > QUERY_LEN_MAX);
        return;
    };
    assert!(message.len() <= QUERY_LEN_MAX, "it was not read");
    assert_eq!(bytes[..2], message[..2], "another id");
    assert!(bytes[2] & 0x80 != 0, "it is no answer");
    let len_max = match (transport, counts(message)[3]) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, 0) => UDP_LEN_MIN,
        (Transport::Udp, _) => UDP_LEN_MAX,
    };
    assert!(bytes.len() <= len_max, "{} bytes", bytes.len());
    check(&bytes, message);
    let tells = bytes.windows(SECRET.len()).any(|window| window == SECRET);
    let says_so_itself = message.windows(SECRET.len()).any(|window| window == SECRET);
    assert!(
        asker == Asker::Host || !tells || says_so_itself,
        "a secret was told"
    );
}

/// Walks through an answer: its question is that of the query, every record is whole, and nothing is left over.
fn check(bytes: &[u8], message: &[u8]) {
    let [questions, answers, authority, additional] = counts(bytes);
    let mut at = 12;
    for _ in 0..questions {
        let start = at;
        at = behind_name(bytes, at) + 4;
        assert_eq!(bytes[start..at], message[start..at], "another question");
    }
    for _ in 0..answers + authority + additional {
        at = behind_name(bytes, at) + 10;
        at += usize::from(u16::from_be_bytes([bytes[at - 2], bytes[at - 1]]));
    }
    assert_eq!(at, bytes.len(), "bytes too few or too many");
}

/// Returns where a name ends, and follows its pointer, which must lead back into the question.
fn behind_name(bytes: &[u8], mut at: usize) -> usize {
    loop {
        match bytes[at] {
            0 => return at + 1,
            len @ 1..=63 => at += 1 + usize::from(len),
            _ => {
                let to = usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]) & 0x3fff);
                assert!((12..at).contains(&to), "a pointer that leads nowhere");
                behind_name(bytes, to);
                return at + 2;
            }
        }
    }
}

fn counts(bytes: &[u8]) -> [u16; 4] {
    [4, 6, 8, 10].map(|at| u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn zone() -> Zone {
    let key = |number| NodePrivateKey::from_random([number; 32]).public();
    let peer = |number: u8, name: &str| PeerRecord {
        id: NodeId::from_random([number; 16]),
        name: name.parse().expect("a label"),
        kind: NodeKind::Device,
        public_key: key(number),
        allowed_ips: vec![AllowedIp::host(IpAddr::from([100, 64, 0, number]))],
        endpoints: Vec::new(),
        home_relay: None,
        signatures: Vec::new(),
    };
    Zone::new(&Netmap {
        generation: Generation(1),
        org_id: OrgId::from_random([9; 16]),
        org_name: "o".parse().expect("a label"),
        org_signing_key: SigningPrivateKey::from_random([7; 32]).public(),
        node: SelfRecord {
            id: NodeId::from_random([1; 16]),
            name: "a".parse().expect("a label"),
            public_key: key(1),
            addresses: MeshAddresses {
                mesh_ip4: [100, 64, 0, 1].into(),
                mesh_ip6: "fd00::1".parse().expect("an address"),
            },
            key_life: None,
        },
        peers: [peer(2, "b"), peer(3, "c")].map(Arc::new).into_iter().collect(),
        relays: Vec::new(),
        filter: None,
        orchestrator: None,
    })
}
