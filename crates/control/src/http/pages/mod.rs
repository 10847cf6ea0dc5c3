//! The pages behind a link's `url`: sign in, see what asks to be linked, approve or deny. No script at all.
//!
//! Every form carries a token against cross-site requests: the session's once signed in, before that one that must equal
//! a cookie's. What is shown stands in `view`.

mod browser;
mod view;

use api::Scope;
use api::links::LinkApprove;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use self::browser::{Browser, Form, clear_session, set_session};
use super::extract::Id;
use super::respond::refusal_headers;
use super::{Routes, Shared};
use crate::app::sessions::{self, Session};
use crate::app::{Access, AppError, Limit, links};

const STYLE: &str = include_str!("style.css");

/// What the buttons of these pages demand: the same as the routes they stand for.
const LINKING: Access = Access::Scope(Scope::RunmeshWrite);

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .page("GET", "/", get(home))
        .page("GET", "/link", get(enter))
        .page("GET", "/link/style.css", get(style))
        .page("POST", "/link", post(open))
        .page("POST", "/link/sign-in", post(sign_in))
        .limited(Limit::SignIn, ("POST", "/link/sign-in"))
        .page("POST", "/link/sign-out", post(sign_out))
        .page("GET", "/link/{code}", get(confirm))
        .page("POST", "/link/{code}/approve", post(approve))
        .page("POST", "/link/{code}/deny", post(deny))
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

/// Asks for a code, or for a key first.
async fn enter(State(app): State<Shared>, browser: Browser) -> Result<Response, Refusal> {
    Ok(match browser.session(&app).await? {
        Some(session) => view::page("Link a device", &view::code_form(session.csrf.expose())),
        None => browser.sign_in_page("", None),
    })
}

/// Takes a typed code to its page.
async fn open(State(app): State<Shared>, browser: Browser, form: Form) -> Result<Response, Refusal> {
    signed_in(&app, &browser, &form).await?;
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
        return Ok(browser.sign_in_page(&code, None));
    };
    LINKING.check(&session.caller)?;
    let link = links::find(&app, &session.caller, &code).await?;
    let body = view::link(&link, session.caller.org_name.as_str(), session.csrf.expose());
    Ok(view::page("Link a device", &body))
}

async fn sign_in(State(app): State<Shared>, browser: Browser, form: Form) -> Result<Response, Refusal> {
    browser.demand_own_form(&form)?;
    let code = links::read_code(form.field("code"));
    match sessions::sign_in(&app, browser.ip, form.field("key")).await {
        Ok(token) => {
            let place = code.map_or("/link".to_owned(), |code| format!("/link/{code}"));
            let cookie = set_session(&app, &token);
            Ok(([cookie], Redirect::to(&place)).into_response())
        }
        Err(error) if error.code.status() < 500 => {
            Ok(browser.sign_in_page(code.as_deref().unwrap_or_default(), Some(error)))
        }
        Err(error) => Err(error.into()),
    }
}

async fn sign_out(State(app): State<Shared>, browser: Browser, form: Form) -> Result<Response, Refusal> {
    signed_in(&app, &browser, &form).await?;
    if let Some(token) = &browser.token {
        sessions::sign_out(&app, token).await?;
    }
    Ok(([clear_session(&app)], Redirect::to("/link")).into_response())
}

async fn approve(
    State(app): State<Shared>,
    browser: Browser,
    Id(code): Id<String>,
    form: Form,
) -> Result<Response, Refusal> {
    let session = signed_in(&app, &browser, &form).await?;
    let name = Some(form.field("name").trim().to_owned()).filter(|name| !name.is_empty());
    let request = LinkApprove {
        code,
        name,
        tags: None,
    };
    let node = links::approve(&app, &session.caller, request).await?;
    Ok(view::page("Device linked", &view::approved(&node)))
}

async fn deny(
    State(app): State<Shared>,
    browser: Browser,
    Id(code): Id<String>,
    form: Form,
) -> Result<Response, Refusal> {
    let session = signed_in(&app, &browser, &form).await?;
    let link = links::deny(&app, &session.caller, &code).await?;
    Ok(view::page("Device denied", &view::denied(&link)))
}

/// Finds who pressed a button and checks that they pressed it on our page and may.
async fn signed_in(app: &Shared, browser: &Browser, form: &Form) -> Result<Session, Refusal> {
    browser.demand_same_origin()?;
    let session = browser.session(app).await?;
    let session = session.ok_or_else(|| AppError::forbidden("you are not signed in any more"))?;
    if !session.csrf.matches(form.field("csrf")) {
        return Err(AppError::forbidden("this form is not from this page; go back and try again").into());
    }
    LINKING.check(&session.caller)?;
    Ok(session)
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
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = view::page("That did not work", &view::refused(&self.0.message));
        *answer.status_mut() = status;
        refusal_headers(&mut answer, self.0.limit);
        answer
    }
}
