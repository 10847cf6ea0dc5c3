//! The audit log.

use api::audit::{AuditEvent, AuditQuery};
use serde_json::{Map, Value};
use types::{AuditId, OrgId, UserId};

use super::{Actor, App, AppError, Caller, Page, Window};
use crate::secrets;
use crate::store::audit::AuditDraft;
use crate::store::{self, Conn, StoreError};

/// How many rows of an export are read at once.
const EXPORT_ROWS: i64 = 500;

/// What was done, and to what.
#[derive(Clone, Debug)]
pub(crate) struct Deed {
    pub(crate) action: &'static str,
    /// The kind of thing and its id.
    pub(crate) target: Option<(&'static str, String)>,
    pub(crate) actor: Actor,
    pub(crate) attributes: Map<String, Value>,
}

/// Writes a deed into the org's log, in the transaction of the deed.
pub(crate) async fn record(app: &App, conn: &mut Conn, org: OrgId, deed: Deed) -> Result<(), StoreError> {
    let (target_type, target_id) = deed.target.unzip();
    let draft = AuditDraft {
        id: AuditId::from_random(secrets::bytes()),
        org,
        actor_type: deed.actor.kind,
        actor_id: deed.actor.id,
        action: deed.action,
        target_type,
        target_id,
        ip: deed.actor.ip.map(|ip| ip.to_string()),
        attributes: deed.attributes,
        created_at: app.clock.wall(),
    };
    store::audit::append(conn, draft).await
}

/// Lists the log, newest first: an admin sees all of it, a member what they or their keys and nodes did or underwent.
pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    query: &AuditQuery,
) -> Result<Page<AuditEvent>, AppError> {
    let window = Window::newest_first(&query.page())?;
    let mut conn = app.store.read().await?;
    let bounds = (window.number, window.fetch());
    let rows = store::audit::list(&mut conn, caller.org, sight(caller), bounds).await?;
    Ok(window.cut(rows, |row| {
        (i64::try_from(row.sequence).unwrap_or(i64::MAX), String::new())
    }))
}

/// Refuses what is no page, where the whole log is asked for, too.
pub(crate) fn check(query: &AuditQuery) -> Result<(), AppError> {
    Window::newest_first(&query.page()).map(|_| ())
}

/// Returns the rows after number `after`, oldest first; empty at the end of the log.
pub(crate) async fn export(app: &App, caller: &Caller, after: i64) -> Result<Vec<AuditEvent>, AppError> {
    let mut conn = app.store.read().await?;
    Ok(store::audit::export(&mut conn, caller.org, sight(caller), (after, EXPORT_ROWS)).await?)
}

fn sight(caller: &Caller) -> Option<UserId> {
    (!caller.is_admin()).then_some(caller.user)
}
