//! Orgs.

use types::{Generation, OrgId, OrgName, SigningPrivateKey, Timestamp};

use super::{Conn, RowExt as _, StoreError};

/// A tenant, with what only the control plane may know of it.
#[derive(Clone, Debug)]
pub(crate) struct OrgRow {
    pub(crate) id: OrgId,
    pub(crate) name: OrgName,
    pub(crate) signing_key: SigningPrivateKey,
    pub(crate) created_at: Timestamp,
}

/// The `previous_hash` of an org's first audit row.
pub(crate) const AUDIT_GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Adds an org; [`StoreError::Taken`] when its name is.
pub(crate) async fn insert(conn: &mut Conn, org: &OrgRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO orgs (id, name, signing_key, netmap_generation, next_host_number, audit_sequence, \
         audit_hash, created_at) VALUES ($1, $2, $3, 1, 1, 0, $4, $5)",
    )
    .bind(org.id.to_string())
    .bind(org.name.as_str())
    .bind(org.signing_key.to_base64().as_str())
    .bind(AUDIT_GENESIS)
    .bind(org.created_at.unix_ms())
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds an org.
pub(crate) async fn find(conn: &mut Conn, id: OrgId) -> Result<Option<OrgRow>, StoreError> {
    let row = sqlx::query("SELECT id, name, signing_key, created_at FROM orgs WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| read(&row)).transpose()
}

/// Lists every org, oldest first.
pub(crate) async fn all(conn: &mut Conn) -> Result<Vec<OrgRow>, StoreError> {
    let rows = sqlx::query("SELECT id, name, signing_key, created_at FROM orgs ORDER BY created_at, id")
        .fetch_all(conn)
        .await?;
    rows.iter().map(read).collect()
}

/// Returns the generation of the org's netmaps.
pub(crate) async fn generation(conn: &mut Conn, id: OrgId) -> Result<Generation, StoreError> {
    let row = sqlx::query("SELECT netmap_generation FROM orgs WHERE id = $1")
        .bind(id.to_string())
        .fetch_one(conn)
        .await?;
    Ok(Generation(row.count("netmap_generation")?))
}

/// Raises the generation: something that a node can see changes in this transaction.
pub(crate) async fn raise_generation(conn: &mut Conn, id: OrgId) -> Result<Generation, StoreError> {
    let row = sqlx::query(
        "UPDATE orgs SET netmap_generation = netmap_generation + 1 WHERE id = $1 RETURNING netmap_generation",
    )
    .bind(id.to_string())
    .fetch_one(conn)
    .await?;
    Ok(Generation(row.count("netmap_generation")?))
}

/// Returns the number that rises with what a policy looks at.
pub(crate) async fn topology(conn: &mut Conn, id: OrgId) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT topology FROM orgs WHERE id = $1")
        .bind(id.to_string())
        .fetch_one(conn)
        .await?;
    row.count("topology")
}

/// Raises the generation, and the number that says that a policy means something else from now on: nodes come or go, or
/// get other names, owners or tags, or the policy itself changes in this transaction.
pub(crate) async fn raise_topology(conn: &mut Conn, id: OrgId) -> Result<Generation, StoreError> {
    sqlx::query("UPDATE orgs SET topology = topology + 1 WHERE id = $1")
        .bind(id.to_string())
        .execute(&mut *conn)
        .await?;
    raise_generation(conn, id).await
}

/// Hands out the next host number of the org's IPv4 block; none is handed out twice.
pub(crate) async fn take_host_number(conn: &mut Conn, id: OrgId) -> Result<u32, StoreError> {
    let row = sqlx::query(
        "UPDATE orgs SET next_host_number = next_host_number + 1 WHERE id = $1 \
         RETURNING next_host_number - 1 AS host_number",
    )
    .bind(id.to_string())
    .fetch_one(conn)
    .await?;
    let column = "host_number";
    u32::try_from(row.int(column)?).map_err(|_| StoreError::Unreadable { column })
}

fn read(row: &sqlx::any::AnyRow) -> Result<OrgRow, StoreError> {
    let column = "signing_key";
    let signing_key =
        SigningPrivateKey::from_base64(&row.text(column)?).map_err(|_| StoreError::Unreadable { column })?;
    Ok(OrgRow {
        id: row.parsed("id")?,
        name: row.parsed("name")?,
        signing_key,
        created_at: row.time("created_at")?,
    })
}
