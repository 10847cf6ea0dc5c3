//! Following a thread: history first, then what happens, from one cursor.
//!
//! What is durable comes from the log, up to the number that was announced and no further, so that a delta never comes
//! after the event it was a part of.

use std::collections::VecDeque;
use std::sync::Arc;

use api::events::{EventsQuery, FRAMES_VERSION};
use api::threads::ThreadQuery;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use types::{EventType, LiveEvent, RunId, ThreadEvent, ThreadId};

use super::{READ_ROWS, demand_past, sighted};
use crate::app::threads::{self, Sight};
use crate::app::{App, AppError, Caller};
use crate::live::Notice;
use crate::store;

/// What a follower gets next.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Next {
    /// The thread as it stood when the following began; events above this number follow.
    Snapshot(Value, u64),
    /// A durable event; none is left out and none comes twice.
    Event(Box<ThreadEvent>),
    /// Something to show that is not stored.
    Live(Arc<LiveEvent>),
    /// The reader fell behind; it resumes after the last event it got.
    TooSlow,
    /// Nothing will ever follow: the thread was deleted, or the run that was followed is over.
    Over,
    /// The server stops; the reader resumes at the next one after the last event it got.
    Stopping,
}

/// Somebody who follows a thread.
#[derive(Debug)]
pub(crate) struct Follower {
    app: Arc<App>,
    thread: ThreadId,
    sight: Sight,
    /// The number of the last event that was given out or left out.
    after: u64,
    /// The log may hold events up to this number.
    until: u64,
    snapshot: Option<Value>,
    read: VecDeque<ThreadEvent>,
    notices: broadcast::Receiver<Notice>,
    /// So many of the notices were told before the log was first read: deltas among them may be old.
    early: usize,
    /// Ends with the `run_completed` of this run.
    run: Option<RunId>,
    is_over: bool,
}

impl Follower {
    /// Follows a thread from `after`, or from now; the snapshot comes first.
    pub(crate) async fn of_thread(
        app: &Arc<App>,
        caller: &Caller,
        thread: ThreadId,
        query: &EventsQuery,
    ) -> Result<Self, AppError> {
        // Before the first read: what is stored in between is announced, so that nothing falls into the gap.
        let notices = app.watchers.watch(thread);
        let shape = ThreadQuery {
            include: query.include.clone(),
            ..ThreadQuery::default()
        };
        let snapshot = threads::snapshot(app, caller, (thread, None), &shape).await?;
        demand_past(query.after, snapshot.last_sequence)?;
        let sight = match snapshot.messages {
            Some(_) => Sight::Whole,
            None => Sight::Metadata,
        };
        let mut frame = serde_json::to_value(&snapshot).map_err(|_| AppError::internal())?;
        frame["type"] = json!("snapshot");
        frame["protocol_version"] = json!(FRAMES_VERSION);
        Ok(Self {
            app: Arc::clone(app),
            thread,
            sight,
            after: query.after.unwrap_or(snapshot.last_sequence),
            until: snapshot.last_sequence,
            snapshot: Some(frame),
            read: VecDeque::new(),
            early: notices.len(),
            notices,
            run: None,
            is_over: false,
        })
    }

    /// Follows a run of the caller's, from its first event to its last; what else happens in its thread is left out.
    pub(crate) async fn of_run(app: &Arc<App>, thread: ThreadId, run: RunId) -> Result<Self, AppError> {
        let notices = app.watchers.watch(thread);
        let first = store::events::first_of_run(&mut *app.store.read().await?, thread, run).await?;
        Ok(Self {
            app: Arc::clone(app),
            thread,
            sight: Sight::Whole,
            after: first.map_or(0, |first| first.saturating_sub(1)),
            until: u64::MAX,
            snapshot: None,
            read: VecDeque::new(),
            early: notices.len(),
            notices,
            run: Some(run),
            is_over: false,
        })
    }

    /// Waits for what comes next. Safe to drop and call again: nothing is lost by it.
    pub(crate) async fn next(&mut self) -> Result<Next, AppError> {
        if let Some(snapshot) = self.snapshot.take() {
            return Ok(Next::Snapshot(snapshot, self.after));
        }
        loop {
            if self.is_over {
                return Ok(Next::Over);
            }
            if let Some(event) = self.read.pop_front() {
                if self.run.is_some() && event.run_id != self.run {
                    self.after = event.sequence;
                    continue;
                }
                return Ok(self.give(event));
            }
            if self.until > self.after {
                self.catch_up().await?;
                continue;
            }
            let notice = self.notices.recv().await;
            let is_early = self.early > 0;
            self.early = self.early.saturating_sub(1);
            match notice {
                Ok(Notice::Stored(last)) => self.until = last,
                Ok(Notice::Live(live)) if !is_early && self.shows(&live) => return Ok(Next::Live(live)),
                Ok(Notice::Live(_)) => {}
                Ok(Notice::Deleted(last)) => {
                    self.is_over = true;
                    return Ok(self.give(ThreadEvent::clone(&last)));
                }
                // Whoever waits for the end of a run gets it; only deltas are left out.
                Err(RecvError::Lagged(_)) if self.run.is_some() => self.until = u64::MAX,
                Err(RecvError::Lagged(_)) => return Ok(Next::TooSlow),
                Err(RecvError::Closed) => return Ok(Next::Stopping),
            }
        }
    }

    fn shows(&self, live: &LiveEvent) -> bool {
        self.sight == Sight::Whole && self.run.is_none_or(|run| run == live.run_id)
    }

    async fn catch_up(&mut self) -> Result<(), AppError> {
        let after = i64::try_from(self.after).unwrap_or(i64::MAX);
        let mut conn = self.app.store.read().await?;
        let events = store::events::list(&mut conn, self.thread, None, after, READ_ROWS).await?;
        let announced = |event: &ThreadEvent| event.sequence <= self.until;
        self.read.extend(events.into_iter().filter(announced));
        if self.read.is_empty() {
            // All is read, or a deletion took the rest away.
            self.until = self.after;
        }
        Ok(())
    }

    fn give(&mut self, event: ThreadEvent) -> Next {
        self.after = event.sequence;
        let is_last = event.event_type == EventType::RunCompleted && event.run_id == self.run;
        self.is_over |= is_last && self.run.is_some();
        Next::Event(Box::new(sighted(event, self.sight)))
    }
}
