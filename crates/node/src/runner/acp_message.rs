//! What an ACP agent says to people: pieces become messages, shown at once and stored whole.

use serde_json::json;
use types::{EventType, LiveType};

use super::Output;

/// One `assistant_message` holds at most this many bytes; a longer answer becomes several.
pub(super) const MESSAGE_BYTES_MAX: usize = 96 * 1024;

/// The message under way, and the last one that was whole.
#[derive(Debug, Default)]
pub(super) struct Message {
    text: String,
    id: Option<String>,
    last: String,
}

impl Message {
    /// Takes a piece; one with another id begins a new message.
    pub(super) fn say(&mut self, text: &str, id: Option<String>, out: &mut Output) {
        if id != self.id {
            self.flush(out);
            self.id = id;
        }
        out.delta(LiveType::AssistantMessageDelta, None, text);
        let mut rest = text;
        while self.text.len() + rest.len() > MESSAGE_BYTES_MAX {
            let (fits, after) = rest.split_at(rest.floor_char_boundary(MESSAGE_BYTES_MAX - self.text.len()));
            self.text.push_str(fits);
            self.flush(out);
            rest = after;
        }
        self.text.push_str(rest);
    }

    /// Whatever was said is a message now, unless it is blank.
    pub(super) fn flush(&mut self, out: &mut Output) {
        let text = std::mem::take(&mut self.text);
        if !text.trim().is_empty() {
            out.event(EventType::AssistantMessage, json!({ "text": text }));
            self.last = text;
        }
    }

    /// Gives away the last whole message; empty if there was none.
    pub(super) fn take_last(&mut self) -> String {
        std::mem::take(&mut self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Produced;
    use super::*;

    fn stored(out: &Output) -> Vec<&str> {
        out.produced
            .iter()
            .filter_map(|produced| match produced {
                Produced::Event(draft) => draft.payload["text"].as_str(),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn pieces_of_one_id_are_one_message_and_blank_ones_are_none() {
        let (mut message, mut out) = (Message::default(), Output::default());
        let id = |id: &str| Some(id.to_owned());
        message.say("Hel", id("a"), &mut out);
        message.say("lo", id("a"), &mut out);
        message.say("  \n", id("b"), &mut out);
        message.say("there", None, &mut out);
        message.flush(&mut out);
        message.flush(&mut out);
        assert_eq!(stored(&out), ["Hello", "there"]);
        assert_eq!(
            (message.take_last().as_str(), message.take_last().as_str()),
            ("there", "")
        );
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let (mut message, mut out) = (Message::default(), Output::default());
        message.say("x", None, &mut out);
        message.say(&"é".repeat(MESSAGE_BYTES_MAX), None, &mut out);
        message.flush(&mut out);
        let all = stored(&out);
        assert!(
            all.iter().all(|text| text.len() <= MESSAGE_BYTES_MAX),
            "{}",
            all.len()
        );
        assert_eq!(all.concat(), format!("x{}", "é".repeat(MESSAGE_BYTES_MAX)));
    }
}
