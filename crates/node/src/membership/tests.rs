//! Netmaps, whole and by deltas, upon a real mesh and a real state directory.

use tempfile::TempDir;
use types::address::{host_ip4, node_ip6};
use types::netmap::{Difference, SelfRecord};
use types::{AllowedIp, MeshAddresses, NodeId, NodePrivateKey, OrgId, SigningPrivateKey, Timestamp};

use net::mesh_net::MeshNetConfig;

use super::*;
use crate::status::NetmapCounts;

struct Bench {
    dir: TempDir,
    membership: Arc<Membership>,
}

impl Bench {
    fn start(dir: TempDir) -> Self {
        let private_key = key(1);
        std::fs::write(dir.path().join("node.key"), private_key.to_base64().as_bytes()).expect("written");
        let own_key = private_key.public();
        let listen = "127.0.0.1:0".parse().expect("an address");
        let mesh = MeshNet::start(MeshNetConfig { private_key, listen }).expect("a mesh");
        let pinned = Pinned {
            control_key: own_key,
            org_id: org(),
            org_signing_key: org_key().public(),
            node_id: id(1),
            name: "here".parse().expect("a label"),
            addresses: Vec::new(),
        };
        let state_dir = Arc::new(StateDir::open(dir.path()).expect("a state directory"));
        let keyring = Arc::new(Keyring::open(Arc::clone(&state_dir)).expect("a key"));
        let board = StatusBoard::new("0".to_owned(), own_key, Timestamp::from_unix_ms(0));
        let (membership, _reports) = Membership::new(mesh, keyring, pinned, state_dir, board);
        Self { dir, membership }
    }

    /// The next process of the same device.
    fn restarted(self) -> Self {
        drop(self.membership);
        Self::start(self.dir)
    }

    async fn has_peer(&self, seed: u8) -> bool {
        let status = self.membership.mesh.peer_status(key(seed).public()).await;
        status.is_some()
    }

    fn counts(&self) -> (u64, u64, u64) {
        let NetmapCounts {
            whole,
            deltas,
            refused,
        } = self.membership.board.read().netmaps;
        (whole, deltas, refused)
    }
}

fn org() -> OrgId {
    OrgId::from_random([1; 16])
}

fn org_key() -> SigningPrivateKey {
    SigningPrivateKey::from_random([2; 32])
}

fn key(seed: u8) -> NodePrivateKey {
    NodePrivateKey::from_random([seed; 32])
}

fn id(seed: u8) -> NodeId {
    NodeId::from_random([seed; 16])
}

fn peer(seed: u8) -> Arc<PeerRecord> {
    let ip4 = host_ip4(seed.into()).expect("in range");
    let mut peer = PeerRecord {
        id: id(seed),
        name: format!("node-{seed}").parse().expect("a label"),
        kind: NodeKind::Device,
        public_key: key(seed).public(),
        allowed_ips: vec![AllowedIp::host(ip4.into())],
        endpoints: vec!["127.0.0.1:9".to_owned()],
        home_relay: None,
        signatures: Vec::new(),
    };
    peer.sign(org(), &org_key());
    Arc::new(peer)
}

fn netmap(generation: u64, peers: &[u8]) -> Netmap {
    Netmap {
        generation: Generation(generation),
        org_id: org(),
        org_name: "home".parse().expect("a label"),
        org_signing_key: org_key().public(),
        node: SelfRecord {
            id: id(1),
            name: "here".parse().expect("a label"),
            public_key: key(1).public(),
            addresses: MeshAddresses {
                mesh_ip4: host_ip4(1).expect("in range"),
                mesh_ip6: node_ip6(org(), id(1)),
            },
            key_life: None,
        },
        peers: peers.iter().map(|seed| peer(*seed)).collect(),
        relays: Vec::new(),
        filter: Some(Arc::default()),
        orchestrator: None,
    }
}

fn delta(old: &Netmap, new: &Netmap) -> NetmapDelta {
    match Difference::between(old, new) {
        Difference::Delta(delta) => *delta,
        other => panic!("expected a delta, got {other:?}"),
    }
}

#[tokio::test]
async fn a_delta_brings_and_takes_peers_and_is_there_after_a_restart() {
    let bench = Bench::start(TempDir::new().expect("temporary directory"));
    let (first, second) = (netmap(4, &[2, 3, 4]), netmap(6, &[3, 4, 5]));
    bench.membership.offer(first.clone()).await.expect("good");
    let offered = bench.membership.offer_delta(&delta(&first, &second)).await;
    assert_eq!(offered, Ok(Generation(6)));
    assert!(!bench.has_peer(2).await && bench.has_peer(3).await && bench.has_peer(5).await);
    assert_eq!(bench.membership.current.borrow().as_deref(), Some(&second));
    assert_eq!(bench.counts(), (1, 1, 0));

    let bench = bench.restarted();
    bench.membership.restore().await;
    assert_eq!(bench.membership.current.borrow().as_deref(), Some(&second));
    assert!(bench.has_peer(5).await && !bench.has_peer(2).await);
}

