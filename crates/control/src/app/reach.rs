//! What an org's policy means for its nodes, worked out once for all the netmaps that follow from it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use types::policy::{Changes, NodeKeyRules};
use types::{AllowedIp, Evaluation, NodeId, NodeKind, OrgId, Policy, Subject, UserId};

use super::{App, Caller};
use crate::store::nodes::{NodeRow, Sight};
use crate::store::{self, Conn, StoreError};

/// How many orgs are kept worked out: those whose nodes were last asked for.
const KEPT_MAX: usize = 64;

/// How many earlier topologies an org is held against at once: nodes that were away catch up from several.
const CHANGES_MAX: usize = 16;

/// One org's policy, applied to its nodes as they were at one moment.
#[derive(Debug)]
pub(crate) struct Reach {
    topology: u64,
    pub(crate) evaluation: Evaluation,
    /// What the policy says of keys.
    pub(crate) node_keys: NodeKeyRules,
    /// By topology, the last asked for first: who is not as in an earlier one.
    changes: Mutex<VecDeque<(u64, Option<Arc<Changes>>)>>,
}

/// Every org that was asked for lately.
#[derive(Debug, Default)]
pub(crate) struct Reaches {
    kept: Mutex<VecDeque<(OrgId, Arc<Reach>)>>,
    /// Ten thousand streams that are woken at once have it worked out once.
    working: tokio::sync::Mutex<()>,
}

impl Reaches {
    /// Returns what the org's policy means now. Within a write it must be asked before anything is changed: what is worked
    /// out is kept for everybody.
    pub(crate) async fn of(&self, conn: &mut Conn, org: OrgId) -> Result<Arc<Reach>, StoreError> {
        let topology = store::orgs::topology(conn, org).await?;
        if let Some(known) = self.known(org, topology) {
            return Ok(known);
        }
        let _turn = self.working.lock().await;
        if let Some(known) = self.known(org, topology) {
            return Ok(known);
        }
        let rows = store::nodes::in_org(conn, org).await?;
        let reach = Arc::new(Reach::work_out(conn, org, topology, &rows).await?);
        // What was read while it changed is of no one moment: it serves who asked, and nobody else.
        if store::orgs::topology(conn, org).await? == topology {
            self.keep(org, &reach);
        }
        Ok(reach)
    }

    /// Returns what the policy means to exactly the nodes of this topology, if that was worked out.
    pub(crate) fn exactly(&self, org: OrgId, topology: u64) -> Option<Arc<Reach>> {
        self.known(org, topology)
            .filter(|reach| reach.topology == topology)
    }

    /// Keeps what was worked out from what is committed, exactly as it was at its topology.
    pub(crate) fn keep(&self, org: OrgId, reach: &Arc<Reach>) {
        let mut kept = self.kept();
        let is_known =
            |(known, other): &(OrgId, Arc<Reach>)| *known == org && other.topology >= reach.topology;
        if kept.iter().any(is_known) {
            return;
        }
        kept.retain(|(known, _)| *known != org);
        kept.truncate(KEPT_MAX - 1);
        kept.push_front((org, Arc::clone(reach)));
    }

    /// The same within a write that may have changed something already: what is worked out from it is kept for nobody,
    /// since the write may yet be taken back.
    pub(crate) async fn within(&self, conn: &mut Conn, org: OrgId) -> Result<Arc<Reach>, StoreError> {
        let topology = store::orgs::topology(conn, org).await?;
        match self.known(org, topology) {
            Some(known) => Ok(known),
            None => {
                let rows = store::nodes::in_org(conn, org).await?;
                Ok(Arc::new(Reach::work_out(conn, org, topology, &rows).await?))
            }
        }
    }

