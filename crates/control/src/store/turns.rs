//! Group commit: writes that wait for one another take turns in one transaction, and the disk is flushed once for all.
//!
//! A write that is done leaves the transaction open. Behind those that wait already stands a task that commits it, so
//! while one flush is under way the next group gathers, and a write that is alone is committed at once. Nobody is told
//! that a write is done before the commit that holds it; what must be told to others then is told in the order of the
//! turns. A write that fails or is given up is rolled back alone, to the savepoint it began with; when the commit itself
//! fails, none of its writes has happened, and each is told so.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
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
    age_max: Duration,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            group: Arc::default(),
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
pub(crate) struct Turn(OwnedMutexGuard<Option<Group>>);

impl Turns {
    /// Waits for the writes before it, and begins one.
    pub(super) async fn begin(&self, store: &Store) -> Result<Turn, StoreError> {
        let mut group = Arc::clone(&self.group).lock_owned().await;
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
            let turns = Arc::clone(&self.group);
            tokio::spawn(async move {
                // Held until all is told, so that no later write overtakes it.
                let mut group = turns.lock_owned().await;
                commit(group.take()).await;
            });
        }
        Ok(Turn(group))
    }
}

impl Turn {
    /// Leaves the write to the next commit and waits for it; `after` is called once it is durable, and before whatever
    /// later writes have to say.
    pub(crate) async fn finish(mut self, after: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
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
        self.0.as_mut().expect("a turn has a transaction")
    }
}

impl Deref for Turn {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.0.as_ref().expect("a turn has a transaction").tx
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
    // Whatever a first turn left behind is all that there is.
    let is_empty = group.done.is_empty();
    if is_full || is_empty {
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
    if group.done.is_empty() {
        return;
    }
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