#[tokio::test]
async fn a_delta_that_does_not_fit_changes_nothing_and_says_so() {
    let bench = Bench::start(TempDir::new().expect("temporary directory"));
    let (first, second, third) = (netmap(4, &[2, 3]), netmap(5, &[2, 3, 4]), netmap(6, &[2, 3, 5]));
    let refused = bench.membership.offer_delta(&delta(&first, &second)).await;
    assert!(refused.is_err(), "there is nothing to apply it to");
    bench.membership.offer(first.clone()).await.expect("good");
    assert_eq!(bench.membership.board.read().netmap_refused, None);
    let reason = "it starts from generation 5, and generation 4 is in force";
    let refused = bench.membership.offer_delta(&delta(&second, &third)).await;
    assert_eq!(refused, Err(reason.to_owned()));
    let mut forged = delta(&first, &second);
    Arc::make_mut(&mut forged.upserted[0]).public_key = key(9).public();
    let refused = bench.membership.offer_delta(&forged).await;
    assert_eq!(refused, Err("peer node-4: the org has not signed it".to_owned()));
    assert_eq!(bench.membership.current.borrow().as_deref(), Some(&first));
    assert!(!bench.has_peer(4).await && !bench.has_peer(9).await);
    assert_eq!(bench.counts(), (1, 0, 3));
    assert!(bench.membership.board.read().netmap_refused.is_some());

    bench
        .membership
        .offer(third)
        .await
        .expect("the whole netmap helps");
    assert!(bench.has_peer(5).await);
    assert_eq!(bench.membership.board.read().netmap_refused, None);
}

#[tokio::test]
async fn a_kept_netmap_that_nobody_signed_is_forgotten() {
    let bench = Bench::start(TempDir::new().expect("temporary directory"));
    let mut map = netmap(4, &[]);
    let mut unsigned = peer(2);
    Arc::make_mut(&mut unsigned).signatures.clear();
    map.peers = vec![unsigned].into();
    let mut file = bench.membership.applying.try_lock().expect("nobody else");
    file.write(&map).expect("written");
    drop(file);
    bench.membership.restore().await;
    assert_eq!(bench.membership.generation(), None);
    assert!(!bench.has_peer(2).await);
    let kept = bench.membership.applying.lock().await.read();
    assert_eq!(kept.expect("readable"), None);
}

#[tokio::test]
async fn deltas_that_were_kept_and_that_nobody_signed_are_not_believed_and_the_whole_netmap_is() {
    let bench = Bench::start(TempDir::new().expect("temporary directory"));
    let (first, second, third) = (
        netmap(4, &[2, 3]),
        netmap(5, &[2, 3, 4]),
        netmap(6, &[2, 3, 4, 5]),
    );
    bench.membership.offer(first.clone()).await.expect("good");
    let good = delta(&first, &second);
    bench.membership.offer_delta(&good).await.expect("good");
    let mut forged = delta(&second, &third);
    Arc::make_mut(&mut forged.upserted[0]).signatures.clear();
    let mut file = bench.membership.applying.try_lock().expect("nobody else");
    file.add(&forged, &third).expect("written");
    drop(file);

    let bench = bench.restarted();
    bench.membership.restore().await;
    assert_eq!(bench.membership.current.borrow().as_deref(), Some(&first));
    assert!(!bench.has_peer(4).await && !bench.has_peer(5).await);
    bench.membership.offer_delta(&good).await.expect("good");

    let bench = bench.restarted();
    bench.membership.restore().await;
    assert_eq!(bench.membership.current.borrow().as_deref(), Some(&second));
}

#[tokio::test]
async fn the_status_shows_after_deltas_what_it_shows_after_the_whole_netmap() {
    let bench = Bench::start(TempDir::new().expect("temporary directory"));
    let steps: [&[u8]; 5] = [&[3, 5], &[2, 3, 4, 5], &[4, 5], &[2, 4, 6], &[2, 6, 7]];
    let mut before = netmap(1, steps[0]);
    bench.membership.offer(before.clone()).await.expect("good");
    for (generation, peers) in (2..).zip(&steps[1..]) {
        let mut next = netmap(generation, peers);
        // One that stays moves.
        let mut moved: Vec<_> = next.peers.iter().cloned().collect();
        Arc::make_mut(&mut moved[0]).endpoints = vec![format!("127.0.0.1:{}", 10 + generation)];
        next.peers = moved.into();
        bench
            .membership
            .offer_delta(&any_delta(&before, &next))
            .await
            .expect("good");
        let by_delta = bench.membership.board.read();
        bench.membership.show();
        assert_eq!(bench.membership.board.read().peers, by_delta.peers);
        assert_eq!(bench.membership.board.read().generation, Some(next.generation));
        assert_eq!(by_delta.peers.len(), next.peers.len());
        before = next;
    }
}

/// A delta, also where the whole netmap is shorter.
fn any_delta(old: &Netmap, new: &Netmap) -> NetmapDelta {
    let is_gone = |peer: &&Arc<PeerRecord>| new.peers.of_id(peer.id).is_none();
    let is_new = |peer: &&Arc<PeerRecord>| old.peers.of_id(peer.id) != Some(*peer);
    NetmapDelta {
        generation: new.generation,
        from: old.generation,
        org_id: new.org_id,
        node_id: new.node.id,
        peer_count: new.peers.len(),
        upserted: new.peers.iter().filter(is_new).cloned().collect(),
        removed: old.peers.iter().filter(is_gone).map(|peer| peer.id).collect(),
        node: None,
        relays: None,
        filter: types::netmap::FilterChange::default(),
    }
}