    fn known(&self, org: OrgId, topology: u64) -> Option<Arc<Reach>> {
        let mut kept = self.kept();
        let at = kept
            .iter()
            .position(|(known, reach)| *known == org && reach.topology >= topology)?;
        let found = kept.remove(at)?;
        let reach = Arc::clone(&found.1);
        kept.push_front(found);
        Some(reach)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(OrgId, Arc<Reach>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reach {
    /// Works it out anew, from the nodes of an org and the policy that a connection sees.
    pub(crate) async fn work_out(
        conn: &mut Conn,
        org: OrgId,
        topology: u64,
        rows: &[NodeRow],
    ) -> Result<Self, StoreError> {
        let policy = in_force(conn, org).await?;
        let evaluation = Evaluation::new(&policy, rows.iter().map(subject).collect());
        Ok(Self {
            topology,
            evaluation,
            node_keys: policy.node_keys,
            changes: Mutex::default(),
        })
    }

    /// Says which nodes are not as they were at an earlier topology, worked out once for all who ask; `None` when the policy
    /// was another.
    pub(crate) fn changes_since(&self, earlier: &Self) -> Option<Arc<Changes>> {
        let mut known = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, changes)) = known.iter().find(|(topology, _)| *topology == earlier.topology) {
            return changes.clone();
        }
        let changes = self.evaluation.changes_since(&earlier.evaluation).map(Arc::new);
        known.truncate(CHANGES_MAX - 1);
        known.push_front((earlier.topology, changes.clone()));
        changes
    }

    /// Returns every node that sees this one, and the node itself.
    pub(crate) fn circle(&self, node: NodeId) -> BTreeSet<NodeId> {
        let mut circle = self.evaluation.seers(node);
        circle.insert(node);
        circle
    }

    /// Returns what a person sees: what their nodes may reach beside their own.
    pub(crate) fn sight(&self, person: UserId) -> Sight {
        let nodes = self.evaluation.nodes();
        let own = nodes.iter().filter(|node| node.owner == Some(person));
        let reached = own.flat_map(|node| self.evaluation.reached_by(node.id));
        let reached = reached.map(|number| &nodes[number]);
        Sight {
            person,
            reached: reached
                .filter(|node| node.owner != Some(person))
                .map(|node| node.id)
                .collect(),
        }
    }
}

/// Returns what a caller sees; `None` for all of the org.
pub(crate) async fn sight(app: &App, conn: &mut Conn, caller: &Caller) -> Result<Sight, StoreError> {
    Ok(app.reaches.of(conn, caller.org).await?.sight(caller.user))
}

/// Returns the policy of an org as it is stored, or the standard one.
pub(crate) async fn in_force(conn: &mut Conn, org: OrgId) -> Result<Policy, StoreError> {
    let column = "document";
    match store::policies::find(conn, org).await? {
        Some(row) => Policy::parse(&row.document).map_err(|_| StoreError::Unreadable { column }),
        None => Ok(Policy::standard()),
    }
}

/// What a policy knows of a node.
pub(crate) fn subject(row: &NodeRow) -> Subject {
    Subject {
        id: row.node.id,
        name: Some(row.name.clone()),
        kind: row.node.kind,
        tags: row.node.tags.iter().filter_map(|tag| tag.parse().ok()).collect(),
        owner: row.node.owner_user_id,
        blocks: blocks(row),
    }
}

/// The addresses that a node sends from. IPv4 addresses repeat between orgs, so that the platform, which is in all of
/// them, has IPv6 only.
pub(crate) fn blocks(row: &NodeRow) -> Vec<AllowedIp> {
    let ip6 = AllowedIp::host(row.node.mesh_ip6.into());
    if row.node.kind == NodeKind::Platform {
        return vec![ip6];
    }
    vec![AllowedIp::host(row.node.mesh_ip4.into()), ip6]
}

#[cfg(test)]
mod tests {
    use types::{OrgId, SigningPrivateKey, Timestamp};

    use super::*;
    use crate::store::Store;
    use crate::store::orgs::OrgRow;

    #[tokio::test]
    async fn what_was_worked_out_is_kept_until_it_means_something_else_or_others_come() {
        let dir = tempfile::TempDir::new().expect("temporary directory");
        let store = Store::open_sqlite(dir.path(), None).await.expect("SQLite");
        let org = |number: usize| OrgId::from_random([u8::try_from(number).expect("few"); 16]);
        let mut tx = store.write().await.expect("a write");
        for number in 0..=KEPT_MAX {
            let row = OrgRow {
                id: org(number),
                name: format!("org-{number}").parse().expect("a label"),
                signing_key: SigningPrivateKey::from_random([1; 32]),
                created_at: Timestamp::from_unix_ms(1),
            };
            store::orgs::insert(&mut tx, &row).await.expect("inserted");
        }
        let reaches = Reaches::default();
        let first = reaches.of(&mut tx, org(0)).await.expect("worked out");
        let again = reaches.of(&mut tx, org(0)).await.expect("kept");
        assert!(Arc::ptr_eq(&first, &again));
        store::orgs::raise_topology(&mut tx, org(0))
            .await
            .expect("raised");
        let changed = reaches.of(&mut tx, org(0)).await.expect("worked out");
        assert!(!Arc::ptr_eq(&first, &changed));
        for number in 1..=KEPT_MAX {
            reaches.of(&mut tx, org(number)).await.expect("worked out");
        }
        assert_eq!(reaches.kept().len(), KEPT_MAX);
        assert!(reaches.known(org(0), 0).is_none(), "it was asked for longest ago");
        assert!(reaches.known(org(1), 0).is_some());
    }
}
