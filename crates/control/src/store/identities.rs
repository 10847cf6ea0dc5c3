//! Who people are at a sign-in provider: issuer and subject, and nothing else.

use types::{Timestamp, UserId};

use super::{Conn, RowExt as _, StoreError};

/// Finds the person with this subject at this issuer.
pub(crate) async fn find(conn: &mut Conn, issuer: &str, subject: &str) -> Result<Option<UserId>, StoreError> {
    let row = sqlx::query("SELECT user_id FROM identities WHERE issuer = $1 AND subject = $2")
        .bind(issuer)
        .bind(subject)
        .fetch_optional(conn)
        .await?;
    row.map(|row| row.parsed("user_id")).transpose()
}

/// Tells whether a person has a subject at this issuer.
pub(crate) async fn has(conn: &mut Conn, issuer: &str, user: UserId) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT subject FROM identities WHERE issuer = $1 AND user_id = $2")
        .bind(issuer)
        .bind(user.to_string())
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

/// Says who a subject is; [`StoreError::Taken`] when it is somebody already.
pub(crate) async fn insert(
    conn: &mut Conn,
    (issuer, subject): (&str, &str),
    user: UserId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO identities (issuer, subject, user_id, created_at) VALUES ($1, $2, $3, $4)")
        .bind(issuer)
        .bind(subject)
        .bind(user.to_string())
        .bind(now.unix_ms())
        .execute(conn)
        .await?;
    Ok(())
}
