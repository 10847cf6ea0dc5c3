//! Runs (contract §5): starting work, following it, stopping it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{
    AgentId, AgentSlug, ExecutionMode, NodeId, OrgId, RolloutId, RunId, RunStatus, ThreadId, Timestamp,
    UserId,
};
use utoipa::{IntoParams, ToSchema};

use crate::page::PageQuery;
use crate::{json, schema};

/// The longest prompt, in bytes.
pub const PROMPT_BYTES_MAX: usize = 256 * 1024;

/// The longest `wait`, in seconds.
pub const WAIT_S_MAX: u32 = 600;

/// The longest `queueTtl`, in seconds: thirty days.
pub const QUEUE_TTL_S_MAX: u32 = 30 * 24 * 3600;

/// The longest `Idempotency-Key`, in characters.
pub const IDEMPOTENCY_KEY_LEN_MAX: usize = 128;

/// One thing said before, as other APIs pass a conversation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunMessage {
    /// `user`, `assistant` or `system`.
    #[schema(value_type = schema::RunMessageRole)]
    pub role: String,
    /// What was said.
    #[schema(value_type = schema::Words)]
    pub content: String,
}

/// How far one run may go.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunConfig {
    /// 1 to 128000.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::maybe_whole"
    )]
    #[schema(minimum = 1, maximum = 128000)]
    pub max_tokens: Option<u32>,
    /// 1 to 100.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::maybe_whole"
    )]
    #[schema(minimum = 1, maximum = 100)]
    pub max_turns: Option<u32>,
    /// 0 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
}

/// Starts a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartRun {
    /// The agent's slug or id. The legacy path has it in the path instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What is asked. Either this or `messages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Prompt>)]
    pub prompt: Option<String>,
    /// A conversation, up to 256 KiB in all. The last message is of role `user` and what is asked; with
    /// `threadId` nothing but messages of role `system` may stand before it, since the thread knows what was said.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::maybe_objects"
    )]
    #[schema(min_items = 1, max_items = 200)]
    pub messages: Option<Vec<RunMessage>>,
    /// The thread to go on with; a new one by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ThreadId>)]
    pub thread_id: Option<ThreadId>,
    /// Answer with the frames of the run as `text/event-stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Without `stream`: how many seconds to wait for the result, 0 to 600; 0 by default.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::maybe_whole"
    )]
    #[schema(maximum = 600)]
    pub wait: Option<u32>,
    /// How many seconds it may wait for its device, 0 to 2592000; 86400 by default. With 0 it does not wait: when the device
    /// is not connected the answer is 409 `device_offline`, and when it is it has 30 seconds to take the run.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::maybe_whole"
    )]
    #[schema(minimum = 0, maximum = 2_592_000, default = 86_400)]
    pub queue_ttl: Option<u32>,
    /// `api`, the default. A run of origin `device` is started by the bound device over its own session, never here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ApiOrigin>)]
    pub origin: Option<RunOrigin>,
    /// How far it may go.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::maybe_object"
    )]
    pub config: Option<RunConfig>,
    /// The caller's own notes, up to 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
}

/// The answer to starting a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunReceipt {
    /// The run.
    #[schema(value_type = schema::RunId)]
    pub run_id: RunId,
    /// The thread its events go to.
    #[schema(value_type = schema::ThreadId)]
    pub thread_id: ThreadId,
    /// The rollout of that thread.
    #[schema(value_type = schema::RolloutId)]
    pub rollout_id: RolloutId,
    /// Where it is executed.
    #[schema(value_type = schema::ExecutionMode)]
    pub execution_mode: ExecutionMode,
    /// The device it is bound to.
    #[schema(value_type = Option<schema::Id>)]
    pub target_device_id: Option<NodeId>,
    /// The sandbox it is executed in.
    pub sandbox_id: Option<String>,
    /// How far it is.
    #[schema(value_type = schema::RunStatus)]
    pub status: RunStatus,
    /// What came of it, once it is over: the last thing the agent said.
    pub result: Option<Value>,
    /// What it used, as the runner told.
    pub usage: Option<Value>,
    /// How many turns it took, as the runner told.
    pub iterations: Option<u32>,
    /// While queued: how many runs of the device stand before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u64>,
    /// While queued: when it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Time>)]
    pub queue_expires_at: Option<Timestamp>,
}

/// Who asked for a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunOrigin {
    /// A caller of the API.
    Api,
    /// The bound device itself.
    Device,
}

/// A run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// What the receipt says, as it stands now.
    #[serde(flatten)]
    pub receipt: RunReceipt,
    /// The org it belongs to.
    #[schema(value_type = schema::Id)]
    pub org_id: OrgId,
    /// Whose it is.
    #[schema(value_type = schema::Id)]
    pub owner_user_id: UserId,
    /// The agent.
    #[schema(value_type = schema::Id)]
    pub agent_id: AgentId,
    /// The agent's slug when the run was started.
    #[schema(value_type = schema::Label)]
    pub agent_slug: AgentSlug,
    /// Who asked for it.
    pub origin: RunOrigin,
    /// How many times it was offered to its device.
    pub attempt: u32,
    /// Its device took it and is away now: the run goes on there or waits, nothing is lost yet.
    pub suspended: bool,
    /// Somebody asked to stop it.
    pub cancel_requested: bool,
    /// Why it ended, unless it completed.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// The caller's own notes.
    pub metadata: Option<Map<String, Value>>,
    /// How many seconds it could wait for its device; null for a run that its device started.
    pub queue_ttl: Option<u32>,
    /// When it was asked for.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
    /// When its device took it.
    #[schema(value_type = Option<schema::Time>)]
    pub accepted_at: Option<Timestamp>,
    /// When its runner was started.
    #[schema(value_type = Option<schema::Time>)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<schema::Time>)]
    pub completed_at: Option<Timestamp>,
}

/// Which runs to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RunsQuery {
    /// Those of this agent: slug or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Text>, inline)]
    pub agent: Option<String>,
    /// Those in this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::RunStatus>, inline)]
    pub status: Option<RunStatus>,
    /// Those of this thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::ThreadId>, inline)]
    pub thread_id: Option<ThreadId>,
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

impl RunsQuery {
    /// Returns which page is asked for.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery {
            limit: self.limit,
            cursor: self.cursor.clone(),
        }
    }
}
