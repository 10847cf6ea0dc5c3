//! The pages for people: sign in, link a device, one's own account. No script at all.
//!
//! Every form carries a token against cross-site requests: the session's once signed in, before that one that must equal
//! a cookie's. What is shown stands in `view`.

mod account;
mod browser;
mod link;
mod sign_in;
mod view;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use super::{Routes, respond};
use crate::app::AppError;

const STYLE: &str = include_str!("style.css");

pub(super) fn register(routes: Routes) -> Routes {
    let routes = routes
        .apart("GET", "/", get(home))
        .apart("GET", "/link/style.css", get(style));
    let routes = link::register(routes);
    let routes = sign_in::register(routes);
    account::register(routes)
}

async fn home() -> Redirect {
    Redirect::to("/link")
}

async fn style() -> Response {
    let headers = [
        (CONTENT_TYPE, "text/css"),
        (CACHE_CONTROL, "public, max-age=3600"),
    ];
    (headers, STYLE).into_response()
}

/// A refusal, shown as a page.
struct Refusal(AppError);

impl From<AppError> for Refusal {
    fn from(error: AppError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut answer = view::page("That did not work", None, &view::refused(&self.0.message));
        respond::mark_refused(&mut answer, &self.0);
        answer
    }
}
