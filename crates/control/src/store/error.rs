//! Why the database did not do what it was asked.

use std::path::PathBuf;

/// A failed read or write. A failed write changed nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A row with this key is there already.
    #[error("a unique key is taken")]
    Taken,
    /// The disk or the database is full.
    #[error("the database is full")]
    Full,
    /// Too many wait for a connection.
    #[error("the database is busy")]
    Busy,
    /// A stored value cannot be read: it was changed from outside, or by a newer program.
    #[error("column {column} holds an unreadable value")]
    Unreadable {
        /// The column.
        column: &'static str,
    },
    /// The database was written by a newer program.
    #[error("the database has schema version {found}, newer than {known}: use a newer runmesh")]
    Newer {
        /// What the database says.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// The database's file cannot be made or written.
    #[error("cannot write {path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A text has a NUL character, which PostgreSQL cannot store.
    #[error("a text has a NUL character")]
    Nul,
    /// The address is neither `sqlite://…` nor `postgres://…`.
    #[error("the database address must start with sqlite:// or postgres://")]
    BadUrl,
    /// The commit that the write was a part of failed.
    #[error("the commit failed: {0}")]
    Commit(String),
    /// Anything else.
    #[error(transparent)]
    Database(sqlx::Error),
}

impl StoreError {
    /// Returns the failure of a commit as each write in it is told.
    pub(super) fn shared(&self) -> Self {
        match self {
            Self::Full => Self::Full,
            Self::Busy => Self::Busy,
            other => Self::Commit(other.to_string()),
        }
    }
}

/// SQLite's `SQLITE_FULL`, and PostgreSQL's `disk_full`.
const FULL_CODES: [&str; 2] = ["13", "53100"];

/// PostgreSQL's `character_not_in_repertoire`: all that is sent is UTF-8, so it is the NUL.
const NUL_CODE: &str = "22021";

/// SQLite's `SQLITE_BUSY`.
const BUSY_CODE: &str = "5";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::PoolTimedOut => Self::Busy,
            sqlx::Error::Database(database) => {
                let code = database.code();
                if database.is_unique_violation() {
                    Self::Taken
                } else if code.as_deref().is_some_and(|c| FULL_CODES.contains(&c)) {
                    Self::Full
                } else if code.as_deref() == Some(NUL_CODE) {
                    Self::Nul
                } else if code.as_deref() == Some(BUSY_CODE) {
                    Self::Busy
                } else {
                    Self::Database(error)
                }
            }
            _ => Self::Database(error),
        }
    }
}
