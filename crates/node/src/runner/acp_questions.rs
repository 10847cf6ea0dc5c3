//! Permission requests of an ACP agent that wait for an answer, and how an answer is chosen.

use std::collections::BTreeMap;

use agent_client_protocol_schema::v1::{
    PermissionOption, PermissionOptionKind, RequestPermissionOutcome, RequestPermissionResponse,
    SelectedPermissionOutcome,
};
use serde_json::Value;

use super::Output;
use super::acp_rpc::write_result;

/// The most questions that may wait at once.
const QUESTIONS_MAX: usize = 64;

/// The questions that wait.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: BTreeMap<u64, Question>,
    next: u64,
}

/// May this tool be used?
#[derive(Debug)]
pub(super) struct Question {
    /// What the agent calls its request.
    pub(super) rpc_id: Value,
    pub(super) tool_call_id: String,
    pub(super) options: Vec<PermissionOption>,
}

/// What an agent was told about a tool call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) tool_call_id: String,
    pub(super) allowed: bool,
}

impl Questions {
    /// Takes a question; returns its number, or nothing when too many wait.
    pub(super) fn ask(&mut self, question: Question) -> Option<u64> {
        if self.open.len() >= QUESTIONS_MAX {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.open.insert(number, question);
        Some(number)
    }

    /// Answers one by kind, never by position: agents list their options in different orders. "Always" is never chosen, so
    /// a question without a fitting option is answered no.
    pub(super) fn answer(&mut self, number: u64, allow: bool, out: &mut Output) -> Option<Answered> {
        let question = self.open.remove(&number)?;
        let kind = if allow {
            PermissionOptionKind::AllowOnce
        } else {
            PermissionOptionKind::RejectOnce
        };
        let chosen = question.options.into_iter().find(|option| option.kind == kind);
        let allowed = allow && chosen.is_some();
        let outcome = match chosen {
            Some(option) => {
                RequestPermissionOutcome::Selected(SelectedPermissionOutcome::new(option.option_id))
            }
            None => RequestPermissionOutcome::Cancelled,
        };
        write_outcome(&question.rpc_id, outcome, out);
        let tool_call_id = question.tool_call_id;
        Some(Answered {
            tool_call_id,
            allowed,
        })
    }

    /// The protocol asks that open questions are answered when a turn is cancelled, or the agent might wait for them.
    pub(super) fn cancel_all(&mut self, out: &mut Output) {
        for question in std::mem::take(&mut self.open).into_values() {
            cancel(&question.rpc_id, out);
        }
    }
}

/// Answers a question with "cancelled", which is a no.
pub(super) fn cancel(rpc_id: &Value, out: &mut Output) {
    write_outcome(rpc_id, RequestPermissionOutcome::Cancelled, out);
}

fn write_outcome(rpc_id: &Value, outcome: RequestPermissionOutcome, out: &mut Output) {
    write_result(rpc_id, RequestPermissionResponse::new(outcome), out);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question(number: usize) -> Question {
        Question {
            rpc_id: json!(number),
            tool_call_id: format!("t{number}"),
            options: Vec::new(),
        }
    }

    #[test]
    fn so_many_may_wait_and_each_is_answered_once() {
        let (mut questions, mut out) = (Questions::default(), Output::default());
        for number in 0..QUESTIONS_MAX {
            assert_eq!(questions.ask(question(number)), Some(number as u64));
        }
        assert_eq!(questions.ask(question(99)), None);
        let answered = Answered {
            tool_call_id: "t7".to_owned(),
            allowed: false,
        };
        assert_eq!(
            questions.answer(7, true, &mut out),
            Some(answered),
            "without an option it is a no"
        );
        assert_eq!(questions.answer(7, true, &mut out), None);
        questions.cancel_all(&mut out);
        questions.cancel_all(&mut out);
        assert_eq!(out.stdin.split(|&b| b == b'\n').count() - 1, QUESTIONS_MAX);
    }
}
