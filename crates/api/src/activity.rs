//! The activity list (contract §7): what happened, for people.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{ActivityId, NodeId, OrgId, RunId, ThreadId, Timestamp, UserId};
use utoipa::{IntoParams, ToSchema};

use crate::audit::ActorType;
use crate::page::PageQuery;
use crate::schema;

/// How much a row matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Info,
    /// Something was achieved.
    Success,
    /// Somebody may want to look.
    Warning,
    /// Something went wrong.
    Error,
}

impl Severity {
    /// Returns the text that stands in the API and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Success => "success",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a row is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResourceType {
    /// A sandbox.
    Sandbox,
    /// An agent.
    Agent,
    /// A workspace.
    Workspace,
    /// A thread.
    Thread,
    /// A tool.
    Tool,
    /// An installed agent.
    InstallableAgentInstall,
    /// A device of the mesh.
    RunmeshDevice,
    /// Executed code.
    CodeExecution,
}

impl ResourceType {
    /// Returns the text that stands in the API and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Agent => "agent",
            Self::Workspace => "workspace",
            Self::Thread => "thread",
            Self::Tool => "tool",
            Self::InstallableAgentInstall => "installable_agent_install",
            Self::RunmeshDevice => "runmesh_device",
            Self::CodeExecution => "code_execution",
        }
    }
}

/// One row.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Activity {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: ActivityId,
    /// The org.
    #[schema(value_type = schema::Id)]
    pub org_id: OrgId,
    /// The person it belongs to.
    #[schema(value_type = Option<schema::Id>)]
    pub actor_user_id: Option<UserId>,
    /// Who did it.
    pub actor_type: ActorType,
    /// What it is about.
    pub resource_type: ResourceType,
    /// Which one.
    pub resource_id: String,
    /// What happened, such as `runmesh.device.linked`.
    pub event_type: String,
    /// How much it matters.
    pub severity: Severity,
    /// The state it led to, such as `completed`.
    pub status: Option<String>,
    /// One line for people.
    pub title: String,
    /// A few more words.
    pub summary: Option<String>,
    /// The particulars.
    #[schema(value_type = Object)]
    pub attributes: Map<String, Value>,
    /// The thread it happened in.
    #[schema(value_type = Option<schema::ThreadId>)]
    pub thread_id: Option<ThreadId>,
    /// The run it belongs to.
    #[schema(value_type = Option<schema::RunId>)]
    pub agent_run_id: Option<RunId>,
    /// The sandbox it happened in.
    pub sandbox_id: Option<String>,
    /// The node it happened on.
    #[schema(value_type = Option<schema::Id>)]
    pub runmesh_node_id: Option<NodeId>,
    /// When.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
}

/// Which rows to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ActivityQuery {
    /// Rows of everyone in the org (admins only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// What they are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub resource_type: Option<ResourceType>,
    /// Which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Text>, inline)]
    pub resource_id: Option<String>,
    /// What happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Text>, inline)]
    pub event_type: Option<String>,
    /// How much it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub severity: Option<Severity>,
    /// The state it led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Text>, inline)]
    pub status: Option<String>,
    /// Whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Id>, inline)]
    pub actor_user_id: Option<UserId>,
    /// In which thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::ThreadId>, inline)]
    pub thread_id: Option<ThreadId>,
    /// Of which run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::RunId>, inline)]
    pub agent_run_id: Option<RunId>,
    /// In which sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Text>, inline)]
    pub sandbox_id: Option<String>,
    /// On which node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Id>, inline)]
    pub runmesh_node_id: Option<NodeId>,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Time>, inline)]
    pub since: Option<Timestamp>,
    /// Before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Time>, inline)]
    pub until: Option<Timestamp>,
    /// How many rows: 1 to 100, default 50; more is cut to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Whole>, inline)]
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Cursor>, inline)]
    pub cursor: Option<String>,
}

impl ActivityQuery {
    /// Returns which page is asked for.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery {
            limit: self.limit,
            cursor: self.cursor.clone(),
        }
    }
}
