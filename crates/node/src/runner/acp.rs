//! The ACP runner: an agent that speaks the Agent Client Protocol, version 1, as JSON-RPC lines over its standard
//! streams. Our own thin loop around the schema's types; what the schema does not know is kept as it came.
//!
//! We advertise neither files nor terminals: an agent uses the device's own, as far as the owner's account may.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_client_protocol_schema::ProtocolVersion;
use agent_client_protocol_schema::v1::{
    ClientCapabilities, Implementation, InitializeRequest, RequestPermissionRequest, SessionNotification,
    SessionUpdate,
};
use serde::Serialize;
use serde_json::{Value, json};
use types::LiveType;

use super::acp_message::Message;
use super::acp_questions::{Answered, Question, Questions, cancel};
use super::acp_rpc::{Incoming, Reader, is_ours, write_error, write_line, write_result};
use super::acp_tools::{TooManyCalls, Tools, block_text};
use super::asked::Asked;
use super::bounded::{HeadTail, TextStream, printable, raw};
use super::{Capabilities, Ending, Output, Phase, Produced, ProgramExit, Runner};

/// The longest line an agent may write, in bytes.
pub const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The most lines that are no JSON-RPC before the agent counts as broken; some print a banner first.
pub const GARBAGE_LINES_MAX: usize = 100;

/// After a session was loaded: some agents replay it only after they said that it is loaded, and what comes after the prompt
/// would be taken for the answer. So the prompt waits until the agent is silent.
const REPLAY_SILENCE: Duration = Duration::from_millis(200);

/// How many kinds of updates without an event of their own are kept for `run_completed`.
const KEPT_UPDATES_MAX: usize = 4;

/// What we wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Initialize,
    ContinueSession,
    NewSession,
    SetModel,
    Prompt,
}

/// One turn with an agent.
#[derive(Debug)]
pub struct AcpRunner {
    folder: PathBuf,
    system_prompt: Option<String>,
    asked: Asked,
    not_applied: Vec<&'static str>,
    prompt: Option<String>,
    resume: Option<String>,
    session: Option<String>,
    can_resume: bool,
    /// It goes on with sessions without replaying them.
    resumes_silently: bool,
    /// What the agent said of the session that it loaded, until it is silent.
    loaded: Option<Value>,
    next_id: i64,
    waiting: Option<(i64, Call)>,
    reader: Reader,
    garbage_lines: usize,
    stderr: TextStream,
    stderr_kept: HeadTail,
    message: Message,
    tools: Tools,
    questions: Questions,
    kept_updates: BTreeMap<String, Value>,
    /// Requests to the model that are certain: words after the result of a tool need another one.
    turns: u32,
    /// How many tools had finished when the agent last spoke.
    spoken_after: usize,
    cancel_asked: bool,
    permission_denied: bool,
    ended: bool,
    /// The agent has answered the prompt. What it still says before it goes belongs to the turn.
    turn_over: bool,
}

impl AcpRunner {
    /// Makes a runner that works in `folder`; a system prompt goes before the first prompt of a new session.
    #[must_use]
    pub fn new(folder: &Path, system_prompt: Option<String>) -> Self {
        Self {
            folder: folder.to_owned(),
            system_prompt,
            asked: Asked::default(),
            not_applied: Vec::new(),
            prompt: None,
            resume: None,
            session: None,
            can_resume: false,
            resumes_silently: false,
            loaded: None,
            next_id: 0,
            waiting: None,
            reader: Reader::new(LINE_BYTES_MAX),
            garbage_lines: 0,
            stderr: TextStream::default(),
            stderr_kept: HeadTail::default(),
            message: Message::default(),
            tools: Tools::default(),
            questions: Questions::default(),
            kept_updates: BTreeMap::new(),
            turns: 0,
            spoken_after: 0,
            cancel_asked: false,
            permission_denied: false,
            ended: false,
            turn_over: false,
        }
    }

