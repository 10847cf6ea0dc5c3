//! The keys of nodes: whose a key is, and how a node comes by another one.
//!
//! A node offers a key on the stream of the one it has, and the first stream that it opens with the new one puts it into
//! force: that proves that the node has the private half, and a crash at either end, at any point, leaves a key that is
//! taken. The old one is taken for a while longer, and only to be told of the new one; then it is refused for ever.

use std::sync::Arc;

use api::ErrorCode;
use api::activity::Severity;
use api::nodes::Node;
use serde_json::{Map, json};
use tokio_util::sync::CancellationToken;
use types::policy::{NodeKeyRules, is_over};
use types::span::Span;
use types::{DisplayText, NodePublicKey, NodeStatus, OrgId, Timestamp};

use super::nodes::Change;
use super::{Actor, App, AppError, nodes, reach, sweep};
use crate::store::nodes::NodeRow;
use crate::store::{self, Conn, StoreError};

/// The most keys that one look gives up, so that no write lasts long.
const BATCH_MAX: i64 = 100;

/// What a key is to the node that has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// It is in force.
    InForce,
    /// It was offered, and would be in force.
    Offered,
    /// It was in force before, and is still taken.
    Previous,
}

/// A node, by one of its keys.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) row: NodeRow,
    pub(crate) standing: Standing,
}

/// Finds whose key opened a control stream, a revoked one's too.
pub(crate) async fn holder(app: &App, key: &NodePublicKey) -> Result<Option<Holder>, AppError> {
    let mut conn = app.store.read().await?;
    if let Some(row) = store::nodes::find_by_key(&mut conn, key).await? {
        let standing = Standing::InForce;
        return Ok(Some(Holder { row, standing }));
    }
    let offered = store::node_keys::find_by_next(&mut conn, key).await?;
    let (found, standing) = match offered {
        Some(found) => (Some(found), Standing::Offered),
        None => {
            let now = app.clock.wall();
            let found = store::node_keys::find_by_previous(&mut conn, key, now).await?;
            (found, Standing::Previous)
        }
    };
    let Some((org, id)) = found else {
        return Ok(None);
    };
    let row = store::nodes::find(&mut conn, org, id).await?;
    Ok(row.map(|row| Holder { row, standing }))
}

/// Returns until when the key is taken that a node had before.
pub(crate) async fn previous_until(app: &App, row: &NodeRow) -> Result<Option<Timestamp>, AppError> {
    let mut conn = app.store.read().await?;
    let overlap = store::node_keys::overlap(&mut conn, row.node.id).await?;
    let until = overlap.map(|(_, until)| until);
    Ok(until.filter(|until| *until > app.clock.wall()))
}

/// Tells whether the key of a node has expired, to the millisecond.
pub(crate) async fn has_expired(app: &App, row: &NodeRow) -> Result<bool, AppError> {
    let mut conn = app.store.read().await?;
    let is_noted = store::node_keys::has_expired(&mut conn, row.node.id).await?;
    Ok(is_noted || is_over(row.node.key_expires_at, app.clock.wall()))
}

/// Tells whether a node that has no netmap any more was revoked; otherwise its key has expired.
pub(crate) async fn was_revoked(app: &App, row: &NodeRow) -> Result<bool, AppError> {
    let mut conn = app.store.read().await?;
    let now = store::nodes::find(&mut conn, row.node.org_id, row.node.id).await?;
    Ok(now.is_none_or(|now| now.node.status == NodeStatus::Revoked))
}

/// Notes the key that a node wants to go by; the inner error says why not. The same offer again is answered the same.
pub(crate) async fn offer(
    app: &App,
    row: &NodeRow,
    key: &NodePublicKey,
) -> Result<Result<(), DisplayText>, AppError> {
    let mut tx = app.store.write().await?;
    if let Some(reason) = objection(app, &mut tx, (row, key)).await? {
        return Ok(Err(reason.parse().map_err(|_| AppError::internal())?));
    }
    store::node_keys::offer(&mut tx, row.node.id, key).await?;
    tx.commit().await?;
    Ok(Ok(()))
}

/// Returns what speaks against a key. That somebody else who has it may be about to link does not: here nothing is proven
/// yet, and there it will be.
async fn objection(
    app: &App,
    conn: &mut Conn,
    (row, key): (&NodeRow, &NodePublicKey),
) -> Result<Option<String>, StoreError> {
    let id = row.node.id;
    let offered = store::node_keys::find_by_next(conn, key).await?;
    if offered.is_some_and(|(_, by)| by == id) {
        return Ok(None);
    }
    let is_known = offered.is_some()
        || app.keys.include(key)
        || store::nodes::find_by_key(conn, key).await?.is_some()
        || store::node_keys::is_retired(conn, key).await?;
    if is_known {
        return Ok(Some("this key is or was somebody's".to_owned()));
    }
    let overlap = store::node_keys::overlap(conn, id).await?;
    let running = overlap.filter(|(_, until)| *until > app.clock.wall());
    Ok(running.map(|(_, until)| {
        format!("the key was changed a short time ago; it can be changed again after {until}")
    }))
}

