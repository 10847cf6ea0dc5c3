//! Nodes: who sees which, rename, revoke, configuration.

use api::activity::{ResourceType, Severity};
use api::nodes::{Node, NodeConfig, NodesQuery, PatchNode};
use serde_json::{Map, Value, json};
use types::{NodeId, NodeKind, NodeName, NodeStatus};

use super::activity::Happening;
use super::admission::read_tags;
use super::audit::Deed;
use super::departure::{self, Departure};
use super::{Actor, App, AppError, Caller, Page, Window, activity, audit, netmap, policy, reach};
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
    let mut conn = app.store.read().await?;
    let sight = if everyone {
        None
    } else {
        Some(reach::sight(app, &mut conn, caller).await?)
    };
    let bounds = (window.key(), window.fetch());
    let rows = store::nodes::list(&mut conn, caller.org, sight.as_ref(), &query, bounds).await?;
    let mut rows: Vec<Node> = rows.into_iter().map(|row| row.node).collect();
    for node in &mut rows {
        departure::show(app, node);
    }
    Ok(window.cut(rows, |node: &Node| {
        (node.created_at.unix_ms(), node.id.to_string())
    }))
}

/// Returns one node.
pub(crate) async fn find(app: &App, caller: &Caller, id: NodeId) -> Result<Node, AppError> {
    let mut conn = app.store.read().await?;
    let mut node = visible(app, &mut conn, caller, id).await?.node;
    departure::show(app, &mut node);
    Ok(node)
}

/// Computes a node's configuration.
pub(crate) async fn config(app: &App, caller: &Caller, id: NodeId) -> Result<NodeConfig, AppError> {
    let mut conn = app.store.read().await?;
    let row = own(app, &mut conn, caller, id).await?;
    // Nothing answers to it any more: a configuration would only look as if.
    if row.node.status == NodeStatus::Revoked {
        return Err(revoked());
    }
    let config = netmap::config(app, &mut conn, &row).await?;
    config.ok_or_else(|| AppError::not_found("node"))
}

/// Renames a node, gives it other tags, or both.
pub(crate) async fn patch(
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
    let tags = patch.tags.map(read_tags).transpose()?;
    if name.is_none() && tags.is_none() {
        return Err(AppError::bad_request("name or tags are missing"));
    }
    let mut tx = app.store.write().await?;
    let before = own(app, &mut tx, caller, id).await?;
    if before.node.status == NodeStatus::Revoked {
        return Err(revoked());
    }
    let circle = app.reaches.of(&mut tx, caller.org).await?.circle(id);
    let name = name.filter(|name| *name != before.name);
    let tags = tags.filter(|tags| *tags != before.node.tags);
    if name.is_none() && tags.is_none() {
        return Ok(before.node);
    }
    if let Some(name) = &name {
        rename(app, &mut tx, caller, (&before, name)).await?;
    }
    if let Some(tags) = &tags {
        retag(app, &mut tx, caller, (&before, tags)).await?;
    }
    let generation = store::orgs::raise_topology(&mut tx, caller.org).await?;
    let after = found(&mut tx, caller, id).await?.node;
    tx.commit().await?;
    // A policy may name it by its name or its tags, so that others see it now than did before.
    app.hub.changed(&circle, generation);
    app.tell_circle(caller.org, id, generation).await;
    Ok(after)
}

async fn rename(
    app: &App,
    tx: &mut Conn,
    caller: &Caller,
    (before, name): (&NodeRow, &NodeName),
) -> Result<(), AppError> {
    match store::nodes::rename(tx, before.node.id, name).await {
        Err(StoreError::Taken) => return Err(name_taken(name)),
        other => other?,
    }
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
    Ok(record(app, tx, caller.actor(), &before.node, change).await?)
}

