//! Group commit: writes that wait for one another take turns in one transaction, and the disk is flushed once for all.
//!
//! A write for which nobody waits commits itself. Any other leaves the transaction open, and behind those that wait
//! already stands a task that commits it; so while one flush is under way the next group gathers. Nobody is told that a
//! write is done before the commit that holds it; what must be told to others then is told in the order of the turns. A write that fails or is given up is rolled back alone, to the savepoint it began with; when the commit itself
//! fails, none of its writes has happened, and each is told so.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio::time::Instant;

use super::{Conn, Store, StoreError, Tx};

/// The most writes of one transaction: the first of them waits for the last.
const WRITES_MAX: usize = 128;

/// How long a transaction may take in further writes.
const AGE_MAX: Duration = Duration::from_millis(20);

const BEGIN: &str = "SAVEPOINT turn";
const NEXT: &str = "RELEASE SAVEPOINT turn; SAVEPOINT turn";
const UNDO: &str = "ROLLBACK TO SAVEPOINT turn";

/// Who may write, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    group: Arc<Mutex<Option<Group>>>,
    /// How many stand in line.
    waiting: Arc<AtomicUsize>,
    age_max: Duration,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            group: Arc::default(),
            waiting: Arc::default(),
            age_max: AGE_MAX,
        }
    }
}

/// A transaction and the writes that wait for its commit.
struct Group {
    tx: Tx,
    done: Vec<Done>,
    since: Instant,
    /// A savepoint is set: all turns but the first begin with one.
    has_savepoint: bool,
    /// A turn began and was not finished.
    is_torn: bool,
}

struct Done {
    after: Box<dyn FnOnce() + Send>,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// One write; rolled back when dropped before [`Turn::finish`].
pub(crate) struct Turn {
    group: OwnedMutexGuard<Option<Group>>,
    turns: Turns,
}

/// One that stands in line, until it is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Turns {
    /// Waits for the writes before it, and begins one.
    pub(super) async fn begin(&self, store: &Store) -> Result<Turn, StoreError> {
        let waiting = Waiting::begin(&self.waiting);
        let mut group = Arc::clone(&self.group).lock_owned().await;
        drop(waiting);
        if group.is_some() {
            // In a task of its own, since whoever waits here may go away in the middle of a statement.
            let age_max = self.age_max;
            let joining = tokio::spawn(async move {
                join(&mut group, age_max).await;
                group
            });
            group = joining.await.map_err(|_| StoreError::Busy)?;
        }
        if group.is_none() {
            *group = Some(Group {
                tx: store.write().await?,
                done: Vec::new(),
                since: Instant::now(),
                has_savepoint: false,
                is_torn: true,
            });
        }
        let turns = self.clone();
        Ok(Turn { group, turns })
    }

    /// Commits what is open, once everybody who stands in line now had a turn.
    fn commit_behind(&self) {
        let group = Arc::clone(&self.group);
        tokio::spawn(async move {
            // Held until all is told, so that no later write overtakes it.
            let mut group = group.lock_owned().await;
            commit(group.take()).await;
        });
    }
}

impl Waiting {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turn {
    /// Waits until the write is durable, by a commit of its own or one that it shares; then `after` is called, before
    /// whatever later writes have to say.
    pub(crate) async fn finish(mut self, after: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let is_first = self.group().done.is_empty();
        if is_first && self.turns.waiting.load(Ordering::Relaxed) == 0 {
            if let Some(group) = self.group.take() {
                group.tx.commit().await?;
            }
            after();
            return Ok(());
        }
        if is_first {
            self.turns.commit_behind();
        }
        let (reply, committed) = oneshot::channel();
        let group = self.group();
        group.is_torn = false;
        group.done.push(Done {
            after: Box::new(after),
            reply,
        });
        drop(self);
        committed.await.unwrap_or(Err(StoreError::Busy))
    }

    fn group(&mut self) -> &mut Group {
        self.group.as_mut().expect("a turn has a transaction")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A first turn that was not finished leaves nothing to commit, and nobody who would roll it back.
        if self.group.as_ref().is_some_and(|group| group.done.is_empty()) {
            *self.group = None;
        }
    }
}

impl Deref for Turn {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.group.as_ref().expect("a turn has a transaction").tx
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.group().tx
    }
}

/// Makes an open transaction ready for one more write, or ends it.
async fn join(slot: &mut Option<Group>, age_max: Duration) {
    let Some(mut group) = slot.take() else { return };
    let is_full = group.done.len() >= WRITES_MAX || group.since.elapsed() > age_max;
    if is_full {
        return commit(Some(group)).await;
    }
    let statement = match (group.is_torn, group.has_savepoint) {
        (true, _) => UNDO,
        (false, true) => NEXT,
        (false, false) => BEGIN,
    };
    match execute(&mut group.tx, statement).await {
        Ok(()) => {
            group.has_savepoint = true;
            group.is_torn = true;
            *slot = Some(group);
        }
        Err(error) => tell(group.done, &Err(error)),
    }
}

/// Makes what the turns of a transaction have written durable, and tells them.
async fn commit(group: Option<Group>) {
    let Some(mut group) = group else { return };
    let undone = match group.is_torn {
        true => execute(&mut group.tx, UNDO).await,
        false => Ok(()),
    };
    let committed = match undone {
        Ok(()) => group.tx.commit().await,
        Err(error) => Err(error),
    };
    tell(group.done, &committed);
}

fn tell(done: Vec<Done>, committed: &Result<(), StoreError>) {
    for Done { after, reply } in done {
        let answer = match committed {
            Ok(()) => {
                after();
                Ok(())
            }
            Err(error) => Err(error.shared()),
        };
        // Nobody may wait any more.
        let _ = reply.send(answer);
    }
}

async fn execute(conn: &mut Conn, statement: &'static str) -> Result<(), StoreError> {
    sqlx::raw_sql(statement).execute(conn).await?;
    Ok(())
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("done", &self.done.len()).finish()
    }
}

#[cfg(test)]
mod tests;