    /// Adds what the order asks for beside the prompt; what cannot be told to the agent is named in the ending.
    #[must_use]
    pub fn asked(mut self, asked: Asked) -> Self {
        self.not_applied = asked.beyond_acp().into_iter().map(|(name, _)| name).collect();
        self.asked = asked;
        self
    }

    fn call(&mut self, call: Call, method: &str, params: impl Serialize, out: &mut Output) {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting = Some((id, call));
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        write_line(&message, out);
    }

    fn end(&mut self, ending: Ending, out: &mut Output) {
        self.flush(out);
        if !std::mem::replace(&mut self.ended, true) {
            let kept = std::mem::take(&mut self.kept_updates);
            let ending = match self.turns {
                0 => ending,
                turns => ending.with("iterations", turns),
            };
            let ending = match std::mem::take(&mut self.not_applied) {
                names if names.is_empty() => ending,
                names => ending.with("notApplied", names),
            };
            let ending = kept
                .into_iter()
                .fold(ending, |ending, (kind, update)| ending.with(&kind, update));
            out.close_stdin = true;
            out.end(ending);
        }
    }

    fn fail(&mut self, reason: &'static str, message: impl Into<String>, out: &mut Output) {
        let mut ending = Ending::failed(reason, message);
        let stderr = self.stderr_kept.text();
        if !stderr.trim().is_empty() {
            let tail: String = stderr
                .chars()
                .rev()
                .take(4000)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect();
            ending = ending.with("stderr", tail);
        }
        self.end(ending, out);
    }

    fn incoming(&mut self, said: Incoming, out: &mut Output) {
        match said {
            Incoming::Notification { method, params } => self.notification(&method, params, out),
            // Nobody reads our answers any more.
            _ if self.ended => {}
            Incoming::Request { id, method, params } => self.request(&method, id, params, out),
            Incoming::Answer { id, result } => self.answered(&id, result, out),
            Incoming::Garbage(begin) => {
                self.garbage_lines += 1;
                if self.garbage_lines > GARBAGE_LINES_MAX {
                    let text =
                        format!("The agent does not speak the Agent Client Protocol; it wrote: {begin}");
                    self.fail("protocol_error", text, out);
                }
            }
        }
    }

    fn answered(&mut self, id: &Value, result: Result<Value, Value>, out: &mut Output) {
        let Some((expected, call)) = self.waiting else {
            return;
        };
        // An error for nothing in particular is one for whatever it could not read, which is what we asked.
        let is_for_this = is_ours(id, expected) || (id.is_null() && result.is_err());
        if !is_for_this {
            return;
        }
        self.waiting = None;
        match (call, result) {
            (Call::Initialize, Ok(result)) => self.initialized(result, out),
            (Call::ContinueSession, Ok(result)) => {
                self.session = self.resume.take();
                self.system_prompt = None;
                self.asked.history = None;
                self.continued(result, out);
            }
            // A session that the agent has forgotten is no reason not to do the work.
            (Call::ContinueSession, Err(_)) => {
                self.resume = None;
                self.open_session(out);
            }
            (Call::NewSession, Ok(result)) => match result.get("sessionId").and_then(Value::as_str) {
                Some(session) => {
                    self.session = Some(session.to_owned());
                    self.set_model(&result, out);
                }
                None => self.fail("protocol_error", "The agent opened a session without an id.", out),
            },
            (Call::SetModel, answer) => {
                if answer.is_err() {
                    self.not_applied.push("model");
                }
                self.send_prompt(out);
            }
            (Call::Prompt, Ok(result)) => self.turn_ended(&result, out),
            (call, Err(error)) => self.refused(call, &error, out),
        }
    }

    fn request(&mut self, method: &str, id: Value, params: Value, out: &mut Output) {
        match method {
            "session/request_permission" => {
                match serde_json::from_value::<RequestPermissionRequest>(params) {
                    Ok(request) => self.permission_requested(request, id, out),
                    Err(_) => write_error(&id, -32602, "cannot be read", out),
                }
            }
            "session/update" => {
                self.notification(method, params, out);
                write_result(&id, Value::Null, out);
            }
            _ => write_error(&id, -32601, "not offered by this client", out),
        }
    }

