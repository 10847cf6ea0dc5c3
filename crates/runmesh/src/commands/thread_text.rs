//! A thread's frames as text for people: what was asked, what was answered, which tools were used.
//!
//! Live frames are shown as they come; the stored event that ends them adds only what was not shown yet.

use std::collections::{BTreeMap, BTreeSet};

use api::events::Frame;
use serde_json::Value;

/// The most lines of one tool's output that are shown.
const TOOL_LINES_MAX: usize = 40;

/// What has been shown of a thread so far.
#[derive(Debug, Default)]
pub(crate) struct ThreadText {
    /// The answer under way.
    answer: String,
    /// Tools whose call was shown.
    called: BTreeSet<String>,
    /// Per tool: how many lines of its output were shown live.
    output_lines: BTreeMap<String, usize>,
    /// The last line has no end yet.
    open_line: bool,
}

impl ThreadText {
    /// Returns what a frame adds to the screen; often nothing.
    pub(crate) fn frame(&mut self, frame: &Frame) -> String {
        match frame {
            Frame::Event(event) => self.event(event.event_type.as_str(), &event.payload),
            Frame::Live(live) => self.live(live.live_type.as_str(), &live.payload),
            _ => String::new(),
        }
    }

    fn event(&mut self, event_type: &str, payload: &Value) -> String {
        match event_type {
            "user_message" => self.block(&format!(
                "> {}",
                indented(text(payload, "text"), "  ").trim_start()
            )),
            "assistant_message" => self.answer(text(payload, "text")),
            "tool_call" => self.tool_call(payload),
            "tool_result" => self.tool_result(payload),
            "run_completed" => {
                let status = text(payload, "status");
                let why = text(payload, "message");
                let why = if why.is_empty() {
                    text(payload, "reason")
                } else {
                    why
                };
                self.block(format!("[run {status}] {why}").trim_end())
            }
            "run_started" => String::new(),
            other => self.block(&format!("[{}]", other.replace('_', " "))),
        }
    }

    fn live(&mut self, live_type: &str, payload: &Value) -> String {
        match live_type {
            "assistant_message_delta" => {
                let delta = text(payload, "text");
                let lead = if self.answer.is_empty() {
                    self.end_line()
                } else {
                    String::new()
                };
                self.answer.push_str(delta);
                self.open_line = !self.answer.ends_with('\n');
                format!("{lead}{delta}")
            }
            "tool_output_delta" => self.tool_output(payload),
            _ => String::new(),
        }
    }

    fn answer(&mut self, whole: &str) -> String {
        let shown = std::mem::take(&mut self.answer);
        match whole.strip_prefix(shown.as_str()) {
            Some(rest) => {
                let lead = if shown.is_empty() {
                    self.end_line()
                } else {
                    String::new()
                };
                self.open_line = !whole.ends_with('\n');
                format!("{lead}{rest}{}", self.end_line())
            }
            // Pieces were missed: the stored answer stands, whole.
            None => self.block(whole),
        }
    }

    fn tool_call(&mut self, payload: &Value) -> String {
        if !self.called.insert(text(payload, "toolCallId").to_owned()) {
            return String::new();
        }
        let title = text(payload, "title");
        let input = payload
            .pointer("/input/command")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let shown = match (title.is_empty(), title.contains(input)) {
            (true, _) => input.to_owned(),
            (false, true) => title.to_owned(),
            (false, false) => format!("{title}: {input}"),
        };
        self.block(&format!("* {shown}"))
    }

    fn tool_output(&mut self, payload: &Value) -> String {
        let shown = self
            .output_lines
            .entry(text(payload, "toolCallId").to_owned())
            .or_default();
        let delta = text(payload, "text");
        let left = TOOL_LINES_MAX.saturating_sub(*shown);
        let lines: Vec<_> = delta.lines().take(left).collect();
        *shown += lines.len().max(1);
        self.block(&indented(&lines.join("\n"), "  | "))
    }

    fn tool_result(&mut self, payload: &Value) -> String {
        let content = match payload.get("content") {
            Some(Value::String(content)) => content.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        let status = text(payload, "status");
        let failed = if status == "failed" {
            self.block("  | (the tool failed)")
        } else {
            String::new()
        };
        if self.output_lines.contains_key(text(payload, "toolCallId")) {
            return failed;
        }
        let lines: Vec<_> = content.lines().collect();
        let shown = lines[..lines.len().min(TOOL_LINES_MAX)].join("\n");
        let mut block = self.block(&indented(&shown, "  | "));
        if lines.len() > TOOL_LINES_MAX {
            block.push_str(&format!("  | … {} more lines\n", lines.len() - TOOL_LINES_MAX));
        }
        block + &failed
    }

    /// A text on lines of its own; nothing when it is empty.
    fn block(&mut self, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        let lead = self.end_line();
        format!("{lead}{}\n", text.trim_end_matches('\n'))
    }

    fn end_line(&mut self) -> String {
        String::from(if std::mem::take(&mut self.open_line) {
            "\n"
        } else {
            ""
        })
    }
}

fn text<'a>(payload: &'a Value, name: &str) -> &'a str {
    payload.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn indented(text: &str, lead: &str) -> String {
    text.lines().map(|line| format!("{lead}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_shown_once_however_it_comes() {
        let mut live = ThreadText::default();
        let mut shown = String::new();
        for delta in ["Hel", "lo\nwor"] {
            shown += &live.live("assistant_message_delta", &json!({ "text": delta }));
        }
        shown += &live.event("assistant_message", &json!({ "text": "Hello\nworld" }));
        shown += &live.event("run_completed", &json!({ "status": "completed" }));
        assert_eq!(shown, "Hello\nworld\n[run completed]\n");
        let mut stored = ThreadText::default();
        let whole = stored.event("assistant_message", &json!({ "text": "Hello\nworld" }));
        assert_eq!(whole, "Hello\nworld\n");
    }

    #[test]
    fn missed_pieces_show_the_stored_answer_whole() {
        let mut text = ThreadText::default();
        text.live("assistant_message_delta", &json!({ "text": "lo wor" }));
        assert_eq!(
            text.event("assistant_message", &json!({ "text": "Hello world" })),
            "\nHello world\n"
        );
    }

    #[test]
    fn a_tool_is_shown_with_its_command_and_output() {
        let mut text = ThreadText::default();
        let call = json!({"toolCallId": "1", "title": "shell", "input": {"command": "git log"}});
        assert_eq!(text.event("tool_call", &call), "* shell: git log\n");
        assert_eq!(text.event("tool_call", &call), "");
        let result = json!({"toolCallId": "1", "status": "completed", "content": "a\nb"});
        assert_eq!(text.event("tool_result", &result), "  | a\n  | b\n");
    }

    #[test]
    fn output_that_was_shown_live_is_not_shown_again() {
        let mut text = ThreadText::default();
        let delta = json!({"toolCallId": "1", "text": "a\n"});
        assert_eq!(text.live("tool_output_delta", &delta), "  | a\n");
        let result = json!({"toolCallId": "1", "status": "failed", "content": "a\n"});
        assert_eq!(text.event("tool_result", &result), "  | (the tool failed)\n");
    }

    #[test]
    fn a_failed_run_says_why() {
        let mut text = ThreadText::default();
        let ended =
            json!({"status": "failed", "reason": "exit_code", "message": "The program ended with code 3."});
        assert_eq!(
            text.event("run_completed", &ended),
            "[run failed] The program ended with code 3.\n"
        );
    }
}
