//! The table of routes: no route without what it demands of its caller and without its place in the OpenAPI document.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::ErrorCode;
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, SEC_WEBSOCKET_KEY, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use futures_util::StreamExt as _;
use utoipa::openapi::path::{Operation, PathItem, Paths};
use utoipa::openapi::{OpenApi, RefOr, Schema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::extract::ClientIp;
use super::{Shared, describe, respond};
use crate::app::{Access, AppError, Caller, Limit, access};

/// A path and a method, as the router knows them.
pub(crate) type RouteKey = (String, String);

/// Routes under construction. Handlers enter only through [`Routes::add`].
pub(crate) struct Routes {
    router: Router<Shared>,
    table: BTreeMap<RouteKey, Access>,
    limits: BTreeMap<RouteKey, Limit>,
    /// Those that answer with a WebSocket when asked for one.
    websockets: BTreeSet<RouteKey>,
    paths: Paths,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Routes {
    /// No route yet.
    pub(crate) fn new() -> Self {
        Self {
            router: Router::new(),
            table: BTreeMap::new(),
            limits: BTreeMap::new(),
            websockets: BTreeSet::new(),
            paths: Paths::new(),
            schemas: Vec::new(),
        }
    }

    /// Adds the handlers that `utoipa_axum::routes!` collected; all of them demand `access`.
    pub(crate) fn add(mut self, access: Access, route: UtoipaMethodRouter<Shared>) -> Self {
        let (schemas, paths, handlers) = route;
        self.schemas.extend(schemas);
        let path = paths.paths.keys().next().expect("routes! names one path").clone();
        for (path, mut item) in paths.paths {
            for (method, operation) in operations(&mut item) {
                describe::operation(operation, &path, access);
                let key = (path.clone(), method.to_owned());
                if operation.responses.responses.contains_key("101") {
                    self.websockets.insert(key.clone());
                }
                self.table.insert(key, access);
            }
            merge(&mut self.paths, path, item);
        }
        self.router = self.router.route(&path, handlers);
        self
    }

    /// Lets every answer of a route that is there tell how `limit` stands.
    pub(crate) fn limited(mut self, limit: Limit, (method, path): (&str, &str)) -> Self {
        let key = (path.to_owned(), method.to_owned());
        assert!(self.table.contains_key(&key), "{method} {path} is no route");
        self.limits.insert(key, limit);
        self
    }

    /// Adds what guards itself and is no part of the API: a page for browsers, the control stream of nodes.
    pub(crate) fn apart(mut self, method: &str, path: &str, handler: MethodRouter<Shared>) -> Self {
        self.table
            .insert((path.to_owned(), method.to_owned()), Access::Open);
        self.router = self.router.route(path, handler);
        self
    }

    /// What each route demands.
    pub(crate) fn table(&self) -> &BTreeMap<RouteKey, Access> {
        &self.table
    }

    /// Writes the routes and the shapes they use into a document.
    pub(crate) fn describe(self, document: &mut OpenApi) {
        document.paths = self.paths;
        let components = document.components.get_or_insert_default();
        components.schemas.extend(self.schemas);
    }

    /// Makes the service: every route behind the check of its entry, every answer in the envelope.
    pub(crate) fn into_router(self, app: Shared) -> Router {
        let guard = Guard {
            table: Arc::new(self.table),
            limits: Arc::new(self.limits),
            websockets: Arc::new(self.websockets),
            app: Arc::clone(&app),
        };
        self.router
            .route_layer(from_fn_with_state(guard, authorise))
            .fallback(respond::no_such_path)
            .method_not_allowed_fallback(respond::no_such_method)
            .layer(from_fn(respond::around))
            .with_state(app)
    }
}

#[derive(Clone)]
struct Guard {
    table: Arc<BTreeMap<RouteKey, Access>>,
    limits: Arc<BTreeMap<RouteKey, Limit>>,
    websockets: Arc<BTreeSet<RouteKey>>,
    app: Shared,
}

impl Guard {
    /// Writes how the limit of a route stands, if it has one, after the request that is answered.
    fn tell_limit(
        &self,
        answer: &mut Response,
        key: Option<&RouteKey>,
        (ip, caller): (IpAddr, Option<&Caller>),
    ) {
        let Some(limit) = key.and_then(|key| self.limits.get(key)) else {
            return;
        };
        let who = (ip, caller.map(|caller| caller.user));
        let standing = self.app.limits.standing(*limit, who, self.app.clock.now().mono);
        if let Some(standing) = standing {
            respond::limit_headers(answer, standing);
        }
    }
}

/// Lets a request through to its handler, with its caller, or refuses it.
async fn authorise(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let key = route_of(&parts);
    let ip = ClientIp::of(&parts).0;
    let admitted = admit(&guard, key.as_ref(), &mut parts).await;
    let caller = parts.extensions.get::<Caller>().cloned();
    let mut answer = match admitted {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refusal) => refusal.into_response(),
    };
    guard.tell_limit(&mut answer, key.as_ref(), (ip, caller.as_ref()));
    match caller {
        Some(caller) if is_live(&answer) => until_ended(answer, access::ended(guard.app, caller)),
        _ => answer,
    }
}

fn is_live(answer: &Response) -> bool {
    answer.headers().get(CONTENT_TYPE) == Some(&HeaderValue::from_static("text/event-stream"))
}

/// Cuts a live stream when its reader's credential is good no more.
fn until_ended(answer: Response, ended: impl Future<Output = ()> + Send + 'static) -> Response {
    answer.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(ended))))
}

