//! A thread as a fold over its events.
//!
//! What the payloads of the durable types say; every field may be missing, and fields that are not listed are kept and
//! shown, never understood:
//!
//! | type | payload |
//! |---|---|
//! | `user_message` | `text` |
//! | `run_started` | `runner`, `attempt`, `folder` |
//! | `assistant_message` | `text`, `messageId` |
//! | `tool_call` | `toolCallId`, `title`, `kind`, `status`, `input`; said again with the same id it replaces what it names |
//! | `tool_result` | `toolCallId`, `status` (`completed`, `failed`, `interrupted`), `content` with `truncated` and `bytes`, `rawOutput`; others say `output` |
//! | `run_completed` | `status` (`completed`, `failed`, `cancelled`, `expired`, `lost`), `reason`, `message`, `result`, `usage`, `iterations` |
//! | `compaction_started` | nothing |
//! | `compaction_completed` | `summary`, `rolloutId` of the new rollout |
//! | `thread_renamed` | `title` |
//! | `thread_archived` | `archived` |
//!
//! `user_message` of a run is written by the control plane when it takes the run, everything from `run_started` to
//! `run_completed` by the sidecar, and `run_completed` of a run that no sidecar holds by the control plane again.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::{EventType, RunId, ThreadEvent, Timestamp};

/// The most messages, and the most tool calls, that a fold keeps.
pub const KEPT_MAX: usize = 500;

/// Who said something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A person, or a program for one.
    User,
    /// The agent.
    Assistant,
}

/// One thing that was said.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The number of its event.
    pub sequence: u64,
    /// The run it belongs to.
    pub run_id: Option<RunId>,
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub text: String,
    /// When the store took it.
    pub created_at: Timestamp,
}

/// One use of a tool, from call to result.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolCall {
    /// The id that its agent gave it; unique in a run only.
    pub tool_call_id: String,
    /// The number of its first event.
    pub sequence: u64,
    /// The run it belongs to.
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

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// Nothing is asked, or everything is answered.
    #[default]
    Idle,
    /// Something is asked and no runner was started for it.
    Waiting,
    /// A runner is at work.
    Running,
}

/// What the events add up to.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Folded {
    /// The number of the last event.
    pub last_sequence: u64,
    /// What was said, oldest first.
    pub messages: VecDeque<Message>,
    /// The tools that were used, in the order of their first events.
    pub tool_calls: VecDeque<ToolCall>,
    /// Earlier messages or tool calls were left out.
    pub truncated: bool,
    open_runs: BTreeMap<RunId, Activity>,
}

impl Folded {
    /// Returns what the thread is doing.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let running = self.open_runs.values().any(|a| *a == Activity::Running);
        match (running, self.open_runs.is_empty()) {
            (true, _) => Activity::Running,
            (false, false) => Activity::Waiting,
            (false, true) => Activity::Idle,
        }
    }

    /// Adds the next event. Events come in the order of their numbers; one that was added already changes nothing.
    pub fn add(&mut self, event: &ThreadEvent) {
        if event.sequence <= self.last_sequence {
            return;
        }
        self.last_sequence = event.sequence;
        match event.event_type {
            EventType::UserMessage => {
                self.push_message(event, Role::User);
                self.mark_run(event, Some(Activity::Waiting));
            }
            EventType::AssistantMessage => self.push_message(event, Role::Assistant),
            EventType::ToolCall => self.upsert_tool(event, |tool| {
                set(&mut tool.title, text(&event.payload, "title"));
                set(&mut tool.kind, text(&event.payload, "kind"));
                set(&mut tool.status, text(&event.payload, "status"));
                set(&mut tool.input, field(&event.payload, "input"));
            }),
            EventType::ToolResult => self.upsert_tool(event, |tool| {
                set(&mut tool.status, text(&event.payload, "status"));
                set(&mut tool.output, output(&event.payload));
            }),
            EventType::RunStarted => self.mark_run(event, Some(Activity::Running)),
            EventType::RunCompleted => self.mark_run(event, None),
            EventType::CompactionStarted
            | EventType::CompactionCompleted
            | EventType::ThreadRenamed
            | EventType::ThreadArchived
            | EventType::ThreadDeleted => {}
        }
    }

    fn push_message(&mut self, event: &ThreadEvent, role: Role) {
        self.messages.push_back(Message {
            sequence: event.sequence,
            run_id: event.run_id,
            role,
            text: text(&event.payload, "text").unwrap_or_default(),
            created_at: event.created_at,
        });
        if self.messages.len() > KEPT_MAX {
            self.messages.pop_front();
            self.truncated = true;
        }
    }

    fn upsert_tool(&mut self, event: &ThreadEvent, change: impl FnOnce(&mut ToolCall)) {
        let tool_call_id = text(&event.payload, "toolCallId").unwrap_or_default();
        let is_it = |tool: &&mut ToolCall| tool.tool_call_id == tool_call_id && tool.run_id == event.run_id;
        if let Some(tool) = self.tool_calls.iter_mut().rev().find(is_it) {
            return change(tool);
        }
        let mut tool = ToolCall {
            tool_call_id,
            sequence: event.sequence,
            run_id: event.run_id,
            title: None,
            kind: None,
            status: None,
            input: None,
            output: None,
        };
        change(&mut tool);
        self.tool_calls.push_back(tool);
        if self.tool_calls.len() > KEPT_MAX {
            self.tool_calls.pop_front();
            self.truncated = true;
        }
    }

    fn mark_run(&mut self, event: &ThreadEvent, activity: Option<Activity>) {
        let Some(run_id) = event.run_id else { return };
        match activity {
            Some(activity) => self.open_runs.insert(run_id, activity),
            None => self.open_runs.remove(&run_id),
        };
    }
}

