//! HTTP: handlers of about ten lines, one file per noun, and what stands around them.
//!
//! A handler takes a checked [`crate::app::Caller`], calls one function of `app`, and wraps what it says. Routes are
//! registered with what they demand (`routes`), bodies and queries are read with limits (`extract`), and every answer,
//! refusals of the framework too, gets the contract's envelope (`respond`).

mod activity;
mod agents;
mod api_keys;
mod audit;
mod auth_keys;
mod control;
mod describe;
mod documents;
mod events;
mod extract;
mod invitations;
mod links;
mod nodes;
mod orgs;
mod pages;
mod policy;
mod relays;
mod respond;
mod routes;
mod runs;
mod sessions;
mod threads;
mod users;

use std::sync::Arc;

use axum::Router;

pub(crate) use documents::document_text;
pub(crate) use extract::ClientIp;
pub(crate) use routes::Routes;

use crate::app::App;

/// What handlers are given: `State(app): State<Shared>`.
pub(crate) type Shared = Arc<App>;

/// Every route of the server.
pub(crate) fn routes() -> Routes {
    let routes = Routes::new();
    let routes = api_keys::register(routes);
    let routes = agents::register(routes);
    let routes = runs::register(routes);
    let routes = threads::register(routes);
    let routes = events::register(routes);
    let routes = orgs::register(routes);
    let routes = users::register(routes);
    let routes = invitations::register(routes);
    let routes = sessions::register(routes);
    let routes = audit::register(routes);
    let routes = activity::register(routes);
    let routes = links::register(routes);
    let routes = auth_keys::register(routes);
    let routes = policy::register(routes);
    let routes = relays::register(routes);
    let routes = control::register(routes);
    let routes = documents::register(routes);
    let routes = pages::register(routes);
    nodes::register(routes)
}

/// The whole server as one service.
pub(crate) fn router(app: Shared) -> Router {
    routes().into_router(app)
}
