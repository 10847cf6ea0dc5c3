//! How many nodes there are.

use api::overview::{Overview, OverviewQuery};
use types::{NodeKind, NodeStatus};

use super::{App, AppError, Caller, reach};
use crate::store;

/// Counts the nodes that the same list shows: the caller's own and the platform's, or with `all` (admins) every node.
pub(crate) async fn show(app: &App, caller: &Caller, query: &OverviewQuery) -> Result<Overview, AppError> {
    let everyone = query.all.unwrap_or(false);
    if everyone {
        caller.demand_admin()?;
    }
    let mut conn = app.store.read().await?;
    let sight = if everyone {
        None
    } else {
        Some(reach::sight(app, &mut conn, caller).await?)
    };
    let counts = store::nodes::counts(&mut conn, caller.org, sight.as_ref()).await?;
    let mut overview = Overview::default();
    for (kind, status, count) in counts {
        overview.total += count;
        match status {
            NodeStatus::Online => overview.online += count,
            NodeStatus::Offline => overview.offline += count,
            NodeStatus::Revoked => {
                overview.revoked += count;
                continue;
            }
        }
        match kind {
            NodeKind::Device => overview.by_kind.device += count,
            NodeKind::Sandbox => overview.by_kind.sandbox += count,
            NodeKind::Platform => overview.by_kind.platform += count,
        }
    }
    Ok(overview)
}
