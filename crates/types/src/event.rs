//! Thread events: what is stored for ever, and what is only shown while it happens (contract §6).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{RolloutId, RunId, ThreadId};
use crate::time::Timestamp;

/// The most events in one append.
pub const APPEND_EVENTS_MAX: usize = 500;

/// The largest event, as JSON.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// The largest body of one append.
pub const APPEND_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The longest `clientEventId`.
pub const CLIENT_EVENT_ID_LEN_MAX: usize = 128;

macro_rules! event_types {
    ($(#[$doc:meta])* $name:ident, $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every type, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the text that stands in the API and in the store.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownEventType;

            fn from_str(text: &str) -> Result<Self, UnknownEventType> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|known| known.as_str() == text)
                    .ok_or(UnknownEventType)
            }
        }
    };
}

/// A text that names no event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no known event type")]
pub struct UnknownEventType;

event_types! {
    /// The types of events that are stored, numbered and never lost.
    EventType,
    /// A runner was started for a run.
    RunStarted = "run_started",
    /// A run ended; the payload has `status` and, unless it completed, `reason`.
    RunCompleted = "run_completed",
    /// What a person or program asked.
    UserMessage = "user_message",
    /// What the agent answered, whole.
    AssistantMessage = "assistant_message",
    /// A tool the agent called.
    ToolCall = "tool_call",
    /// What the tool returned.
    ToolResult = "tool_result",
    /// The thread's history is being condensed.
    CompactionStarted = "compaction_started",
    /// It was; a new rollout begins.
    CompactionCompleted = "compaction_completed",
    /// The thread has a new title.
    ThreadRenamed = "thread_renamed",
    /// The thread was put away or taken out again.
    ThreadArchived = "thread_archived",
    /// The thread is gone.
    ThreadDeleted = "thread_deleted",
}

event_types! {
    /// The types of frames that are only shown live and never stored.
    LiveType,
    /// The first frame of a live connection: the thread as it stands.
    Snapshot = "snapshot",
    /// A piece of the answer.
    AssistantMessageDelta = "assistant_message_delta",
    /// A piece of the agent's thinking.
    AssistantThinkingDelta = "assistant_thinking_delta",
    /// Where the answer comes from.
    AssistantMessageSource = "assistant_message_source",
    /// A tool call begins.
    ToolCallStarted = "tool_call_started",
    /// A piece of a tool's output.
    ToolOutputDelta = "tool_output_delta",
    /// A tool call ended.
    ToolCallCompleted = "tool_call_completed",
}

/// An event as its producer makes it, before the thread has numbered it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventDraft {
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The particulars, a JSON object.
    pub payload: Value,
    /// The producer's own id: a repeated one is stored once and still acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_event_id: Option<String>,
}

/// An event of a thread.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ThreadEvent {
    /// Its number in the thread: from 1, without gaps.
    pub sequence: u64,
    /// The thread.
    pub thread_id: ThreadId,
    /// The rollout it belongs to.
    pub rollout_id: RolloutId,
    /// The run that produced it, if one did.
    pub run_id: Option<RunId>,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The particulars, a JSON object.
    pub payload: Value,
    /// When the store took it.
    pub created_at: Timestamp,
}

/// A frame that is shown live and never stored.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveEvent {
    /// The run that produced it.
    pub run_id: RunId,
    /// What it shows.
    #[serde(rename = "type")]
    pub live_type: LiveType,
    /// The particulars, a JSON object.
    pub payload: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_its_text_in_both_ways() {
        for event_type in EventType::ALL {
            assert_eq!(event_type.as_str().parse(), Ok(*event_type));
            let json = serde_json::to_string(event_type).expect("serializes");
            assert_eq!(json, format!("\"{event_type}\""));
        }
        assert_eq!("run_exploded".parse::<EventType>(), Err(UnknownEventType));
        assert!(
            "snapshot".parse::<EventType>().is_err(),
            "live types are never stored"
        );
    }
}
