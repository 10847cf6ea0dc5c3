//! The audit log (contract §3): append-only, each row bound to the one before by its hash.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{AuditId, OrgId, Timestamp};
use utoipa::{IntoParams, ToSchema};

use crate::page::PageQuery;
use crate::schema;

/// Who did something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorType {
    /// A person, signed in.
    User,
    /// A person's API key.
    ApiKey,
    /// A device, by its node key.
    Device,
    /// The control plane itself.
    System,
}

impl ActorType {
    /// Returns the text that stands in the API and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ApiKey => "api_key",
            Self::Device => "device",
            Self::System => "system",
        }
    }
}

/// One row. `hash` is the SHA-256, in hexadecimal, of the compact JSON array
/// `[previousHash, sequence, id, orgId, actorType, actorId, action, targetType, targetId, ip, attributes, createdAt]`
/// with `attributes` as the string of its compact JSON with sorted keys; the first row's `previousHash` is 64 zeros.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: AuditId,
    /// The org.
    #[schema(value_type = schema::Id)]
    pub org_id: OrgId,
    /// Its number in the org: from 1, without gaps.
    #[schema(minimum = 1)]
    pub sequence: u64,
    /// Who did it.
    pub actor_type: ActorType,
    /// The person, key or node; null for the control plane itself.
    pub actor_id: Option<String>,
    /// What was done, such as `node.revoked`.
    pub action: String,
    /// What it was done to, such as `node`.
    pub target_type: Option<String>,
    /// Which one.
    pub target_id: Option<String>,
    /// The address it came from.
    pub ip: Option<String>,
    /// The particulars.
    #[schema(value_type = Object)]
    pub attributes: Map<String, Value>,
    /// When.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
    /// The hash of the row before.
    #[schema(value_type = schema::Hash)]
    pub previous_hash: String,
    /// The hash of this row.
    #[schema(value_type = schema::Hash)]
    pub hash: String,
}

/// How the log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditFormat {
    /// A page of JSON in the envelope, newest first.
    #[default]
    Json,
    /// The whole log as JSON lines, oldest first.
    Jsonl,
}

/// Which rows to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// `json` (default) or `jsonl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub format: Option<AuditFormat>,
    /// How many rows: 1 to 100, default 50; more is cut to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Whole>, inline)]
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Cursor>, inline)]
    pub cursor: Option<String>,
}

impl AuditQuery {
    /// Returns which page is asked for.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery {
            limit: self.limit,
            cursor: self.cursor.clone(),
        }
    }
}
