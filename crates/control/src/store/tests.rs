//! What both engines must do alike: run on SQLite always, on PostgreSQL when `RUNMESH_TEST_POSTGRES_URL` is set.

use api::audit::ActorType;
use api::invitations::Invitation;
use api::links::{Link, LinkStatus};
use api::nodes::{Node, NodesQuery};
use api::orgs::User;
use api::{Role, Scope};
use serde_json::Map;
use types::address::{host_ip4, node_ip6};
use types::{
    ApiKeyId, AuditId, InvitationId, NodeId, NodeKind, NodePrivateKey, NodeStatus, OrgId, SigningPrivateKey,
    Timestamp, UserId,
};

use super::audit::AuditDraft;
use super::links::LinkRow;
use super::orgs::OrgRow;
use super::sign_ins::SignInRow;
use super::{
    Store, StoreError, api_keys, audit, identities, invitations, links, nodes, orgs, policies, scratch,
    sign_ins, users,
};

/// Every engine at hand, each with an empty database.
pub(super) async fn stores() -> Vec<(Store, tempfile::TempDir)> {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    let sqlite = Store::open_sqlite(dir.path(), None).await.expect("SQLite");
    let mut stores = vec![(sqlite, dir)];
    if let Ok(url) = std::env::var("RUNMESH_TEST_POSTGRES_URL") {
        let url = scratch::database(&url).await.expect("a PostgreSQL server");
        let dir = tempfile::TempDir::new().expect("temporary directory");
        stores.push((Store::open(&url).await.expect("PostgreSQL"), dir));
    }
    stores
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

pub(super) fn org(seed: u8, name: &str) -> OrgRow {
    OrgRow {
        id: OrgId::from_random([seed; 16]),
        name: name.parse().expect("a label"),
        signing_key: SigningPrivateKey::from_random([seed; 32]),
        created_at: at(1_800_000_000_123),
    }
}

fn node(org: &OrgRow, seed: u8, name: &str) -> Node {
    let id = NodeId::from_random([seed; 16]);
    Node {
        id,
        org_id: org.id,
        kind: NodeKind::Device,
        name: name.to_owned(),
        device_label: Some("Größe 50%_x".to_owned()),
        dns_name: format!("{name}.{}.mesh.internal", org.name),
        os: None,
        hostname: None,
        app_version: None,
        client_metadata: Map::from_iter([("a".to_owned(), serde_json::json!([1, null, "ü"]))]),
        public_key: NodePrivateKey::from_random([seed; 32]).public(),
        mesh_ip4: host_ip4(u32::from(seed)).expect("in range"),
        mesh_ip6: node_ip6(org.id, id),
        status: NodeStatus::Offline,
        last_seen_at: None,
        path: None,
        path_reason: None,
        home_relay: None,
        tags: vec!["lab".to_owned()],
        owner_user_id: None,
        ephemeral: false,
        created_at: at(i64::from(seed)),
        revoked_at: None,
        key_expires_at: None,
        cut_off: None,
    }
}

fn draft(org: &OrgRow, seed: u8) -> AuditDraft {
    AuditDraft {
        id: AuditId::from_random([seed; 16]),
        org: org.id,
        actor_type: ActorType::System,
        actor_id: None,
        action: "test",
        target_type: None,
        target_id: None,
        ip: None,
        attributes: Map::new(),
        created_at: at(5),
    }
}

#[tokio::test]
async fn what_is_stored_is_read_back_nulls_and_all() {
    for (store, _dir) in stores().await {
        let org = org(1, "one");
        let node = node(&org, 1, "a");
        let mut tx = store.write().await.expect("a write");
        orgs::insert(&mut tx, &org).await.expect("stored");
        nodes::insert(&mut tx, &node, None).await.expect("stored");
        tx.commit().await.expect("durable");
        let mut conn = store.read().await.expect("a read");
        let found = nodes::find(&mut conn, org.id, node.id).await.expect("read");
        assert_eq!(found.expect("there").node, node);
        let kept = orgs::find(&mut conn, org.id).await.expect("read").expect("there");
        assert_eq!(kept.created_at, org.created_at);
        assert_eq!(kept.signing_key.public(), org.signing_key.public());
        let query = NodesQuery {
            q: Some("50%_".to_owned()),
            ..NodesQuery::default()
        };
        let listed = nodes::list(&mut conn, org.id, None, &query, ((-1, ""), 10)).await;
        assert_eq!(listed.expect("listed").len(), 1);
    }
}

#[tokio::test]
async fn what_is_not_committed_is_not_there() {
    for (store, _dir) in stores().await {
        let org = org(1, "one");
        let mut tx = store.write().await.expect("a write");
        orgs::insert(&mut tx, &org).await.expect("stored");
        drop(tx);
        let mut tx = store.write().await.expect("the writer is free again");
        assert!(orgs::all(&mut tx).await.expect("read").is_empty());
    }
}

#[tokio::test]
async fn a_taken_key_is_told_from_other_failures() {
    for (store, _dir) in stores().await {
        let mut tx = store.write().await.expect("a write");
        orgs::insert(&mut tx, &org(1, "one")).await.expect("stored");
        tx.commit().await.expect("durable");
        let mut tx = store.write().await.expect("a write");
        let again = orgs::insert(&mut tx, &org(2, "one")).await;
        assert!(matches!(again, Err(StoreError::Taken)), "{again:?}");
        drop(tx);
        let mut tx = store.write().await.expect("a write");
        let orphan = nodes::insert(&mut tx, &node(&org(9, "nine"), 1, "a"), None).await;
        assert!(matches!(orphan, Err(StoreError::Database(_))), "{orphan:?}");
    }
}

#[tokio::test]
async fn a_name_is_free_again_after_its_node_was_revoked_and_a_key_never() {
    for (store, _dir) in stores().await {
        let org = org(1, "one");
        let first = node(&org, 1, "a");
        let mut tx = store.write().await.expect("a write");
        orgs::insert(&mut tx, &org).await.expect("stored");
        nodes::insert(&mut tx, &first, None).await.expect("stored");
        assert!(
            nodes::revoke(&mut tx, org.id, first.id, at(9))
                .await
                .expect("revoked")
        );
        assert!(
            !nodes::revoke(&mut tx, org.id, first.id, at(10))
                .await
                .expect("asked")
        );
        nodes::insert(&mut tx, &node(&org, 2, "a"), None)
            .await
            .expect("the name is free");
        let mut same_key = node(&org, 3, "b");
        same_key.public_key = first.public_key;
        let refused = nodes::insert(&mut tx, &same_key, None).await;
        assert!(matches!(refused, Err(StoreError::Taken)), "{refused:?}");
    }
}

#[tokio::test]
async fn writers_wait_for_each_other_and_the_log_has_no_gap() {
    for (store, _dir) in stores().await {
        let org = org(1, "one");
        let mut tx = store.write().await.expect("a write");
        orgs::insert(&mut tx, &org).await.expect("stored");
        tx.commit().await.expect("durable");
        let writes = (1..=20).map(|seed| {
            let (store, org) = (store.clone(), org.clone());
            async move {
                let mut tx = store.write().await.expect("a write");
                audit::append(&mut tx, draft(&org, seed)).await.expect("appended");
                if seed % 4 != 0 {
                    tx.commit().await.expect("durable");
                }
            }
        });
        futures_util::future::join_all(writes).await;
        let mut conn = store.read().await.expect("a read");
        let rows = audit::export(&mut conn, org.id, None, (0, 100))
            .await
            .expect("read");
        let numbers: Vec<u64> = rows.iter().map(|row| row.sequence).collect();
        assert_eq!(numbers, (1..=15).collect::<Vec<_>>());
        for pair in rows.windows(2) {
            assert_eq!(pair[1].previous_hash, pair[0].hash);
            assert_eq!(pair[1].hash, audit::hash(&pair[1]));
        }
    }
}

#[tokio::test]
async fn a_credential_is_found_with_its_org_and_role() {
    for (store, _dir) in stores().await {
        let org = org(1, "one");
        let user = User {
            id: UserId::from_random([7; 16]),
            name: "Ada".to_owned(),
            created_at: at(1),
        };
        let key = api::api_keys::ApiKey {
            id: ApiKeyId::from_random([8; 16]),
            name: "key".to_owned(),
            prefix: "rt_live_abcd".to_owned(),
            user_id: user.id,
            scopes: vec![Scope::AgentRun, Scope::RunmeshRead],
            is_test: false,
            created_at: at(2),
            expires_at: Some(at(i64::MAX)),
            last_used_at: None,
            revoked_at: None,
        };
        let mut tx = store.write().await.expect("a write");
        orgs::insert(&mut tx, &org).await.expect("stored");
        users::insert(&mut tx, &user).await.expect("stored");
        users::insert_member(&mut tx, org.id, user.id, Role::Member, at(1))
            .await
            .expect("stored");
        api_keys::insert(&mut tx, org.id, &key, "hash")
            .await
            .expect("stored");
        let found = api_keys::credential(&mut tx, "hash")
            .await
            .expect("read")
            .expect("there");
        assert_eq!((found.key, found.org, found.role), (key, org.id, Role::Member));
        assert!(
            api_keys::credential(&mut tx, "other")
                .await
                .expect("read")
                .is_none()
        );
    }
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_left_alone() {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    let store = Store::open_sqlite(dir.path(), None).await.expect("SQLite");
    let mut tx = store.write().await.expect("a write");
    sqlx::raw_sql("INSERT INTO schema_version (version) VALUES (999)")
        .execute(&mut *tx)
        .await
        .expect("stored");
    tx.commit().await.expect("durable");
    store.close().await;
    let refused = Store::open_sqlite(dir.path(), None).await;
    assert!(matches!(refused, Err(StoreError::Newer { found: 999, .. })));
}

fn link(seed: u8, ip: &str, expires: i64) -> LinkRow {
    let key = NodePrivateKey::from_random([seed; 32]).public();
    let link = Link {
        code: format!("CODE{seed:02}"),
        status: LinkStatus::Pending,
        public_key: key,
        device_label: None,
        os: None,
        app_version: None,
        hostname: None,
        ip: ip.to_owned(),
        match_number: "07".to_owned(),
        created_at: at(i64::from(seed)),
        expires_at: at(expires),
    };
    LinkRow {
        link,
        client_metadata: Map::new(),
        org: None,
        node: None,
    }
}

#[tokio::test]
async fn whoever_crowds_the_waiting_room_makes_room_for_others() {
    for (store, _dir) in stores().await {
        let mut tx = store.write().await.expect("a write");
        for (seed, ip, expires) in [
            (1, "a", 5),
            (2, "a", 100),
            (3, "a", 100),
            (4, "b", 100),
            (5, "b", 5),
        ] {
            links::insert(&mut tx, &link(seed, ip, expires))
                .await
                .expect("stored");
        }
        // Those whose time is over wait for nothing.
        assert_eq!(links::pending(&mut tx, at(10)).await.expect("counted"), 3);
        assert!(
            !links::crowd_out(&mut tx, "a", at(10)).await.expect("asked"),
            "not for itself"
        );
        assert!(links::crowd_out(&mut tx, "c", at(10)).await.expect("asked"));
        let oldest = links::find(&mut tx, "CODE02")
            .await
            .expect("read")
            .expect("known");
        assert_eq!(oldest.link.status, LinkStatus::Expired);
        assert!(
            !links::crowd_out(&mut tx, "c", at(10)).await.expect("asked"),
            "one each is no crowd"
        );
    }
}

fn sign_in(seed: u8, expires: i64) -> SignInRow {
    SignInRow {
        state_hash: format!("state-{seed}"),
        browser_hash: format!("browser-{seed}"),
        nonce: "nonce".to_owned().into(),
        verifier: "verifier".to_owned().into(),
        landing: "/link".to_owned(),
        invitation: None,
        tied_to: None,
        expires_at: at(expires),
    }
}

#[tokio::test]
async fn sign_ins_under_way_are_bounded_and_each_is_spent_once() {
    for (store, _dir) in stores().await {
        let mut tx = store.write().await.expect("a write");
        for (seed, expires) in [(1, 5), (2, 20), (3, 30), (4, 40)] {
            let row = sign_in(seed, expires);
            sign_ins::insert(&mut tx, &row).await.expect("stored");
        }
        sign_ins::sweep(&mut tx, at(10), 2).await.expect("swept");
        for (state, there) in [
            ("state-1", false),
            ("state-2", false),
            ("state-3", true),
            ("state-4", true),
        ] {
            let found = sign_ins::find(&mut tx, state).await.expect("read");
            assert_eq!(found.is_some(), there, "{state}");
        }
        assert!(sign_ins::take(&mut tx, "state-4").await.expect("asked"));
        assert!(!sign_ins::take(&mut tx, "state-4").await.expect("asked"));
    }
}

#[tokio::test]
async fn a_subject_is_one_person_and_an_invitation_lets_one_in() {
    for (store, _dir) in stores().await {
        let (org, now) = (org(1, "one"), at(50));
        let mut tx = store.write().await.expect("a write");
        orgs::insert(&mut tx, &org).await.expect("stored");
        let ids = [7, 8].map(|seed| UserId::from_random([seed; 16]));
        for id in ids {
            let user = User {
                id,
                name: "Ada".to_owned(),
                created_at: now,
            };
            users::insert(&mut tx, &user).await.expect("stored");
        }
        for (expires, accepted) in [(100, true), (50, false)] {
            let invitation = Invitation {
                id: InvitationId::from_random([u8::try_from(expires).expect("small"); 16]),
                org_id: org.id,
                role: Role::Member,
                scopes: vec![Scope::AgentRun],
                email: Some("ada@example.com".to_owned()),
                invited_by: ids[0],
                created_at: at(1),
                expires_at: at(expires),
                accepted_at: None,
                accepted_by: None,
                revoked_at: None,
            };
            let hash = format!("hash-{expires}");
            invitations::insert(&mut tx, &invitation, &hash)
                .await
                .expect("stored");
            let found = invitations::find_by_hash(&mut tx, &hash).await.expect("read");
            assert_eq!(found, Some(invitation.clone()));
            let first = invitations::accept(&mut tx, invitation.id, ids[0], now).await;
            assert_eq!(first.expect("asked"), accepted);
            let second = invitations::accept(&mut tx, invitation.id, ids[1], now).await;
            assert!(!second.expect("asked"));
        }
        assert_eq!(
            invitations::open(&mut tx, org.id, at(49)).await.expect("counted"),
            1
        );
        let subject = ("https://id.example.com", "ada");
        identities::insert(&mut tx, subject, ids[0], now)
            .await
            .expect("stored");
        let found = identities::find(&mut tx, subject.0, subject.1)
            .await
            .expect("read");
        assert_eq!(found, Some(ids[0]));
        let elsewhere = identities::find(&mut tx, "https://id.example.com/", "ada").await;
        assert_eq!(elsewhere.expect("read"), None);
        let again = identities::insert(&mut tx, subject, ids[1], now).await;
        assert!(matches!(again, Err(StoreError::Taken)), "{again:?}");
    }
}

#[tokio::test]
async fn each_org_has_one_policy_and_counts_what_changes_its_meaning() {
    for (store, _dir) in stores().await {
        let (acme, other) = (org(1, "acme"), org(2, "other"));
        let mut tx = store.write().await.expect("a write");
        for org in [&acme, &other] {
            orgs::insert(&mut tx, org).await.expect("inserted");
        }
        let row = |version: u64| policies::PolicyRow {
            version,
            document: format!("{{\"grants\":[{version}]}}"),
            updated_at: at(5),
            updated_by: None,
        };
        assert_eq!(policies::find(&mut tx, acme.id).await.expect("read"), None);
        for version in [1, 2] {
            policies::put(&mut tx, acme.id, &row(version))
                .await
                .expect("written");
            let found = policies::find(&mut tx, acme.id).await.expect("read");
            assert_eq!(found, Some(row(version)));
        }
        assert_eq!(policies::find(&mut tx, other.id).await.expect("read"), None);
        let before = orgs::generation(&mut tx, acme.id).await.expect("read");
        orgs::raise_topology(&mut tx, acme.id).await.expect("raised");
        orgs::raise_generation(&mut tx, acme.id).await.expect("raised");
        assert_eq!(orgs::topology(&mut tx, acme.id).await.expect("read"), 1);
        assert_eq!(orgs::topology(&mut tx, other.id).await.expect("read"), 0);
        let after = orgs::generation(&mut tx, acme.id).await.expect("read");
        assert_eq!(after.0, before.0 + 2);
    }
}
