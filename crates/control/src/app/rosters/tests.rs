//! What is kept of an org's rosters: read once, never stale, never of a write that was taken back, and bounded.

use std::sync::Arc;

use api::nodes::Node;
use tempfile::TempDir;
use types::address::{host_ip4, node_ip6};
use types::{Generation, NodeId, NodeKind, NodePrivateKey, NodeStatus, OrgId, SigningPrivateKey, Timestamp};

use super::{GENERATIONS_MAX, PLACES_MAX, Rosters, Shelf};
use crate::app::Reaches;
use crate::store::orgs::OrgRow;
use crate::store::{self, Store};

struct Bench {
    _dir: TempDir,
    store: Store,
    reaches: Reaches,
    rosters: Rosters,
}

impl Bench {
    /// Three orgs without nodes.
    async fn start() -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let store = Store::open_sqlite(dir.path(), None).await.expect("SQLite");
        let mut tx = store.write().await.expect("a write");
        for number in 0..3 {
            let row = OrgRow {
                id: org(number),
                name: format!("org-{number}").parse().expect("a label"),
                signing_key: SigningPrivateKey::from_random([1; 32]),
                created_at: Timestamp::from_unix_ms(1),
            };
            store::orgs::insert(&mut tx, &row).await.expect("inserted");
        }
        tx.commit().await.expect("committed");
        Self {
            _dir: dir,
            rosters: Rosters::new(store.clone(), vec!["mesh.example.com:7421".to_owned()]),
            reaches: Reaches::default(),
            store,
        }
    }

    async fn raise(&self, number: u8) -> Generation {
        let mut tx = self.store.write().await.expect("a write");
        let generation = store::orgs::raise_generation(&mut tx, org(number)).await;
        tx.commit().await.expect("committed");
        generation.expect("raised")
    }

    async fn join(&self, number: u8, seed: u8) -> Generation {
        let mut tx = self.store.write().await.expect("a write");
        store::nodes::insert(&mut tx, &node(org(number), seed), None)
            .await
            .expect("inserted");
        let generation = store::orgs::raise_topology(&mut tx, org(number)).await;
        tx.commit().await.expect("committed");
        generation.expect("raised")
    }

    async fn at_least(&self, number: u8, generation: Generation) -> Arc<super::Roster> {
        let roster = self.rosters.at_least(&self.reaches, org(number), generation);
        roster.await.expect("read")
    }
}

fn org(number: u8) -> OrgId {
    OrgId::from_random([number; 16])
}

fn node(org: OrgId, seed: u8) -> Node {
    let id = NodeId::from_random([seed; 16]);
    Node {
        id,
        org_id: org,
        kind: NodeKind::Device,
        name: format!("node-{seed}"),
        device_label: None,
        dns_name: String::new(),
        os: None,
        hostname: None,
        app_version: None,
        client_metadata: serde_json::Map::new(),
        public_key: NodePrivateKey::from_random([seed; 32]).public(),
        mesh_ip4: host_ip4(u32::from(seed)).expect("in range"),
        mesh_ip6: node_ip6(org, id),
        status: NodeStatus::Offline,
        last_seen_at: None,
        path: None,
        path_reason: None,
        home_relay: None,
        tags: Vec::new(),
        owner_user_id: None,
        ephemeral: false,
        created_at: Timestamp::from_unix_ms(i64::from(255 - seed)),
        revoked_at: None,
        key_expires_at: None,
        cut_off: None,
    }
}

#[tokio::test]
async fn a_generation_is_read_once_for_all_who_ask_and_a_newer_one_is_not_missed() {
    let bench = Bench::start().await;
    bench.join(0, 1).await;
    let generation = bench.join(0, 2).await;
    let asked = (0..20).map(|_| bench.at_least(0, generation));
    let rosters = futures_util::future::join_all(asked).await;
    assert!(rosters.iter().all(|roster| Arc::ptr_eq(roster, &rosters[0])));
    assert_eq!((rosters[0].len(), rosters[0].generation), (2, generation));

    let newer = bench.raise(0).await;
    let old = bench.at_least(0, generation).await;
    assert!(Arc::ptr_eq(&old, &rosters[0]), "what was asked for is there");
    let new = bench.at_least(0, newer).await;
    assert_eq!(new.generation, newer);
    assert!(Arc::ptr_eq(&new.reach, &old.reach), "the same nodes");
    let mut conn = bench.store.read().await.expect("a connection");
    let last = bench.raise(0).await;
    let current = bench.rosters.current(&bench.reaches, &mut conn, org(0)).await;
    assert_eq!(current.expect("read").generation, last);
}