fn route_of(parts: &Parts) -> Option<RouteKey> {
    let path = parts.extensions.get::<MatchedPath>()?.as_str().to_owned();
    let method = match parts.method {
        Method::HEAD => "GET",
        ref other => other.as_str(),
    };
    Some((path, method.to_owned()))
}

/// Finds who asks and checks what the route demands. The caller is left in the request, when there is one.
async fn admit(guard: &Guard, key: Option<&RouteKey>, parts: &mut Parts) -> Result<(), AppError> {
    let access = key.and_then(|key| guard.table.get(key));
    let access = access.ok_or_else(AppError::internal)?;
    if *access == Access::Open {
        return Ok(());
    }
    let upgrades = key.is_some_and(|key| guard.websockets.contains(key));
    let in_query = if upgrades { query_credential(parts) } else { None };
    let token = match (credential(&parts.headers), in_query) {
        (Some(_), Some(_)) => {
            let message = "exactly one credential is taken: in a header, or of a WebSocket api_key or token";
            return Err(AppError::new(ErrorCode::Unauthorized, message));
        }
        (header, query) => header.or(query),
    };
    let ip = ClientIp::of(parts).0;
    let caller = access::authenticate(&guard.app, token.as_deref(), ip).await?;
    parts.extensions.insert(caller.clone());
    access.check(&caller)
}

/// Reads `Authorization: Bearer`, or without that header `X-API-Key`. What is there and is no bearer token is an unknown
/// one: two credentials that disagree are never mixed.
fn credential(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let bearer = value.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        return Some(bearer.unwrap_or_default().to_owned());
    }
    Some(headers.get(api::API_KEY_HEADER)?.to_str().ok()?.trim().to_owned())
}

/// Reads `?api_key=` or `?token=` of a WebSocket request, since browsers cannot set its headers (contract §6). Both at
/// once count as none. Whatever else is asked takes a header: addresses stand in logs.
fn query_credential(parts: &Parts) -> Option<String> {
    let upgrade = parts.headers.get(UPGRADE)?.as_bytes();
    if !upgrade.eq_ignore_ascii_case(b"websocket") || !parts.headers.contains_key(SEC_WEBSOCKET_KEY) {
        return None;
    }
    let pairs = url::form_urlencoded::parse(parts.uri.query()?.as_bytes());
    let mut found: Vec<String> = pairs
        .filter(|(name, _)| name == "api_key" || name == "token")
        .map(|(_, value)| value.into_owned())
        .collect();
    if found.len() == 1 { found.pop() } else { None }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("GET", &mut item.get),
        ("POST", &mut item.post),
        ("PUT", &mut item.put),
        ("PATCH", &mut item.patch),
        ("DELETE", &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(name, operation)| operation.as_mut().map(|operation| (name, operation)))
}

fn merge(paths: &mut Paths, path: String, item: PathItem) {
    match paths.paths.get_mut(&path) {
        Some(known) => known.merge_operations(item),
        None => {
            paths.paths.insert(path, item);
        }
    }
}
