//! Shutting a node out: one write, and then everything it still has open is cut, and those that saw it are told.

use std::collections::BTreeSet;

use api::nodes::Node;
use types::{Generation, NodeId, NodePublicKey, NodeStatus};

use super::nodes::{self, Change};
use super::{Actor, App, AppError};
use crate::store::{self, Conn};

/// A node that was shut out, and the nodes that saw it. After the commit it must be [carried out](Departure::carry_out).
#[must_use]
#[derive(Debug)]
pub(crate) struct Departure {
    /// The node, as it was before.
    pub(crate) node: Node,
    /// What is new with it; nothing when it was out before.
    news: Option<News>,
}

#[derive(Debug)]
struct News {
    /// The first netmaps without it.
    generation: Generation,
    circle: BTreeSet<NodeId>,
    platform: Option<NodeId>,
    /// The key that the node had before, if it was still taken.
    previous_key: Option<NodePublicKey>,
}

impl Departure {
    /// One of a node that was out before: whatever it may have open is cut once more.
    pub(crate) fn again(node: Node) -> Self {
        Self { node, news: None }
    }

    /// Shuts a node out within a write; `None` when it was out before.
    pub(crate) async fn write(
        app: &App,
        conn: &mut Conn,
        actor: Actor,
        (node, change): (&Node, Change),
    ) -> Result<Option<Self>, AppError> {
        // Before the write, after which nobody sees it.
        let circle = app.reaches.within(conn, node.org_id).await?.circle(node.id);
        if !store::nodes::revoke(conn, node.org_id, node.id, app.clock.wall()).await? {
            return Ok(None);
        }
        nodes::record(app, conn, actor, node, change).await?;
        let platform = store::nodes::platform(conn, node.org_id).await?;
        let overlap = store::node_keys::overlap(conn, node.id).await?;
        let news = News {
            generation: store::orgs::raise_topology(conn, node.org_id).await?,
            circle,
            platform: platform.map(|row| row.node.id),
            previous_key: overlap.map(|(key, _)| key),
        };
        Ok(Some(Self {
            node: node.clone(),
            news: Some(news),
        }))
    }

    /// Cuts what the node still has open. When this returns, its sessions with the platform are gone and its control stream
    /// is closed.
    pub(crate) async fn carry_out(&self, app: &App) {
        app.hub.begin_revoke(self.node.id);
        // First those that saw it: the goodbye to a node that does not read takes a while.
        if let Some(news) = &self.news {
            news.spread(app, &self.node);
        }
        app.platform.expel(self.node.public_key).await;
        let previous_key = self.news.as_ref().and_then(|news| news.previous_key);
        for key in [Some(self.node.public_key), previous_key].into_iter().flatten() {
            app.expel_from_relays(self.node.org_id, key).await;
        }
        if let Some(news) = &self.news {
            confirm(app, &self.node, news.platform, news.generation);
        }
        app.hub.revoke(self.node.id).await;
    }
}

impl News {
    fn spread(&self, app: &App, node: &Node) {
        let now = app.clock.now().mono;
        let revoked = (node.org_id, node.id);
        app.cut_offs.begin(revoked, self.generation, &self.circle, now);
        // Whoever answered between the commit and the beginning of the count.
        let early = app.hub.applied(&self.circle, self.generation);
        confirm(app, node, early, self.generation);
        app.hub.changed(&self.circle, self.generation);
    }
}

fn confirm(app: &App, node: &Node, by: impl IntoIterator<Item = NodeId>, generation: Generation) {
    let now = app.clock.now().mono;
    for peer in by {
        app.cut_offs.confirm(node.org_id, peer, generation, now);
    }
}

/// Fills in how far the revocation of a node has come, if it is revoked.
pub(super) fn show(app: &App, node: &mut Node) {
    if node.status == NodeStatus::Revoked {
        node.cut_off = app.cut_offs.show(node.id, &app.hub);
    }
}