#[tokio::test]
async fn a_record_that_did_not_change_is_shared_between_generations() {
    let bench = Bench::start().await;
    bench.join(0, 1).await;
    let before = bench.at_least(0, bench.join(0, 2).await).await;
    let mut tx = bench.store.write().await.expect("a write");
    let (still, moved) = (NodeId::from_random([1; 16]), NodeId::from_random([2; 16]));
    let endpoints = ["192.0.2.1:1".to_owned()];
    store::nodes::set_endpoints(&mut tx, moved, &endpoints)
        .await
        .expect("written");
    tx.commit().await.expect("committed");
    let after = bench.at_least(0, bench.raise(0).await).await;
    let record = |roster: &super::Roster, id| Arc::clone(&roster.seat(id).expect("there").record);
    assert!(Arc::ptr_eq(&record(&before, still), &record(&after, still)));
    assert_eq!(record(&after, moved).endpoints, endpoints);
}

#[tokio::test]
async fn a_write_that_is_taken_back_leaves_nothing() {
    let bench = Bench::start().await;
    let generation = bench.join(0, 1).await;
    let mut tx = bench.store.write().await.expect("a write");
    store::nodes::insert(&mut tx, &node(org(0), 2), None)
        .await
        .expect("inserted");
    store::orgs::raise_topology(&mut tx, org(0))
        .await
        .expect("raised");
    assert_eq!(bench.at_least(0, generation).await.len(), 1);
    drop(tx);
    // The same number is given again, for something else.
    let again = bench.join(0, 3).await;
    let roster = bench.at_least(0, again).await;
    assert_eq!((roster.len(), roster.generation), (2, again));
    assert!(roster.seat(NodeId::from_random([2; 16])).is_none());
    assert!(roster.netmap(NodeId::from_random([3; 16]), &[]).is_some());
}

#[tokio::test]
async fn only_the_last_generations_of_an_org_are_kept() {
    let bench = Bench::start().await;
    for _ in 0..GENERATIONS_MAX + 3 {
        let generation = bench.raise(0).await;
        bench.at_least(0, generation).await;
    }
    let kept = bench.rosters.kept();
    assert_eq!(kept.shelves[&org(0)].rosters.len(), GENERATIONS_MAX);
}

#[tokio::test]
async fn a_roster_that_was_read_late_does_not_take_the_place_of_a_newer_one() {
    let bench = Bench::start().await;
    let mut conn = bench.store.read().await.expect("a connection");
    let with = super::Readings {
        reaches: &bench.reaches,
        endpoints: &[],
        before: None,
    };
    let late = super::Roster::read(&mut conn, org(0), with).await.expect("read");
    let newer = bench.at_least(0, bench.raise(0).await).await;
    let kept = bench
        .rosters
        .keep(org(0), late.expect("nothing changed meanwhile"));
    assert!(Arc::ptr_eq(&kept, &newer));
}

#[tokio::test]
async fn who_was_not_asked_for_is_given_up_when_there_are_too_many_nodes() {
    let bench = Bench::start().await;
    let generation = bench.join(0, 1).await;
    let first = bench.at_least(0, generation).await;
    for number in 0..3 {
        bench.at_least(number, bench.raise(number).await).await;
    }
    bench.at_least(0, Generation::default()).await;
    // As many references to one roster as would be too many nodes.
    let many = PLACES_MAX / (first.len() + 1);
    // What is kept of an org by then, and of which orgs anything is.
    let fill = |number| {
        let mut kept = bench.rosters.kept();
        let shelf = kept.shelves.get_mut(&org(number)).expect("kept");
        shelf.rosters = std::iter::repeat_n(Arc::clone(&first), many).collect();
        kept.fit(org(number));
        let places: usize = kept.shelves.values().map(Shelf::places).sum();
        assert!(places <= PLACES_MAX);
        kept.shelves.keys().copied().collect::<Vec<_>>()
    };
    assert_eq!(fill(2), [org(2)], "the one that was just kept stays");
    bench.at_least(1, Generation::default()).await;
    assert_eq!(fill(1), [org(1)], "the other was used longest ago");
}
