//! Sessions: browsers that are signed in (contract §9).

use serde::{Deserialize, Serialize};
use types::{SessionId, Timestamp, UserId};
use utoipa::{IntoParams, ToSchema};

use crate::page::PageQuery;
use crate::schema;

/// How a session was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignInMethod {
    /// With an API key, with which it also dies.
    ApiKey,
    /// At the OpenID Connect provider.
    Oidc,
}

/// A signed-in browser: everything but its token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: SessionId,
    /// Whose it is.
    #[schema(value_type = schema::Id)]
    pub user_id: UserId,
    /// How it was opened.
    pub method: SignInMethod,
    /// The address it was opened from.
    pub ip: String,
    /// When it was opened.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
    /// When it ends by itself.
    #[schema(value_type = schema::Time)]
    pub expires_at: Timestamp,
    /// Whether the request that asks was made with it.
    pub current: bool,
}

/// Which sessions to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SessionsQuery {
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

impl SessionsQuery {
    /// Returns which page is asked for.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery {
            limit: self.limit,
            cursor: self.cursor.clone(),
        }
    }
}
