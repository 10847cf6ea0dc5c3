//! What a browser sends and keeps: its cookies, where a form comes from, the form's fields.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderName;
use axum::http::header::{COOKIE, HOST, ORIGIN, SET_COOKIE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use types::SecretString;

use super::view::{self, SignInForm};
use crate::app::sessions::{self, LIFETIME, Session};
use crate::app::sign_in::{Landing, PATIENCE};
use crate::app::{App, AppError};
use crate::http::Shared;
use crate::http::extract::{ClientIp, read_body};
use crate::http::respond;
use crate::secrets;

/// The largest form.
const FORM_BYTES_MAX: usize = 16 * 1024;

/// What is kept in a browser.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cookie {
    /// Who is signed in.
    Session,
    /// What a sign-in form must repeat.
    Form,
    /// Which sign-in at the provider this browser began.
    SignIn,
}

impl Cookie {
    /// `__Host-` makes browsers insist on Secure, this host and Path=/.
    fn name(self, secure: bool) -> String {
        let what = match self {
            Self::Session => "session",
            Self::Form => "form",
            Self::SignIn => "sign_in",
        };
        let prefix = if secure { "__Host-" } else { "" };
        format!("{prefix}runmesh_{what}")
    }

    /// Browsers take a cookie along when the provider sends them back only if it is Lax; forms are guarded by tokens.
    fn same_site(self) -> &'static str {
        match self {
            Self::Session | Self::SignIn => "Lax",
            Self::Form => "Strict",
        }
    }

    fn seconds(self) -> u64 {
        match self {
            Self::Session | Self::Form => LIFETIME.as_secs(),
            Self::SignIn => PATIENCE.as_secs(),
        }
    }

    /// The header that makes a browser keep a value.
    pub(super) fn set(self, app: &App, value: &SecretString) -> (HeaderName, String) {
        self.header(app, value.expose(), self.seconds())
    }

    /// The header that makes a browser forget it.
    pub(super) fn clear(self, app: &App) -> (HeaderName, String) {
        self.header(app, "", 0)
    }

    fn header(self, app: &App, value: &str, seconds: u64) -> (HeaderName, String) {
        let (name, site) = (self.name(is_secure(app)), self.same_site());
        let secure = if is_secure(app) { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite={site}; Max-Age={seconds}{secure}");
        (SET_COOKIE, text)
    }

    fn read(self, parts: &Parts, app: &App) -> Option<String> {
        let name = self.name(is_secure(app));
        let headers = parts.headers.get_all(COOKIE).into_iter();
        let texts = headers.filter_map(|value| value.to_str().ok());
        let mut pairs = texts
            .flat_map(|text| text.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        pairs
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.to_owned())
    }
}

/// A browser as one request shows it.
pub(super) struct Browser {
    pub(super) ip: IpAddr,
    /// What shows that it began the sign-in that it ends.
    pub(super) sign_in: Option<String>,
    session: Option<String>,
    form: Option<String>,
    same_origin: bool,
}

impl FromRequestParts<Shared> for Browser {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, AppError> {
        Ok(Self {
            ip: ClientIp::of(parts).0,
            sign_in: Cookie::SignIn.read(parts, app),
            session: Cookie::Session.read(parts, app),
            form: Cookie::Form.read(parts, app),
            same_origin: is_same_origin(parts),
        })
    }
}

impl Browser {
    /// Finds the browser's session, if it has a good one.
    pub(super) async fn session(&self, app: &App) -> Result<Option<Session>, AppError> {
        match &self.session {
            Some(token) => sessions::find(app, self.ip, token).await,
            None => Ok(None),
        }
    }

    /// Finds who pressed a button, and checks that they pressed it on our page.
    pub(super) async fn pressed(&self, app: &App, form: &Form) -> Result<Session, AppError> {
        self.demand_same_origin()?;
        let session = self.session(app).await?;
        let session = session.ok_or_else(|| AppError::forbidden("you are not signed in any more"))?;
        if session.csrf.matches(form.field("csrf")) {
            Ok(session)
        } else {
            Err(not_our_form())
        }
    }

    /// Refuses a sign-in form that is not from our page: its token must equal the cookie's.
    pub(super) fn demand_own_form(&self, form: &Form) -> Result<(), AppError> {
        self.demand_same_origin()?;
        let own = self.form.clone().map(SecretString::new);
        if own.is_some_and(|own| own.matches(form.field("csrf"))) {
            Ok(())
        } else {
            Err(not_our_form())
        }
    }

    /// Refuses a form that another site sent.
    fn demand_same_origin(&self) -> Result<(), AppError> {
        if self.same_origin {
            Ok(())
        } else {
            Err(AppError::forbidden("this form was sent by another site"))
        }
    }
}

fn not_our_form() -> AppError {
    AppError::forbidden("this form is not from this page; go back and try again")
}

/// The page that asks who is there, before it leads to `landing`.
pub(super) fn sign_in_page(app: &App, landing: &Landing, error: Option<AppError>) -> Response {
    let token = secrets::token();
    let body = view::sign_in(&SignInForm {
        csrf: token.expose(),
        landing,
        provider: app.provider.as_ref().map(|provider| provider.name()),
        error: error.as_ref().map(|error| error.message.as_str()),
    });
    let cookie = Cookie::Form.set(app, &token);
    let mut answer = ([cookie], view::page("Sign in", None, &body)).into_response();
    if let Some(error) = error {
        respond::mark_refused(&mut answer, &error);
    }
    answer
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

    async fn from_request(request: Request, app: &Shared) -> Result<Self, AppError> {
        let bytes = read_body(app, request, FORM_BYTES_MAX).await?;
        Ok(Self(url::form_urlencoded::parse(&bytes).into_owned().collect()))
    }
}

fn is_secure(app: &App) -> bool {
    app.config.public_url.scheme() == "https"
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