fn set<T>(slot: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *slot = value;
    }
}

fn field(payload: &Value, name: &str) -> Option<Value> {
    payload.get(name).filter(|value| !value.is_null()).cloned()
}

/// What a tool returned: callers of the API say `output`, our runners `content` (text) or, without any, `rawOutput`.
fn output(payload: &Value) -> Option<Value> {
    let content = field(payload, "content");
    let is_said = |value: &Value| value.as_str() != Some("");
    field(payload, "output")
        .or_else(|| content.clone().filter(is_said))
        .or_else(|| field(payload, "rawOutput"))
        .or(content)
}

fn text(payload: &Value, name: &str) -> Option<String> {
    payload.get(name).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use types::{RolloutId, ThreadId};

    fn fold(events: &[(EventType, Value)]) -> Folded {
        let mut folded = Folded::default();
        for ((event_type, payload), sequence) in events.iter().zip(1..) {
            folded.add(&event(sequence, *event_type, payload.clone()));
        }
        folded
    }

    fn event(sequence: u64, event_type: EventType, payload: Value) -> ThreadEvent {
        ThreadEvent {
            sequence,
            thread_id: ThreadId::from_random([1; 16]),
            rollout_id: RolloutId::from_random([1; 16]),
            run_id: Some(RunId::from_random([1; 16])),
            event_type,
            payload,
            created_at: Timestamp::from_unix_ms(0),
        }
    }

    #[test]
    fn a_turn_becomes_messages_and_one_tool_call() {
        let folded = fold(&[
            (EventType::UserMessage, json!({"text": "look"})),
            (EventType::RunStarted, json!({"runner": "goose"})),
            (
                EventType::ToolCall,
                json!({"toolCallId": "1", "title": "shell", "status": "pending", "input": {"cmd": "ls"}}),
            ),
            (
                EventType::ToolCall,
                json!({"toolCallId": "1", "title": "shell: ls"}),
            ),
            (
                EventType::ToolResult,
                json!({"toolCallId": "1", "status": "completed", "output": "src"}),
            ),
            (EventType::AssistantMessage, json!({"text": "a crate"})),
            (EventType::RunCompleted, json!({"status": "completed"})),
        ]);
        let said: Vec<(Role, &str)> = folded
            .messages
            .iter()
            .map(|m| (m.role, m.text.as_str()))
            .collect();
        assert_eq!(said, [(Role::User, "look"), (Role::Assistant, "a crate")]);
        assert_eq!(folded.tool_calls.len(), 1);
        let tool = &folded.tool_calls[0];
        assert_eq!(tool.title.as_deref(), Some("shell: ls"));
        assert_eq!(tool.status.as_deref(), Some("completed"));
        assert_eq!(tool.output, Some(json!("src")));
        assert_eq!((folded.last_sequence, folded.activity()), (7, Activity::Idle));
    }

    #[test]
    fn a_thread_waits_until_a_runner_starts_and_runs_until_it_ends() {
        let mut folded = fold(&[(EventType::UserMessage, json!({"text": "x"}))]);
        assert_eq!(folded.activity(), Activity::Waiting);
        folded.add(&event(2, EventType::RunStarted, json!({})));
        assert_eq!(folded.activity(), Activity::Running);
        folded.add(&event(3, EventType::RunCompleted, json!({"status": "lost"})));
        assert_eq!(folded.activity(), Activity::Idle);
    }

    #[test]
    fn an_event_counts_once_and_odd_payloads_do_no_harm() {
        let mut folded = fold(&[(EventType::AssistantMessage, json!("text"))]);
        folded.add(&event(1, EventType::AssistantMessage, json!({"text": "again"})));
        folded.add(&event(2, EventType::ToolResult, json!([])));
        folded.add(&event(
            3,
            EventType::ToolCall,
            json!({"toolCallId": 7, "title": null}),
        ));
        assert_eq!(folded.messages.len(), 1);
        assert_eq!(folded.messages[0].text, "");
        assert_eq!(folded.tool_calls.len(), 1);
    }

    #[test]
    fn the_output_of_a_tool_is_found_wherever_its_runner_put_it() {
        for (payload, expected) in [
            (json!({ "output": [1], "content": "x" }), json!([1])),
            (json!({ "content": "x", "rawOutput": {} }), json!("x")),
            (
                json!({ "content": "", "rawOutput": { "a": 1 } }),
                json!({ "a": 1 }),
            ),
            (json!({ "content": "" }), json!("")),
            (json!({ "status": "failed" }), Value::Null),
        ] {
            let folded = fold(&[(EventType::ToolResult, payload)]);
            assert_eq!(folded.tool_calls[0].output.clone().unwrap_or_default(), expected);
        }
    }

    #[test]
    fn only_the_newest_are_kept() {
        let many = vec![(EventType::AssistantMessage, json!({"text": "x"})); KEPT_MAX + 3];
        let folded = fold(&many);
        assert!(folded.truncated);
        assert_eq!(folded.messages.len(), KEPT_MAX);
        assert_eq!(folded.messages[0].sequence, 4);
    }
}
