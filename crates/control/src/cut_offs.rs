//! How far each revocation has come: which nodes must drop the revoked one, and which have said that they did.
//!
//! A record of this process, not of the store: after a restart the older revocations have no count, and hold nevertheless.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::nodes::CutOff;
use tokio::sync::watch;
use types::{Generation, Monotonic, NodeId, OrgId};

use crate::hub::Hub;

/// How many revocations are counted; the oldest are given up first.
const KEPT_MAX: usize = 1024;

/// How many answers may be waited for in all of them; the oldest revocations are given up first, the newest never.
const WAITING_MAX: usize = 100_000;

/// How long a revocation waits for the nodes that are there.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// The revocations of this process.
#[derive(Debug, Default)]
pub(crate) struct CutOffs {
    tallies: Mutex<VecDeque<Tally>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Tally {
    node: NodeId,
    org: OrgId,
    /// The first netmaps without the node.
    generation: Generation,
    begun: Monotonic,
    /// From the beginning to the last answer.
    took: Duration,
    confirmed: usize,
    waiting: BTreeSet<NodeId>,
}

impl CutOffs {
    /// Begins to count for a node that netmaps from `generation` on do not name, and that `circle` saw until then.
    pub(crate) fn begin(
        &self,
        (org, node): (OrgId, NodeId),
        generation: Generation,
        circle: &BTreeSet<NodeId>,
        now: Monotonic,
    ) {
        let mut tallies = self.lock();
        for tally in tallies.iter_mut() {
            // It is out itself, and answers nobody any more.
            tally.waiting.remove(&node);
        }
        tallies.retain(|tally| tally.node != node);
        let mut waiting = circle.clone();
        waiting.remove(&node);
        tallies.push_back(Tally {
            node,
            org,
            generation,
            begun: now,
            took: Duration::ZERO,
            confirmed: 0,
            waiting,
        });
        let mut awaited: usize = tallies.iter().map(|tally| tally.waiting.len()).sum();
        while tallies.len() > 1 && (tallies.len() > KEPT_MAX || awaited > WAITING_MAX) {
            awaited -= tallies.pop_front().map_or(0, |tally| tally.waiting.len());
        }
        drop(tallies);
        self.tell();
    }

    /// Takes note that a node has the netmap of `generation`, or a newer one, in force.
    pub(crate) fn confirm(&self, org: OrgId, node: NodeId, generation: Generation, now: Monotonic) {
        let mut is_news = false;
        for tally in self.lock().iter_mut() {
            let concerns = tally.org == org && tally.generation <= generation;
            if concerns && tally.waiting.remove(&node) {
                tally.confirmed += 1;
                tally.took = now.since(tally.begun);
                is_news = true;
            }
        }
        if is_news {
            self.tell();
        }
    }

    /// Returns how far the revocation of a node has come; `None` when it is not counted, or no longer.
    pub(crate) fn show(&self, node: NodeId, hub: &Hub) -> Option<CutOff> {
        let tallies = self.lock();
        let tally = tallies.iter().find(|tally| tally.node == node)?;
        Some(CutOff {
            nodes: (tally.confirmed + tally.waiting.len()) as u64,
            confirmed: tally.confirmed as u64,
            offline: hub.absent(&tally.waiting) as u64,
            elapsed_ms: u64::try_from(tally.took.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Waits until every node that is there has answered, at most two seconds.
    pub(crate) async fn settled(&self, node: NodeId, hub: &Hub) {
        let mut changes = self.changes.subscribe();
        let all = async {
            while self
                .show(node, hub)
                .is_some_and(|so_far| so_far.confirmed + so_far.offline < so_far.nodes)
            {
                // The sender lives as long as `self`.
                let _ = changes.changed().await;
            }
        };
        if tokio::time::timeout(SETTLE_MAX, all).await.is_err() {
            tracing::info!(%node, "not every node has said yet that it dropped a revoked one");
        }
    }

    fn tell(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org() -> OrgId {
        OrgId::from_random([9; 16])
    }

    fn node(number: usize) -> NodeId {
        let mut bytes = [0; 16];
        let number = u32::try_from(number).expect("few");
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        NodeId::from_random(bytes)
    }

    fn nodes(numbers: std::ops::Range<usize>) -> BTreeSet<NodeId> {
        numbers.map(node).collect()
    }

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_millis(ms))
    }

    fn shown(cut_offs: &CutOffs, number: usize) -> (u64, u64, u64) {
        let shown = cut_offs
            .show(node(number), &Hub::default())
            .expect("it is counted");
        (shown.nodes, shown.confirmed, shown.elapsed_ms)
    }

    #[test]
    fn each_node_counts_once_when_it_has_a_netmap_without_the_revoked_one() {
        let cut_offs = CutOffs::default();
        cut_offs.begin((org(), node(0)), Generation(7), &nodes(0..4), at(100));
        assert_eq!(shown(&cut_offs, 0), (3, 0, 0), "it is not asked itself");
        cut_offs.confirm(org(), node(1), Generation(6), at(110));
        cut_offs.confirm(OrgId::from_random([8; 16]), node(1), Generation(7), at(110));
        cut_offs.confirm(org(), node(4), Generation(7), at(110));
        assert_eq!(shown(&cut_offs, 0), (3, 0, 0));
        cut_offs.confirm(org(), node(1), Generation(7), at(120));
        cut_offs.confirm(org(), node(2), Generation(9), at(130));
        cut_offs.confirm(org(), node(1), Generation(9), at(140));
        assert_eq!(shown(&cut_offs, 0), (3, 2, 30));
        assert_eq!(cut_offs.show(node(1), &Hub::default()), None);
    }

    #[test]
    fn a_node_that_is_revoked_itself_is_waited_for_no_longer() {
        let cut_offs = CutOffs::default();
        cut_offs.begin((org(), node(0)), Generation(7), &nodes(0..4), at(0));
        cut_offs.confirm(org(), node(1), Generation(7), at(10));
        cut_offs.begin((org(), node(1)), Generation(8), &nodes(1..4), at(20));
        cut_offs.begin((org(), node(2)), Generation(9), &nodes(2..4), at(20));
        assert_eq!(shown(&cut_offs, 0), (2, 1, 10));
        assert_eq!(shown(&cut_offs, 1), (1, 0, 0));
        cut_offs.confirm(org(), node(3), Generation(9), at(30));
        assert_eq!(shown(&cut_offs, 0), (2, 2, 30));
        assert_eq!(shown(&cut_offs, 2), (1, 1, 10));
    }

    #[test]
    fn the_oldest_are_given_up_when_there_are_too_many() {
        let cut_offs = CutOffs::default();
        for number in 0..=KEPT_MAX {
            cut_offs.begin((org(), node(number)), Generation(1), &BTreeSet::new(), at(0));
        }
        assert_eq!(cut_offs.show(node(0), &Hub::default()), None);
        assert_eq!(shown(&cut_offs, 1), (0, 0, 0));
        assert_eq!(cut_offs.lock().len(), KEPT_MAX);

        let many = nodes(10_000..10_000 + WAITING_MAX + 1);
        cut_offs.begin((org(), node(5_000)), Generation(1), &many, at(0));
        assert_eq!(cut_offs.lock().len(), 1, "the newest is kept, whatever it takes");
        cut_offs.begin((org(), node(5_001)), Generation(1), &nodes(0..2), at(0));
        assert_eq!(cut_offs.lock().len(), 1);
        assert_eq!(shown(&cut_offs, 5_001), (2, 0, 0));
    }
}
