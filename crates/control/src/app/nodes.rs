//! Nodes: who sees which, rename, revoke, configuration.

use api::activity::{ResourceType, Severity};
use api::nodes::{Node, NodeConfig, NodesQuery, PatchNode};
use serde_json::{Map, Value, json};
use types::{NodeId, NodeKind, NodeName, NodeStatus};

use super::activity::Happening;
use super::audit::Deed;
use super::{Actor, App, AppError, Caller, Page, Window, activity, audit, netmap};
use crate::store::nodes::NodeRow;
use crate::store::{self, Conn, StoreError};

/// The longest text that nodes are searched for.
const QUERY_CHARS_MAX: usize = 128;

/// Lists the nodes that the caller can see, oldest first; with `all` (admins) every node of the org.
pub(crate) async fn list(app: &App, caller: &Caller, mut query: NodesQuery) -> Result<Page<Node>, AppError> {
    let everyone = query.all.unwrap_or(false);
    if everyone {
        caller.demand_admin()?;
    }
    if query.owner.as_deref() == Some("me") {
        query.owner = Some(caller.user.to_string());
    }
    // The database compares it with every row, and refuses a pattern that is very long.
    if query
        .q
        .as_ref()
        .is_some_and(|q| q.chars().count() > QUERY_CHARS_MAX)
    {
        let message = format!("q must be at most {QUERY_CHARS_MAX} characters");
        return Err(AppError::bad_request(message));
    }
    let window = Window::oldest_first(&query.page())?;
    let visible_to = (!everyone).then_some(caller.user);
    let mut conn = app.store.read().await?;
    let bounds = (window.key(), window.fetch());
    let rows = store::nodes::list(&mut conn, caller.org, visible_to, &query, bounds).await?;
    let rows = rows.into_iter().map(|row| row.node).collect();
    Ok(window.cut(rows, |node: &Node| {
        (node.created_at.unix_ms(), node.id.to_string())
    }))
}

/// Returns one node.
pub(crate) async fn find(app: &App, caller: &Caller, id: NodeId) -> Result<Node, AppError> {
    let mut conn = app.store.read().await?;
    Ok(visible(&mut conn, caller, id).await?.node)
}

/// Computes a node's configuration.
pub(crate) async fn config(app: &App, caller: &Caller, id: NodeId) -> Result<NodeConfig, AppError> {
    let mut conn = app.store.read().await?;
    let row = visible(&mut conn, caller, id).await?;
    if row.node.kind == NodeKind::Platform {
        return Err(AppError::forbidden(
            "the platform's own configuration is not shown",
        ));
    }
    // Nothing answers to it any more: a configuration would only look as if.
    if row.node.status == NodeStatus::Revoked {
        return Err(revoked());
    }
    let config = netmap::config(app, &mut conn, &row).await?;
    config.ok_or_else(|| AppError::not_found("node"))
}

/// Renames a node.
pub(crate) async fn rename(
    app: &App,
    caller: &Caller,
    id: NodeId,
    patch: PatchNode,
) -> Result<Node, AppError> {
    let read = |field: &str, text: Option<String>| {
        let name = text.map(|text| text.parse::<NodeName>()).transpose();
        name.map_err(|error| AppError::bad_request(format!("{field} {error}")))
    };
    let name = read("name", patch.name)?;
    let name = name.or(read("deviceLabel", patch.device_label)?);
    let name = name.ok_or_else(|| AppError::bad_request("name is missing"))?;
    let mut tx = app.store.write().await?;
    let before = own(&mut tx, caller, id).await?;
    if before.node.status == NodeStatus::Revoked {
        return Err(revoked());
    }
    if before.name == name {
        return Ok(before.node);
    }
    match store::nodes::rename(&mut tx, id, &name).await {
        Err(StoreError::Taken) => return Err(name_taken(&name)),
        other => other?,
    }
    let after = visible(&mut tx, caller, id).await?.node;
    let change = Change {
        action: "node.renamed",
        event: "runmesh.device.renamed",
        severity: Severity::Info,
        title: format!("{} is now called {name}", before.name),
        attributes: Map::from_iter([
            ("from".to_owned(), json!(before.name)),
            ("to".to_owned(), json!(name)),
        ]),
    };
    record(app, &mut tx, caller.actor(), &after, change).await?;
    store::orgs::raise_generation(&mut tx, caller.org).await?;
    tx.commit().await?;
    app.hub.changed(&after);
    Ok(after)
}

