//! The org's policy (contract §3, marked as ours): who may reach what inside the mesh.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::{Protocol, Timestamp, UserId};
use utoipa::ToSchema;

use crate::schema;

/// The policy of an org.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// Counts the changes; 0 while nothing was said.
    pub version: u64,
    /// What holds.
    #[schema(value_type = schema::PolicyDocument)]
    pub document: Value,
    /// Nothing was said, and the standard policy holds.
    pub is_standard: bool,
    /// When it was changed last.
    #[schema(value_type = Option<schema::Time>)]
    pub updated_at: Option<Timestamp>,
    /// Who did that.
    #[schema(value_type = Option<schema::Id>)]
    pub updated_by: Option<UserId>,
}

/// Replaces the policy.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PutPolicy {
    /// What is to hold.
    #[schema(value_type = schema::PolicyDocument)]
    pub document: Value,
    /// The version that it is made from: when another holds by now, nothing is changed (409).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// Tries a policy out.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestPolicy {
    /// Which one; the one in force when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::PolicyDocument>)]
    pub document: Option<Value>,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTested {
    /// Every test in it holds.
    pub passed: bool,
    /// How many grants it has.
    pub grants: usize,
    /// How many tests.
    pub tests: usize,
    /// Every test that fails.
    pub failures: Vec<PolicyFailure>,
}

/// A test that fails.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyFailure {
    /// Which one, such as `tests[3]`.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Asks whether one node may reach something of another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainPolicy {
    /// The name or id of the node that reaches.
    #[schema(value_type = schema::Text)]
    pub src: String,
    /// The name or id of the node that is reached.
    #[schema(value_type = schema::Text)]
    pub dst: String,
    /// The port: needed for TCP and UDP.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::json::maybe_whole"
    )]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u32>,
    /// `tcp` (default), `udp` or `icmp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Protocol>)]
    pub proto: Option<Protocol>,
    /// By which policy; by the one in force when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::PolicyDocument>)]
    pub document: Option<Value>,
}

/// The answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyExplained {
    /// The name of the node that reaches.
    pub src: String,
    /// The name of the node that is reached.
    pub dst: String,
    /// What is reached: `tcp:22`, `udp:53` or `icmp`.
    pub service: String,
    /// Whether it may.
    pub accepted: bool,
    /// By what; null when nothing lets it.
    pub by: Option<DecidedBy>,
    /// The number of the grant, counted from 0.
    pub grant: Option<usize>,
    /// The grant itself.
    #[schema(value_type = Option<Object>)]
    pub text: Option<Value>,
}

/// What lets something through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// It holds in every org: nodes reach the platform's dispatch port.
    BuiltIn,
    /// A grant.
    Grant,
}
