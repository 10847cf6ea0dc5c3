//! Nodes.

use std::collections::BTreeSet;

use api::nodes::{Node, NodesQuery};
use sqlx::any::AnyRow;
use types::{
    AuthKeyId, NodeId, NodeKind, NodeName, NodePublicKey, NodeStatus, OrgId, OrgName, PathKind, PathReason,
    RelayId, SigningPublicKey, Timestamp, UserId,
};

use super::query::QueryExt as _;
use super::row::{json_of, name_of};
use super::{Conn, RowExt as _, StoreError};

/// A node, with what only the control plane and other nodes are told.
#[derive(Clone, Debug)]
pub(crate) struct NodeRow {
    pub(crate) node: Node,
    pub(crate) name: NodeName,
    pub(crate) signing_key: Option<SigningPublicKey>,
    pub(crate) endpoints: Vec<String>,
}

macro_rules! select {
    ($rest:literal $(,)?) => {
        concat!(
            "SELECT n.id, n.org_id, n.kind, n.name, n.device_label, n.os, n.hostname, n.app_version, ",
            "n.client_metadata, n.public_key, n.signing_key, n.mesh_ip4, n.mesh_ip6, n.endpoints, n.online, ",
            "n.last_seen_at, n.path, n.path_reason, n.home_relay, n.tags, n.owner_user_id, n.created_at, n.revoked_at, ",
            "n.key_expires_at, n.ephemeral, o.name AS org_name FROM nodes n JOIN orgs o ON o.id = n.org_id ",
            $rest
        )
    };
}

/// Adds a node, let in by an auth key or by hand; [`StoreError::Taken`] when its key, name or address is.
pub(crate) async fn insert(conn: &mut Conn, node: &Node, by: Option<AuthKeyId>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO nodes (id, org_id, kind, name, device_label, os, hostname, app_version, client_metadata, \
         public_key, mesh_ip4, mesh_ip6, endpoints, online, tags, owner_user_id, created_at, ephemeral, auth_key_id, \
         key_made_at, key_expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, '[]', $13, $14, $15, $16, $17, $18, $16, $19)",
    )
    .bind(node.id.to_string())
    .bind(node.org_id.to_string())
    .bind(name_of(&node.kind))
    .bind(node.name.as_str())
    .bind(node.device_label.clone())
    .bind(node.os.clone())
    .bind(node.hostname.clone())
    .bind(node.app_version.clone())
    .bind(json_of(&node.client_metadata))
    .bind(node.public_key.to_string())
    .bind(node.mesh_ip4.to_string())
    .bind(node.mesh_ip6.to_string())
    .bind(i64::from(node.status == NodeStatus::Online))
    .bind(json_of(&node.tags))
    .bind(node.owner_user_id.map(|id| id.to_string()))
    .bind(node.created_at.unix_ms())
    .bind(i64::from(node.ephemeral))
    .bind(by.map(|id| id.to_string()))
    .bind(node.key_expires_at.map(Timestamp::unix_ms))
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds a node of an org, a revoked one too.
pub(crate) async fn find(conn: &mut Conn, org: OrgId, id: NodeId) -> Result<Option<NodeRow>, StoreError> {
    sqlx::query(select!("WHERE n.org_id = $1 AND n.id = $2"))
        .bind(org.to_string())
        .bind(id.to_string())
        .one(conn, read)
        .await
}

/// Finds the device or sandbox with this key in whatever org, a revoked one too.
pub(crate) async fn find_by_key(conn: &mut Conn, key: &NodePublicKey) -> Result<Option<NodeRow>, StoreError> {
    sqlx::query(select!("WHERE n.public_key = $1 AND n.kind <> 'platform'"))
        .bind(key.to_string())
        .one(conn, read)
        .await
}

/// Finds the platform's own node in an org.
pub(crate) async fn platform(conn: &mut Conn, org: OrgId) -> Result<Option<NodeRow>, StoreError> {
    sqlx::query(select!("WHERE n.org_id = $1 AND n.kind = 'platform'"))
        .bind(org.to_string())
        .one(conn, read)
        .await
}

/// Whose sight a list is limited to: a person's own nodes, the platform's, and those that policy lets their nodes reach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sight {
    pub(crate) person: UserId,
    pub(crate) reached: BTreeSet<NodeId>,
}