/// Shuts a node out for ever: when this returns, its sessions with the platform are cut and its control stream is
/// closed. A second time answers the same node.
pub(crate) async fn revoke(app: &App, caller: &Caller, id: NodeId) -> Result<Node, AppError> {
    let mut tx = app.store.write().await?;
    let before = own(&mut tx, caller, id).await?;
    let Some(after) = revoke_within(app, &mut tx, caller, id).await? else {
        drop(tx);
        shut_out(app, &before.node).await;
        return Ok(before.node);
    };
    tx.commit().await?;
    shut_out(app, &after).await;
    Ok(after)
}

/// Shuts a node out within a write; `None` when it was out before. After the commit it must be [`shut_out`].
pub(super) async fn revoke_within(
    app: &App,
    conn: &mut Conn,
    caller: &Caller,
    id: NodeId,
) -> Result<Option<Node>, AppError> {
    if !store::nodes::revoke(conn, caller.org, id, app.clock.wall()).await? {
        return Ok(None);
    }
    let after = visible(conn, caller, id).await?.node;
    let change = Change {
        action: "node.revoked",
        event: "runmesh.device.revoked",
        severity: Severity::Warning,
        title: format!("{} was revoked", after.name),
        attributes: Map::from_iter([("publicKey".to_owned(), json!(after.public_key))]),
    };
    record(app, conn, caller.actor(), &after, change).await?;
    store::orgs::raise_generation(conn, caller.org).await?;
    Ok(Some(after))
}

/// Cuts what a revoked node still has open, and tells those that see it; nothing happens when it has nothing.
pub(super) async fn shut_out(app: &App, node: &Node) {
    app.platform.expel(node.public_key).await;
    app.relays.expel(node.public_key).await;
    app.hub.revoke(node.id).await;
    app.hub.changed(node);
}

/// What a change of a node is called in the audit log and the activity list.
pub(crate) struct Change {
    pub(crate) action: &'static str,
    pub(crate) event: &'static str,
    pub(crate) severity: Severity,
    pub(crate) title: String,
    pub(crate) attributes: Map<String, Value>,
}

/// Writes a change of a node into the audit log and the activity list.
pub(crate) async fn record(
    app: &App,
    conn: &mut Conn,
    actor: Actor,
    node: &Node,
    change: Change,
) -> Result<(), StoreError> {
    let deed = Deed {
        action: change.action,
        target: Some(("node", node.id.to_string())),
        actor: actor.clone(),
        attributes: change.attributes.clone(),
    };
    audit::record(app, conn, node.org_id, deed).await?;
    let happening = Happening {
        actor,
        resource: (ResourceType::RunmeshDevice, node.id.to_string()),
        event_type: change.event,
        severity: change.severity,
        status: None,
        title: change.title,
        attributes: change.attributes,
        thread: None,
        run: None,
        node: Some(node.id),
    };
    activity::record(app, conn, node.org_id, happening).await
}

/// A member sees their own nodes and the platform's, an admin all of the org; what is not seen is not there.
pub(crate) async fn visible(conn: &mut Conn, caller: &Caller, id: NodeId) -> Result<NodeRow, AppError> {
    store::nodes::find(conn, caller.org, id)
        .await?
        .filter(|row| {
            let own = row.node.owner_user_id == Some(caller.user);
            caller.is_admin() || own || row.node.kind == NodeKind::Platform
        })
        .ok_or_else(|| AppError::not_found("node"))
}

/// Finds a node that the caller may change.
async fn own(conn: &mut Conn, caller: &Caller, id: NodeId) -> Result<NodeRow, AppError> {
    let row = visible(conn, caller, id).await?;
    if row.node.kind == NodeKind::Platform {
        return Err(AppError::forbidden("the platform's own node cannot be changed"));
    }
    Ok(row)
}

pub(crate) fn name_taken(name: &NodeName) -> AppError {
    AppError::conflict(format!("another node of the organization is called {name}"))
}

/// A revoked key never comes back.
pub(crate) fn revoked() -> AppError {
    let message = "this device was revoked; its key never comes back";
    AppError::new(api::ErrorCode::DeviceRevoked, message)
}
