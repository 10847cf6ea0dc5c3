//! Which nodes came, went or became different between two evaluations of one policy. What a packet filter says of all
//! others is as it was, so that two filters differ by what they say of these alone.

use std::collections::BTreeSet;

use super::{Evaluation, Set, Subject};
use crate::filter::PacketFilter;
use crate::ids::NodeId;

/// The nodes that are not as they were.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes(BTreeSet<NodeId>);

impl Changes {
    /// Tells whether a node is among them: then all of its filter may be different.
    #[must_use]
    pub fn include(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }
}

impl Evaluation {
    /// Says which nodes are not as they were in an earlier evaluation; `None` when that was of another policy.
    #[must_use]
    pub fn changes_since(&self, earlier: &Self) -> Option<Changes> {
        let (now, before) = (&self.policy, &earlier.policy);
        if (&now.groups, &now.grants) != (&before.groups, &before.grants) {
            return None;
        }
        let differs = |node: &&Subject, other: &Self| other.subject(node.id) != Some(*node);
        let here = self.nodes.iter().filter(|node| differs(node, earlier));
        let gone = earlier.nodes.iter().filter(|node| differs(node, self));
        Some(Changes(here.chain(gone).map(|node| node.id).collect()))
    }

    /// Returns what the filter of a node says of the changed ones and of everybody, canonical.
    #[must_use]
    pub fn filter_among(&self, node: NodeId, changes: &Changes) -> PacketFilter {
        let mut among = Set::empty(self.nodes.len());
        for number in changes.0.iter().filter_map(|id| self.numbers.get(id)) {
            among.insert(*number);
        }
        self.filter_of(node, Some(&among))
    }

    fn subject(&self, node: NodeId) -> Option<&Subject> {
        self.numbers.get(&node).map(|number| &self.nodes[*number])
    }
}
