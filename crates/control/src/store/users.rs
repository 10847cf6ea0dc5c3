//! People and their membership in orgs.

use api::orgs::{Member, User};
use api::{Role, Scope};
use sqlx::any::AnyRow;
use types::{OrgId, OrgName, Timestamp, UserId};

use super::row::{json_of, name_of};
use super::{Conn, RowExt as _, StoreError};

/// Adds a person.
pub(crate) async fn insert(conn: &mut Conn, user: &User) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO users (id, name, created_at) VALUES ($1, $2, $3)")
        .bind(user.id.to_string())
        .bind(user.name.as_str())
        .bind(user.created_at.unix_ms())
        .execute(conn)
        .await?;
    Ok(())
}

/// Finds a person.
pub(crate) async fn find(conn: &mut Conn, id: UserId) -> Result<Option<User>, StoreError> {
    let row = sqlx::query("SELECT id, name, created_at FROM users WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| {
        Ok(User {
            id: row.parsed("id")?,
            name: row.text("name")?,
            created_at: row.time("created_at")?,
        })
    })
    .transpose()
}

/// Makes a person a member of an org.
pub(crate) async fn insert_member(
    conn: &mut Conn,
    org: OrgId,
    user: UserId,
    role: Role,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO members (org_id, user_id, role, created_at) VALUES ($1, $2, $3, $4)")
        .bind(org.to_string())
        .bind(user.to_string())
        .bind(name_of(&role))
        .bind(now.unix_ms())
        .execute(conn)
        .await?;
    Ok(())
}

/// What somebody is in an org.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Membership {
    pub(crate) member: Member,
    /// What their sessions are good for when the provider opens them.
    pub(crate) scopes: Vec<Scope>,
}

/// Finds a member of an org.
pub(crate) async fn member(
    conn: &mut Conn,
    org: OrgId,
    user: UserId,
) -> Result<Option<Membership>, StoreError> {
    let row = sqlx::query(
        "SELECT m.user_id, u.name, m.role, m.created_at, m.scopes FROM members m \
         JOIN users u ON u.id = m.user_id WHERE m.org_id = $1 AND m.user_id = $2",
    )
    .bind(org.to_string())
    .bind(user.to_string())
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(Membership {
            member: read_member(&row)?,
            scopes: row.json("scopes")?,
        })
    })
    .transpose()
}

/// Counts the admins of an org.
pub(crate) async fn admins(conn: &mut Conn, org: OrgId) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS admins FROM members WHERE org_id = $1 AND role = $2")
        .bind(org.to_string())
        .bind(name_of(&Role::Admin))
        .fetch_one(conn)
        .await?;
    row.count("admins")
}

/// Ends a membership, with every session and key of it, and the invitations of theirs that nobody has used. The person
/// stays, since what they did is signed with their id.
pub(crate) async fn remove_member(
    conn: &mut Conn,
    org: OrgId,
    user: UserId,
    now: Timestamp,
) -> Result<(), StoreError> {
    const REVOKE: [&str; 3] = [
        "UPDATE auth_keys SET revoked_at = $1 WHERE org_id = $2 AND user_id = $3 AND revoked_at IS NULL",
        "UPDATE api_keys SET revoked_at = $1 WHERE org_id = $2 AND user_id = $3 AND revoked_at IS NULL",
        "UPDATE invitations SET revoked_at = $1 WHERE org_id = $2 AND invited_by = $3 AND revoked_at IS NULL \
         AND accepted_at IS NULL",
    ];
    const FORGET: [&str; 2] = [
        "DELETE FROM sessions WHERE org_id = $1 AND user_id = $2",
        "DELETE FROM members WHERE org_id = $1 AND user_id = $2",
    ];
    let (org, user) = (org.to_string(), user.to_string());
    for text in REVOKE {
        let revoke = sqlx::query(text).bind(now.unix_ms());
        revoke.bind(&org).bind(&user).execute(&mut *conn).await?;
    }
    for text in FORGET {
        sqlx::query(text)
            .bind(&org)
            .bind(&user)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Says what a member's sessions are good for when the provider opens them; everything unless said.
pub(crate) async fn set_scopes(
    conn: &mut Conn,
    org: OrgId,
    user: UserId,
    scopes: &[Scope],
) -> Result<(), StoreError> {
    sqlx::query("UPDATE members SET scopes = $1 WHERE org_id = $2 AND user_id = $3")
        .bind(json_of(&scopes))
        .bind(org.to_string())
        .bind(user.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Lists the orgs that a person is in, in the order of joining.
pub(crate) async fn memberships(conn: &mut Conn, user: UserId) -> Result<Vec<(OrgId, OrgName)>, StoreError> {
    let rows = sqlx::query(
        "SELECT m.org_id, o.name FROM members m JOIN orgs o ON o.id = m.org_id WHERE m.user_id = $1 \
         ORDER BY m.created_at, m.org_id",
    )
    .bind(user.to_string())
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| Ok((row.parsed("org_id")?, row.parsed("name")?)))
        .collect()
}

/// Lists the members of an org after `after` (time of joining, id), oldest first.
pub(crate) async fn members(
    conn: &mut Conn,
    org: OrgId,
    after: (i64, &str),
    limit: i64,
) -> Result<Vec<Member>, StoreError> {
    let rows = sqlx::query(
        "SELECT m.user_id, u.name, m.role, m.created_at FROM members m JOIN users u ON u.id = m.user_id \
         WHERE m.org_id = $1 AND (m.created_at > $2 OR (m.created_at = $2 AND m.user_id > $3)) \
         ORDER BY m.created_at, m.user_id LIMIT $4",
    )
    .bind(org.to_string())
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(read_member).collect()
}

fn read_member(row: &AnyRow) -> Result<Member, StoreError> {
    Ok(Member {
        user_id: row.parsed("user_id")?,
        name: row.text("name")?,
        role: row.named("role")?,
        created_at: row.time("created_at")?,
    })
}
