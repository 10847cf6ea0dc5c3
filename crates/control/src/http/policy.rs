//! Routes of the org's policy.

use api::policy::{ExplainPolicy, PolicyExplained, PolicyTested, PolicyView, PutPolicy, TestPolicy};
use api::{ErrorEnvelope, Scope, Success};
use axum::extract::State;
use utoipa_axum::routes;

use super::extract::Body;
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, policy};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Admin(Scope::RunmeshRead), routes!(find))
        .add(Access::Admin(Scope::RunmeshWrite), routes!(put))
        .add(Access::Admin(Scope::RunmeshRead), routes!(test))
        .add(Access::Admin(Scope::RunmeshRead), routes!(explain))
}

/// The policy of the org.
#[utoipa::path(get, path = "/v1/runmesh/policy", tag = "policy", operation_id = "getPolicy",
    responses((status = 200, body = Success<PolicyView>)))]
async fn find(State(app): State<Shared>, caller: Caller) -> Result<Reply<PolicyView>, AppError> {
    policy::find(&app, &caller).await.map(Reply::ok)
}

/// Replace the policy of the org, if its own tests hold; nodes are told at once.
#[utoipa::path(put, path = "/v1/runmesh/policy", tag = "policy", operation_id = "putPolicy",
    request_body = PutPolicy, responses((status = 200, body = Success<PolicyView>),
    (status = 409, description = "Another version holds than the one named.", body = ErrorEnvelope)))]
async fn put(
    State(app): State<Shared>,
    caller: Caller,
    Body(request): Body<PutPolicy>,
) -> Result<Reply<PolicyView>, AppError> {
    policy::put(&app, &caller, request).await.map(Reply::ok)
}

/// Check a policy and run the tests inside it; changes nothing.
#[utoipa::path(post, path = "/v1/runmesh/policy/test", tag = "policy", operation_id = "testPolicy",
    request_body = TestPolicy, responses((status = 200, body = Success<PolicyTested>)))]
async fn test(
    State(app): State<Shared>,
    caller: Caller,
    Body(request): Body<TestPolicy>,
) -> Result<Reply<PolicyTested>, AppError> {
    policy::test(&app, &caller, request).await.map(Reply::ok)
}

/// Whether one node may reach something of another, and by which grant.
#[utoipa::path(post, path = "/v1/runmesh/policy/explain", tag = "policy", operation_id = "explainPolicy",
    request_body = ExplainPolicy, responses((status = 200, body = Success<PolicyExplained>),
    (status = 404, description = "There is no such node.", body = ErrorEnvelope)))]
async fn explain(
    State(app): State<Shared>,
    caller: Caller,
    Body(request): Body<ExplainPolicy>,
) -> Result<Reply<PolicyExplained>, AppError> {
    policy::explain(&app, &caller, request).await.map(Reply::ok)
}
