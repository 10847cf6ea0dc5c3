//! The tool calls of one ACP turn, each known by its id: agents announce, rename and finish them in many orders, some
//! never announce them at all. Here every one becomes exactly one `tool_call` and one `tool_result`.

use std::collections::BTreeMap;

use agent_client_protocol_schema::v1::{
    ContentBlock, Meta, ToolCall, ToolCallContent, ToolCallStatus, ToolCallUpdate, ToolCallUpdateFields,
};
use serde_json::{Map, Value, json};
use types::{EventType, LiveType};

use super::bounded::{HeadTail, printable, raw};
use super::{Output, Produced};

/// The most tool calls of one turn.
pub(super) const CALLS_MAX: usize = 10_000;

/// The longest title, in characters.
const TITLE_CHARS_MAX: usize = 500;

/// The longest id, in bytes.
const ID_LEN_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Tools {
    /// By the agent's own id, the newest call of that id.
    calls: BTreeMap<String, Call>,
    total: usize,
    finished: usize,
}

#[derive(Debug, Default)]
struct Call {
    /// Its id in the thread: the agent's, with a number behind it when the agent uses one again.
    shown_id: String,
    title: String,
    /// What goes into `tool_call`, until it went.
    announced: Option<Map<String, Value>>,
    /// What its content was last, to show only what was added.
    shown: String,
    /// Output that came in pieces beside its content.
    streamed: HeadTail,
    raw_output: Option<Value>,
    permission: Option<&'static str>,
    finished: bool,
}

/// A turn with more tool calls than [`CALLS_MAX`], or an id no one should use.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyCalls;

impl Tools {
    /// Takes a call that the agent tells of; one that is over is told of anew when its id is used again.
    pub(super) fn announced(&mut self, call: ToolCall, out: &mut Output) -> Result<(), TooManyCalls> {
        let begins = matches!(call.status, ToolCallStatus::Pending | ToolCallStatus::InProgress);
        self.take(call.into(), begins, out)
    }

    /// Takes a call that the agent asks about: it is not over, whatever was said before.
    pub(super) fn asked(&mut self, update: ToolCallUpdate, out: &mut Output) -> Result<(), TooManyCalls> {
        self.take(update, true, out)
    }

    /// Takes whatever else is said of a call, known or not.
    pub(super) fn updated(&mut self, update: ToolCallUpdate, out: &mut Output) -> Result<(), TooManyCalls> {
        self.take(update, false, out)
    }

    fn take(&mut self, update: ToolCallUpdate, begins: bool, out: &mut Output) -> Result<(), TooManyCalls> {
        let ToolCallUpdate {
            tool_call_id,
            fields,
            meta,
            ..
        } = update;
        let id = tool_call_id.0;
        let known = self.calls.get(&*id);
        let is_new = known.is_none_or(|call| call.finished && begins);
        if id.len() > ID_LEN_MAX || (is_new && self.total >= CALLS_MAX) {
            return Err(TooManyCalls);
        }
        if is_new {
            self.total += 1;
            let is_again = known.is_some();
            let shown_id = if is_again {
                format!("{id}#{}", self.total)
            } else {
                id.to_string()
            };
            self.calls.insert(id.to_string(), Call::new(shown_id));
        }
        let Some(call) = self.calls.get_mut(&*id).filter(|call| !call.finished) else {
            return Ok(());
        };
        call.take_description(&fields);
        if is_new {
            let started = json!({ "toolCallId": call.shown_id, "title": call.title });
            out.produced
                .push(Produced::Live(LiveType::ToolCallStarted, started));
        }
        call.take_output(&fields, meta.as_ref(), out);
        match fields.status {
            Some(ToolCallStatus::Completed) => call.finish("completed", out),
            Some(ToolCallStatus::Failed) => call.finish("failed", out),
            Some(ToolCallStatus::InProgress) => call.announce(out),
            _ => {}
        }
        self.finished += usize::from(call.finished);
        Ok(())
    }

    /// How many calls are over.
    pub(super) fn finished(&self) -> usize {
        self.finished
    }

    /// Notes what the agent was answered when it asked for this call.
    pub(super) fn permitted(&mut self, id: &str, answer: &'static str, out: &mut Output) {
        if let Some(call) = self.calls.get_mut(id).filter(|call| !call.finished) {
            call.permission = Some(answer);
            call.announce(out);
        }
    }

