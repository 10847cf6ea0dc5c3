//! The course of one ACP session: opened or resumed, told its model, prompted once, and how its turn ended.

use agent_client_protocol_schema::ProtocolVersion;
use agent_client_protocol_schema::v1::{
    InitializeResponse, LoadSessionRequest, Meta, NewSessionRequest, PromptRequest, ResumeSessionRequest,
};
use serde_json::{Map, Value, json};
use types::{LiveType, RunStatus};

use super::super::acp_model::{self, Model, SetModel};
use super::super::bounded::{printable, raw};
use super::super::{Ending, Output, Produced, Runner as _};
use super::{AcpRunner, Call};

impl AcpRunner {
    pub(super) fn refused(&mut self, call: Call, error: &Value, out: &mut Output) {
        let message = error
            .get("message")
            .and_then(Value::as_str)
            .unwrap_or("no message");
        let details = error
            .get("data")
            .map(|data| format!(" ({})", raw(data)))
            .unwrap_or_default();
        let code = error.get("code").and_then(Value::as_i64);
        let what = match call {
            Call::Initialize => "initialize",
            Call::ContinueSession | Call::NewSession => "open a session",
            Call::SetModel => "use the model",
            Call::Prompt => "work on the prompt",
        };
        let reason = if code == Some(-32000) {
            "authentication_required"
        } else {
            "agent_error"
        };
        self.fail(
            reason,
            format!("The agent refused to {what}: {message}{details}"),
            out,
        );
    }

    pub(super) fn initialized(&mut self, result: Value, out: &mut Output) {
        let agent = result.get("agentInfo").map(raw);
        let Ok(result) = serde_json::from_value::<InitializeResponse>(result) else {
            self.fail(
                "protocol_error",
                "The agent's answer to initialize cannot be read.",
                out,
            );
            return;
        };
        if result.protocol_version != ProtocolVersion::V1 {
            let text = format!(
                "The agent speaks version {} of its protocol, not 1.",
                result.protocol_version
            );
            self.fail("protocol_error", text, out);
            return;
        }
        if let Some(agent) = agent {
            out.produced.push(Produced::Live(
                LiveType::AssistantMessageSource,
                json!({ "agent": agent }),
            ));
        }
        let capabilities = result.agent_capabilities;
        self.resumes_silently = capabilities.session_capabilities.resume.is_some();
        self.can_resume = self.resumes_silently || capabilities.load_session;
        match self.resume.clone() {
            // Resuming says nothing twice; loading replays the whole history, which is dropped until it answers.
            Some(session) if self.resumes_silently => {
                let params = ResumeSessionRequest::new(session, self.folder.clone());
                self.call(Call::ContinueSession, "session/resume", params, out);
            }
            Some(session) if self.can_resume => {
                let params = LoadSessionRequest::new(session, self.folder.clone());
                self.call(Call::ContinueSession, "session/load", params, out);
            }
            _ => self.open_session(out),
        }
    }

    /// The agent goes on with the earlier session.
    pub(super) fn continued(&mut self, result: Value, out: &mut Output) {
        if self.resumes_silently {
            self.set_model(&result, out);
        } else {
            self.loaded = Some(result);
        }
    }

    pub(super) fn open_session(&mut self, out: &mut Output) {
        let params = NewSessionRequest::new(self.folder.clone());
        self.call(Call::NewSession, "session/new", params, out);
    }

    /// Asks for the wished model, if any, and goes on to the prompt.
    pub(super) fn set_model(&mut self, opened: &Value, out: &mut Output) {
        let (Some(model), Some(session)) = (&self.asked.model, &self.session) else {
            return self.send_prompt(out);
        };
        match acp_model::choose(opened, session, model) {
            Model::Set(SetModel { method, params }) => self.call(Call::SetModel, method, params, out),
            Model::InUse => self.send_prompt(out),
            Model::NotOffered => {
                self.not_applied.push("model");
                self.send_prompt(out);
            }
        }
    }

    pub(super) fn send_prompt(&mut self, out: &mut Output) {
        let Some(session) = self.session.clone() else {
            return;
        };
        let Some(prompt) = self.prompt.take() else { return };
        if self.can_resume {
            out.session = Some(session.clone());
        }
        let before = [self.system_prompt.take(), self.asked.history.take()];
        let texts = before.into_iter().flatten().chain([prompt]);
        let params =
            PromptRequest::new(session, texts.map(Into::into).collect()).meta(self.beyond_the_protocol());
        self.call(Call::Prompt, "session/prompt", params, out);
    }

    /// What the protocol has no word for, where it lets clients say more, for an agent that looks there. Only under our own
    /// name: what an org asks must not pass for the extension of an agent that decides what the agent may do.
    fn beyond_the_protocol(&self) -> Option<Meta> {
        let asked = self.asked.beyond_acp();
        if asked.is_empty() {
            return None;
        }
        let asked: Map<String, Value> = asked
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        Some(Map::from_iter([("runmesh".to_owned(), Value::Object(asked))]))
    }

    pub(super) fn turn_ended(&mut self, result: &Value, out: &mut Output) {
        self.flush(out);
        self.turn_over = true;
        let stop = result.get("stopReason").and_then(Value::as_str).unwrap_or("");
        let ending = match stop {
            "end_turn" => Ending::completed(),
            "cancelled" if self.cancel_asked => Ending::cancelled(),
            // Some agents end their turn so when they are told no, though nobody cancelled it.
            "cancelled" if self.permission_denied => Ending::failed(
                "permission_denied",
                "The agent gave up: it was not allowed to use a tool.",
            ),
            "cancelled" => Ending::failed(
                "agent_cancelled",
                "The agent broke off its turn; nobody had asked for it.",
            ),
            "max_tokens" => Ending::failed("max_tokens", "The agent reached its limit of tokens."),
            "max_turn_requests" => {
                Ending::failed("max_turns", "The agent reached its limit of model requests.")
            }
            "refusal" => Ending::failed("refusal", "The agent refuses to go on."),
            other => Ending::failed(
                "unknown_stop_reason",
                format!("The agent stopped with {other:?}."),
            ),
        };
        let mut ending = ending.with("stopReason", printable(stop, 100));
        if let Some(usage) = result.get("usage").filter(|usage| usage.is_object()) {
            ending = ending.with("usage", raw(usage));
        }
        let answer = self.message.take_last();
        if ending.status == RunStatus::Completed && !answer.is_empty() {
            ending = ending.with("result", answer);
        }
        self.end(ending, out);
    }
}
