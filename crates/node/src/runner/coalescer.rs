//! Joins small pieces of live text, so that a fast writer costs few frames and a slow one little delay. Pure.

use std::time::Duration;

use serde_json::{Value, json};
use types::{LiveType, Monotonic};

/// A piece is shown at the latest this long after it came.
pub const DELAY_MAX: Duration = Duration::from_millis(30);

/// A frame is sent as soon as this many bytes of text are together.
pub const BYTES_MAX: usize = 4 * 1024;

/// Text that waits to be shown: of one item only.
#[derive(Debug, Default)]
pub struct Coalescer {
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    live_type: LiveType,
    tool_call_id: Option<String>,
    text: String,
    due: Monotonic,
}

/// A frame to be shown.
pub type Frame = (LiveType, Value);

impl Coalescer {
    /// Takes a piece; returns the frames that are ready, in order.
    pub fn push(
        &mut self,
        live_type: LiveType,
        tool_call_id: Option<String>,
        text: &str,
        now: Monotonic,
    ) -> Vec<Frame> {
        let mut frames = Vec::new();
        let same = |w: &Waiting| w.live_type == live_type && w.tool_call_id == tool_call_id;
        match &mut self.waiting {
            Some(waiting) if same(waiting) => waiting.text.push_str(text),
            _ => {
                frames.extend(self.flush());
                self.waiting = Some(Waiting {
                    live_type,
                    tool_call_id,
                    text: text.to_owned(),
                    due: now + DELAY_MAX,
                });
            }
        }
        if self.waiting.as_ref().is_some_and(|w| w.text.len() >= BYTES_MAX) {
            frames.extend(self.flush());
        }
        frames
    }

    /// When the waiting text must be shown.
    #[must_use]
    pub fn due(&self) -> Option<Monotonic> {
        self.waiting.as_ref().map(|waiting| waiting.due)
    }

    /// Gives out the waiting text: it is due, or its item is over.
    pub fn flush(&mut self) -> Option<Frame> {
        let waiting = self.waiting.take()?;
        let payload = match waiting.tool_call_id {
            Some(id) => json!({ "toolCallId": id, "text": waiting.text }),
            None => json!({ "text": waiting.text }),
        };
        Some((waiting.live_type, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Monotonic = Monotonic::ZERO;

    #[test]
    fn pieces_of_one_item_are_joined_until_they_are_due() {
        let mut coalescer = Coalescer::default();
        assert!(
            coalescer
                .push(LiveType::AssistantMessageDelta, None, "a", AT)
                .is_empty()
        );
        let later = AT + DELAY_MAX / 2;
        assert!(
            coalescer
                .push(LiveType::AssistantMessageDelta, None, "b", later)
                .is_empty()
        );
        assert_eq!(
            coalescer.due(),
            Some(AT + DELAY_MAX),
            "the first piece sets the time"
        );
        let expected = (LiveType::AssistantMessageDelta, json!({ "text": "ab" }));
        assert_eq!(coalescer.flush(), Some(expected));
        assert_eq!((coalescer.due(), coalescer.flush()), (None, None));
    }

    #[test]
    fn nothing_is_joined_across_an_item() {
        let mut coalescer = Coalescer::default();
        let tool = |id: &str| Some(id.to_owned());
        coalescer.push(LiveType::ToolOutputDelta, tool("1"), "a", AT);
        let frames = coalescer.push(LiveType::ToolOutputDelta, tool("2"), "b", AT);
        assert_eq!(
            frames,
            [(
                LiveType::ToolOutputDelta,
                json!({ "toolCallId": "1", "text": "a" })
            )]
        );
        let frames = coalescer.push(LiveType::AssistantMessageDelta, None, "c", AT);
        assert_eq!(frames.len(), 1);
    }

    #[test]
    fn much_text_does_not_wait() {
        let mut coalescer = Coalescer::default();
        let text = "x".repeat(BYTES_MAX);
        let frames = coalescer.push(LiveType::AssistantMessageDelta, None, &text, AT);
        assert_eq!(frames.len(), 1);
        assert_eq!(coalescer.due(), None);
    }
}
