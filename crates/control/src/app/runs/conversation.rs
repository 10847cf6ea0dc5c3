//! What a run is asked: a prompt, or the conversation that it ends.

use api::runs::{PROMPT_BYTES_MAX, RunMessage, StartRun};
use serde_json::json;
use types::{EventDraft, EventType};

use crate::app::{AppError, without_nul};

/// The most messages of a conversation that a run is started with.
const MESSAGES_MAX: usize = 200;

/// What is asked, and what was said before it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Conversation {
    pub(super) prompt: String,
    pub(super) system: Option<String>,
    pub(super) earlier: Vec<EventDraft>,
}

pub(super) fn conversation(request: &StartRun) -> Result<Conversation, AppError> {
    let asked = match (&request.prompt, &request.messages) {
        (Some(prompt), None) => Conversation {
            prompt: prompt.clone(),
            ..Conversation::default()
        },
        (None, Some(messages)) => of_messages(messages)?,
        _ => {
            return Err(AppError::bad_request(
                "exactly one of prompt and messages is required",
            ));
        }
    };
    check_prompt(&asked.prompt)?;
    if request.thread_id.is_some() && !asked.earlier.is_empty() {
        let message =
            "a thread knows what was said in it: with threadId, messages may hold only what is asked now";
        return Err(AppError::bad_request(message));
    }
    Ok(asked)
}

/// The last message is what is asked; those before it begin the thread; those of role system belong to the system prompt.
fn of_messages(messages: &[RunMessage]) -> Result<Conversation, AppError> {
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    if messages.len() > MESSAGES_MAX || bytes > PROMPT_BYTES_MAX {
        let message = format!("messages must be at most {MESSAGES_MAX}, and {PROMPT_BYTES_MAX} bytes in all");
        return Err(AppError::bad_request(message));
    }
    for (at, message) in messages.iter().enumerate() {
        let field = format!("messages[{at}].content");
        without_nul(&field, &message.content)?;
        if message.content.trim().is_empty() {
            return Err(AppError::bad_request(format!("{field} must not be empty")));
        }
    }
    let Some((last, before)) = messages.split_last().filter(|(last, _)| last.role == "user") else {
        return Err(AppError::bad_request("messages must end with one of role user"));
    };
    let mut asked = Conversation {
        prompt: last.content.clone(),
        ..Conversation::default()
    };
    for (at, message) in before.iter().enumerate() {
        let event_type = match message.role.as_str() {
            "user" => EventType::UserMessage,
            "assistant" => EventType::AssistantMessage,
            "system" => {
                asked.system = joined(asked.system, Some(message.content.clone()));
                continue;
            }
            _ => {
                let message = format!("messages[{at}].role must be user, assistant or system");
                return Err(AppError::bad_request(message));
            }
        };
        asked.earlier.push(EventDraft {
            event_type,
            payload: json!({ "text": message.content }),
            client_event_id: None,
        });
    }
    Ok(asked)
}

pub(super) fn joined(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), Some(other)) => Some(format!("{one}\n\n{other}")),
        (one, other) => one.or(other),
    }
}

pub(super) fn check_prompt(prompt: &str) -> Result<(), AppError> {
    if prompt.trim().is_empty() {
        return Err(AppError::bad_request("prompt must not be empty"));
    }
    without_nul("prompt", prompt)?;
    if prompt.len() > PROMPT_BYTES_MAX {
        let message = format!("prompt must be at most {PROMPT_BYTES_MAX} bytes");
        return Err(AppError::bad_request(message));
    }
    Ok(())
}