/// Puts the key that a node offered into force, since it has opened a stream with it; `None` when it may not, or no longer.
pub(crate) async fn put_into_force(
    app: &App,
    row: &NodeRow,
    key: NodePublicKey,
) -> Result<Option<NodeRow>, AppError> {
    let (org, id, old) = (row.node.org_id, row.node.id, row.node.public_key);
    let now = app.clock.wall();
    let mut tx = app.store.write().await?;
    let rules = reach::in_force(&mut tx, org).await?.node_keys;
    let change = store::node_keys::Change {
        node: id,
        old,
        new: key,
        until: now + rules.overlap(),
        expires_at: rules.expiry_of_new(now),
        now,
    };
    if !store::node_keys::change(&mut tx, &change).await? {
        return Ok(None);
    }
    record(app, &mut tx, (row, &change)).await?;
    let generation = store::orgs::raise_generation(&mut tx, org).await?;
    let after = store::nodes::find(&mut tx, org, id).await?;
    // Within the write: a revocation waits for it, and cuts off the new key.
    app.platform.rename(old, key).await;
    if let Err(error) = tx.commit().await {
        app.platform.rename(key, old).await;
        return Err(error.into());
    }
    app.tell_circle(org, id, generation).await;
    Ok(after)
}

async fn record(
    app: &App,
    conn: &mut Conn,
    (row, change): (&NodeRow, &store::node_keys::Change),
) -> Result<(), StoreError> {
    let entry = Change {
        action: "node.key_rotated",
        event: "runmesh.device.key_rotated",
        severity: Severity::Info,
        title: format!("{} has a new key", row.name),
        attributes: Map::from_iter([
            ("from".to_owned(), json!(change.old)),
            ("to".to_owned(), json!(change.new)),
            ("oldTakenUntil".to_owned(), json!(change.until)),
        ]),
    };
    let actor = Actor::device(row.node.id, row.node.owner_user_id);
    nodes::record(app, conn, actor, &row.node, entry).await
}

/// A key that was given up never comes back.
pub(crate) fn retired() -> AppError {
    let message = "this key was replaced by a newer one of the same device; it never comes back";
    AppError::new(ErrorCode::DeviceRevoked, message)
}

/// Gives up keys whose time is over, until `stop`. That they are refused does not wait for it; the relay hears it here.
pub(crate) async fn sweep_until(app: Arc<App>, stop: CancellationToken) {
    sweep::sweep_until(stop, "keys whose time is over", || sweep(&app)).await;
}

/// Has the rules of an org's policy hold for the keys that there are: none expires before its node could change it.
pub(super) async fn keep_rules(
    app: &App,
    conn: &mut Conn,
    org: OrgId,
    rules: &NodeKeyRules,
) -> Result<(), StoreError> {
    let earliest = rules.earliest_expiry(app.clock.wall());
    let life = rules.expire_after.map(Span::duration).zip(earliest);
    store::node_keys::set_expiry(conn, org, life).await
}

/// Gives a key that somebody has approved anew the time in which its node changes it.
pub(super) async fn extend(app: &App, conn: &mut Conn, node: &mut Node) -> Result<(), StoreError> {
    let rules = reach::in_force(conn, node.org_id).await?.node_keys;
    let earliest = rules.earliest_expiry(app.clock.wall());
    // One that lives longer than that as it is, does.
    node.key_expires_at = earliest.map(|earliest| node.key_expires_at.unwrap_or(earliest).max(earliest));
    store::node_keys::extend(conn, node.id, node.key_expires_at).await
}

/// Notes which keys have expired, and cuts off the nodes that have them. At its control stream a key is refused from its
/// last millisecond on; everybody else hears of it here.
async fn expire(app: &App) -> Result<(), AppError> {
    let now = app.clock.wall();
    let due = store::node_keys::expired(&mut *app.store.read().await?, now, BATCH_MAX).await?;
    for (org, id) in due {
        let mut tx = app.store.write().await?;
        let row = store::nodes::find(&mut tx, org, id).await?;
        // It may have been changed or extended meanwhile.
        let Some(row) = row.filter(|row| is_over(row.node.key_expires_at, now)) else {
            continue;
        };
        let mut circle = app.reaches.within(&mut tx, org).await?.circle(id);
        circle.remove(&id);
        store::node_keys::expire(&mut tx, id).await?;
        let change = Change {
            action: "node.key_expired",
            event: "runmesh.device.key_expired",
            severity: Severity::Warning,
            title: format!("the key of {} has expired", row.name),
            attributes: Map::from_iter([("publicKey".to_owned(), json!(row.node.public_key))]),
        };
        nodes::record(app, &mut tx, Actor::system(), &row.node, change).await?;
        let generation = store::orgs::raise_topology(&mut tx, org).await?;
        // Within the write: whoever approves the device anew waits for it, and lets it in after it.
        app.platform.expel(row.node.public_key).await;
        tx.commit().await?;
        app.hub.begin_expire(id);
        app.hub.changed(&circle, generation);
        app.expel_from_relays(org, row.node.public_key).await;
        app.hub.expire(id).await;
    }
    Ok(())
}

async fn sweep(app: &App) -> Result<(), AppError> {
    expire(app).await?;
    let now = app.clock.wall();
    let over = store::node_keys::over(&mut *app.store.read().await?, now, BATCH_MAX).await?;
    if over.is_empty() {
        return Ok(());
    }
    for (org, _, key) in &over {
        app.expel_from_relays(*org, *key).await;
    }
    let mut tx = app.store.write().await?;
    for (_, id, _) in &over {
        store::node_keys::forget_previous(&mut tx, *id).await?;
    }
    Ok(tx.commit().await?)
}
