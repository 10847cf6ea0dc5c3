//! One's own page: who one is here, which browsers are signed in, and a key for the command line.

use api::Scope;
use api::api_keys::{CreateApiKey, KeyLifetime};
use api::sessions::SessionsQuery;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use types::SessionId;

use super::browser::{Browser, Cookie, Form, sign_in_page};
use super::{Refusal, view};
use crate::app::sessions::{self, Session};
use crate::app::sign_in::{Errand, Landing, begin};
use crate::app::{Access, Limit, api_keys, tie, users};
use crate::http::extract::Id;
use crate::http::{Routes, Shared};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .apart("GET", "/account", get(show))
        .apart("POST", "/account/keys", post(make_key))
        .apart("POST", "/account/identity", post(tie_identity))
        .limited(Limit::SignIn, ("POST", "/account/identity"))
        .apart("POST", "/account/sessions/{id}/end", post(end_session))
}

async fn show(State(app): State<Shared>, browser: Browser) -> Result<Response, Refusal> {
    let Some(session) = browser.session(&app).await? else {
        return Ok(sign_in_page(&app, &Landing::Account, None));
    };
    let me = users::me(&app, &session.caller).await?;
    // Whose credential does not reach them sees the page without them.
    let open = match Access::Scope(Scope::OrgRead).check(&session.caller) {
        Ok(()) => Some(
            sessions::list(&app, &session.caller, &SessionsQuery::default())
                .await?
                .rows,
        ),
        Err(_) => None,
    };
    let provider = tie::standing(&app, &session.caller).await?;
    let body = view::account(&me, (open.as_deref(), provider), &session);
    Ok(view::page("Your account", Some(&session), &body))
}

/// Makes a key with what the session is good for, and shows it once.
async fn make_key(State(app): State<Shared>, browser: Browser, form: Form) -> Result<Response, Refusal> {
    let session = pressed(&app, &browser, &form).await?;
    let request = CreateApiKey {
        name: form.field("name").trim().to_owned(),
        scopes: Some(session.caller.scopes.clone()),
        expires_in: match form.field("expires") {
            "30d" => Some(KeyLifetime::Days30),
            "1y" => Some(KeyLifetime::Year),
            _ => Some(KeyLifetime::Days90),
        },
        is_test: false,
    };
    let created = api_keys::create(&app, &session.caller, request).await?;
    let body = view::new_key(&created, &app.config.public_url);
    Ok(view::page("Your new API key", Some(&session), &body))
}

/// Begins to tie an identity to whoever is signed in. Not from a link, since another site could follow that; and the way to
/// the provider is one, since browsers that keep to `form-action 'self'` would not follow a form's redirect there.
async fn tie_identity(State(app): State<Shared>, browser: Browser, form: Form) -> Result<Response, Refusal> {
    let session = pressed(&app, &browser, &form).await?;
    tie::demand_tieable(&app, &session.caller).await?;
    let errand = Errand::Tie(session.caller.user);
    let begun = begin(&app, browser.ip, Landing::Account, errand).await?;
    let cookie = Cookie::SignIn.set(&app, &begun.browser);
    let name = app.provider.as_ref().map_or("", |provider| provider.name());
    let body = view::to_provider(name, &begun.url);
    Ok(([cookie], view::page("Sign in there", Some(&session), &body)).into_response())
}

async fn end_session(
    State(app): State<Shared>,
    browser: Browser,
    Id(id): Id<SessionId>,
    form: Form,
) -> Result<Response, Refusal> {
    let session = pressed(&app, &browser, &form).await?;
    let ended = sessions::end(&app, &session.caller, id).await?;
    let back = Redirect::to("/account");
    Ok(if ended.current {
        ([Cookie::Session.clear(&app)], back).into_response()
    } else {
        back.into_response()
    })
}

async fn pressed(app: &Shared, browser: &Browser, form: &Form) -> Result<Session, Refusal> {
    let session = browser.pressed(app, form).await?;
    Access::Scope(Scope::OrgWrite).check(&session.caller)?;
    Ok(session)
}
