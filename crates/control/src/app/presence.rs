//! What a node says on its control stream: that it is there, where it can be reached, how it reaches others.

use std::net::SocketAddr;

use serde_json::{Map, json};
use types::control::Hello;
use types::netmap::ENDPOINTS_MAX;
use types::{NodeId, OrgId, PathKind, PathReason, RelayId};

use super::audit::Deed;
use super::{Actor, App, AppError, audit};
use crate::hub::Attendance;
use crate::store;
use crate::store::nodes::{Arrival, NodeRow};

/// Takes a node's hello: it is online from now on. `false` when it was revoked.
pub(crate) async fn arrive(app: &App, before: &NodeRow, hello: &Hello) -> Result<bool, AppError> {
    let arrival = Arrival {
        os: hello.os.as_ref().map(ToString::to_string),
        hostname: hello.hostname.as_ref().map(ToString::to_string),
        app_version: hello.app_version.as_ref().map(ToString::to_string),
        signing_key: hello.signing_key,
        endpoints: usable(&hello.endpoints),
        home_relay: hello.home_relay.filter(|relay| app.relays.include(*relay)),
        now: app.clock.wall(),
    };
    let (org, id) = (before.node.org_id, before.node.id);
    let is_elsewhere = arrival.home_relay.is_some() && before.node.home_relay != arrival.home_relay;
    let changed = is_elsewhere || before.endpoints != arrival.endpoints;
    let mut tx = app.store.write().await?;
    if !store::nodes::arrive(&mut tx, id, &arrival).await? {
        return Ok(false);
    }
    if before.signing_key != Some(arrival.signing_key) {
        let deed = Deed {
            action: "node.signing_key_announced",
            target: Some(("node", id.to_string())),
            actor: Actor::device(id, before.node.owner_user_id),
            attributes: Map::from_iter([
                ("from".to_owned(), json!(before.signing_key)),
                ("to".to_owned(), json!(arrival.signing_key)),
            ]),
        };
        audit::record(app, &mut tx, org, deed).await?;
    }
    let generation = match changed {
        true => Some(store::orgs::raise_generation(&mut tx, org).await?),
        false => None,
    };
    tx.commit().await?;
    if let Some(generation) = generation {
        app.tell_circle(org, id, generation).await;
    }
    Ok(true)
}

/// Notes that a node was heard.
pub(crate) async fn seen(app: &App, id: NodeId) -> Result<(), AppError> {
    let mut tx = app.store.write().await?;
    store::nodes::seen(&mut tx, id, true, app.clock.wall()).await?;
    Ok(tx.commit().await?)
}

/// Notes that a node's stream has ended, unless a newer one took its place. That is asked within the write: the newer
/// one's arrival is written before it or after it, never undone by it.
pub(crate) async fn left(app: &App, id: NodeId, attendance: &Attendance) -> Result<(), AppError> {
    let mut tx = app.store.write().await?;
    if attendance.is_current() {
        store::nodes::seen(&mut tx, id, false, app.clock.wall()).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Takes where a node's mesh socket can be reached; the nodes that see it are told.
pub(crate) async fn moved(app: &App, org: OrgId, id: NodeId, endpoints: &[String]) -> Result<(), AppError> {
    let endpoints = usable(endpoints);
    let mut tx = app.store.write().await?;
    let before = store::nodes::find(&mut tx, org, id).await?;
    if before.is_none_or(|row| row.endpoints == endpoints) {
        return Ok(());
    }
    store::nodes::set_endpoints(&mut tx, id, &endpoints).await?;
    let generation = store::orgs::raise_generation(&mut tx, org).await?;
    tx.commit().await?;
    app.tell_circle(org, id, generation).await;
    Ok(())
}

/// Takes at which relay a node is found best; the nodes that see it are told. One that netmaps do not name is none.
pub(crate) async fn at_relay(
    app: &App,
    org: OrgId,
    id: NodeId,
    relay: Option<RelayId>,
) -> Result<(), AppError> {
    let relay = relay.filter(|relay| app.relays.include(*relay));
    let mut tx = app.store.write().await?;
    let before = store::nodes::find(&mut tx, org, id).await?;
    if before.is_none_or(|row| row.node.home_relay == relay) {
        return Ok(());
    }
    store::nodes::set_home_relay(&mut tx, id, relay).await?;
    let generation = store::orgs::raise_generation(&mut tx, org).await?;
    tx.commit().await?;
    app.tell_circle(org, id, generation).await;
    Ok(())
}

/// Takes how a node reaches a peer; only the way to the platform is kept.
pub(crate) async fn path(
    app: &App,
    (org, id): (OrgId, NodeId),
    peer: NodeId,
    (path, reason): (Option<PathKind>, PathReason),
) -> Result<(), AppError> {
    let mut tx = app.store.write().await?;
    let platform = store::nodes::platform(&mut tx, org).await?;
    if platform.is_some_and(|row| row.node.id == peer) {
        store::nodes::set_path(&mut tx, id, path, reason).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// A node names its own sockets, by address: anything else is left out.
fn usable(endpoints: &[String]) -> Vec<String> {
    let parsed = endpoints
        .iter()
        .filter_map(|text| text.parse::<SocketAddr>().ok());
    let usable = parsed.filter(|a| a.port() != 0 && !a.ip().is_unspecified() && !a.ip().is_multicast());
    usable.map(|a| a.to_string()).take(ENDPOINTS_MAX).collect()
}