async fn retag(
    app: &App,
    tx: &mut Conn,
    caller: &Caller,
    (before, tags): (&NodeRow, &[String]),
) -> Result<(), AppError> {
    let had = &before.node.tags;
    let added = tags.iter().filter(|tag| !had.contains(tag));
    let taken = had.iter().filter(|tag| !tags.contains(tag));
    let changed: Vec<String> = added.chain(taken).cloned().collect();
    policy::demand_tags(tx, caller, &changed).await?;
    store::nodes::set_tags(tx, before.node.id, tags).await?;
    let change = Change {
        action: "node.tagged",
        event: "runmesh.device.tagged",
        severity: Severity::Info,
        title: format!("{} has other tags now", before.name),
        attributes: Map::from_iter([("from".to_owned(), json!(had)), ("to".to_owned(), json!(tags))]),
    };
    Ok(record(app, tx, caller.actor(), &before.node, change).await?)
}

/// Shuts a node out for ever: when this returns, its sessions with the platform are cut and its control stream is
/// closed, and the nodes that saw it and are there have dropped it or had two seconds to do so. A second time answers the
/// same node.
pub(crate) async fn revoke(app: &App, caller: &Caller, id: NodeId) -> Result<Node, AppError> {
    let mut node = shut_out(app, caller, id).await?;
    app.cut_offs.settled(id, &app.hub).await;
    departure::show(app, &mut node);
    Ok(node)
}

async fn shut_out(app: &App, caller: &Caller, id: NodeId) -> Result<Node, AppError> {
    let mut tx = app.store.write().await?;
    let before = own(app, &mut tx, caller, id).await?.node;
    let Some(departure) = revoke_within(app, &mut tx, caller, &before).await? else {
        drop(tx);
        Departure::again(before.clone()).carry_out(app).await;
        return Ok(before);
    };
    let after = found(&mut tx, caller, id).await?.node;
    tx.commit().await?;
    departure.carry_out(app).await;
    Ok(after)
}

/// Shuts a node out within a write; `None` when it was out before.
pub(super) async fn revoke_within(
    app: &App,
    conn: &mut Conn,
    caller: &Caller,
    node: &Node,
) -> Result<Option<Departure>, AppError> {
    let change = Change {
        action: "node.revoked",
        event: "runmesh.device.revoked",
        severity: Severity::Warning,
        title: format!("{} was revoked", node.name),
        attributes: Map::from_iter([("publicKey".to_owned(), json!(node.public_key))]),
    };
    Departure::write(app, conn, caller.actor(), (node, change)).await
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

/// A member sees their own nodes, the platform's, and those that theirs may reach; an admin all of the org. What is not
/// seen is not there.
pub(crate) async fn visible(
    app: &App,
    conn: &mut Conn,
    caller: &Caller,
    id: NodeId,
) -> Result<NodeRow, AppError> {
    let row = found(conn, caller, id).await?;
    let own = row.node.owner_user_id == Some(caller.user);
    if caller.is_admin() || own || row.node.kind == NodeKind::Platform {
        return Ok(row);
    }
    let sight = reach::sight(app, conn, caller).await?;
    let seen = sight.reached.contains(&id).then_some(row);
    seen.ok_or_else(|| AppError::not_found("node"))
}

async fn found(conn: &mut Conn, caller: &Caller, id: NodeId) -> Result<NodeRow, AppError> {
    let row = store::nodes::find(conn, caller.org, id).await?;
    row.ok_or_else(|| AppError::not_found("node"))
}

/// Finds a node that the caller may change, and of which they may know everything.
async fn own(app: &App, conn: &mut Conn, caller: &Caller, id: NodeId) -> Result<NodeRow, AppError> {
    let row = visible(app, conn, caller, id).await?;
    if row.node.kind == NodeKind::Platform {
        return Err(AppError::forbidden("the platform's own node is the server's"));
    }
    if !caller.is_admin() && row.node.owner_user_id != Some(caller.user) {
        return Err(AppError::forbidden("the node is somebody else's"));
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
