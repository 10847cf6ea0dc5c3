//! Who is connected: wakes control streams when their netmap may have changed, and closes those of revoked nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::nodes::Node;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::{Generation, NodeId, OrgId};

/// How long a revocation waits for the node's control stream to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How often it is looked whether every stream has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// The streams of this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hub(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    streams: BTreeMap<NodeId, Ends>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Ends {
    number: u64,
    org: OrgId,
    changes: watch::Sender<Generation>,
    replaced: CancellationToken,
    revoked: CancellationToken,
    expired: CancellationToken,
    closed: CancellationToken,
    /// Up to which generation the node has said that all is in force.
    applied: Option<Generation>,
}

/// One node's control stream, from hello to end.
#[derive(Debug)]
pub(crate) struct Attendance {
    hub: Hub,
    node: NodeId,
    ends: Ends,
    /// Changes whenever the node's netmap may have; holds the committed generation of the org that is newest of those told.
    pub(crate) changes: watch::Receiver<Generation>,
}

impl Hub {
    /// Says that a committed generation may have changed the netmaps of these nodes. In an org of thousands all others are
    /// left alone.
    pub(crate) fn changed(&self, nodes: &BTreeSet<NodeId>, generation: Generation) {
        let inner = self.lock();
        for ends in nodes.iter().filter_map(|node| inner.streams.get(node)) {
            ends.tell(generation);
        }
    }

    /// Says that a committed generation may have changed every netmap of an org.
    pub(crate) fn changed_org(&self, org: OrgId, generation: Generation) {
        let inner = self.lock();
        for ends in inner.streams.values().filter(|ends| ends.org == org) {
            ends.tell(generation);
        }
    }

    /// Takes a node's stream in; an older one of the same node is told to end.
    pub(crate) fn attend(&self, node: &Node) -> Attendance {
        let org = node.org_id;
        let node = node.id;
        let mut inner = self.lock();
        inner.next += 1;
        let ends = Ends {
            number: inner.next,
            org,
            changes: watch::Sender::new(Generation::default()),
            replaced: CancellationToken::new(),
            revoked: CancellationToken::new(),
            expired: CancellationToken::new(),
            closed: CancellationToken::new(),
            applied: None,
        };
        if let Some(older) = inner.streams.insert(node, ends.clone()) {
            older.replaced.cancel();
        }
        let changes = ends.changes.subscribe();
        Attendance {
            hub: self.clone(),
            node,
            ends,
            changes,
        }
    }

    /// Counts those of the nodes that have no stream.
    pub(crate) fn absent(&self, nodes: &BTreeSet<NodeId>) -> usize {
        let inner = self.lock();
        let absent = nodes.iter().filter(|node| !inner.streams.contains_key(node));
        absent.count()
    }

    /// Returns those of the nodes that have said that this generation, or a newer one, is in force.
    pub(crate) fn applied(&self, nodes: &BTreeSet<NodeId>, generation: Generation) -> Vec<NodeId> {
        let inner = self.lock();
        let has = |node: &&NodeId| {
            let ends = inner.streams.get(node);
            ends.is_some_and(|ends| ends.applied >= Some(generation))
        };
        nodes.iter().filter(has).copied().collect()
    }

    /// Says to the stream of a node that was revoked that it must end: from now on [`Attendance::is_in`] denies it.
    pub(crate) fn begin_revoke(&self, node: NodeId) {
        self.begin_close(node, |ends| &ends.revoked);
    }

    /// Says to the stream of a node whose key has expired that it must end: from now on [`Attendance::is_in`] denies it.
    pub(crate) fn begin_expire(&self, node: NodeId) {
        self.begin_close(node, |ends| &ends.expired);
    }

    /// Closes the stream of a node that was revoked, and waits until it is closed.
    pub(crate) async fn revoke(&self, node: NodeId) {
        self.close(node, |ends| &ends.revoked).await;
    }

    /// Closes the stream of a node whose key has expired, and waits until it is closed.
    pub(crate) async fn expire(&self, node: NodeId) {
        self.close(node, |ends| &ends.expired).await;
    }

    fn begin_close(&self, node: NodeId, why: impl FnOnce(&Ends) -> &CancellationToken) -> Option<Ends> {
        let ends = self.lock().streams.get(&node).cloned()?;
        why(&ends).cancel();
        Some(ends)
    }

    async fn close(&self, node: NodeId, why: impl FnOnce(&Ends) -> &CancellationToken) {
        let Some(ends) = self.begin_close(node, why) else {
            return;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, ends.closed.cancelled())
            .await
            .is_err()
        {
            tracing::error!(%node, "the control stream of a node that was shut out is not closed yet");
        }
    }

    /// Tells every stream to end, since the server stops.
    pub(crate) fn close_all(&self) {
        for ends in self.lock().streams.values() {
            ends.replaced.cancel();
        }
    }

    /// Waits until every stream has ended, at most three seconds.
    pub(crate) async fn drained(&self) {
        let deadline = tokio::time::Instant::now() + CLOSE_TIMEOUT;
        while !self.lock().streams.is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ends {
    fn tell(&self, generation: Generation) {
        self.changes.send_modify(|told| *told = generation.max(*told));
    }
}

impl Attendance {
    /// Ends when a newer stream of the node has taken its place, or the server stops.
    pub(crate) async fn replaced(&self) {
        self.ends.replaced.cancelled().await;
    }

    /// Ends when the node was revoked.
    pub(crate) async fn revoked(&self) {
        self.ends.revoked.cancelled().await;
    }

    /// Ends when the node's key has expired.
    pub(crate) async fn expired(&self) {
        self.ends.expired.cancelled().await;
    }

    /// Tells whether nothing has cut in: the stream is the node's newest, and the node is not shut out.
    pub(crate) fn is_in(&self) -> bool {
        let cuts = [&self.ends.replaced, &self.ends.revoked, &self.ends.expired];
        cuts.iter().all(|cut| !cut.is_cancelled())
    }

    /// Takes note that the node has everything up to this generation in force.
    pub(crate) fn applied(&self, generation: Generation) {
        let mut inner = self.hub.lock();
        if let Some(ends) = inner.streams.get_mut(&self.node)
            && ends.number == self.ends.number
        {
            ends.applied = ends.applied.max(Some(generation));
        }
    }

    /// Tells whether no newer stream of the node has taken its place.
    pub(crate) fn is_current(&self) -> bool {
        let inner = self.hub.lock();
        inner
            .streams
            .get(&self.node)
            .is_some_and(|ends| ends.number == self.ends.number)
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.ends.closed.cancel();
        let mut inner = self.hub.lock();
        if inner
            .streams
            .get(&self.node)
            .is_some_and(|ends| ends.number == self.ends.number)
        {
            inner.streams.remove(&self.node);
        }
    }
}
