//! In and out: with an API key, or at the provider and back; and the page behind an invitation.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderName;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use types::SecretString;

use super::browser::{Browser, Cookie, Form, sign_in_page};
use super::{Refusal, view};
use crate::app::sign_in::{Answer, Errand, Landing, begin, finish};
use crate::app::{Limit, invitations, sessions};
use crate::http::extract::Params;
use crate::http::{Routes, Shared};

/// The query of a page: fields that it does not look for are ignored.
type Query = Params<BTreeMap<String, String>>;

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .apart("POST", "/link/sign-in", post(with_key))
        .limited(Limit::SignIn, ("POST", "/link/sign-in"))
        .apart("POST", "/link/sign-out", post(out))
        .apart("GET", "/sign-in", get(to_provider))
        .limited(Limit::SignIn, ("GET", "/sign-in"))
        .apart("GET", "/sign-in/callback", get(from_provider))
        .apart("GET", "/join", get(join))
}

async fn with_key(State(app): State<Shared>, browser: Browser, form: Form) -> Result<Response, Refusal> {
    browser.demand_own_form(&form)?;
    let landing = landing(form.field("to"));
    match sessions::sign_in(&app, browser.ip, form.field("key")).await {
        Ok(token) => Ok(signed_in(&app, &token, &landing)),
        Err(error) if error.code.status() < 500 => Ok(sign_in_page(&app, &landing, Some(error))),
        Err(error) => Err(error.into()),
    }
}

async fn out(State(app): State<Shared>, browser: Browser, form: Form) -> Result<Response, Refusal> {
    let session = browser.pressed(&app, &form).await?;
    if let Some(id) = session.caller.credential.session() {
        sessions::end(&app, &session.caller, id).await?;
    }
    Ok(([Cookie::Session.clear(&app)], Redirect::to("/link")).into_response())
}

/// A link and no form: browsers that keep to `form-action 'self'` would not follow a form's redirect to the provider.
async fn to_provider(
    State(app): State<Shared>,
    browser: Browser,
    Params(query): Query,
) -> Result<Response, Refusal> {
    let landing = landing(query.get("to").map_or("", String::as_str));
    let invitation = query.get("invitation");
    let errand = invitation.map_or(Errand::ComeIn, |token| Errand::Join(token));
    let begun = begin(&app, browser.ip, landing, errand).await?;
    let cookie = Cookie::SignIn.set(&app, &begun.browser);
    Ok(([cookie], Redirect::to(begun.url.as_str())).into_response())
}

async fn from_provider(
    State(app): State<Shared>,
    browser: Browser,
    Params(mut query): Query,
) -> Result<Response, Refusal> {
    let answer = Answer {
        state: query.remove("state").unwrap_or_default(),
        code: query.remove("code"),
        error: query.remove("error"),
        issuer: query.remove("iss"),
    };
    let session = browser.session(&app).await?;
    let who = (browser.ip, session.as_ref().map(|session| &session.caller));
    let (token, landing) = finish(&app, who, browser.sign_in.as_deref(), answer).await?;
    let mut answer = match token {
        Some(token) => signed_in(&app, &token, &landing),
        None => Redirect::to(&landing.to_string()).into_response(),
    };
    append(&mut answer, Cookie::SignIn.clear(&app));
    Ok(answer)
}

/// Shows where an invitation leads.
async fn join(State(app): State<Shared>, Params(query): Query) -> Result<Response, Refusal> {
    let token = query.get("invitation").map_or("", String::as_str);
    let preview = invitations::preview(&app, token).await?;
    let provider = app.provider.as_ref().map(|provider| provider.name());
    let body = view::invited(&preview, token, provider);
    Ok(view::page("You are invited", None, &body))
}

fn landing(text: &str) -> Landing {
    text.parse().unwrap_or(Landing::Link(None))
}

fn signed_in(app: &Shared, token: &SecretString, landing: &Landing) -> Response {
    let cookie = Cookie::Session.set(app, token);
    ([cookie], Redirect::to(&landing.to_string())).into_response()
}

fn append(answer: &mut Response, (name, text): (HeaderName, String)) {
    if let Ok(value) = text.parse() {
        answer.headers_mut().append(name, value);
    }
}
