//! API keys (contract §9).

use serde::{Deserialize, Serialize};
use types::{ApiKeyId, Timestamp, UserId};
use utoipa::{IntoParams, ToSchema};

use crate::page::PageQuery;
use crate::schema;
use crate::scope::Scope;

/// A key as it is listed: everything but the key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: ApiKeyId,
    /// What its owner calls it.
    pub name: String,
    /// The first characters of the key, by which its owner knows it.
    #[schema(pattern = "^rt_(live|test)_[A-Za-z0-9]{4}$")]
    pub prefix: String,
    /// Whose it is.
    #[schema(value_type = schema::Id)]
    pub user_id: UserId,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// Whether it is a test key (`rt_test_…`).
    pub is_test: bool,
    /// When it was made.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
    /// When it stops working, if ever.
    #[schema(value_type = Option<schema::Time>)]
    pub expires_at: Option<Timestamp>,
    /// When it was last used, give or take a minute.
    #[schema(value_type = Option<schema::Time>)]
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    #[schema(value_type = Option<schema::Time>)]
    pub revoked_at: Option<Timestamp>,
}

/// A new key. `key` is shown here and never again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedApiKey {
    /// Its record.
    #[serde(flatten)]
    pub record: ApiKey,
    /// The key itself: `rt_live_` or `rt_test_` and 32 letters and digits.
    #[schema(pattern = "^rt_(live|test)_[A-Za-z0-9]{32}$")]
    pub key: String,
}

impl std::fmt::Debug for CreatedApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedApiKey")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// How long a key lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub enum KeyLifetime {
    /// 30 days.
    #[serde(rename = "30d")]
    Days30,
    /// 90 days.
    #[serde(rename = "90d")]
    Days90,
    /// 365 days.
    #[serde(rename = "1y")]
    Year,
}

/// Makes a key for the caller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateApiKey {
    /// What to call it, 1 to 128 characters.
    #[schema(value_type = schema::DisplayText)]
    pub name: String,
    /// What it is good for, default `["*"]`; never more than the caller's own credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub scopes: Option<Vec<Scope>>,
    /// How long it lives, never longer than the key that makes it; by default as long as that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<KeyLifetime>,
    /// Makes a test key (`rt_test_…`).
    #[serde(default)]
    pub is_test: bool,
}

/// Which keys to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ApiKeysQuery {
    /// Those of everyone in the org (admins only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// How many rows: 1 to 100, default 50; more is cut to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Whole>, inline)]
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Cursor>, inline)]
    pub cursor: Option<String>,
}

impl ApiKeysQuery {
    /// Returns which page is asked for.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery {
            limit: self.limit,
            cursor: self.cursor.clone(),
        }
    }
}
