//! Sign-ins under way at the provider: what must be known when the browser comes back, each good once.

use types::{InvitationId, SecretString, Timestamp, UserId};

use super::{Conn, RowExt as _, StoreError};

/// A sign-in that went to the provider.
#[derive(Clone, Debug)]
pub(crate) struct SignInRow {
    /// The SHA-256 of the `state`, in hexadecimal.
    pub(crate) state_hash: String,
    /// The SHA-256 of what the browser holds in a cookie.
    pub(crate) browser_hash: String,
    pub(crate) nonce: SecretString,
    /// The PKCE code verifier.
    pub(crate) verifier: SecretString,
    /// Where the browser goes afterwards, as text.
    pub(crate) landing: String,
    pub(crate) invitation: Option<InvitationId>,
    /// Who ties the identity to themselves; absent when it says who somebody is.
    pub(crate) tied_to: Option<UserId>,
    pub(crate) expires_at: Timestamp,
}

/// Adds a sign-in.
pub(crate) async fn insert(conn: &mut Conn, row: &SignInRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO sign_ins (state_hash, browser_hash, nonce, verifier, landing, invitation_id, user_id, \
         expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(row.state_hash.as_str())
    .bind(row.browser_hash.as_str())
    .bind(row.nonce.expose())
    .bind(row.verifier.expose())
    .bind(row.landing.as_str())
    .bind(row.invitation.map(|id| id.to_string()))
    .bind(row.tied_to.map(|id| id.to_string()))
    .bind(row.expires_at.unix_ms())
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds a sign-in by the hash of its state.
pub(crate) async fn find(conn: &mut Conn, state_hash: &str) -> Result<Option<SignInRow>, StoreError> {
    let row = sqlx::query(
        "SELECT state_hash, browser_hash, nonce, verifier, landing, invitation_id, user_id, expires_at \
         FROM sign_ins WHERE state_hash = $1",
    )
    .bind(state_hash)
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(SignInRow {
            state_hash: row.text("state_hash")?,
            browser_hash: row.text("browser_hash")?,
            nonce: row.text("nonce")?.into(),
            verifier: row.text("verifier")?.into(),
            landing: row.text("landing")?,
            invitation: row.maybe_parsed("invitation_id")?,
            tied_to: row.maybe_parsed("user_id")?,
            expires_at: row.time("expires_at")?,
        })
    })
    .transpose()
}

/// Spends a sign-in; `false` when it was spent before.
pub(crate) async fn take(conn: &mut Conn, state_hash: &str) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM sign_ins WHERE state_hash = $1")
        .bind(state_hash)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets every sign-in that ended before `now`, and the oldest ones beyond `kept`.
pub(crate) async fn sweep(conn: &mut Conn, now: Timestamp, kept: i64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sign_ins WHERE expires_at < $1")
        .bind(now.unix_ms())
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "DELETE FROM sign_ins WHERE state_hash IN (SELECT state_hash FROM sign_ins \
         ORDER BY expires_at DESC, state_hash LIMIT 1000000 OFFSET $1)",
    )
    .bind(kept)
    .execute(conn)
    .await?;
    Ok(())
}