    /// The turn is over: what was not finished never will be.
    pub(super) fn flush(&mut self, out: &mut Output) {
        for call in self.calls.values_mut().filter(|call| !call.finished) {
            call.finish("interrupted", out);
        }
    }
}

impl Call {
    fn new(shown_id: String) -> Self {
        Self {
            shown_id,
            announced: Some(Map::new()),
            ..Self::default()
        }
    }

    fn take_description(&mut self, fields: &ToolCallUpdateFields) {
        if let Some(title) = &fields.title {
            self.title = printable(title, TITLE_CHARS_MAX);
        }
        let Some(call) = &mut self.announced else { return };
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value.filter(|value| !value.is_null()) {
                call.insert(key.to_owned(), raw(&value));
            }
        };
        set(
            "name",
            fields.name.as_deref().map(|name| printable(name, 200).into()),
        );
        set(
            "kind",
            fields.kind.and_then(|kind| serde_json::to_value(kind).ok()),
        );
        set("input", fields.raw_input.clone());
        let locations = fields.locations.as_ref().filter(|all| !all.is_empty());
        set(
            "locations",
            locations.and_then(|all| serde_json::to_value(all).ok()),
        );
    }

    fn take_output(&mut self, fields: &ToolCallUpdateFields, meta: Option<&Meta>, out: &mut Output) {
        let id = &self.shown_id;
        if let Some(value) = &fields.raw_output {
            self.raw_output = Some(raw(value));
        }
        if let Some(piece) = meta.and_then(terminal_piece) {
            self.streamed.push(piece);
            out.delta(LiveType::ToolOutputDelta, Some(id), piece);
        }
        if let Some(content) = &fields.content {
            let text = content_text(content);
            let added = text.strip_prefix(self.shown.as_str()).unwrap_or(&text);
            out.delta(LiveType::ToolOutputDelta, Some(id), added);
            self.shown = text;
        }
    }

    fn announce(&mut self, out: &mut Output) {
        let Some(mut call) = self.announced.take() else {
            return;
        };
        call.insert("toolCallId".to_owned(), self.shown_id.as_str().into());
        call.insert("title".to_owned(), self.title.as_str().into());
        if let Some(answer) = self.permission {
            call.insert("permission".to_owned(), answer.into());
        }
        out.event(EventType::ToolCall, Value::Object(call));
    }

    fn finish(&mut self, status: &'static str, out: &mut Output) {
        self.announce(out);
        self.finished = true;
        let mut content = std::mem::take(&mut self.streamed);
        if content.total() == 0 {
            content.push(&std::mem::take(&mut self.shown));
        }
        let mut result = json!({
            "toolCallId": self.shown_id,
            "title": self.title,
            "status": status,
            "content": content.text(),
            "truncated": content.is_truncated(),
            "bytes": content.total(),
        });
        // Some agents begin a call before they ask about it; so the answer stands here as well.
        if let Some(answer) = self.permission {
            result["permission"] = answer.into();
        }
        if let Some(raw_output) = self.raw_output.take().filter(|_| content.total() == 0) {
            result["rawOutput"] = raw_output;
        }
        out.event(EventType::ToolResult, result);
        let completed = json!({ "toolCallId": self.shown_id, "status": status });
        out.produced
            .push(Produced::Live(LiveType::ToolCallCompleted, completed));
    }
}

/// Codex streams a command's output beside the content, under this name.
fn terminal_piece(meta: &Meta) -> Option<&str> {
    let delta = meta.get("terminal_output_delta")?;
    delta
        .as_str()
        .or_else(|| delta.get("data").and_then(Value::as_str))
}

fn content_text(content: &[ToolCallContent]) -> String {
    let mut text = String::new();
    for part in content {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        match part {
            ToolCallContent::Content(content) => text.push_str(&block_text(&content.content)),
            ToolCallContent::Diff(diff) => {
                text.push_str(&format!(
                    "[new text of {}]\n{}",
                    diff.path.display(),
                    diff.new_text
                ));
            }
            other => text.push_str(&raw(&serde_json::to_value(other).unwrap_or_default()).to_string()),
        }
    }
    text
}

/// The text of a content block; anything but text as bounded JSON.
pub(super) fn block_text(block: &ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text.clone(),
        other => raw(&serde_json::to_value(other).unwrap_or_default()).to_string(),
    }
}
