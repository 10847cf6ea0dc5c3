//! How answers are written: request ids, the contract's envelope, rate-limit headers, and no refusal without them.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use api::{ErrorBody, ErrorCode, ErrorEnvelope, Meta, REQUEST_ID_HEADER, Success};
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Json, http::Method};
use futures_util::FutureExt as _;
use serde::Serialize;
use types::RequestId;

use crate::app::{AppError, Page, RateLimit};
use crate::secrets;

tokio::task_local! {
    static REQUEST: RequestId;
}

/// Returns the id of the request that is being answered.
pub(crate) fn request_id() -> RequestId {
    REQUEST
        .try_with(|id| *id)
        .unwrap_or_else(|_| RequestId::from_random(secrets::bytes()))
}

/// Gives every request an id, turns panics into 500, and writes one line into the log.
pub(crate) async fn around(request: Request, next: Next) -> Response {
    let id = RequestId::from_random(secrets::bytes());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let changes = !matches!(method, Method::GET | Method::HEAD);
    let answered = REQUEST.scope(id, async {
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let answer = answer.unwrap_or_else(|_| AppError::internal().into_response());
        in_envelope(answer)
    });
    let mut answer = if changes {
        to_the_end(answered).await
    } else {
        answered.await
    };
    log(id, &method, &path, answer.status());
    let headers = answer.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    answer
}

/// A client that hangs up drops the future of its request. What was committed must still be told to nodes: a request
/// that changes something goes on without its client.
async fn to_the_end(answered: impl Future<Output = Response> + Send + 'static) -> Response {
    let done = tokio::spawn(answered).await;
    done.unwrap_or_else(|_| AppError::internal().into_response())
}

fn log(id: RequestId, method: &Method, path: &str, status: StatusCode) {
    let status = status.as_u16();
    tracing::debug!(request = %id, %method, path, status, "answered");
}

/// Marks an answer whose body is meant to stand as it is, though its status is an error's: a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsWritten;

/// Replaces a refusal of the framework, which is plain text, by the contract's envelope.
fn in_envelope(answer: Response) -> Response {
    let status = answer.status();
    let refused = status.is_client_error() || status.is_server_error();
    let ours = answer.headers().get(CONTENT_TYPE) == Some(&HeaderValue::from_static("application/json"));
    if !refused || ours || answer.extensions().get::<AsWritten>().is_some() {
        return answer;
    }
    let code = match status.as_u16() {
        404 => ErrorCode::NotFound,
        405 => ErrorCode::MethodNotAllowed,
        413 => ErrorCode::PayloadTooLarge,
        500.. => ErrorCode::InternalError,
        _ => ErrorCode::BadRequest,
    };
    AppError::new(code, "this request cannot be served").into_response()
}

/// Answers paths that do not exist.
pub(crate) async fn no_such_path() -> AppError {
    AppError::not_found("path")
}

/// Answers methods that a path does not have.
pub(crate) async fn no_such_method() -> AppError {
    AppError::new(ErrorCode::MethodNotAllowed, "this path has no such method")
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let error = ErrorBody {
            code: self.code,
            message: self.message.clone(),
            request_id: request_id(),
        };
        let mut answer = Json(ErrorEnvelope { error }).into_response();
        mark_refused(&mut answer, &self);
        if answer.status() == StatusCode::UNAUTHORIZED {
            let how = HeaderValue::from_static("Bearer");
            answer.headers_mut().insert(WWW_AUTHENTICATE, how);
        }
        answer
    }
}

/// Gives an answer the status and the headers of a refusal.
pub(crate) fn mark_refused(answer: &mut Response, error: &AppError) {
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *answer.status_mut() = status;
    refusal_headers(answer, error.limit);
}

/// Writes the headers of a refusal: how its limit stands, and on 429 when to come back.
fn refusal_headers(answer: &mut Response, limit: Option<RateLimit>) {
    let Some(limit) = limit else { return };
    limit_headers(answer, limit);
    if answer.status() == StatusCode::TOO_MANY_REQUESTS {
        let wait = HeaderValue::from(whole_seconds(limit.reset).max(1));
        answer.headers_mut().insert(RETRY_AFTER, wait);
    }
}

/// Writes the `X-RateLimit-*` headers unless they are there; `Reset` is in seconds from now.
pub(crate) fn limit_headers(answer: &mut Response, limit: RateLimit) {
    let headers = answer.headers_mut();
    if headers.contains_key("x-ratelimit-limit") {
        return;
    }
    headers.insert("x-ratelimit-limit", HeaderValue::from(limit.limit));
    headers.insert("x-ratelimit-remaining", HeaderValue::from(limit.remaining));
    headers.insert("x-ratelimit-reset", HeaderValue::from(whole_seconds(limit.reset)));
}

fn whole_seconds(span: Duration) -> u64 {
    span.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// 200 (or another success) with `{data, meta}`.
#[derive(Debug)]
pub(crate) struct Reply<T>(StatusCode, T);

impl<T> Reply<T> {
    /// 200.
    pub(crate) fn ok(data: T) -> Self {
        Self(StatusCode::OK, data)
    }

    /// 201.
    pub(crate) fn created(data: T) -> Self {
        Self(StatusCode::CREATED, data)
    }
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        let meta = Meta {
            request_id: request_id(),
        };
        (self.0, Json(Success { data: self.1, meta })).into_response()
    }
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        Json(api::Page::new(self.rows, self.next_cursor, request_id())).into_response()
    }
}

/// An answer of a limited route, with its `X-RateLimit-*` headers.
#[derive(Debug)]
pub(crate) struct Limited<R>(pub(crate) RateLimit, pub(crate) R);

impl<R: IntoResponse> IntoResponse for Limited<R> {
    fn into_response(self) -> Response {
        let mut answer = self.1.into_response();
        limit_headers(&mut answer, self.0);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::{get, post};
    use tokio::sync::Semaphore;
    use tower::ServiceExt as _;

    use super::*;

    /// Asks, hangs up while the handler waits, lets it go on; tells whether it came to its end.
    async fn finishes(method: Method) -> bool {
        let (entered, gate, done) = (Semaphore::new(0), Semaphore::new(0), Semaphore::new(0));
        let (entered, gate, done) = (Arc::new(entered), Arc::new(gate), Arc::new(done));
        let steps = (entered.clone(), gate.clone(), done.clone());
        let handler = move || async move {
            steps.0.add_permits(1);
            steps.1.acquire().await.expect("open").forget();
            steps.2.add_permits(1);
        };
        let router = Router::new()
            .route("/", get(handler.clone()))
            .route("/", post(handler))
            .layer(from_fn(around));
        let request = Request::builder().method(method).uri("/").body(Body::empty());
        let request = request.expect("a request");
        tokio::select! {
            _ = router.oneshot(request) => unreachable!("the handler waits"),
            entered = entered.acquire() => entered.expect("open").forget(),
        }
        gate.add_permits(1);
        let ended = tokio::time::timeout(Duration::from_millis(200), done.acquire());
        ended.await.is_ok()
    }

    #[tokio::test]
    async fn a_change_is_carried_through_when_its_client_hangs_up() {
        assert!(finishes(Method::POST).await);
        assert!(
            !finishes(Method::GET).await,
            "a reader that is gone costs nothing more"
        );
    }
}
