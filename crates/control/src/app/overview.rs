//! How many nodes there are.

use api::overview::{Overview, OverviewQuery};
use types::{NodeKind, NodeStatus};

use super::{App, AppError, Caller};
use crate::store;

/// Counts the nodes that the same list shows: the caller's own and the platform's, or with `all` (admins) every node.
pub(crate) async fn show(app: &App, caller: &Caller, query: &OverviewQuery) -> Result<Overview, AppError> {
    let everyone = query.all.unwrap_or(false);
    if everyone {
        caller.demand_admin()?;
    }
    let visible_to = (!everyone).then_some(caller.user);
    let mut conn = app.store.read().await?;
    let counts = store::nodes::counts(&mut conn, caller.org, visible_to).await?;
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
