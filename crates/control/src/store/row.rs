//! Columns as values: text, numbers, times, and anything that is written as text.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use types::Timestamp;

use super::StoreError;

/// Reads columns by name.
pub(crate) trait RowExt {
    /// A text.
    fn text(&self, column: &'static str) -> Result<String, StoreError>;
    /// A text or NULL.
    fn maybe_text(&self, column: &'static str) -> Result<Option<String>, StoreError>;
    /// A number.
    fn int(&self, column: &'static str) -> Result<i64, StoreError>;
    /// A number or NULL.
    fn maybe_int(&self, column: &'static str) -> Result<Option<i64>, StoreError>;

    /// A number that is never negative.
    fn count(&self, column: &'static str) -> Result<u64, StoreError> {
        u64::try_from(self.int(column)?).map_err(|_| StoreError::Unreadable { column })
    }

    /// A 0/1 number.
    fn flag(&self, column: &'static str) -> Result<bool, StoreError> {
        Ok(self.int(column)? != 0)
    }

    /// A time.
    fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_unix_ms(self.int(column)?))
    }

    /// A time or NULL.
    fn maybe_time(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.maybe_int(column)?.map(Timestamp::from_unix_ms))
    }

    /// Anything that is parsed from its text: ids, keys, names.
    fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, StoreError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| StoreError::Unreadable { column })
    }

    /// The same, or NULL.
    fn maybe_parsed<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, StoreError> {
        let text = self.maybe_text(column)?;
        text.map(|t| t.parse().map_err(|_| StoreError::Unreadable { column }))
            .transpose()
    }

    /// Anything that is stored as JSON.
    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        let text = self.text(column)?;
        serde_json::from_str(&text).map_err(|_| StoreError::Unreadable { column })
    }

    /// An enum that is stored as the text of its JSON string.
    fn named<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        named(self.text(column)?, column)
    }

    /// The same, or NULL.
    fn maybe_named<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, StoreError> {
        let text = self.maybe_text(column)?;
        text.map(|text| named(text, column)).transpose()
    }
}

fn named<T: DeserializeOwned>(text: String, column: &'static str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(text)).map_err(|_| StoreError::Unreadable { column })
}

/// Returns the text under which an enum is stored: its JSON string.
pub(crate) fn name_of<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => unreachable!("only enums without content are stored by name"),
    }
}

/// Writes a value as the one JSON text that equal values have, its keys sorted: what a hash is made of. Whether a map of
/// `serde_json` is sorted by itself depends on what else is in the program.
pub(crate) fn canonical<T: serde::Serialize>(value: &T) -> String {
    let mut value = serde_json::to_value(value).expect("what is hashed has only string keys");
    value.sort_all_objects();
    value.to_string()
}

/// Returns a value as the JSON text that is stored.
pub(crate) fn json_of<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("stored values have only string keys")
}

impl RowExt for AnyRow {
    fn text(&self, column: &'static str) -> Result<String, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn maybe_text(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn int(&self, column: &'static str) -> Result<i64, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn maybe_int(&self, column: &'static str) -> Result<Option<i64>, StoreError> {
        Ok(self.try_get(column)?)
    }
}
