//! Agents (contract §4): what runs, where, and with which settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{AgentId, AgentSlug, ExecutionMode, NodeId, OrgId, RunnerSpec, Timestamp, UserId};
use utoipa::{IntoParams, ToSchema};

use crate::page::PageQuery;
use crate::{json, schema};

/// Something an agent may use beside its device or sandbox.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentResource {
    /// What kind of thing it is.
    #[serde(rename = "type")]
    #[schema(value_type = schema::DisplayText)]
    pub resource_type: String,
    /// Which one.
    #[schema(value_type = schema::DisplayText)]
    pub resource_id: String,
    /// What the agent calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::DisplayText>)]
    pub alias: Option<String>,
    /// How it is to be used, up to 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
}

/// What the owner of an agent decides. An absent field means the default.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentSettings {
    /// What people call it, the slug by default.
    #[schema(value_type = Option<schema::DisplayText>)]
    pub name: Option<String>,
    /// What it is for, up to 2000 characters.
    #[schema(max_length = 2000, pattern = r"^[^\u0000]*$")]
    pub description: Option<String>,
    /// The model; the runner's own by default.
    #[schema(value_type = Option<schema::DisplayText>)]
    pub model: Option<String>,
    /// What it is told about itself, up to 64 KiB of UTF-8.
    #[schema(max_length = 65536, pattern = r"^[^\u0000]*$")]
    pub system_prompt: Option<String>,
    /// The tools it may use, up to 128.
    #[schema(value_type = Option<Vec<schema::DisplayText>>, max_items = 128)]
    pub tools: Option<Vec<String>>,
    /// The most turns of one run, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    #[serde(deserialize_with = "json::maybe_whole")]
    pub max_iterations: Option<u32>,
    /// The most tokens of one run, 1 to 128000.
    #[schema(minimum = 1, maximum = 128000)]
    #[serde(deserialize_with = "json::maybe_whole")]
    pub max_tokens: Option<u32>,
    /// 0 to 2.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// At least 1.
    #[schema(value_type = Option<schema::Whole>)]
    #[serde(deserialize_with = "json::maybe_whole")]
    pub top_k: Option<u32>,
    /// Environment of the runner: up to 64 variables, values up to 4096 bytes.
    #[schema(value_type = schema::Environment)]
    pub env: BTreeMap<String, String>,
    /// For the model provider, in its own words, up to 16 KiB.
    pub provider_options: Option<Map<String, Value>>,
    /// Where its runs are executed: `in_sandbox` (default), `managed` or `local-mac` (any registered device).
    #[schema(value_type = schema::ExecutionMode)]
    pub execution_mode: ExecutionMode,
    /// The sandbox to boot, up to 16 KiB; required by `in_sandbox`, refused by `local-mac`.
    pub sandbox: Option<Map<String, Value>>,
    /// What else it may use, up to 32 and 64 KiB in all.
    #[schema(max_items = 32)]
    #[serde(deserialize_with = "json::objects")]
    pub resources: Vec<AgentResource>,
    /// The device its runs are bound to; required by `local-mac`.
    #[schema(value_type = Option<schema::Id>)]
    pub target_device_id: Option<NodeId>,
    /// The folder on the device its owner suggests, up to 1024 characters; the device's policy decides.
    #[schema(max_length = 1024, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub default_folder_hint: Option<String>,
    /// Which program of the device executes it: `{"type":"acp","name":"goose"}` or `{"type":"command","name":…}`.
    #[schema(value_type = Option<schema::RunnerSpec>)]
    #[serde(deserialize_with = "json::maybe_object")]
    pub runner: Option<RunnerSpec>,
}

/// Creates an agent or replaces all its settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PutAgent {
    /// Its name in addresses: `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`, at most 63 characters; unique in the org.
    #[schema(value_type = schema::Label)]
    pub slug: AgentSlug,
    /// Everything else.
    #[serde(flatten)]
    pub settings: AgentSettings,
}

/// Whether an upsert made the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PutAction {
    /// It is new.
    Created,
    /// It was there.
    Updated,
}

/// The answer to an upsert.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PutAgentResult {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: AgentId,
    /// Its slug.
    #[schema(value_type = schema::Label)]
    pub slug: AgentSlug,
    /// Whether it is new.
    pub action: PutAction,
    /// Raised with every change, from 1.
    pub version: u32,
    /// Always null until sandboxes can be booted.
    pub sandbox_id: Option<String>,
    /// The device its runs are bound to.
    #[schema(value_type = Option<schema::Id>)]
    pub target_device_id: Option<NodeId>,
    /// Where to POST a run, below the server's address.
    pub endpoint: String,
}

/// An agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: AgentId,
    /// The org it belongs to.
    #[schema(value_type = schema::Id)]
    pub org_id: OrgId,
    /// Who made it.
    #[schema(value_type = schema::Id)]
    pub owner_user_id: UserId,
    /// Its slug.
    #[schema(value_type = schema::Label)]
    pub slug: AgentSlug,
    /// Its settings.
    #[serde(flatten)]
    pub settings: AgentSettings,
    /// Who may see and run it: `private`, its owner and admins.
    #[schema(value_type = schema::Visibility)]
    pub visibility: String,
    /// `active`.
    #[schema(value_type = schema::AgentStatus)]
    pub status: String,
    /// Raised with every change, from 1.
    pub version: u32,
    /// When it was made.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = schema::Time)]
    pub updated_at: Timestamp,
}

/// Which agents to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AgentsQuery {
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

impl AgentsQuery {
    /// Returns which page is asked for.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery {
            limit: self.limit,
            cursor: self.cursor.clone(),
        }
    }
}
