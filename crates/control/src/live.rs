//! Who watches which thread, and what they are told while it happens.
//!
//! Not a log: the store is. A watcher is told that there is something new (and up to which number) and reads the events
//! from the store; only live deltas travel here themselves, and they are never stored. Every watcher has a bounded
//! buffer; one that falls behind is told so and resumes from the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;
use types::{LiveEvent, ThreadId};

/// How many notices a watcher may be behind.
const BUFFER: usize = 256;

/// What a watcher is told.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    /// Events up to this number are stored.
    Stored(u64),
    /// Something to show that is not stored.
    Live(Arc<LiveEvent>),
}

/// The watchers of all threads.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    threads: Mutex<BTreeMap<ThreadId, broadcast::Sender<Notice>>>,
}

impl Watchers {
    /// Starts to watch a thread. What was published before is in the store.
    pub(crate) fn watch(&self, thread: ThreadId) -> broadcast::Receiver<Notice> {
        let mut threads = self.lock();
        // Whoever left is swept out when somebody comes, so the map never outgrows the watchers by much.
        threads.retain(|_, sender| sender.receiver_count() > 0);
        let sender = threads
            .entry(thread)
            .or_insert_with(|| broadcast::channel(BUFFER).0);
        sender.subscribe()
    }

    /// Tells the watchers of a thread; to be called after the commit.
    pub(crate) fn publish(&self, thread: ThreadId, notice: Notice) {
        if let Some(sender) = self.lock().get(&thread) {
            // Fails only when nobody watches any more.
            let _ = sender.send(notice);
        }
    }

    /// Ends the watching of a thread that is gone.
    pub(crate) fn end(&self, thread: ThreadId) {
        self.lock().remove(&thread);
    }

    /// Ends all watching, when the process stops.
    pub(crate) fn end_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ThreadId, broadcast::Sender<Notice>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::broadcast::error::TryRecvError;

    fn thread(seed: u8) -> ThreadId {
        ThreadId::from_random([seed; 16])
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
        watchers.end(thread(2));
        assert!(matches!(other.try_recv(), Err(TryRecvError::Closed)));
    }

    #[test]
    fn a_thread_that_nobody_watches_costs_nothing() {
        let watchers = Watchers::default();
        drop(watchers.watch(thread(1)));
        drop(watchers.watch(thread(2)));
        assert_eq!(watchers.lock().len(), 1);
    }
}
