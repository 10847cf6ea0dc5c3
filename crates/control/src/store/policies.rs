//! The policy documents of orgs, as text.

use types::{OrgId, Timestamp, UserId};

use super::query::QueryExt as _;
use super::{Conn, RowExt as _, StoreError};

/// An org's policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PolicyRow {
    /// Counts the changes, from 1.
    pub(crate) version: u64,
    pub(crate) document: String,
    pub(crate) updated_at: Timestamp,
    pub(crate) updated_by: Option<UserId>,
}

/// Finds the policy of an org; `None` while it has said nothing.
pub(crate) async fn find(conn: &mut Conn, org: OrgId) -> Result<Option<PolicyRow>, StoreError> {
    sqlx::query("SELECT version, document, updated_at, updated_by FROM policies WHERE org_id = $1")
        .bind(org.to_string())
        .one(conn, |row| {
            Ok(PolicyRow {
                version: row.count("version")?,
                document: row.text("document")?,
                updated_at: row.time("updated_at")?,
                updated_by: row.maybe_parsed("updated_by")?,
            })
        })
        .await
}

/// Writes the policy of an org over the one before.
pub(crate) async fn put(conn: &mut Conn, org: OrgId, policy: &PolicyRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO policies (org_id, version, document, updated_at, updated_by) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (org_id) DO UPDATE SET version = excluded.version, document = excluded.document, \
         updated_at = excluded.updated_at, updated_by = excluded.updated_by",
    )
    .bind(org.to_string())
    .bind(i64::try_from(policy.version).unwrap_or(i64::MAX))
    .bind(policy.document.as_str())
    .bind(policy.updated_at.unix_ms())
    .bind(policy.updated_by.map(|id| id.to_string()))
    .execute(conn)
    .await?;
    Ok(())
}
