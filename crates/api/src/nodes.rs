//! Nodes and their configuration (contract §3).

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{
    AllowedIp, Generation, NodeId, NodeKind, NodePublicKey, NodeStatus, OrgId, PathKind, PathReason, RelayId,
    SigningPublicKey, Timestamp, UserId,
};
use utoipa::{IntoParams, ToSchema};

use crate::page::PageQuery;
use crate::schema;

/// A key that an org admitted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: NodeId,
    /// The org that admitted it.
    #[schema(value_type = schema::Id)]
    pub org_id: OrgId,
    /// What runs behind the key: `device`, `sandbox` or `platform`.
    #[schema(value_type = schema::NodeKind)]
    pub kind: NodeKind,
    /// A DNS label, unique in the org.
    #[schema(value_type = schema::Label)]
    pub name: String,
    /// What the device calls itself.
    pub device_label: Option<String>,
    /// `<name>.<org>.mesh.internal`.
    pub dns_name: String,
    /// Its operating system.
    pub os: Option<String>,
    /// Its host name.
    pub hostname: Option<String>,
    /// The version of the program.
    pub app_version: Option<String>,
    /// What the device said of itself at link.
    #[schema(value_type = Object)]
    pub client_metadata: Map<String, Value>,
    /// Its WireGuard public key.
    #[schema(value_type = schema::PublicKey)]
    pub public_key: NodePublicKey,
    /// Its address in 100.64.0.0/10.
    #[schema(value_type = String, format = Ipv4)]
    pub mesh_ip4: Ipv4Addr,
    /// Its address in the org's /48.
    #[schema(value_type = String, format = Ipv6)]
    pub mesh_ip6: Ipv6Addr,
    /// `online`, `offline` or `revoked`.
    #[schema(value_type = schema::NodeStatus)]
    pub status: NodeStatus,
    /// When its control stream was last heard.
    #[schema(value_type = Option<schema::Time>)]
    pub last_seen_at: Option<Timestamp>,
    /// How it reaches the platform: `direct`, `relay` or null.
    #[schema(value_type = Option<schema::PathKind>)]
    pub path: Option<PathKind>,
    /// Why so.
    #[schema(value_type = Option<schema::PathReason>)]
    pub path_reason: Option<PathReason>,
    /// The relay at which it is found best, by its key; null when it has named none.
    #[schema(value_type = Option<schema::PublicKey>)]
    #[serde(default)]
    pub home_relay: Option<RelayId>,
    /// Its tags.
    #[schema(value_type = Vec<schema::Label>)]
    pub tags: Vec<String>,
    /// Who approved it; the platform's own node has no owner.
    #[schema(value_type = Option<schema::Id>)]
    pub owner_user_id: Option<UserId>,
    /// Whether it vanishes shortly after it has gone.
    #[serde(default)]
    pub ephemeral: bool,
    /// When it was admitted.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
    /// When it was shut out, if it was.
    #[schema(value_type = Option<schema::Time>)]
    pub revoked_at: Option<Timestamp>,
    /// When its key stops being good, if ever.
    #[schema(value_type = Option<schema::Time>)]
    pub key_expires_at: Option<Timestamp>,
    /// How far its revocation has come; null when it is not revoked, and when the control plane has forgotten the count
    /// (it was started anew since, or a thousand revocations followed).
    #[serde(default)]
    pub cut_off: Option<CutOff>,
}

/// How far a revocation has come: who has dropped the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CutOff {
    /// The nodes that saw it and are not revoked themselves, the platform's own among them.
    pub nodes: u64,
    /// How many of them have said that their session with it is dropped.
    pub confirmed: u64,
    /// How many of the others have no control stream now. They are told first thing when they return.
    pub offline: u64,
    /// From the revocation to the last of these confirmations, in milliseconds.
    pub elapsed_ms: u64,
}

