//! What the server says of itself: the OpenAPI document, the list of documentation pages, whether it is alive.

use std::sync::OnceLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::routes;

use super::{Routes, describe};
use crate::app::Access;

/// Every documentation page that the server carries.
const LLMS: &str = "# RunMesh\n\n\
    > A private, org-scoped network for machines and AI agents: link devices, see nodes, dispatch runs, follow \
    threads.\n\n\
    ## API\n\n\
    - [OpenAPI 3.1 document](/v1/openapi.json): every route, its scope and its shapes\n\n\
    ## Pages\n\n\
    - [Link a device](/link): enter the code that a device shows, approve or deny it\n\
    - [Account](/account): one's sessions, and a key for the command line\n";

/// What holds for all routes.
const DESCRIPTION: &str = "Link devices, see nodes, dispatch runs, follow threads.\n\n\
    Every answer is `{data, meta}`, every refusal `{error: {code, message, requestId}}`. A path that is not here is \
    answered 404, a method that a path does not have 405 with `Allow`; where there is GET there is HEAD.\n\n\
    A body is one JSON value of at most 1 MiB (a run: 2 MiB, an append of events: 8 MiB) that nests at most 127 levels. Fields and query parameters that a route does not know are ignored and not stored; one \
    that it knows must not come twice. Lengths are in characters where not said otherwise.\n\n\
    Rules that a schema cannot state stand in the descriptions; what breaks one is answered 400 with a message that names \
    it. An id or name that the caller may not see is answered 404, whether or not it exists.\n\n\
    The control stream of nodes (`/v1/runmesh/control`) is no HTTP API and not described here.";

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Open, routes!(openapi))
        .add(Access::Open, routes!(llms))
        .add(Access::Open, routes!(health))
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "documents", operation_id = "getOpenApi",
    responses((status = 200, description = "The OpenAPI 3.1 document.", body = Object, content_type = "application/json")))]
async fn openapi() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(document_text).as_str();
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

/// Every documentation page that the server carries.
#[utoipa::path(get, path = "/llms.txt", tag = "documents", operation_id = "getLlms",
    responses((status = 200, description = "Markdown.", body = String, content_type = "text/plain")))]
async fn llms() -> Response {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], LLMS).into_response()
}

/// Whether the server is alive.
#[utoipa::path(get, path = "/healthz", tag = "documents", operation_id = "getHealth",
    responses((status = 200, description = "It is.", body = String, content_type = "text/plain")))]
async fn health() -> &'static str {
    "ok\n"
}

/// Writes the OpenAPI document of every route, as it is committed and served.
pub(crate) fn document_text() -> String {
    let mut document = frame();
    super::routes().describe(&mut document);
    let mut text = document
        .to_pretty_json()
        .expect("the document has only string keys");
    text.push('\n');
    text
}

fn frame() -> OpenApi {
    let info = InfoBuilder::new()
        .title("RunMesh")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
        .build();
    let mut document = OpenApiBuilder::new().info(info).build();
    let components = document.components.get_or_insert_default();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme("bearer", bearer);
    let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
    components.add_security_scheme("apiKey", header);
    describe::components(components);
    document
}