impl Sight {
    /// One text with every id that is reached: a row is asked whether its own is in it.
    fn reached_text(sight: Option<&Self>) -> String {
        let ids = sight.into_iter().flat_map(|sight| &sight.reached);
        ids.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

/// Lists nodes of an org that pass the filters and come after `after` (time, id), oldest first. With `sight`, only those
/// within it.
pub(crate) async fn list(
    conn: &mut Conn,
    org: OrgId,
    sight: Option<&Sight>,
    query: &NodesQuery,
    (after, limit): ((i64, &str), i64),
) -> Result<Vec<NodeRow>, StoreError> {
    let needle = query.q.as_deref().unwrap_or_default().to_lowercase();
    let needle = needle
        .replace('\\', "\\\\")
        .replace('%', "\\%")
        .replace('_', "\\_");
    sqlx::query(select!(
        "WHERE n.org_id = $1 AND ($2 = '' OR n.owner_user_id = $2 OR n.kind = 'platform' \
              OR $10 LIKE '%' || n.id || '%') \
         AND ($3 = '' OR n.kind = $3) \
         AND ($4 = '' OR ($4 = 'revoked' AND n.revoked_at IS NOT NULL) \
              OR ($4 = 'online' AND n.revoked_at IS NULL AND n.online = 1) \
              OR ($4 = 'offline' AND n.revoked_at IS NULL AND n.online = 0)) \
         AND ($5 = '' OR n.owner_user_id = $5) \
         AND ($6 = '%%' OR LOWER(n.name) LIKE $6 ESCAPE '\\' OR LOWER(n.device_label) LIKE $6 ESCAPE '\\' \
              OR LOWER(n.hostname) LIKE $6 ESCAPE '\\') \
         AND (n.created_at > $7 OR (n.created_at = $7 AND n.id > $8)) \
         ORDER BY n.created_at, n.id LIMIT $9"
    ))
    .bind(org.to_string())
    .wanted(sight.map(|sight| sight.person))
    .wanted(query.kind.as_ref().map(name_of))
    .wanted(query.status.as_ref().map(name_of))
    .wanted(query.owner.clone())
    .bind(format!("%{needle}%"))
    .window(after, limit)
    .bind(Sight::reached_text(sight))
    .all(conn, read)
    .await
}

/// Lists the nodes of an org that may take part, the platform's too, by id.
pub(crate) async fn in_org(conn: &mut Conn, org: OrgId) -> Result<Vec<NodeRow>, StoreError> {
    sqlx::query(select!(
        "WHERE n.org_id = $1 AND n.revoked_at IS NULL AND n.key_expired = 0 ORDER BY n.id"
    ))
    .bind(org.to_string())
    .all(conn, read)
    .await
}

/// Lists every node of every org that may take part, but the platform's own.
pub(crate) async fn admitted(conn: &mut Conn) -> Result<Vec<NodeRow>, StoreError> {
    sqlx::query(select!(
        "WHERE n.revoked_at IS NULL AND n.key_expired = 0 AND n.kind <> 'platform' ORDER BY n.created_at, n.id"
    ))
    .all(conn, read)
    .await
}

/// How many of those that were shut out last are listed.
const SHUT_OUT_MAX: i64 = 1024;

/// Lists the keys of nodes that were shut out at `since` or later, by revocation or because their keys expired, with their
/// orgs, those of the 1,024 that were last; the last at the end.
pub(crate) async fn shut_out_since(
    conn: &mut Conn,
    since: Timestamp,
) -> Result<Vec<(OrgId, NodePublicKey)>, StoreError> {
    let keys: Vec<Vec<(OrgId, NodePublicKey)>> = sqlx::query(
        "SELECT org_id, public_key, previous_public_key FROM nodes WHERE kind <> 'platform' \
         AND (revoked_at >= $1 OR (key_expired = 1 AND key_expires_at >= $1)) \
         ORDER BY COALESCE(revoked_at, key_expires_at) DESC, id LIMIT $2",
    )
    .bind(since.unix_ms())
    .bind(SHUT_OUT_MAX)
    .all(conn, |row| {
        let org = row.parsed("org_id")?;
        let previous = row.maybe_parsed("previous_public_key")?;
        let keys = [Some(row.parsed("public_key")?), previous];
        Ok(keys.into_iter().flatten().map(|key| (org, key)).collect())
    })
    .await?;
    Ok(keys.into_iter().rev().flatten().collect())
}

/// Lists the nodes of one person that may take part, oldest first.
pub(crate) async fn owned(conn: &mut Conn, org: OrgId, owner: UserId) -> Result<Vec<NodeRow>, StoreError> {
    sqlx::query(select!(
        "WHERE n.org_id = $1 AND n.owner_user_id = $2 AND n.revoked_at IS NULL ORDER BY n.created_at, n.id"
    ))
    .bind(org.to_string())
    .bind(owner.to_string())
    .all(conn, read)
    .await
}

/// Lists ephemeral nodes that are in, not online, and were last heard before `before`, or were never heard and made before.
pub(crate) async fn gone(conn: &mut Conn, before: Timestamp, limit: i64) -> Result<Vec<NodeRow>, StoreError> {
    sqlx::query(select!(
        "WHERE n.ephemeral = 1 AND n.revoked_at IS NULL AND n.online = 0 \
         AND COALESCE(n.last_seen_at, n.created_at) < $1 ORDER BY n.created_at, n.id LIMIT $2"
    ))
    .bind(before.unix_ms())
    .bind(limit)
    .all(conn, read)
    .await
}

/// Returns the key that let a node in, if one did.
pub(crate) async fn auth_key(conn: &mut Conn, id: NodeId) -> Result<Option<AuthKeyId>, StoreError> {
    let found = sqlx::query("SELECT auth_key_id FROM nodes WHERE id = $1")
        .bind(id.to_string())
        .one(conn, |row| row.maybe_parsed("auth_key_id"))
        .await?;
    Ok(found.flatten())
}

/// Counts nodes by kind and status; with `sight`, only those within it.
pub(crate) async fn counts(
    conn: &mut Conn,
    org: OrgId,
    sight: Option<&Sight>,
) -> Result<Vec<(NodeKind, NodeStatus, u64)>, StoreError> {
    sqlx::query(
        "SELECT kind, CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN online = 1 THEN 'online' \
         ELSE 'offline' END AS status, COUNT(*) AS nodes FROM nodes \
         WHERE org_id = $1 AND ($2 = '' OR owner_user_id = $2 OR kind = 'platform' OR $3 LIKE '%' || id || '%') \
         GROUP BY 1, 2",
    )
    .bind(org.to_string())
    .wanted(sight.map(|sight| sight.person))
    .bind(Sight::reached_text(sight))
    .all(conn, |row| {
        Ok((row.named("kind")?, row.named("status")?, row.count("nodes")?))
    })
    .await
}

/// Tells whether a node of the org that may take part has this name.
pub(crate) async fn name_taken(conn: &mut Conn, org: OrgId, name: &NodeName) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS nodes FROM nodes WHERE org_id = $1 AND name = $2 AND revoked_at IS NULL",
    )
    .bind(org.to_string())
    .bind(name.as_str())
    .fetch_one(conn)
    .await?;
    Ok(row.int("nodes")? > 0)
}