/// Which nodes to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NodesQuery {
    /// Every node of the org (admins only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// `device`, `sandbox` or `platform`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::NodeKind>, inline)]
    pub kind: Option<NodeKind>,
    /// `online`, `offline` or `revoked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::NodeStatus>, inline)]
    pub status: Option<NodeStatus>,
    /// The owner's user id, or `me`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Text>, inline)]
    pub owner: Option<String>,
    /// A part of the name, label or host name, at most 128 characters; case does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 128, pattern = r"^[^\u0000]*$")]
    pub q: Option<String>,
    /// How many rows: 1 to 100, default 50; more is cut to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Whole>, inline)]
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Cursor>, inline)]
    pub cursor: Option<String>,
}

impl NodesQuery {
    /// Returns which page is asked for.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery {
            limit: self.limit,
            cursor: self.cursor.clone(),
        }
    }
}

/// Renames a node, gives it other tags, or both.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatchNode {
    /// The new name, a DNS label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Label>)]
    pub name: Option<String>,
    /// The same as `name`, which counts when both are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Label>)]
    pub device_label: Option<String>,
    /// Its tags from now on, at most 16: what is not among them is taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<schema::Label>>, max_items = 16)]
    pub tags: Option<Vec<String>>,
}

/// How a configuration is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub enum ConfigFormat {
    /// JSON in the envelope.
    #[default]
    #[serde(rename = "json")]
    Json,
    /// The text of a `wg-quick` file, without the private key.
    #[serde(rename = "wg-quick")]
    WgQuick,
}

/// How a configuration is to be written.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConfigQuery {
    /// `json` (default) or `wg-quick`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub format: Option<ConfigFormat>,
}

/// What a node needs to take part, computed from policy on request. It holds no secret.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfig {
    /// Which state this is.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// The org that admitted the node.
    #[schema(value_type = schema::Id)]
    pub org_id: OrgId,
    /// Its name, the middle of every mesh name.
    #[schema(value_type = schema::Label)]
    pub org_name: String,
    /// The key with which the org signs run tickets and records; the node pins it.
    #[schema(value_type = schema::PublicKey)]
    pub org_signing_key: SigningPublicKey,
    /// The node's own interface.
    pub interface: InterfaceConfig,
    /// Every node it may talk to.
    pub peers: Vec<PeerConfig>,
    /// Relays it may use; empty when this server has none.
    pub relays: Vec<RelayConfig>,
    /// Where the control stream is.
    pub control: ControlConfig,
}

/// A node's own interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceConfig {
    /// Its addresses, each a single-address block.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<AllowedIp>,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Name servers; empty, since the host's DNS is left alone.
    pub dns: Vec<String>,
}

/// A node that another may talk to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerConfig {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: NodeId,
    /// Its name.
    #[schema(value_type = schema::Label)]
    pub name: String,
    /// What it is.
    #[schema(value_type = schema::NodeKind)]
    pub kind: NodeKind,
    /// Its WireGuard public key.
    #[schema(value_type = schema::PublicKey)]
    pub public_key: NodePublicKey,
    /// The addresses it may send from.
    #[schema(value_type = Vec<String>)]
    pub allowed_ips: Vec<AllowedIp>,
    /// Where it may be reached: `host:port`, best first.
    pub endpoints: Vec<String>,
    /// The relay at which it is found best, by its key; null when it has named none.
    #[schema(value_type = Option<schema::PublicKey>)]
    pub home_relay: Option<RelayId>,
}

/// A relay.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayConfig {
    /// Its public key, by which it is known.
    #[schema(value_type = schema::PublicKey)]
    pub id: String,
    /// Its name.
    #[schema(value_type = schema::Label)]
    pub name: String,
    /// Where it is reached by UDP: `host:port`, best first.
    pub endpoints: Vec<String>,
    /// Where it is reached over a WebSocket, `ws://` or `wss://`; null when it is not.
    pub url: Option<String>,
}

/// Where the control stream is, and by which key the control plane is known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControlConfig {
    /// The `ws://` or `wss://` address.
    pub url: String,
    /// The control plane's Noise static key; the node pins it at link.
    #[schema(value_type = schema::PublicKey)]
    pub public_key: NodePublicKey,
}
