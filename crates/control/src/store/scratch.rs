//! Empty PostgreSQL databases for tests, one each.

use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};
use url::Url;

use super::StoreError;
use crate::secrets;

/// Makes an empty database in the server at `url` and returns the address of it. It is never removed: the server is
/// meant to be thrown away.
pub(crate) async fn database(url: &str) -> Result<String, StoreError> {
    sqlx::any::install_default_drivers();
    let mut address: Url = url.parse().map_err(|_| StoreError::BadUrl)?;
    let name = format!(
        "runmesh_test_{}",
        secrets::text(b"abcdefghijklmnopqrstuvwxyz", 12)
    );
    let mut conn = AnyConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut conn)
        .await?;
    conn.close().await?;
    address.set_path(&name);
    Ok(address.into())
}
