//! What a browser sends: its cookies, where a form comes from, the form's fields.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderName;
use axum::http::header::{COOKIE, HOST, ORIGIN, SET_COOKIE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use types::SecretString;

use super::view;
use crate::app::sessions::{self, LIFETIME, Session};
use crate::app::{App, AppError};
use crate::http::Shared;
use crate::http::extract::{ClientIp, read_body};
use crate::http::respond::refusal_headers;
use crate::secrets;

/// The largest form.
const FORM_BYTES_MAX: usize = 16 * 1024;

/// A browser as one request shows it.
pub(super) struct Browser {
    pub(super) ip: IpAddr,
    /// Its session token, unchecked.
    pub(super) token: Option<String>,
    form_token: Option<String>,
    secure: bool,
    same_origin: bool,
}

impl FromRequestParts<Shared> for Browser {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, AppError> {
        let secure = is_secure(app);
        Ok(Self {
            ip: ClientIp::of(parts).0,
            token: cookie(parts, &name("session", secure)),
            form_token: cookie(parts, &name("form", secure)),
            secure,
            same_origin: is_same_origin(parts),
        })
    }
}

impl Browser {
    /// Finds the browser's session, if it has a good one.
    pub(super) async fn session(&self, app: &App) -> Result<Option<Session>, AppError> {
        match &self.token {
            Some(token) => sessions::find(app, self.ip, token).await,
            None => Ok(None),
        }
    }

    /// Refuses a form that another site sent.
    pub(super) fn demand_same_origin(&self) -> Result<(), AppError> {
        if self.same_origin {
            Ok(())
        } else {
            Err(AppError::forbidden("this form was sent by another site"))
        }
    }

    /// Refuses a sign-in form that is not from our page: its token must equal the cookie's.
    pub(super) fn demand_own_form(&self, form: &Form) -> Result<(), AppError> {
        self.demand_same_origin()?;
        let own = self.form_token.clone().map(SecretString::new);
        if own.is_some_and(|own| own.matches(form.field("csrf"))) {
            Ok(())
        } else {
            Err(AppError::forbidden(
                "this form is not from this page; go back and try again",
            ))
        }
    }

    /// The page that asks for an API key; `code` is where it leads afterwards.
    pub(super) fn sign_in_page(&self, code: &str, error: Option<AppError>) -> Response {
        let token = secrets::csrf_token();
        let message = error.as_ref().map(|error| error.message.as_str());
        let body = view::sign_in_form(&token, code, message);
        let cookie = set_cookie(
            &name("form", self.secure),
            &token,
            self.secure,
            LIFETIME.as_secs(),
        );
        let mut answer = ([cookie], view::page("Sign in", &body)).into_response();
        if let Some(error) = error
            && let Ok(status) = axum::http::StatusCode::from_u16(error.code.status())
        {
            *answer.status_mut() = status;
            refusal_headers(&mut answer, error.limit);
        }
        answer
    }
}

/// The fields of a form.
pub(super) struct Form(BTreeMap<String, String>);

impl Form {
    /// A field's value; empty when it is not there.
    pub(super) fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

impl FromRequest<Shared> for Form {
    type Rejection = AppError;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, AppError> {
        let bytes = read_body(request, FORM_BYTES_MAX).await?;
        Ok(Self(url::form_urlencoded::parse(&bytes).into_owned().collect()))
    }
}

/// The header that signs a browser in.
pub(super) fn set_session(app: &App, token: &SecretString) -> (HeaderName, String) {
    let secure = is_secure(app);
    set_cookie(
        &name("session", secure),
        token.expose(),
        secure,
        LIFETIME.as_secs(),
    )
}

/// The header that makes a browser forget its session.
pub(super) fn clear_session(app: &App) -> (HeaderName, String) {
    let secure = is_secure(app);
    set_cookie(&name("session", secure), "", secure, 0)
}

fn is_secure(app: &App) -> bool {
    app.config.public_url.scheme() == "https"
}

/// `__Host-` makes browsers insist on Secure, this host and Path=/.
fn name(what: &str, secure: bool) -> String {
    let prefix = if secure { "__Host-" } else { "" };
    format!("{prefix}runmesh_{what}")
}

fn set_cookie(name: &str, value: &str, secure: bool, max_age: u64) -> (HeaderName, String) {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age}{secure}");
    (SET_COOKIE, text)
}

fn cookie(parts: &Parts, name: &str) -> Option<String> {
    let headers = parts.headers.get_all(COOKIE).into_iter();
    let texts = headers.filter_map(|value| value.to_str().ok());
    let mut pairs = texts
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.to_owned())
}

/// Browsers say where a form comes from in one header or the other; what says nothing is no browser.
fn is_same_origin(parts: &Parts) -> bool {
    if let Some(site) = parts.headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let Some(origin) = parts.headers.get(ORIGIN).and_then(|value| value.to_str().ok()) else {
        return !parts.headers.contains_key(ORIGIN);
    };
    let host = parts.headers.get(HOST).and_then(|value| value.to_str().ok());
    let origin = origin.split_once("://").map(|(_, host)| host);
    origin.is_some() && origin == host
}