/// Renames a node; [`StoreError::Taken`] when another has the name.
pub(crate) async fn rename(conn: &mut Conn, id: NodeId, name: &NodeName) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET name = $1 WHERE id = $2")
        .bind(name.as_str())
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Gives a node these tags and no others.
pub(crate) async fn set_tags(conn: &mut Conn, id: NodeId, tags: &[String]) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET tags = $1 WHERE id = $2")
        .bind(json_of(&tags))
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes what a device said of itself when it was linked again.
pub(crate) async fn relink(conn: &mut Conn, node: &Node) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET name = $1, device_label = $2, os = $3, hostname = $4, app_version = $5, \
         client_metadata = $6, tags = $7 WHERE id = $8",
    )
    .bind(node.name.as_str())
    .bind(node.device_label.clone())
    .bind(node.os.clone())
    .bind(node.hostname.clone())
    .bind(node.app_version.clone())
    .bind(json_of(&node.client_metadata))
    .bind(json_of(&node.tags))
    .bind(node.id.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Shuts a node out for ever; tells whether it was still in.
pub(crate) async fn revoke(
    conn: &mut Conn,
    org: OrgId,
    id: NodeId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE nodes SET revoked_at = $1, online = 0, path = NULL, path_reason = NULL \
         WHERE org_id = $2 AND id = $3 AND revoked_at IS NULL",
    )
    .bind(now.unix_ms())
    .bind(org.to_string())
    .bind(id.to_string())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What a node says of itself when its control stream opens.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) os: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) app_version: Option<String>,
    pub(crate) signing_key: SigningPublicKey,
    pub(crate) endpoints: Vec<String>,
    pub(crate) home_relay: Option<RelayId>,
    pub(crate) now: Timestamp,
}

