//! Following a thread: frames as they come, and again from where they stopped when the connection is lost.

use std::time::Duration;

use anyhow::Result;
use api::client::ClientError;
use api::events::Frame;
use serde_json::{Value, json};

use super::thread_text::ThreadText;
use super::{Api, read_id};
use crate::output::talk;

/// How many times in a row a lost connection is tried again before the command gives up.
const RETRIES_MAX: u32 = 8;
/// The wait before the first retry; it doubles with each.
const RETRY_WAIT: Duration = Duration::from_millis(250);
/// The longest wait between two tries.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);

/// A thread that is being followed.
pub(crate) struct Follower<'a> {
    api: &'a Api,
    thread: String,
    text: ThreadText,
    after: u64,
}

/// Why following ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The caller saw what it waited for.
    Seen,
    /// The thread was deleted.
    Deleted,
}

impl<'a> Follower<'a> {
    /// Follows a thread from after an event number.
    pub(crate) fn new(api: &'a Api, thread: &str, after: u64) -> Self {
        Self {
            api,
            thread: thread.to_owned(),
            text: ThreadText::default(),
            after,
        }
    }

    /// Shows every frame until `is_last` says that one was the last.
    pub(crate) async fn until(&mut self, is_last: impl Fn(&Frame) -> bool) -> Result<End> {
        let mut retries = 0;
        loop {
            let before = self.after;
            let error = match self.follow_once(&is_last).await {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => None,
                Err(Broken::Output(error)) => return Err(error),
                Err(Broken::Client(error)) if is_final(&error) => return Err(error.into()),
                Err(Broken::Client(error)) => Some(error),
            };
            retries = if self.after > before { 1 } else { retries + 1 };
            if retries > RETRIES_MAX {
                let gone = anyhow::anyhow!("the connection was lost {RETRIES_MAX} times in a row");
                return Err(error.map_or(gone, Into::into));
            }
            let wait = RETRY_WAIT * 2_u32.pow(retries - 1);
            tokio::time::sleep(wait.min(RETRY_WAIT_MAX)).await;
            if retries == 2 {
                talk("the connection was lost; trying again from where it stopped");
            }
        }
    }

    /// Follows over one connection; `None` when the server closed it.
    async fn follow_once(&mut self, is_last: &impl Fn(&Frame) -> bool) -> Result<Option<End>, Broken> {
        let thread = read_id(&self.thread, "thread", "threads").map_err(Broken::Output)?;
        let mut frames = self.api.client.follow_thread(thread, self.after).await?;
        while let Some(frame) = frames.next().await? {
            let (deleted, sequence) = match &frame {
                Frame::Event(event) => (
                    event.event_type.as_str() == "thread_deleted",
                    Some(event.sequence),
                ),
                _ => (false, None),
            };
            if sequence.is_some_and(|sequence| sequence <= self.after) {
                continue;
            }
            self.show(&frame)?;
            self.after = sequence.unwrap_or(self.after);
            if is_last(&frame) {
                return Ok(Some(End::Seen));
            }
            if deleted {
                return Ok(Some(End::Deleted));
            }
        }
        Ok(None)
    }

    fn show(&mut self, frame: &Frame) -> Result<(), Broken> {
        let text = self.text.frame(frame);
        self.api
            .output
            .stream(&frame_json(frame), &text)
            .map_err(Broken::Output)
    }
}

/// Returns a frame as the server sent it.
pub(crate) fn frame_json(frame: &Frame) -> Value {
    let value = match frame {
        Frame::Snapshot(value) | Frame::Other(value) => Ok(value.clone()),
        Frame::Event(event) => serde_json::to_value(event),
        Frame::Live(live) => serde_json::to_value(live),
    };
    value.unwrap_or_else(|_| json!({ "type": "unreadable" }))
}

enum Broken {
    /// The connection, or what the server said.
    Client(ClientError),
    /// Our own output.
    Output(anyhow::Error),
}

impl From<ClientError> for Broken {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// Trying again does not help when the server understood and said no.
fn is_final(error: &ClientError) -> bool {
    let answered = error.api().map(|body| body.code.status());
    answered.is_some_and(|status| status < 500 && status != 429) || matches!(error, ClientError::BadUrl)
}
