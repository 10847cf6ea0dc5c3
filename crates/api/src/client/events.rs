//! Client methods for a thread's events, and the reader of `text/event-stream`.

use std::str::FromStr;

use reqwest::header::ACCEPT;
use reqwest::{Method, Response};
use types::{ThreadEvent, ThreadId};

use super::{ANSWER_BYTES_MAX, Client, ClientError, SILENCE_MAX, data, open};
use crate::envelope::Page;
use crate::events::{AppendEvents, Appended, EventsQuery, Frame};

/// The frames of a live connection, one after the other.
#[derive(Debug)]
pub struct Frames {
    answer: Response,
    bytes: Vec<u8>,
    data: String,
}

impl Frames {
    pub(super) fn new(answer: Response) -> Self {
        Self {
            answer,
            bytes: Vec::new(),
            data: String::new(),
        }
    }

    /// Waits for the next frame; `None` when the server has closed the stream.
    ///
    /// To go on after an error, follow the thread again with `after` set to the last sequence seen.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            while let Some(end) = self.bytes.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some(frame) = self.take_line(line.trim_end_matches(['\r', '\n'])) {
                    return Ok(Some(frame));
                }
            }
            let reading = tokio::time::timeout(SILENCE_MAX, self.answer.chunk()).await;
            let Some(chunk) = reading.map_err(|_| ClientError::Silent)?? else {
                return Ok(None);
            };
            if self.bytes.len() + self.data.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(ClientError::TooLarge);
            }
            self.bytes.extend_from_slice(&chunk);
        }
    }

    /// An empty line ends a frame; `id:` and comments carry nothing that the data does not.
    fn take_line(&mut self, line: &str) -> Option<Frame> {
        if let Some(data) = line.strip_prefix("data:") {
            if !self.data.is_empty() {
                self.data.push('\n');
            }
            self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
        }
        if !line.is_empty() || self.data.is_empty() {
            return None;
        }
        Frame::parse(&std::mem::take(&mut self.data))
    }
}

impl Client {
    /// Lists events of a thread, oldest first.
    pub async fn events(
        &self,
        thread: ThreadId,
        query: &EventsQuery,
    ) -> Result<Page<ThreadEvent>, ClientError> {
        self.get(&format!("v1/threads/{thread}/events"), query).await
    }

    /// Appends events to a thread.
    pub async fn append_events(
        &self,
        thread: ThreadId,
        request: &AppendEvents,
    ) -> Result<Appended, ClientError> {
        self.send(Method::POST, &format!("v1/threads/{thread}/events"), request)
            .await
            .map(data)
    }

    /// Follows a thread: a snapshot, the events above `after`, then what happens.
    pub async fn follow_thread(&self, thread: ThreadId, after: u64) -> Result<Frames, ClientError> {
        let call = self.request(Method::GET, &format!("v1/threads/{thread}/events"))?;
        let call = call
            .query(&[("after", after)])
            .header(ACCEPT, "text/event-stream");
        open(call).await.map(Frames::new)
    }
}

pub(super) fn header<T: FromStr>(answer: &Response, name: &str) -> Result<T, ClientError> {
    let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
    let parsed = value.and_then(|value| value.parse().ok());
    parsed.ok_or(ClientError::NotOurs {
        status: answer.status().as_u16(),
    })
}
