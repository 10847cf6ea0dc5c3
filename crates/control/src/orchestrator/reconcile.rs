//! Lets time pass for runs: on a timer and when poked, without input.
//!
//! One round finds what is due (`runs::dispatch::Deadline`) and who was shut out, steps those runs, and offers what may
//! be offered. A round that fails changes nothing and is tried again at the next tick.

use std::sync::Arc;
use std::time::Duration;

use runs::dispatch::Input;
use tokio_util::sync::CancellationToken;

use super::dispatch::DispatchTx;
use crate::app::App;
use crate::store::{self, StoreError};

/// How often deadlines are looked at.
const RECONCILE_EVERY: Duration = Duration::from_secs(1);

/// The most runs that one write steps.
const DUE_MAX: i64 = 100;

/// Runs until `stop`.
pub(crate) async fn run(app: Arc<App>, stop: CancellationToken) {
    if let Err(error) = start(&app).await {
        tracing::error!(%error, "the runs of the last process were not looked through");
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RECONCILE_EVERY) => {}
            () = app.orchestrator.poke.notified() => {}
        }
        if let Err(error) = round(&app).await {
            tracing::error!(%error, "a round of the run reconciler failed");
        }
    }
}

/// A process that starts has no session, whatever the last one had.
async fn start(app: &App) -> Result<(), StoreError> {
    let nodes = store::runs::nodes_with_open_runs(&mut *app.store.read().await?).await?;
    for node in nodes {
        let mut dispatch = DispatchTx::begin(app).await?;
        // It may have come back already.
        if !app.orchestrator.is_connected(node) {
            for mut run in store::runs::open_of_node(&mut dispatch.tx, node).await? {
                dispatch.advance(&mut run, Input::Disconnected).await?;
            }
        }
        dispatch.commit().await?;
    }
    Ok(())
}

/// One look at everything that waits for a time.
pub(crate) async fn round(app: &App) -> Result<(), StoreError> {
    let mut conn = app.store.read().await?;
    let due = store::runs::due(&mut conn, app.clock.wall(), DUE_MAX).await?;
    let revoked = store::runs::revoked_with_runs(&mut conn).await?;
    drop(conn);
    for node in revoked {
        app.orchestrator.disconnect(node);
        let mut dispatch = DispatchTx::begin(app).await?;
        for mut run in store::runs::open_of_node(&mut dispatch.tx, node).await? {
            dispatch.advance(&mut run, Input::DeviceRevoked).await?;
        }
        dispatch.commit().await?;
    }
    if due.is_empty() {
        return Ok(());
    }
    let mut dispatch = DispatchTx::begin(app).await?;
    for stale in due {
        // What was read before the write began may have changed.
        let Some(mut run) = store::runs::get(&mut dispatch.tx, stale.id).await? else {
            continue;
        };
        dispatch.advance(&mut run, Input::Tick).await?;
        dispatch.moved(run.node);
    }
    dispatch.commit().await
}
