//! Ephemeral nodes: those that joined for a while, and are shut out shortly after they have gone.

use std::sync::Arc;
use std::time::Duration;

use api::activity::Severity;
use serde_json::Map;
use tokio_util::sync::CancellationToken;

use super::departure::Departure;
use super::nodes::Change;
use super::{Actor, App, AppError, sweep};
use crate::store;

/// How long a node may be away before it counts as gone: longer than a control stream takes to come back.
pub(crate) const GONE_AFTER: Duration = Duration::from_secs(60);

/// The most nodes that one look shuts out, so that no write lasts long.
const BATCH_MAX: i64 = 100;

/// Looks for those that are gone until `stop`.
pub(crate) async fn sweep_until(app: Arc<App>, stop: CancellationToken) {
    sweep::sweep_until(stop, "ephemeral nodes", || sweep(&app)).await;
}

/// Shuts out every ephemeral node that is gone; returns how many.
pub(crate) async fn sweep(app: &App) -> Result<usize, AppError> {
    let before = app.clock.wall() - GONE_AFTER;
    let mut tx = app.store.write().await?;
    let rows = store::nodes::gone(&mut tx, before, BATCH_MAX).await?;
    let mut departures = Vec::new();
    for row in rows {
        let node = row.node;
        let change = Change {
            action: "node.vanished",
            event: "runmesh.device.vanished",
            severity: Severity::Info,
            title: format!("{} went away", node.name),
            attributes: Map::new(),
        };
        departures.extend(Departure::write(app, &mut tx, Actor::system(), (&node, change)).await?);
    }
    tx.commit().await?;
    for departure in &departures {
        departure.carry_out(app).await;
    }
    Ok(departures.len())
}
