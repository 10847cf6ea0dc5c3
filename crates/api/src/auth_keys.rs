//! Keys by which nodes join without an approval: for servers, build machines and sandboxes. Ours, not of the documented
//! contract.

use serde::{Deserialize, Serialize};
use types::{AuthKeyId, Timestamp, UserId};
use utoipa::ToSchema;

use crate::json;
use crate::links::LinkStart;
use crate::nodes::{Node, NodeConfig};
use crate::schema;

/// The longest life of a key, in seconds: 90 days.
pub const LIFETIME_SECONDS_MAX: u32 = 90 * 24 * 60 * 60;

/// How long a key lives when nothing is said, in seconds: one hour.
pub const LIFETIME_SECONDS_DEFAULT: u32 = 60 * 60;

/// A key as it is listed: everything but the key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthKey {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: AuthKeyId,
    /// What people call it.
    pub name: String,
    /// The first characters of the key, by which its owner knows it.
    #[schema(pattern = "^rtk_[A-Za-z0-9]{4}$")]
    pub prefix: String,
    /// Who made it; the nodes that join by it are theirs.
    #[schema(value_type = schema::Id)]
    pub user_id: UserId,
    /// Whether it lets in more than one node.
    pub reusable: bool,
    /// Whether the nodes that join by it vanish shortly after they have gone.
    pub ephemeral: bool,
    /// The tags of the nodes that join by it.
    #[schema(value_type = Vec<schema::Label>)]
    pub tags: Vec<String>,
    /// How many nodes have joined by it.
    pub uses: u64,
    /// When the last one did.
    #[schema(value_type = Option<schema::Time>)]
    pub last_used_at: Option<Timestamp>,
    /// When it was made.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
    /// When it stops working.
    #[schema(value_type = schema::Time)]
    pub expires_at: Timestamp,
    /// When it was revoked, if it was. Nodes that joined by it stay.
    #[schema(value_type = Option<schema::Time>)]
    pub revoked_at: Option<Timestamp>,
}

/// Makes a key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateAuthKey {
    /// What to call it, 1 to 128 characters.
    #[schema(value_type = schema::DisplayText)]
    pub name: String,
    /// Whether it lets in more than one node; only one by default.
    #[serde(default)]
    pub reusable: bool,
    /// Whether the nodes that join by it vanish shortly after they have gone.
    #[serde(default)]
    pub ephemeral: bool,
    /// The tags of the nodes that join by it, at most 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<schema::Label>>, max_items = 16)]
    pub tags: Option<Vec<String>>,
    /// How long it lives, in seconds: 1 to 7776000 (90 days), default 3600; never longer than the credential that makes it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::maybe_whole"
    )]
    #[schema(minimum = 1, maximum = 7_776_000)]
    pub expires_in_seconds: Option<u32>,
}

/// A new key. `key` is shown here and never again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedAuthKey {
    /// Its record.
    #[serde(flatten)]
    pub record: AuthKey,
    /// The key itself: `rtk_` and 43 letters and digits.
    #[schema(pattern = "^rtk_[A-Za-z0-9]{43}$")]
    pub key: String,
}

impl std::fmt::Debug for CreatedAuthKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedAuthKey")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// Joins by a key. Needs no other credential.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    /// The key.
    #[schema(value_type = schema::Text)]
    pub auth_key: String,
    /// The node's name, a DNS label; made from the host name or label when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Label>)]
    pub name: Option<String>,
    /// What the device says of itself, its public key first.
    #[serde(flatten)]
    pub about: LinkStart,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join")
            .field("name", &self.name)
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

/// The node that joined. It holds no secret.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// The node.
    pub node: Node,
    /// Its configuration.
    pub config: NodeConfig,
}
