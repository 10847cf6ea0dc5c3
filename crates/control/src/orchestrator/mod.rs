//! The orchestrator: pushes runs to sidecars over sessions inside the mesh, and takes their events.
//!
//! What becomes of a run is decided by `runs::dispatch` (pure); [`dispatch`] applies a decision in one write and sends
//! its messages after the commit; [`session`] speaks with one sidecar; [`reconcile`] lets time pass. Who may start or
//! stop a run is `app`'s business.

pub(crate) mod dispatch;
pub(crate) mod doubt;
pub(crate) mod history;
pub(crate) mod listen;
mod live_budget;
pub(crate) mod reconcile;
pub(crate) mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use net::mesh_net::ListenError;
use runs::protocol::{ORCHESTRATOR_PORT, ToSidecar};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use types::NodeId;

use crate::app::App;

/// Starts to listen on every org's platform address and to let time pass for runs, until `stop`.
pub(crate) async fn start(app: &Arc<App>, stop: &CancellationToken) -> Result<(), ListenError> {
    let listener = app.platform.listen(ORCHESTRATOR_PORT).await?;
    tokio::spawn(listen::run(Arc::clone(app), listener, stop.clone()));
    tokio::spawn(reconcile::run(Arc::clone(app), stop.clone()));
    Ok(())
}

/// How many messages may wait for one sidecar; more close its session, and it starts over.
const OUT_MAX: usize = 1024;

/// The sessions that are up.
#[derive(Debug, Default)]
pub(crate) struct Orchestrator {
    sessions: Mutex<BTreeMap<NodeId, Entry>>,
    poke: Notify,
    numbers: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    session: SessionId,
    out: mpsc::Sender<ToSidecar>,
    close: CancellationToken,
    /// How many runs the device says that it takes at a time.
    places: Option<u32>,
    /// The number that proves that the sidecar is there, while that is in doubt.
    doubt: Option<u64>,
}

/// Tells one session of a node from its next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SessionId(u64);

impl Orchestrator {
    /// Makes a session the node's only one; an older one is closed. Returns what the writer task takes from.
    fn open(
        &self,
        node: NodeId,
        session: SessionId,
        places: Option<u32>,
        close: CancellationToken,
    ) -> mpsc::Receiver<ToSidecar> {
        let (out, queue) = mpsc::channel(OUT_MAX);
        let entry = Entry {
            session,
            out,
            close,
            places,
            doubt: None,
        };
        if let Some(older) = self.lock().insert(node, entry) {
            older.close.cancel();
        }
        queue
    }

    fn next_session(&self) -> SessionId {
        SessionId(self.next_number())
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Forgets a session; false when a newer one took its place.
    fn close(&self, node: NodeId, session: SessionId) -> bool {
        let mut sessions = self.lock();
        let is_current = sessions.get(&node).is_some_and(|entry| entry.session == session);
        if is_current {
            sessions.remove(&node);
        }
        is_current
    }

    /// Tells whether a session is the node's present one.
    fn is_current(&self, node: NodeId, session: SessionId) -> bool {
        self.lock()
            .get(&node)
            .is_some_and(|entry| entry.session == session)
    }

    /// Tells whether a node's sidecar is connected, beyond doubt ([`doubt`]).
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.lock().get(&node).is_some_and(|entry| entry.doubt.is_none())
    }

    /// Returns how many runs a device takes at a time, if it is connected and said so.
    fn places(&self, node: NodeId) -> Option<u32> {
        self.lock().get(&node).and_then(|entry| entry.places)
    }

    /// Notes how many runs a device takes at a time; true when that is news.
    fn set_places(&self, node: NodeId, session: SessionId, places: u32) -> bool {
        let mut sessions = self.lock();
        let entry = sessions.get_mut(&node).filter(|entry| entry.session == session);
        entry.is_some_and(|entry| entry.places.replace(places) != Some(places))
    }

    /// Queues a message; a sidecar that does not read loses its session.
    fn send(&self, node: NodeId, message: ToSidecar) {
        if let Some(entry) = self.lock().get(&node)
            && entry.out.try_send(message).is_err()
        {
            tracing::warn!(%node, "a sidecar does not take its messages; closing its session");
            entry.close.cancel();
        }
    }

    /// Closes a node's session, if it has one: it does not answer, or it was shut out.
    pub(crate) fn disconnect(&self, node: NodeId) {
        if let Some(entry) = self.lock().get(&node) {
            entry.close.cancel();
        }
    }

    /// Lets the reconciler run now instead of at its next tick.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Entry>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
