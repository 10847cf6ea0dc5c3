//! A thread's events (contract §6): pages of them, appends, and the frames of a live connection.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::{EventType, LiveEvent, RolloutId, RunId, ThreadEvent, ThreadId, Timestamp};
use utoipa::{IntoParams, ToSchema};

use crate::page::PageQuery;
use crate::{json, schema};

/// The version of the frames of a live connection.
pub const FRAMES_VERSION: u32 = 1;

/// The close code of a WebSocket whose reader is too slow; it resumes with `after`.
pub const CLOSE_TOO_SLOW: u16 = 4408;

/// The WebSocket close code for a reader whose credential was revoked or has expired.
pub const CLOSE_SIGNED_OUT: u16 = 4401;

/// The close code of a WebSocket whose thread was deleted; `thread_deleted` was its last event.
pub const CLOSE_GONE: u16 = 4410;

/// The close code of a WebSocket whose server stops ("going away"); its reader resumes with `after` at the next one.
pub const CLOSE_STOPPING: u16 = 1001;

/// An event of a thread.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its number in the thread: from 1, without gaps.
    #[schema(minimum = 1)]
    pub sequence: u64,
    /// The thread.
    #[schema(value_type = schema::ThreadId)]
    pub thread_id: ThreadId,
    /// The rollout it belongs to.
    #[schema(value_type = schema::RolloutId)]
    pub rollout_id: RolloutId,
    /// The run that produced it, if one did.
    #[schema(value_type = Option<schema::RunId>)]
    pub run_id: Option<RunId>,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(value_type = schema::EventType)]
    pub event_type: EventType,
    /// The particulars.
    #[schema(value_type = Object)]
    pub payload: Value,
    /// When the store took it.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
}

impl From<ThreadEvent> for Event {
    fn from(event: ThreadEvent) -> Self {
        Self {
            sequence: event.sequence,
            thread_id: event.thread_id,
            rollout_id: event.rollout_id,
            run_id: event.run_id,
            event_type: event.event_type,
            payload: event.payload,
            created_at: event.created_at,
        }
    }
}

/// An event as its producer makes it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewEvent {
    /// What happened: one of the durable types that a caller may write.
    #[serde(rename = "type")]
    #[schema(value_type = schema::WritableEventType)]
    pub event_type: EventType,
    /// The particulars: an object, empty by default; an event has at most 1 MiB as JSON.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub payload: Value,
    /// The producer's own id, up to 128 characters: a repeated one is stored once and still acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128, pattern = r"^[^\u0000]*$")]
    pub client_event_id: Option<String>,
}

/// Appends events to a thread: up to 500, each up to 1 MiB, 8 MiB in all.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppendEvents {
    /// The events.
    #[schema(min_items = 1, max_items = 500)]
    #[serde(deserialize_with = "json::objects")]
    pub events: Vec<NewEvent>,
    /// The run they belong to, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::RunId>)]
    pub run_id: Option<RunId>,
    /// The rollout they are meant for; another than the active one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::RolloutId>)]
    pub rollout_id: Option<RolloutId>,
}

/// The answer to an append.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Appended {
    /// The thread.
    #[schema(value_type = schema::ThreadId)]
    pub thread_id: ThreadId,
    /// The rollout they joined.
    #[schema(value_type = schema::RolloutId)]
    pub rollout_id: RolloutId,
    /// The number of the thread's last event.
    pub sequence: u64,
    /// How many were stored now; those known by their `clientEventId` do not count.
    pub appended: u32,
}

/// Which events to list, or from where to follow.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// How many rows: 1 to 500, default 50; more is cut to 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Whole>, inline)]
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Cursor>, inline)]
    pub cursor: Option<String>,
    /// Those of this rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::RolloutId>, inline)]
    pub rollout_id: Option<RolloutId>,
    /// `all_rollouts`: not only the active one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Include>, inline)]
    pub include: Option<String>,
    /// Those with a higher number, of all rollouts; at most the number of the last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Sequence>, inline)]
    pub after: Option<u64>,
    /// For a WebSocket of a browser, which can send no header: an API key. Exactly one of this and `token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Text>, inline)]
    pub api_key: Option<String>,
    /// The same with a session token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Text>, inline)]
    pub token: Option<String>,
}

impl EventsQuery {
    /// Returns which page is asked for.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery {
            limit: self.limit,
            cursor: self.cursor.clone(),
        }
    }
}

/// One frame of a live connection, as a client reads it.
#[derive(Clone, PartialEq, Debug)]
pub enum Frame {
    /// The thread as it stands; the first frame.
    Snapshot(Value),
    /// Something durable happened.
    Event(Box<ThreadEvent>),
    /// Something to show that is not stored.
    Live(LiveEvent),
    /// A frame of a newer server.
    Other(Value),
}

impl Frame {
    /// Reads the JSON of a frame; `None` when it is no JSON object.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let kind = value.get("type")?.as_str()?;
        if kind == "snapshot" {
            return Some(Self::Snapshot(value));
        }
        if value.get("sequence").is_some()
            && let Ok(event) = ThreadEvent::deserialize(&value)
        {
            return Some(Self::Event(Box::new(event)));
        }
        Some(match LiveEvent::deserialize(&value) {
            Ok(live) => Self::Live(live),
            Err(_) => Self::Other(value),
        })
    }
}
