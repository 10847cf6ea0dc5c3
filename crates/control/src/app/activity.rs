//! The activity list: what happened, for people.

use api::activity::{Activity, ActivityQuery, ResourceType, Severity};
use serde_json::{Map, Value};
use types::{ActivityId, NodeId, OrgId, RunId, ThreadId};

use super::{Actor, App, AppError, Caller, Page, Window};
use crate::secrets;
use crate::store::{self, Conn, StoreError};

/// What happened, before it is a row.
#[derive(Clone, Debug)]
pub(crate) struct Happening {
    pub(crate) actor: Actor,
    /// What it is about, and which one.
    pub(crate) resource: (ResourceType, String),
    pub(crate) event_type: &'static str,
    pub(crate) severity: Severity,
    pub(crate) status: Option<&'static str>,
    pub(crate) title: String,
    pub(crate) attributes: Map<String, Value>,
    pub(crate) thread: Option<ThreadId>,
    pub(crate) run: Option<RunId>,
    pub(crate) node: Option<NodeId>,
}

/// Writes a row, in the transaction of what happened.
pub(crate) async fn record(
    app: &App,
    conn: &mut Conn,
    org: OrgId,
    happening: Happening,
) -> Result<(), StoreError> {
    let row = Activity {
        id: ActivityId::from_random(secrets::bytes()),
        org_id: org,
        actor_user_id: happening.actor.user,
        actor_type: happening.actor.kind,
        resource_type: happening.resource.0,
        resource_id: happening.resource.1,
        event_type: happening.event_type.to_owned(),
        severity: happening.severity,
        status: happening.status.map(str::to_owned),
        title: happening.title,
        summary: None,
        attributes: happening.attributes,
        thread_id: happening.thread,
        agent_run_id: happening.run,
        sandbox_id: None,
        runmesh_node_id: happening.node,
        created_at: app.clock.wall(),
    };
    store::activity::append(conn, &row).await
}

/// Lists rows, newest first: the caller's own, or with `all` (admins) everyone's.
pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    query: &ActivityQuery,
) -> Result<Page<Activity>, AppError> {
    let everyone = query.all.unwrap_or(false);
    if everyone {
        caller.demand_admin()?;
    }
    let window = Window::newest_first(&query.page())?;
    let visible_to = (!everyone).then_some(caller.user);
    let mut conn = app.store.read().await?;
    let bounds = (window.key(), window.fetch());
    let rows = store::activity::list(&mut conn, caller.org, visible_to, query, bounds).await?;
    Ok(window.cut(rows, |row| (row.created_at.unix_ms(), row.id.to_string())))
}

/// Lists the rows of one device that the caller can see, newest first; an admin sees everyone's.
pub(crate) async fn of_device(
    app: &App,
    caller: &Caller,
    id: NodeId,
    mut query: ActivityQuery,
) -> Result<Page<Activity>, AppError> {
    let mut conn = app.store.read().await?;
    super::nodes::visible(app, &mut conn, caller, id).await?;
    drop(conn);
    query.runmesh_node_id = Some(id);
    query.all = Some(caller.is_admin());
    list(app, caller, &query).await
}