    fn permission_requested(&mut self, request: RequestPermissionRequest, rpc_id: Value, out: &mut Output) {
        if self.phase() != Phase::Working {
            // Outside a turn there is nothing that a tool could be needed for.
            cancel(&rpc_id, out);
            return;
        }
        let tool_call_id = request.tool_call.tool_call_id.to_string();
        let title = request.tool_call.fields.title.clone();
        self.message.flush(out);
        if self.tools.asked(request.tool_call, out) == Err(TooManyCalls) {
            self.too_many_calls(out);
            return;
        }
        let question = Question {
            rpc_id: rpc_id.clone(),
            tool_call_id,
            options: request.options,
        };
        let Some(number) = self.questions.ask(question) else {
            write_error(&rpc_id, -32603, "too many open requests", out);
            return;
        };
        out.produced.push(Produced::Permission {
            request: number,
            title: printable(&title.unwrap_or_default(), 200),
        });
    }

    fn notification(&mut self, method: &str, params: Value, out: &mut Output) {
        // What comes before the prompt is the replay of an old session or talk about it.
        let in_turn = self.turn_over || self.phase() == Phase::Working;
        if method != "session/update" || !in_turn {
            return;
        }
        if params.get("sessionId").and_then(Value::as_str) != self.session.as_deref() {
            return;
        }
        match serde_json::from_value::<SessionNotification>(params.clone()) {
            Ok(notification) => self.update(notification.update, &params, out),
            Err(_) => self.keep_update(&params, out),
        }
    }

    fn update(&mut self, update: SessionUpdate, params: &Value, out: &mut Output) {
        let tools = match update {
            SessionUpdate::AgentMessageChunk(chunk) => {
                if self.is_turn_too_many(out) {
                    return;
                }
                let id = chunk.message_id.map(|id| id.to_string());
                self.message.say(&block_text(&chunk.content), id, out);
                Ok(())
            }
            SessionUpdate::AgentThoughtChunk(chunk) => {
                if self.is_turn_too_many(out) {
                    return;
                }
                self.message.flush(out);
                out.delta(
                    LiveType::AssistantThinkingDelta,
                    None,
                    &block_text(&chunk.content),
                );
                Ok(())
            }
            SessionUpdate::ToolCall(call) => {
                self.message.flush(out);
                self.tools.announced(call, out)
            }
            SessionUpdate::ToolCallUpdate(update) => {
                self.message.flush(out);
                self.tools.updated(update, out)
            }
            // Our own words, said back; and what only a user interface needs.
            SessionUpdate::UserMessageChunk(_)
            | SessionUpdate::AvailableCommandsUpdate(_)
            | SessionUpdate::CurrentModeUpdate(_)
            | SessionUpdate::ConfigOptionUpdate(_)
            | SessionUpdate::SessionInfoUpdate(_) => Ok(()),
            _ => {
                self.keep_update(params, out);
                Ok(())
            }
        };
        if tools == Err(TooManyCalls) {
            self.too_many_calls(out);
        }
    }

    /// The agent speaks: counts the requests to the model that this needs, and ends the run beyond its limit.
    fn is_turn_too_many(&mut self, out: &mut Output) -> bool {
        if self.ended {
            return false;
        }
        let finished = self.tools.finished();
        if self.turns == 0 || finished > self.spoken_after {
            self.turns += 1;
            self.spoken_after = finished;
        }
        let Some(max) = self.asked.limits.turns_max.filter(|max| self.turns > *max) else {
            return false;
        };
        self.turns = max;
        self.cancel(out);
        let text = format!("The agent needed more than {max} turns.");
        self.fail("max_turns", text, out);
        true
    }

