//! What the queries of every noun have in common: filters that may be absent, the window of a list, rows as values.

use sqlx::Any;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;

use super::{Conn, StoreError};

/// How a row is read.
type Read<T> = fn(&AnyRow) -> Result<T, StoreError>;

/// The rest of a query, behind its text.
pub(super) trait QueryExt: Sized {
    /// Binds what rows must have; without it the empty text, which the query lets everything pass by.
    fn wanted<T: ToString>(self, value: Option<T>) -> Self;

    /// Binds where a page begins, the number and the text of the row before it, and how many rows are fetched.
    fn window(self, before_it: (i64, &str), rows: i64) -> Self;

    /// Fetches the one row, if it is there.
    async fn one<T>(self, conn: &mut Conn, read: Read<T>) -> Result<Option<T>, StoreError>;

    /// Fetches every row.
    async fn all<T>(self, conn: &mut Conn, read: Read<T>) -> Result<Vec<T>, StoreError>;
}

impl QueryExt for Query<'_, Any, AnyArguments> {
    fn wanted<T: ToString>(self, value: Option<T>) -> Self {
        self.bind(value.map_or_else(String::new, |value| value.to_string()))
    }

    fn window(self, (number, text): (i64, &str), rows: i64) -> Self {
        self.bind(number).bind(text).bind(rows)
    }

    async fn one<T>(self, conn: &mut Conn, read: Read<T>) -> Result<Option<T>, StoreError> {
        let row = self.fetch_optional(conn).await?;
        row.map(|row| read(&row)).transpose()
    }

    async fn all<T>(self, conn: &mut Conn, read: Read<T>) -> Result<Vec<T>, StoreError> {
        let rows = self.fetch_all(conn).await?;
        rows.iter().map(read).collect()
    }
}
