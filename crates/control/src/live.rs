//! Who watches which thread, and what they are told while it happens.
//!
//! Not a log: the store is. A watcher is told that there is something new (and up to which number) and reads the events
//! from the store; only live deltas travel here themselves, and they are never stored. Every watcher has a bounded
//! buffer; one that falls behind is told so and resumes from the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use types::{LiveEvent, ThreadEvent, ThreadId};

/// How many notices a watcher may be behind.
const BUFFER: usize = 256;

/// How long a stop waits until every watcher was told why its connection closes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// What a watcher is told.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    /// Events up to this number are stored.
    Stored(u64),
    /// Something to show that is not stored.
    Live(Arc<LiveEvent>),
    /// The thread is gone, and its log with it: the event that says so is its last, and told here alone.
    Deleted(Arc<ThreadEvent>),
}

/// The watchers of all threads.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    inner: Mutex<Inner>,
    /// Connections that outlive the request that made them.
    connections: TaskTracker,
}

#[derive(Debug, Default)]
struct Inner {
    threads: BTreeMap<ThreadId, broadcast::Sender<Notice>>,
    stopped: bool,
}

impl Watchers {
    /// Starts to watch a thread. What was published before is in the store. Once the server stops, nothing is told.
    pub(crate) fn watch(&self, thread: ThreadId) -> broadcast::Receiver<Notice> {
        let mut inner = self.lock();
        if inner.stopped {
            return broadcast::channel(1).1;
        }
        // Whoever left is swept out when somebody comes, so the map never outgrows the watchers by much.
        inner.threads.retain(|_, sender| sender.receiver_count() > 0);
        let sender = inner
            .threads
            .entry(thread)
            .or_insert_with(|| broadcast::channel(BUFFER).0);
        sender.subscribe()
    }

    /// Tells the watchers of a thread; to be called after the commit.
    pub(crate) fn publish(&self, thread: ThreadId, notice: Notice) {
        if let Some(sender) = self.lock().threads.get(&thread) {
            // Fails only when nobody watches any more.
            let _ = sender.send(notice);
        }
    }

    /// Tells the watchers of a thread that it is gone, and nothing more.
    pub(crate) fn end(&self, last: ThreadEvent) {
        if let Some(sender) = self.lock().threads.remove(&last.thread_id) {
            let _ = sender.send(Notice::Deleted(Arc::new(last)));
        }
    }

    /// Counts a connection until the token is dropped: a stop waits for it.
    pub(crate) fn token(&self) -> TaskTrackerToken {
        self.connections.token()
    }

    /// Ends all watching, when the process stops.
    pub(crate) fn stop(&self) {
        let mut inner = self.lock();
        inner.stopped = true;
        inner.threads.clear();
    }

    /// Waits until every connection has ended, at most three seconds.
    pub(crate) async fn drained(&self) {
        self.connections.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.connections.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                left = self.connections.len(),
                "watchers that do not read are cut off"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::broadcast::error::TryRecvError;
    use types::{EventType, RolloutId, Timestamp};

    fn thread(seed: u8) -> ThreadId {
        ThreadId::from_random([seed; 16])
    }

    fn deleted(seed: u8) -> ThreadEvent {
        ThreadEvent {
            sequence: 9,
            thread_id: thread(seed),
            rollout_id: RolloutId::from_random([seed; 16]),
            run_id: None,
            event_type: EventType::ThreadDeleted,
            payload: serde_json::json!({}),
            created_at: Timestamp::from_unix_ms(0),
        }
    }

    #[test]
    fn only_the_watchers_of_a_thread_are_told_and_the_slow_ones_know() {
        let watchers = Watchers::default();
        let mut one = watchers.watch(thread(1));
        let mut other = watchers.watch(thread(2));
        for sequence in 0..=BUFFER as u64 {
            watchers.publish(thread(1), Notice::Stored(sequence));
        }
        assert!(matches!(one.try_recv(), Err(TryRecvError::Lagged(1))));
        assert!(matches!(one.try_recv(), Ok(Notice::Stored(1))));
        assert!(matches!(other.try_recv(), Err(TryRecvError::Empty)));
    }

    #[test]
    fn a_deletion_is_the_last_that_is_told_and_reaches_those_who_fell_behind() {
        let watchers = Watchers::default();
        let mut slow = watchers.watch(thread(1));
        for sequence in 0..2 * BUFFER as u64 {
            watchers.publish(thread(1), Notice::Stored(sequence));
        }
        watchers.end(deleted(1));
        let mut told = Vec::new();
        loop {
            match slow.try_recv() {
                Ok(notice) => told.push(notice),
                Err(TryRecvError::Lagged(_)) => {}
                Err(error) => break assert_eq!(error, TryRecvError::Closed),
            }
        }
        assert!(matches!(told.last(), Some(Notice::Deleted(last)) if last.sequence == 9));
    }

    #[test]
    fn whoever_comes_while_the_server_stops_is_sent_away_at_once() {
        let watchers = Watchers::default();
        let mut before = watchers.watch(thread(1));
        watchers.stop();
        let mut after = watchers.watch(thread(1));
        for watcher in [&mut before, &mut after] {
            assert!(matches!(watcher.try_recv(), Err(TryRecvError::Closed)));
        }
    }

    #[test]
    fn a_thread_that_nobody_watches_costs_nothing() {
        let watchers = Watchers::default();
        drop(watchers.watch(thread(1)));
        drop(watchers.watch(thread(2)));
        assert_eq!(watchers.lock().threads.len(), 1);
    }
}
