//! Shutting a node out: one write, and then everything it still has open is cut, and those that saw it are told.

use std::collections::BTreeSet;

use api::nodes::Node;
use types::NodeId;

use super::nodes::{self, Change};
use super::{Actor, App, AppError};
use crate::store::{self, Conn};

/// A node that was shut out, and the nodes that saw it. After the commit it must be [carried out](Departure::carry_out).
#[must_use]
#[derive(Debug)]
pub(crate) struct Departure {
    /// The node, as it was before.
    pub(crate) node: Node,
    circle: BTreeSet<NodeId>,
}

impl Departure {
    /// One of a node that was out before: whatever it may have open is cut once more.
    pub(crate) fn again(node: Node) -> Self {
        Self {
            node,
            circle: BTreeSet::new(),
        }
    }

    /// Shuts a node out within a write; `None` when it was out before.
    pub(crate) async fn write(
        app: &App,
        conn: &mut Conn,
        actor: Actor,
        (node, change): (&Node, Change),
    ) -> Result<Option<Self>, AppError> {
        // Before the write, after which nobody sees it.
        let circle = app.reaches.of(conn, node.org_id).await?.circle(node.id);
        if !store::nodes::revoke(conn, node.org_id, node.id, app.clock.wall()).await? {
            return Ok(None);
        }
        nodes::record(app, conn, actor, node, change).await?;
        store::orgs::raise_topology(conn, node.org_id).await?;
        Ok(Some(Self {
            node: node.clone(),
            circle,
        }))
    }

    /// Cuts what the node still has open. When this returns, its sessions with the platform are gone and its control stream
    /// is closed.
    pub(crate) async fn carry_out(&self, app: &App) {
        app.platform.expel(self.node.public_key).await;
        app.relays.expel(self.node.public_key).await;
        app.hub.revoke(self.node.id).await;
        app.hub.changed(&self.circle);
    }
}
