//! Threads (contract §6) without their events: metadata, the snapshot, rollouts.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::thread::Thread as ThreadRecord;
use types::{AgentId, ExecutionMode, OrgId, RolloutId, RunId, ThreadId, Timestamp, UserId};
use utoipa::{IntoParams, ToSchema};

use crate::page::PageQuery;
use crate::schema;

/// A thread.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Thread {
    /// Its id.
    #[schema(value_type = schema::ThreadId)]
    pub id: ThreadId,
    /// The org it belongs to.
    #[schema(value_type = schema::Id)]
    pub org_id: OrgId,
    /// Whose it is.
    #[schema(value_type = schema::Id)]
    pub owner_user_id: UserId,
    /// The agent that works in it.
    #[schema(value_type = Option<schema::Id>)]
    pub agent_id: Option<AgentId>,
    /// What people call it, or the beginning of what was asked; the latter is null for an admin who is not the owner.
    pub title: Option<String>,
    /// Where its runs are executed.
    #[schema(value_type = schema::ExecutionMode)]
    pub execution_mode: ExecutionMode,
    /// Put away.
    pub archived: bool,
    /// The rollout that new events join.
    #[schema(value_type = schema::RolloutId)]
    pub active_rollout_id: RolloutId,
    /// When it began.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = schema::Time)]
    pub updated_at: Timestamp,
}

impl From<ThreadRecord> for Thread {
    fn from(record: ThreadRecord) -> Self {
        Self {
            id: record.id,
            org_id: record.org_id,
            owner_user_id: record.owner_user_id,
            agent_id: record.agent_id,
            title: record.title,
            execution_mode: record.execution_mode,
            archived: record.archived,
            active_rollout_id: record.active_rollout_id,
            created_at: record.created_at,
            updated_at: record.updated_at,
        }
    }
}

/// One thing that was said.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The number of its event.
    #[schema(minimum = 1)]
    pub sequence: u64,
    /// The run it belongs to.
    #[schema(value_type = Option<schema::RunId>)]
    pub run_id: Option<RunId>,
    /// `user` or `assistant`.
    #[schema(value_type = schema::MessageRole)]
    pub role: String,
    /// What was said.
    pub text: String,
    /// When the store took it.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
}

/// One use of a tool, from call to result.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolCall {
    /// The id that its agent gave it; unique in a run only.
    pub tool_call_id: String,
    /// The number of its first event.
    #[schema(minimum = 1)]
    pub sequence: u64,
    /// The run it belongs to.
    #[schema(value_type = Option<schema::RunId>)]
    pub run_id: Option<RunId>,
    /// What people are shown.
    pub title: Option<String>,
    /// What kind of tool it is, in the words of the agent's protocol.
    pub kind: Option<String>,
    /// How far it came, in the words of the agent's protocol.
    pub status: Option<String>,
    /// What the tool was given.
    pub input: Option<Value>,
    /// What it returned.
    pub output: Option<Value>,
}

/// A thread as its events add up.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ThreadSnapshot {
    /// The thread.
    #[serde(flatten)]
    pub thread: Thread,
    /// What it is doing: `idle`, `waiting` or `running`.
    #[schema(value_type = schema::ThreadActivity)]
    pub activity: String,
    /// The number of its last event; what to pass as `after` to see what comes next.
    pub last_sequence: u64,
    /// The newest messages, oldest first. Absent for an admin who is not the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// The newest uses of tools, oldest first. Absent for an admin who is not the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Earlier messages or tool calls were left out.
    pub truncated: bool,
}

/// The part of a thread between two compactions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Its id.
    #[schema(value_type = schema::RolloutId)]
    pub rollout_id: RolloutId,
    /// The thread.
    #[schema(value_type = schema::ThreadId)]
    pub thread_id: ThreadId,
    /// When it began.
    #[schema(value_type = schema::Time)]
    pub started_at: Timestamp,
    /// When the next one began; null for the active one.
    #[schema(value_type = Option<schema::Time>)]
    pub completed_at: Option<Timestamp>,
    /// How many events it has.
    pub event_count: u64,
}

/// Changes a thread.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PatchThread {
    /// A new title, up to 200 printable characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Title>)]
    pub title: Option<String>,
    /// Put it away or take it out again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<bool>,
}

/// Condenses a thread: what came before is kept, and a new rollout begins.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CompactThread {
    /// What the new rollout starts from, up to 64 KiB of UTF-8; without it, an outline made of what was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 65536, pattern = r"^[^\u0000]*$")]
    pub summary: Option<String>,
}

/// The answer to a compaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compacted {
    /// The thread.
    #[schema(value_type = schema::ThreadId)]
    pub thread_id: ThreadId,
    /// The rollout that ended.
    #[schema(value_type = schema::RolloutId)]
    pub previous_rollout_id: RolloutId,
    /// The rollout that began.
    #[schema(value_type = schema::RolloutId)]
    pub rollout_id: RolloutId,
    /// The number of the thread's last event.
    pub sequence: u64,
}

/// Which threads to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ThreadsQuery {
    /// Those of everyone in the org (admins only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// `true` for those put away; by default those that are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<bool>,
    /// Those of this agent, slug or id; one that is deleted keeps its threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Text>, inline)]
    pub agent: Option<String>,
    /// How many rows: 1 to 100, default 50; more is cut to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Whole>, inline)]
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Cursor>, inline)]
    pub cursor: Option<String>,
}

impl ThreadsQuery {
    /// Returns which page is asked for.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery {
            limit: self.limit,
            cursor: self.cursor.clone(),
        }
    }
}

/// Which threads of one agent to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AgentThreadsQuery {
    /// The agent, slug or id; one that is deleted keeps its threads.
    #[param(value_type = schema::Text, inline)]
    pub agent: String,
    /// Those of everyone in the org (admins only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// `true` for those put away; by default those that are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<bool>,
    /// How many rows: 1 to 100, default 50; more is cut to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Whole>, inline)]
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Cursor>, inline)]
    pub cursor: Option<String>,
}

impl From<AgentThreadsQuery> for ThreadsQuery {
    fn from(query: AgentThreadsQuery) -> Self {
        Self {
            all: query.all,
            archived: query.archived,
            agent: Some(query.agent),
            limit: query.limit,
            cursor: query.cursor,
        }
    }
}

/// Which agent a thread must be of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AgentQuery {
    /// The agent, slug or id; one that is deleted keeps its threads.
    #[param(value_type = schema::Text, inline)]
    pub agent: String,
}

/// How much of a thread to return.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ThreadQuery {
    /// How many messages and tool calls at most: 1 to 500, default 500; more is cut to 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Whole>, inline)]
    pub limit: Option<u32>,
    /// `all_rollouts`: not only the active one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Include>, inline)]
    pub include: Option<String>,
}
