//! Invitations: the SHA-256 of each token, never the token, each spent once.

use api::invitations::Invitation;
use sqlx::any::AnyRow;
use types::{InvitationId, OrgId, Timestamp, UserId};

use super::query::QueryExt as _;
use super::row::{json_of, name_of};
use super::{Conn, RowExt as _, StoreError};

macro_rules! select {
    ($rest:literal $(,)?) => {
        concat!(
            "SELECT id, org_id, role, scopes, email, invited_by, created_at, expires_at, accepted_at, accepted_by, ",
            "revoked_at FROM invitations ",
            $rest
        )
    };
}

/// Adds an invitation.
pub(crate) async fn insert(conn: &mut Conn, new: &Invitation, hash: &str) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO invitations (id, org_id, hash, role, scopes, email, invited_by, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(new.id.to_string())
    .bind(new.org_id.to_string())
    .bind(hash)
    .bind(name_of(&new.role))
    .bind(json_of(&new.scopes))
    .bind(new.email.clone())
    .bind(new.invited_by.to_string())
    .bind(new.created_at.unix_ms())
    .bind(new.expires_at.unix_ms())
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds the invitation whose token has this hash, a spent one too.
pub(crate) async fn find_by_hash(conn: &mut Conn, hash: &str) -> Result<Option<Invitation>, StoreError> {
    sqlx::query(select!("WHERE hash = $1"))
        .bind(hash)
        .one(conn, read)
        .await
}

/// Finds an invitation by its id, of whichever org.
pub(crate) async fn find(conn: &mut Conn, id: InvitationId) -> Result<Option<Invitation>, StoreError> {
    sqlx::query(select!("WHERE id = $1"))
        .bind(id.to_string())
        .one(conn, read)
        .await
}

/// Counts the invitations of an org that can still be accepted.
pub(crate) async fn open(conn: &mut Conn, org: OrgId, now: Timestamp) -> Result<u64, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS invitations FROM invitations WHERE org_id = $1 AND accepted_at IS NULL \
         AND revoked_at IS NULL AND expires_at > $2",
    )
    .bind(org.to_string())
    .bind(now.unix_ms())
    .fetch_one(conn)
    .await?;
    row.count("invitations")
}

/// Lists the invitations of an org that come before `before` (time, id), newest first.
pub(crate) async fn list(
    conn: &mut Conn,
    org: OrgId,
    before: (i64, &str),
    limit: i64,
) -> Result<Vec<Invitation>, StoreError> {
    sqlx::query(select!(
        "WHERE org_id = $1 AND (created_at < $2 OR (created_at = $2 AND id < $3)) \
         ORDER BY created_at DESC, id DESC LIMIT $4"
    ))
    .bind(org.to_string())
    .window(before, limit)
    .all(conn, read)
    .await
}

/// Spends an invitation; `false` when somebody else was first, it was taken back, or its time is over.
pub(crate) async fn accept(
    conn: &mut Conn,
    id: InvitationId,
    user: UserId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE invitations SET accepted_at = $1, accepted_by = $2 \
         WHERE id = $3 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > $1",
    )
    .bind(now.unix_ms())
    .bind(user.to_string())
    .bind(id.to_string())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes an invitation back; tells whether it could still be accepted.
pub(crate) async fn revoke(conn: &mut Conn, id: InvitationId, now: Timestamp) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE invitations SET revoked_at = $1 WHERE id = $2 AND accepted_at IS NULL AND revoked_at IS NULL",
    )
    .bind(now.unix_ms())
    .bind(id.to_string())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

fn read(row: &AnyRow) -> Result<Invitation, StoreError> {
    Ok(Invitation {
        id: row.parsed("id")?,
        org_id: row.parsed("org_id")?,
        role: row.named("role")?,
        scopes: row.json("scopes")?,
        email: row.maybe_text("email")?,
        invited_by: row.parsed("invited_by")?,
        created_at: row.time("created_at")?,
        expires_at: row.time("expires_at")?,
        accepted_at: row.maybe_time("accepted_at")?,
        accepted_by: row.maybe_parsed("accepted_by")?,
        revoked_at: row.maybe_time("revoked_at")?,
    })
}
