//! A thread: a durable, numbered list of events, divided into rollouts by compaction.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, OrgId, RolloutId, ThreadId, UserId};
use crate::run::ExecutionMode;
use crate::time::Timestamp;

/// The longest title, in characters.
pub const TITLE_CHARS_MAX: usize = 200;

/// What is known of a thread without its events (contract §6).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thread {
    /// Its id.
    pub id: ThreadId,
    /// The org it belongs to.
    pub org_id: OrgId,
    /// Who may read and write it, beside the node that holds the lease of its run.
    pub owner_user_id: UserId,
    /// The agent that works in it.
    pub agent_id: Option<AgentId>,
    /// What people call it.
    pub title: Option<String>,
    /// Where its runs are executed.
    pub execution_mode: ExecutionMode,
    /// Put away.
    pub archived: bool,
    /// The rollout that new events join.
    pub active_rollout_id: RolloutId,
    /// When it began.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}
