//! Brings the schema up to date: numbered texts, each applied once, all in one transaction.

use super::{Conn, RowExt as _, StoreError};

/// Every change of the schema, oldest first. Never edit one that was released; add the next.
const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("migrations/0001_identity.sql")),
    (2, include_str!("migrations/0002_dispatch.sql")),
    (3, include_str!("migrations/0003_sign_in.sql")),
    (4, include_str!("migrations/0004_titles.sql")),
    (5, include_str!("migrations/0005_history.sql")),
    (6, include_str!("migrations/0006_policies.sql")),
    (7, include_str!("migrations/0007_auth_keys.sql")),
    (8, include_str!("migrations/0008_relays.sql")),
    (11, include_str!("migrations/0011_node_keys.sql")),
    (12, include_str!("migrations/0012_key_life_home_relay.sql")),
];

/// Applies what is missing; refuses a database of a newer program.
pub(super) async fn run(conn: &mut Conn) -> Result<(), StoreError> {
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY)")
        .execute(&mut *conn)
        .await?;
    let row = sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM schema_version")
        .fetch_one(&mut *conn)
        .await?;
    let found = row.int("version")?;
    let known = MIGRATIONS.last().map_or(0, |(version, _)| *version);
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for (version, text) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        sqlx::raw_sql(*text).execute(&mut *conn).await?;
        sqlx::query("INSERT INTO schema_version (version) VALUES ($1)")
            .bind(*version)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
