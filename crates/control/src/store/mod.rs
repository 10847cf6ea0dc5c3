//! The only place with SQL: one text for SQLite and PostgreSQL, one file per noun.
//!
//! It stores and finds; it decides nothing (that is `app`). Writes go through [`Store::write`]: on SQLite one connection
//! and `BEGIN IMMEDIATE`, on PostgreSQL one advisory lock, so that a write never has to be repeated. What is not
//! committed is rolled back. The writes of dispatch, which come in crowds, take turns instead ([`Store::turn`]).

pub(crate) mod activity;
pub(crate) mod agents;
pub(crate) mod api_keys;
pub(crate) mod audit;
pub(crate) mod auth_keys;
mod error;
pub(crate) mod events;
pub(crate) mod identities;
pub(crate) mod invitations;
pub(crate) mod links;
mod migrate;
pub(crate) mod node_keys;
pub(crate) mod nodes;
pub(crate) mod orgs;
pub(crate) mod policies;
mod query;
pub(crate) mod relays;
mod row;
pub(crate) mod runs;
pub(crate) mod scratch;
pub(crate) mod sessions;
pub(crate) mod sign_ins;
#[cfg(test)]
mod tests;
pub(crate) mod threads;
mod turns;
pub(crate) mod users;

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, AssertSqlSafe, Connection as _, Transaction};
use url::Url;

pub(crate) use error::StoreError;
pub(crate) use row::{RowExt, canonical, name_of};
pub(crate) use turns::Turn;

/// One connection: what every read and write of a noun takes.
pub(crate) type Conn = AnyConnection;

/// How long a request waits for a connection before it is refused.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections read at once.
const READERS_MAX: u32 = 8;

/// Serialises writers on PostgreSQL; the number is arbitrary and ours.
const WRITE_LOCK: &str = "SELECT pg_advisory_xact_lock(7420742074207420)";

const SQLITE_PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
     PRAGMA busy_timeout = 5000; PRAGMA cache_size = -1024;";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Engine {
    Sqlite,
    Postgres,
}

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    engine: Engine,
    readers: AnyPool,
    writers: AnyPool,
    turns: turns::Turns,
}

impl Store {
    /// Opens `runmesh.db` in `data_dir`, makes it when it is not there, and brings its schema up to date.
    ///
    /// With `pages_max` the file never has more pages of 4 KiB; what does not fit is refused.
    pub(crate) async fn open_sqlite(data_dir: &Path, pages_max: Option<u32>) -> Result<Self, StoreError> {
        let path = std::path::absolute(data_dir.join("runmesh.db")).map_err(|_| StoreError::BadUrl)?;
        let file = Url::from_file_path(&path).map_err(|()| StoreError::BadUrl)?;
        make_private(&path)?;
        let store = Self::open(&format!("sqlite://{}?mode=rwc", file.path())).await?;
        if let Some(pages) = pages_max {
            let mut writer = store.writers.acquire().await?;
            let pragma = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
            sqlx::raw_sql(pragma).execute(&mut *writer).await?;
        }
        Ok(store)
    }

    /// Opens the database at `url` (`sqlite://…` or `postgres://…`) and brings its schema up to date.
    pub(crate) async fn open(url: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let engine = match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Engine::Sqlite,
            Some("postgres" | "postgresql") => Engine::Postgres,
            _ => return Err(StoreError::BadUrl),
        };
        probe(engine, url).await?;
        let writers = pool(engine, 1).connect(url).await?;
        let readers = pool(engine, READERS_MAX).connect_lazy(url)?;
        let store = Self {
            engine,
            readers,
            writers,
            turns: turns::Turns::default(),
        };
        let mut tx = store.write().await?;
        migrate::run(&mut tx).await?;
        tx.commit().await?;
        Ok(store)
    }

    /// Takes a connection to read from. Each statement sees what was committed when it began.
    pub(crate) async fn read(&self) -> Result<PoolConnection<Any>, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    /// Begins a write; waits for the one before it.
    pub(crate) async fn write(&self) -> Result<Tx, StoreError> {
        let statement = match self.engine {
            Engine::Sqlite => "BEGIN IMMEDIATE",
            Engine::Postgres => "BEGIN",
        };
        let mut tx = self.writers.begin_with(statement).await?;
        if self.engine == Engine::Postgres {
            sqlx::query(WRITE_LOCK).execute(&mut *tx).await?;
        }
        Ok(Tx(tx))
    }

    /// Begins a write that may share its commit with others; waits for the one before it.
    pub(crate) async fn turn(&self) -> Result<Turn, StoreError> {
        self.turns.begin(self).await
    }

    /// Closes every connection; a write under way is finished or rolled back first.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }
}

/// A write under way; rolled back when dropped before [`Tx::commit`].
pub(crate) struct Tx(Transaction<'static, Any>);

impl Tx {
    /// Makes the write durable.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        Ok(self.0.commit().await?)
    }
}

impl Deref for Tx {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.0
    }
}

/// Connects once, since a pool tries again until its patience ends and then tells nothing of the reason.
async fn probe(engine: Engine, url: &str) -> Result<(), StoreError> {
    let probing = async {
        let mut conn = AnyConnection::connect(url).await?;
        if engine == Engine::Sqlite {
            sqlx::raw_sql(SQLITE_PRAGMAS).execute(&mut conn).await?;
        }
        conn.close().await
    };
    let probed = tokio::time::timeout(ACQUIRE_TIMEOUT, probing).await;
    Ok(probed.map_err(|_| StoreError::Busy)??)
}

/// Makes the database's file before SQLite does: it holds keys of orgs, and SQLite gives its other files the same mode.
fn make_private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map(|_| ()).map_err(|source| StoreError::File {
        path: path.to_owned(),
        source,
    })
}

fn pool(engine: Engine, connections: u32) -> AnyPoolOptions {
    let options = AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(engine == Engine::Postgres);
    if engine == Engine::Postgres {
        return options;
    }
    options
        .idle_timeout(None)
        .max_lifetime(None)
        // A full disk ends a transaction behind the driver's back; such a connection could never begin another.
        .before_acquire(|conn, _| Box::pin(async move { Ok(!conn.is_in_transaction()) }))
        .after_connect(|conn, _| {
            Box::pin(async move {
                sqlx::raw_sql(SQLITE_PRAGMAS).execute(conn).await?;
                Ok(())
            })
        })
}
