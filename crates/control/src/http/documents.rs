//! What the server says of itself: the OpenAPI document, the list of documentation pages, whether it is alive.

use std::sync::OnceLock;

use api::ErrorEnvelope;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, ResponseBuilder,
};
use utoipa::{PartialSchema as _, ToSchema as _};
use utoipa_axum::routes;

use super::Routes;
use super::routes::REFUSAL;
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
        .description(Some(
            "Link devices, see nodes, dispatch runs, follow threads. Every answer is `{data, meta}`, every refusal \
             `{error: {code, message, requestId}}`. Unknown fields of a request are ignored.",
        ))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
        .build();
    let mut document = OpenApiBuilder::new().info(info).build();
    let components = document.components.get_or_insert_default();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme("bearer", bearer);
    let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
    components.add_security_scheme("apiKey", header);
    describe_refusals(components);
    document
}

fn describe_refusals(components: &mut Components) {
    let mut schemas = Vec::new();
    ErrorEnvelope::schemas(&mut schemas);
    schemas.push((ErrorEnvelope::name().into_owned(), ErrorEnvelope::schema()));
    components.schemas.extend(schemas);
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(ErrorEnvelope::name())))
        .build();
    let refusal = ResponseBuilder::new()
        .description("A refusal: `error.code` says which, `error.message` what to do.")
        .content("application/json", content)
        .build();
    components.responses.insert(REFUSAL.to_owned(), refusal.into());
}
