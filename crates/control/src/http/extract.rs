//! What handlers take from a request: the caller, the client's address, a bounded JSON body, a query, an id.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use api::json::Strict;
use api::{BODY_BYTES_MAX, ErrorCode};
use axum::body::Body as RawBody;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Query, RawPathParams, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use super::Shared;
use crate::app::{App, AppError, Caller};

impl FromRequestParts<Shared> for Caller {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, AppError> {
        // Only the authorisation layer puts it there; a route that is open has no caller.
        parts.extensions.get().cloned().ok_or_else(AppError::internal)
    }
}

/// The address of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ClientIp(pub(crate) IpAddr);

impl ClientIp {
    /// Reads it from where the server's door has put it.
    pub(crate) fn of(parts: &Parts) -> Self {
        let known = parts.extensions.get().copied();
        known.unwrap_or(Self(Ipv4Addr::UNSPECIFIED.into()))
    }
}

impl FromRequestParts<Shared> for ClientIp {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, AppError> {
        Ok(Self::of(parts))
    }
}

/// A JSON body of at most `MAX` bytes; fields that `T` does not name are dropped here.
pub(crate) struct Body<T, const MAX: usize = BODY_BYTES_MAX>(pub(crate) T);

impl<T: DeserializeOwned, const MAX: usize> FromRequest<Shared> for Body<T, MAX> {
    type Rejection = AppError;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, AppError> {
        demand_json(request.headers())?;
        let bytes = read_body(app, request, MAX).await?;
        parse(&bytes).map(|Strict(value)| Self(value))
    }
}

/// Where a body may be missing: an empty one is none, and so is null.
impl<T: DeserializeOwned, const MAX: usize> OptionalFromRequest<Shared> for Body<T, MAX> {
    type Rejection = AppError;

    async fn from_request(request: Request, app: &Shared) -> Result<Option<Self>, AppError> {
        demand_json(request.headers())?;
        let bytes = read_body(app, request, MAX).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let value = parse::<Option<Strict<T>>>(&bytes)?;
        Ok(value.map(|Strict(value)| Self(value)))
    }
}

/// A browser sends other types across sites without asking first. What names no type is no browser.
fn demand_json(headers: &HeaderMap) -> Result<(), AppError> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = value.to_str().unwrap_or_default().split(';').next();
    let kind = kind.unwrap_or_default().trim().to_ascii_lowercase();
    if kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json")) {
        return Ok(());
    }
    let message = "the body must be JSON: send Content-Type: application/json";
    Err(AppError::new(ErrorCode::UnsupportedMediaType, message))
}

/// Reads a body of at most `max` bytes.
pub(crate) async fn read_body(app: &App, request: Request, max: usize) -> Result<Vec<u8>, AppError> {
    let declared = request.headers().get(CONTENT_LENGTH);
    let declared = declared.and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let expected = declared.unwrap_or(0).min(max);
    let reading = collect(request.into_body(), expected, max);
    let reading = tokio::time::timeout(app.config.body_timeout, reading);
    reading
        .await
        .map_err(|_| AppError::bad_request("the body took too long to arrive"))?
}

async fn collect(body: RawBody, expected: usize, max: usize) -> Result<Vec<u8>, AppError> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::with_capacity(expected);
    let mut total = 0_usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| AppError::bad_request("the body ended too early"))?;
        total = total.saturating_add(chunk.len());
        if total > max {
            let message = format!("the body is larger than {max} bytes");
            return Err(AppError::new(ErrorCode::PayloadTooLarge, message));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AppError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        AppError::bad_request(if path == "." || inner.is_syntax() || inner.is_eof() {
            format!("the body is not what this route takes: {inner}")
        } else {
            format!("{path}: {inner}")
        })
    })?;
    json.end()
        .map_err(|error| AppError::bad_request(format!("the body is not one JSON value: {error}")))?;
    Ok(value)
}

/// The query parameters; those that `T` does not name are ignored.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Params<T> {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, AppError> {
        // Neither database engine takes it everywhere, and no parameter needs it.
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(AppError::bad_request(
                "a parameter must not contain the NUL character",
            ));
        }
        Query::try_from_uri(&parts.uri)
            .map(|Query(value)| Self(value))
            .map_err(|error| AppError::bad_request(error.body_text()))
    }
}

/// The one parameter of a path. What is no id at all is an id that is not there: 404.
pub(crate) struct Id<T>(pub(crate) T);

impl<T: FromStr> FromRequestParts<Shared> for Id<T> {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, AppError> {
        path_id(parts, state, 0).await.map(Self)
    }
}

/// The two parameters of a path, in their order.
pub(crate) struct Ids<A, B>(pub(crate) A, pub(crate) B);

impl<A: FromStr + Send, B: FromStr + Send> FromRequestParts<Shared> for Ids<A, B> {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, AppError> {
        Ok(Self(
            path_id(parts, state, 0).await?,
            path_id(parts, state, 1).await?,
        ))
    }
}

async fn path_id<T: FromStr>(parts: &mut Parts, state: &Shared, at: usize) -> Result<T, AppError> {
    let params = RawPathParams::from_request_parts(parts, state).await;
    let params = params.map_err(|_| AppError::not_found("thing"))?;
    let id = params.iter().nth(at).and_then(|(_, text)| text.parse().ok());
    id.ok_or_else(|| AppError::not_found("thing"))
}