/// Writes that a node is online; what it did not say stays as it was. Nothing happens to a revoked one: `false`.
pub(crate) async fn arrive(conn: &mut Conn, id: NodeId, arrival: &Arrival) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE nodes SET online = 1, last_seen_at = $1, os = COALESCE($2, os), \
         hostname = COALESCE($3, hostname), app_version = COALESCE($4, app_version), signing_key = $5, \
         endpoints = $6, home_relay = COALESCE($8, home_relay) WHERE id = $7 AND revoked_at IS NULL",
    )
    .bind(arrival.now.unix_ms())
    .bind(arrival.os.clone())
    .bind(arrival.hostname.clone())
    .bind(arrival.app_version.clone())
    .bind(arrival.signing_key.to_string())
    .bind(json_of(&arrival.endpoints))
    .bind(id.to_string())
    .bind(arrival.home_relay.map(|relay| relay.to_string()))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes when a node was last heard and whether it still is there.
pub(crate) async fn seen(
    conn: &mut Conn,
    id: NodeId,
    online: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET last_seen_at = $1, online = $2, path = CASE WHEN $2 = 0 THEN NULL ELSE path END, \
         path_reason = CASE WHEN $2 = 0 THEN NULL ELSE path_reason END WHERE id = $3 AND revoked_at IS NULL",
    )
    .bind(now.unix_ms())
    .bind(i64::from(online))
    .bind(id.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes where a node's mesh socket can be reached.
pub(crate) async fn set_endpoints(
    conn: &mut Conn,
    id: NodeId,
    endpoints: &[String],
) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET endpoints = $1 WHERE id = $2 AND revoked_at IS NULL")
        .bind(json_of(&endpoints))
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes at which relay a node is found best.
pub(crate) async fn set_home_relay(
    conn: &mut Conn,
    id: NodeId,
    relay: Option<RelayId>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET home_relay = $1 WHERE id = $2 AND revoked_at IS NULL")
        .bind(relay.map(|relay| relay.to_string()))
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes how a node reaches the platform.
pub(crate) async fn set_path(
    conn: &mut Conn,
    id: NodeId,
    path: Option<PathKind>,
    reason: PathReason,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET path = $1, path_reason = $2 WHERE id = $3 AND revoked_at IS NULL")
        .bind(path.as_ref().map(name_of))
        .bind(name_of(&reason))
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes that nobody is connected, as it is when the control plane has just started; the platform's own nodes are.
pub(crate) async fn all_offline(conn: &mut Conn) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET online = 0, path = NULL, path_reason = NULL WHERE kind <> 'platform' AND online = 1",
    )
        .execute(conn)
        .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<NodeRow, StoreError> {
    let name: NodeName = row.parsed("name")?;
    let org_name: OrgName = row.parsed("org_name")?;
    let revoked_at = row.maybe_time("revoked_at")?;
    let status = match (revoked_at, row.flag("online")?) {
        (Some(_), _) => NodeStatus::Revoked,
        (None, true) => NodeStatus::Online,
        (None, false) => NodeStatus::Offline,
    };
    let node = Node {
        id: row.parsed("id")?,
        org_id: row.parsed("org_id")?,
        kind: row.named("kind")?,
        name: name.to_string(),
        device_label: row.maybe_text("device_label")?,
        dns_name: name.dns_name(&org_name),
        os: row.maybe_text("os")?,
        hostname: row.maybe_text("hostname")?,
        app_version: row.maybe_text("app_version")?,
        client_metadata: row.json("client_metadata")?,
        public_key: row.parsed("public_key")?,
        mesh_ip4: row.parsed("mesh_ip4")?,
        mesh_ip6: row.parsed("mesh_ip6")?,
        status,
        last_seen_at: row.maybe_time("last_seen_at")?,
        path: row.maybe_named("path")?,
        path_reason: row.maybe_named("path_reason")?,
        home_relay: row.maybe_parsed("home_relay")?,
        tags: row.json("tags")?,
        owner_user_id: row.maybe_parsed("owner_user_id")?,
        ephemeral: row.flag("ephemeral")?,
        created_at: row.time("created_at")?,
        revoked_at,
        key_expires_at: row.maybe_time("key_expires_at")?,
        cut_off: None,
    };
    Ok(NodeRow {
        node,
        name,
        signing_key: row.maybe_parsed("signing_key")?,
        endpoints: row.json("endpoints")?,
    })
}
