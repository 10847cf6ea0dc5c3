//! Routes of the audit log.

use api::Scope;
use api::audit::{AuditEvent, AuditFormat, AuditQuery};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use utoipa_axum::routes;

use super::extract::Params;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, audit};

pub(super) fn register(routes: Routes) -> Routes {
    routes.add(Access::Scope(Scope::RunmeshRead), routes!(list))
}

/// List audit events, newest first, or export the whole log.
///
/// With `format=jsonl` each line is one event as a page has it, oldest first; `limit` and `cursor` change nothing.
#[utoipa::path(get, path = "/v1/runmesh/audit", tag = "audit", operation_id = "listAudit",
    params(AuditQuery), responses((status = 200, content(
        (api::Page<AuditEvent> = "application/json"), (String = "application/jsonl")))))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<AuditQuery>,
) -> Result<Response, AppError> {
    if query.format == Some(AuditFormat::Jsonl) {
        audit::check(&query)?;
        return Ok(export(app, caller));
    }
    let page = audit::list(&app, &caller, &query).await?;
    Ok(page.into_response())
}

/// Streams the log so that its length does not matter; a failure cuts the stream, which the client sees.
fn export(app: Shared, caller: Caller) -> Response {
    let lines = stream::try_unfold(0_i64, move |after| {
        let (app, caller) = (app.clone(), caller.clone());
        async move {
            let rows = audit::export(&app, &caller, after).await?;
            let Some(last) = rows.last().map(|row| row.sequence) else {
                return Ok::<_, AppError>(None);
            };
            Ok(Some((json_lines(&rows), i64::try_from(last).unwrap_or(i64::MAX))))
        }
    });
    ([(CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response()
}

fn json_lines(rows: &[AuditEvent]) -> Bytes {
    let mut text = String::new();
    for row in rows {
        text.push_str(&serde_json::to_string(row).expect("an audit row has only string keys"));
        text.push('\n');
    }
    Bytes::from(text)
}
