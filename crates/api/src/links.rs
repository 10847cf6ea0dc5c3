//! Device linking (contract §2): a device shows a code, a person approves it, the device becomes a node.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{NodePublicKey, Timestamp};
use utoipa::ToSchema;

use crate::nodes::{Node, NodeConfig};
use crate::schema;

/// The largest `clientMetadata`, in bytes of JSON.
pub const CLIENT_METADATA_BYTES_MAX: usize = 8 * 1024;

/// Asks for a code. Needs no credential.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkStart {
    /// The device's WireGuard public key: 44 characters of base64.
    #[schema(value_type = schema::PublicKey)]
    pub public_key: String,
    /// What people call the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Claim>)]
    pub device_label: Option<String>,
    /// Its operating system, such as `macos`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Claim>)]
    pub os: Option<String>,
    /// The version of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Claim>)]
    pub app_version: Option<String>,
    /// Its host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Claim>)]
    pub hostname: Option<String>,
    /// Anything else, at most 8 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_metadata: Option<Map<String, Value>>,
}

/// A code to show.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkStarted {
    /// Six upper-case letters and digits without look-alikes.
    #[schema(value_type = schema::LinkCode)]
    pub code: String,
    /// The page where a person approves it.
    #[schema(format = "uri")]
    pub url: String,
    /// When the code dies: ten minutes after it was made.
    #[schema(value_type = schema::Time)]
    pub expires_at: Timestamp,
    /// How long to wait between polls, in seconds.
    pub interval: u32,
    /// Two digits, shown on both screens.
    #[schema(value_type = schema::MatchNumber)]
    #[serde(rename = "match")]
    pub match_number: String,
}

/// Asks how a code fares. Needs no credential, but the key that the code was made for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkPoll {
    /// The code.
    pub code: String,
    /// The key it was made for.
    pub public_key: String,
}

/// How a code fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LinkStatus {
    /// Nobody has decided.
    Pending,
    /// The device is a node.
    Approved,
    /// Somebody said no.
    Denied,
    /// Nobody decided in time, or a later code took its place.
    Expired,
}

/// The answer to a poll. It holds no secret: it is useless without the device's private key.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkPolled {
    /// How the code fares.
    pub status: LinkStatus,
    /// The node, once approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// Its configuration, once approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<NodeConfig>,
}

/// Admits the device behind a code.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkApprove {
    /// The code.
    pub code: String,
    /// The node's name, a DNS label; made from the label or host name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Label>)]
    pub name: Option<String>,
    /// Tags, at most 16, each a DNS label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<schema::Label>>, max_items = 16)]
    pub tags: Option<Vec<String>>,
}

/// The admitted node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkApproved {
    /// The node.
    pub node: Node,
}

/// Refuses the device behind a code.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkDeny {
    /// The code.
    pub code: String,
}

/// What the approve page shows. Everything but times, address and match number is the device's own claim.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// The code.
    #[schema(value_type = schema::LinkCode)]
    pub code: String,
    /// How it fares.
    pub status: LinkStatus,
    /// The key it was made for.
    #[schema(value_type = schema::PublicKey)]
    pub public_key: NodePublicKey,
    /// What the device is called.
    pub device_label: Option<String>,
    /// Its operating system.
    pub os: Option<String>,
    /// The version of the program.
    pub app_version: Option<String>,
    /// Its host name.
    pub hostname: Option<String>,
    /// The address that asked.
    pub ip: String,
    /// Two digits that the device shows, too.
    #[schema(value_type = schema::MatchNumber)]
    #[serde(rename = "match")]
    pub match_number: String,
    /// When it asked.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
    /// When the code dies.
    #[schema(value_type = schema::Time)]
    pub expires_at: Timestamp,
}
