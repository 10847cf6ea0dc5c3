//! Agents (contract §4): what runs, where, and with which settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{AgentId, AgentSlug, ExecutionMode, NodeId, OrgId, RunnerSpec, Timestamp, UserId};
use utoipa::{IntoParams, ToSchema};

use crate::page::PageQuery;

/// Something an agent may use beside its device or sandbox.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentResource {
    /// What kind of thing it is, 1 to 64 characters.
    #[serde(rename = "type")]
    pub resource_type: String,
    /// Which one, 1 to 128 characters.
    pub resource_id: String,
    /// What the agent calls it, up to 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// How it is to be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
}

/// What the owner of an agent decides. An absent field means the default.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentSettings {
    /// What people call it, up to 128 printable characters; the slug by default.
    pub name: Option<String>,
    /// What it is for, up to 2000 characters.
    pub description: Option<String>,
    /// The model, up to 128 characters; the runner's own by default.
    pub model: Option<String>,
    /// What it is told about itself, up to 64 KiB.
    pub system_prompt: Option<String>,
    /// The tools it may use, up to 128 names of up to 128 characters.
    pub tools: Option<Vec<String>>,
    /// The most turns of one run, 1 to 100.
    pub max_iterations: Option<u32>,
    /// The most tokens of one run, 1 to 128000.
    pub max_tokens: Option<u32>,
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// 0 to 1.
    pub top_p: Option<f64>,
    /// At least 1.
    pub top_k: Option<u32>,
    /// Environment of the runner: up to 64 variables, values up to 4096 bytes.
    pub env: BTreeMap<String, String>,
    /// For the model provider, in its own words, up to 16 KiB.
    pub provider_options: Option<Map<String, Value>>,
    /// Where its runs are executed: `in_sandbox` (default), `managed` or `local-mac` (any registered device).
    #[schema(value_type = String, example = "local-mac")]
    pub execution_mode: ExecutionMode,
    /// The sandbox to boot; required by `in_sandbox`, refused by `local-mac`.
    #[schema(value_type = Option<Object>)]
    pub sandbox: Option<Map<String, Value>>,
    /// What else it may use, up to 32 and 64 KiB in all.
    pub resources: Vec<AgentResource>,
    /// The device its runs are bound to; required by `local-mac`.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub target_device_id: Option<NodeId>,
    /// The folder on the device its owner suggests, up to 1024 characters; the device's policy decides.
    pub default_folder_hint: Option<String>,
    /// Which program of the device executes it: `{"type":"acp","name":"goose"}` or `{"type":"command","name":…}`.
    #[schema(value_type = Option<Object>)]
    pub runner: Option<RunnerSpec>,
}

/// Creates an agent or replaces all its settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PutAgent {
    /// Its name in addresses: `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`, at most 63 characters; unique in the org.
    #[schema(value_type = String, example = "code-on-my-mac")]
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
    #[schema(value_type = String, format = Uuid)]
    pub id: AgentId,
    /// Its slug.
    #[schema(value_type = String)]
    pub slug: AgentSlug,
    /// Whether it is new.
    pub action: PutAction,
    /// Raised with every change, from 1.
    pub version: u32,
    /// Always null until sandboxes can be booted.
    pub sandbox_id: Option<String>,
    /// The device its runs are bound to.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub target_device_id: Option<NodeId>,
    /// Where to POST a run, below the server's address.
    pub endpoint: String,
}

/// An agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Its id.
    #[schema(value_type = String, format = Uuid)]
    pub id: AgentId,
    /// The org it belongs to.
    #[schema(value_type = String, format = Uuid)]
    pub org_id: OrgId,
    /// Who made it.
    #[schema(value_type = String, format = Uuid)]
    pub owner_user_id: UserId,
    /// Its slug.
    #[schema(value_type = String)]
    pub slug: AgentSlug,
    /// Its settings.
    #[serde(flatten)]
    pub settings: AgentSettings,
    /// Who may see and run it: `private`, its owner and admins.
    pub visibility: String,
    /// `active`.
    pub status: String,
    /// Raised with every change, from 1.
    pub version: u32,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// Which agents to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AgentsQuery {
    /// Those of everyone in the org (admins only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// How many rows: 1 to 100, default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
