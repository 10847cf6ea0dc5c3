//! Runs: one piece of work bound to one node, what state it is in, and what the node is asked to do.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::{AgentId, RolloutId, RunId, ThreadId};
use crate::names::AgentSlug;
use crate::time::Timestamp;

/// Where an agent's runs are executed (contract §4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub enum ExecutionMode {
    /// In a microVM that is itself a node.
    #[default]
    #[serde(rename = "in_sandbox")]
    InSandbox,
    /// By the platform.
    #[serde(rename = "managed")]
    Managed,
    /// On a registered device, of whatever operating system.
    #[serde(rename = "local-mac")]
    LocalMac,
}

/// The state of a run (contract §5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// Started by the bound device itself.
    Registered,
    /// Waits for its device.
    Queued,
    /// Offered to its device, or accepted by it.
    Dispatched,
    /// The runner was started.
    Running,
    /// Ended well.
    Completed,
    /// Ended badly; the thread says why.
    Failed,
    /// Stopped on request.
    Cancelled,
    /// Its time in the queue ran out.
    Expired,
    /// Its device went away with it and did not come back in time.
    Lost,
}

impl RunStatus {
    /// Tells whether the state is final.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Cancelled | Self::Expired | Self::Lost
        )
    }

    /// Returns the text that stands in the API and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many times a run has been offered afresh; the first is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

/// A number that only rises with every offer of a run; what carries a lower one is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub u64);

/// Which program executes a run (DESIGN §8). The node's own policy decides whether it may.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum RunnerSpec {
    /// An agent that speaks the Agent Client Protocol over stdio.
    Acp {
        /// The name of a runner in the node's policy file, such as `goose`.
        name: String,
    },
    /// Any program: the prompt on stdin, output into the thread, the exit code decides.
    Command {
        /// The name of a runner in the node's policy file.
        name: String,
    },
}

impl RunnerSpec {
    /// Returns the name that the node's policy file must know.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Acp { name } | Self::Command { name } => name,
        }
    }
}

/// How far one run may go. Zero is no valid limit: absent means the default of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunLimits {
    /// The longest time between start and end, in seconds.
    pub duration_s_max: Option<u32>,
    /// The most turns of the agent.
    pub turns_max: Option<u32>,
    /// The most tokens the agent may spend.
    pub tokens_max: Option<u32>,
}

/// What an agent's definition asks beyond what every runner has a word for. All of it is a wish: a node's own policy is
/// asked about none of it, and so none of it may widen what a runner is allowed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunSettings {
    /// The names of the tools the agent should use; absent means all that its runner has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// The nucleus of the model's choice, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Among how many words the model chooses, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// For the model's provider, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_options: Option<Map<String, Value>>,
    /// What else the agent may use, each an object as its definition has it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Value>,
}

/// Everything a node needs to execute a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunOrder {
    /// The run.
    pub run_id: RunId,
    /// The thread its events go to.
    pub thread_id: ThreadId,
    /// The rollout of that thread.
    pub rollout_id: RolloutId,
    /// The agent.
    pub agent_id: AgentId,
    /// The agent's slug, for people.
    pub agent_slug: AgentSlug,
    /// Which program executes it; absent means the node's default runner.
    pub runner: Option<RunnerSpec>,
    /// What the agent is told about itself, if anything.
    pub system_prompt: Option<String>,
    /// What is asked.
    pub prompt: String,
    /// The folder the agent's owner suggests; the node's policy decides.
    pub folder_hint: Option<String>,
    /// Environment of the runner beside the node's own allow-list.
    pub env: std::collections::BTreeMap<String, String>,
    /// How far it may go.
    pub limits: RunLimits,
    /// Which model the agent should use, in the words of its runner; absent means the runner's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How freely the model should speak, 0 to 2; absent means the runner's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// What else the agent's definition asks; absent in the orders of an older control plane.
    #[serde(default)]
    pub settings: RunSettings,
    /// What was said in the thread before, as text, for a runner that does not remember it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
}
