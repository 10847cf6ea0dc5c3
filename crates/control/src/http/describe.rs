//! What the OpenAPI document says of every route alike: who may call it, which refusals it has, which headers answers carry.
//!
//! Refusals that only one route knows (409, 410, a 404 without an id in the path) stand at its handler.

use std::collections::BTreeMap;

use api::{ErrorCode, ErrorEnvelope, schema};
use axum::http::StatusCode;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{
    Components, Content, ContentBuilder, Header, Ref, RefOr, Response, ResponseBuilder, SecurityRequirement,
};
use utoipa::{PartialSchema as _, ToSchema};

use crate::app::Access;

/// Headers of every answer.
const HEADERS: [&str; 1] = ["X-Request-Id"];

/// Headers of the answers of a limited route.
const LIMIT_HEADERS: [&str; 3] = ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"];

/// Completes the description of one operation.
pub(super) fn operation(operation: &mut Operation, path: &str, access: Access) {
    describe_access(operation, access);
    let limited = path.contains("/devices/link/") || path.ends_with("/devices/join");
    for status in refusals(operation, path, access, limited) {
        // A stranger is told nothing of a limit that counts by person.
        let told = limited && status != 401;
        let refusal = RefOr::Ref(Ref::from_response_name(refusal_name(status, told)));
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_string()).or_insert(refusal);
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            complete(response, status, limited);
        }
    }
}

/// Writes into an operation what its entry in the table demands.
fn describe_access(operation: &mut Operation, access: Access) {
    let (scope, text) = match access {
        Access::Open => {
            operation.security = Some(vec![]);
            return;
        }
        Access::SignedIn => (None, "Any credential will do.".to_owned()),
        Access::Scope(scope) => (Some(scope), format!("Scope: `{scope}`.")),
        Access::Admin(scope) => (Some(scope), format!("Scope: `{scope}`; admins only.")),
    };
    let scopes = || scope.map(|scope| scope.as_str());
    operation.security = Some(vec![
        SecurityRequirement::new("bearer", scopes()),
        SecurityRequirement::new("apiKey", scopes()),
    ]);
    let before = operation.description.take().unwrap_or_default();
    operation.description = Some(format!("{before}\n\n{text}").trim().to_owned());
}

/// Which refusals follow from what a route takes and demands.
fn refusals(
    operation: &Operation,
    path: &str,
    access: Access,
    limited: bool,
) -> impl Iterator<Item = u16> + use<> {
    let has_body = operation.request_body.is_some();
    let parameters = operation.parameters.iter().flatten();
    let takes_more = parameters.clone().any(
        |parameter| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in != ParameterIn::Path),
    );
    [
        (400, has_body || takes_more),
        (401, access != Access::Open),
        (403, !matches!(access, Access::Open | Access::SignedIn)),
        (404, path.contains('{')),
        (413, has_body),
        (415, has_body),
        (429, limited),
        (500, path.starts_with("/v1/") && !path.ends_with(".json")),
    ]
    .into_iter()
    .filter_map(|(status, applies)| applies.then_some(status))
}

/// Gives a response the headers that every answer has, and a description when its handler gave none.
fn complete(response: &mut Response, status: &str, limited: bool) {
    if response.description.is_empty() {
        status_text(status).clone_into(&mut response.description);
    }
    let limits = LIMIT_HEADERS.into_iter().filter(|_| limited);
    for name in HEADERS.into_iter().chain(limits) {
        response.headers.insert(name.to_owned(), header_ref(name));
    }
}

fn status_text(status: &str) -> &'static str {
    match status {
        "201" => "It was made.",
        "204" => "It is done.",
        _ => "What was asked for.",
    }
}

/// Writes what operations refer to.
pub(super) fn components(components: &mut Components) {
    let mut schemas = vec![(ErrorEnvelope::name().into_owned(), ErrorEnvelope::schema())];
    ErrorEnvelope::schemas(&mut schemas);
    components.schemas.extend(schemas);
    components.headers = headers();
    let mut codes: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for code in ErrorCode::ALL {
        codes.entry(code.status()).or_default().push(format!("`{code}`"));
    }
    for (status, codes) in codes {
        for limited in [false, true] {
            let refusal = refusal(status, &codes.join(", "), limited);
            let name = refusal_name(status, limited);
            components.responses.insert(name, RefOr::T(refusal));
        }
    }
}

/// How the refusals of limited routes are called, which tell how the limit stands, and those of all others.
fn refusal_name(status: u16, limited: bool) -> String {
    let kind = if limited { "LimitedRefusal" } else { "Refusal" };
    format!("{kind}{status}")
}

fn refusal(status: u16, codes: &str, limited: bool) -> Response {
    let content: Content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(ErrorEnvelope::name())))
        .build();
    let reason = StatusCode::from_u16(status).ok();
    let reason = reason
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    let mut response = ResponseBuilder::new()
        .description(format!("{reason}: {codes}."))
        .content("application/json", content)
        .build();
    complete(&mut response, "", limited);
    match status {
        401 => response
            .headers
            .insert("WWW-Authenticate".to_owned(), header_ref("WWW-Authenticate")),
        429 => response
            .headers
            .insert("Retry-After".to_owned(), header_ref("Retry-After")),
        _ => None,
    };
    response
}

fn header_ref(name: &str) -> RefOr<Header> {
    RefOr::Ref(Ref::new(format!("#/components/headers/{name}")))
}

fn headers() -> BTreeMap<String, RefOr<Header>> {
    let whole = || {
        RefOr::from(
            ObjectBuilder::new()
                .schema_type(Type::Integer)
                .minimum(Some(0_usize)),
        )
    };
    let text = || RefOr::from(ObjectBuilder::new().schema_type(Type::String));
    let headers: [(&str, RefOr<Schema>, &str); 8] = [
        (
            "X-Request-Id",
            schema::RequestId::schema(),
            "Names the request in the server's log.",
        ),
        ("X-RateLimit-Limit", whole(), "How many requests at once."),
        ("X-RateLimit-Remaining", whole(), "How many are left now."),
        (
            "X-RateLimit-Reset",
            whole(),
            "In how many seconds one more is allowed (when none is left), or all are.",
        ),
        ("Retry-After", whole(), "After how many seconds to try again."),
        ("WWW-Authenticate", text(), "How to sign in."),
        (
            "X-Run-ID",
            schema::RunId::schema(),
            "The run, when its frames are the answer.",
        ),
        (
            "X-Thread-ID",
            schema::ThreadId::schema(),
            "Its thread, when the frames of the run are the answer.",
        ),
    ];
    let header = |(name, schema, text): (&str, _, &str)| {
        let header = HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(text))
            .build();
        (name.to_owned(), RefOr::T(header))
    };
    headers.into_iter().map(header).collect()
}