    fn too_many_calls(&mut self, out: &mut Output) {
        self.fail(
            "output_limit",
            "The agent called more tools than one run may.",
            out,
        );
    }

    /// Plans and updates of a kind not known yet: shown live, and the last of each kind kept as it came.
    fn keep_update(&mut self, params: &Value, out: &mut Output) {
        let Some(update) = params.get("update") else {
            return;
        };
        let Some(kind) = update.get("sessionUpdate").and_then(Value::as_str) else {
            return;
        };
        let (kind, update) = (format!("update:{}", printable(kind, 60)), raw(update));
        out.produced.push(Produced::Live(
            LiveType::AssistantMessageSource,
            json!({ "update": update }),
        ));
        if self.kept_updates.contains_key(&kind) || self.kept_updates.len() < KEPT_UPDATES_MAX {
            self.kept_updates.insert(kind, update);
        }
    }
}

impl Runner for AcpRunner {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cancel: matches!(self.waiting, Some((_, Call::Prompt))),
            permission: true,
            resume: self.can_resume,
        }
    }

    fn phase(&self) -> Phase {
        match self.waiting {
            Some((_, Call::Prompt)) => Phase::Working,
            _ => Phase::Opening,
        }
    }

    fn resume(&mut self, session: &str) {
        self.resume = Some(session.to_owned());
    }

    fn start(&mut self, out: &mut Output) {
        let us = Implementation::new("runmesh", env!("CARGO_PKG_VERSION"));
        let params = InitializeRequest::new(ProtocolVersion::V1)
            .client_capabilities(ClientCapabilities::default())
            .client_info(us);
        self.call(Call::Initialize, "initialize", params, out);
    }

    fn prompt(&mut self, prompt: &str, out: &mut Output) {
        self.prompt = Some(prompt.to_owned());
        self.send_prompt(out);
    }

    fn wants_silence(&self) -> Option<Duration> {
        self.loaded.as_ref().map(|_| REPLAY_SILENCE)
    }

    fn silence(&mut self, out: &mut Output) {
        if let Some(result) = self.loaded.take() {
            self.set_model(&result, out);
        }
    }

    fn cancel(&mut self, out: &mut Output) {
        self.cancel_asked = true;
        let Some(session) = &self.session else { return };
        let message =
            json!({ "jsonrpc": "2.0", "method": "session/cancel", "params": { "sessionId": session } });
        write_line(&message, out);
        self.questions.cancel_all(out);
    }

    fn permission(&mut self, request: u64, allow: bool, out: &mut Output) {
        let Some(Answered {
            tool_call_id,
            allowed,
        }) = self.questions.answer(request, allow, out)
        else {
            return;
        };
        self.permission_denied |= !allowed;
        let answer = if allowed { "allowed" } else { "rejected" };
        self.tools.permitted(&tool_call_id, answer, out);
    }

    fn stdout(&mut self, bytes: &[u8], out: &mut Output) {
        match self.reader.push(bytes) {
            Ok(said) => said.into_iter().for_each(|one| self.incoming(one, out)),
            Err(error) => {
                let text = format!("The agent does not keep to its protocol: {error}.");
                self.fail("output_limit", text, out);
            }
        }
    }

    fn stderr(&mut self, bytes: &[u8], _out: &mut Output) {
        let text = self.stderr.push(bytes);
        self.stderr_kept.push(&text);
    }

    fn exited(&mut self, exit: ProgramExit, out: &mut Output) {
        if !self.ended {
            let when = match self.phase() {
                Phase::Opening => "before it began to work",
                Phase::Working => "in the middle of its work",
            };
            self.fail(
                "agent_exited",
                format!("The agent ended {when}, with {exit}."),
                out,
            );
        }
    }

    fn flush(&mut self, out: &mut Output) {
        self.message.flush(out);
        self.tools.flush(out);
    }
}

#[path = "acp_session.rs"]
mod session;
#[cfg(test)]
#[path = "acp_tests.rs"]
mod tests;
