//! The pages behind a link's `url`: see what asks to be linked, approve or deny.

use api::Scope;
use api::links::LinkApprove;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use super::browser::{Browser, Form, sign_in_page};
use super::{Refusal, view};
use crate::app::sessions::Session;
use crate::app::sign_in::Landing;
use crate::app::{Access, AppError, links};
use crate::http::extract::Id;
use crate::http::{Routes, Shared};

/// What the buttons of these pages demand: the same as the routes they stand for.
const LINKING: Access = Access::Scope(Scope::RunmeshWrite);

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .apart("GET", "/link", get(enter))
        .apart("POST", "/link", post(open))
        .apart("GET", "/link/{code}", get(confirm))
        .apart("POST", "/link/{code}/approve", post(approve))
        .apart("POST", "/link/{code}/deny", post(deny))
}

/// Asks for a code, or who is there first.
async fn enter(State(app): State<Shared>, browser: Browser) -> Result<Response, Refusal> {
    Ok(match browser.session(&app).await? {
        Some(session) => view::page("Link a device", Some(&session), &view::code_form(&session)),
        None => sign_in_page(&app, &Landing::Link(None), None),
    })
}

/// Takes a typed code to its page.
async fn open(State(app): State<Shared>, browser: Browser, form: Form) -> Result<Response, Refusal> {
    pressed(&app, &browser, &form).await?;
    let code = links::read_code(form.field("code"));
    let code = code.ok_or_else(|| AppError::not_found("code"))?;
    Ok(Redirect::to(&format!("/link/{code}")).into_response())
}

/// Shows what asks to be linked.
async fn confirm(
    State(app): State<Shared>,
    browser: Browser,
    Id(code): Id<String>,
) -> Result<Response, Refusal> {
    let Some(session) = browser.session(&app).await? else {
        return Ok(sign_in_page(&app, &Landing::Link(links::read_code(&code)), None));
    };
    LINKING.check(&session.caller)?;
    let link = links::find(&app, &session.caller, &code).await?;
    let body = view::link(&link, &session, app.clock.wall());
    Ok(view::page("Link a device", Some(&session), &body))
}

async fn approve(
    State(app): State<Shared>,
    browser: Browser,
    Id(code): Id<String>,
    form: Form,
) -> Result<Response, Refusal> {
    let session = pressed(&app, &browser, &form).await?;
    let name = Some(form.field("name").trim().to_owned()).filter(|name| !name.is_empty());
    let request = LinkApprove {
        code,
        name,
        tags: None,
    };
    let node = links::approve(&app, &session.caller, request).await?;
    Ok(view::page(
        "Device linked",
        Some(&session),
        &view::approved(&node),
    ))
}

async fn deny(
    State(app): State<Shared>,
    browser: Browser,
    Id(code): Id<String>,
    form: Form,
) -> Result<Response, Refusal> {
    let session = pressed(&app, &browser, &form).await?;
    let link = links::deny(&app, &session.caller, &code).await?;
    Ok(view::page("Device denied", Some(&session), &view::denied(&link)))
}

async fn pressed(app: &Shared, browser: &Browser, form: &Form) -> Result<Session, AppError> {
    let session = browser.pressed(app, form).await?;
    LINKING.check(&session.caller)?;
    Ok(session)
}
