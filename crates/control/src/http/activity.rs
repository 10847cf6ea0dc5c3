//! Routes of the activity list.

use api::Scope;
use api::activity::{Activity, ActivityQuery};
use axum::extract::State;
use utoipa_axum::routes;

use super::extract::Params;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Page, activity};

pub(super) fn register(routes: Routes) -> Routes {
    routes.add(Access::Scope(Scope::ActivityRead), routes!(list))
}

/// List activity, newest first.
#[utoipa::path(get, path = "/v1/activity", tag = "activity", operation_id = "listActivity",
    params(ActivityQuery), responses((status = 200, body = api::Page<Activity>)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<ActivityQuery>,
) -> Result<Page<Activity>, AppError> {
    activity::list(&app, &caller, &query).await
}
