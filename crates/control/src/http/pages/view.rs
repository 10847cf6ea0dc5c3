//! What the pages show. Everything a device or a provider said is escaped, and a device's words are named as its own.

use std::time::Duration;

use api::api_keys::CreatedApiKey;
use api::links::{Link, LinkStatus};
use api::nodes::Node;
use api::orgs::Me;
use api::sessions::{Session as Listed, SignInMethod};
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use types::Timestamp;
use url::Url;

use crate::app::invitations::Preview;
use crate::app::sessions::Session;
use crate::app::sign_in::Landing;
use crate::http::respond::AsWritten;

/// No script, no frame, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; \
     base-uri 'none'";

/// Wraps a body into a whole page with its headers; who is signed in stands at its foot.
pub(super) fn page(title: &str, session: Option<&Session>, body: &Markup) -> Response {
    let text = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · RunMesh" }
                link rel="stylesheet" href="/link/style.css";
            }
            body {
                header { span.mark aria-hidden="true" { "◆" } " RunMesh" }
                main { h1 { (title) } (body) }
                @if let Some(session) = session { (foot(session)) }
            }
        }
    };
    let headers: [(HeaderName, HeaderValue); 4] = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    ];
    let mut answer = (headers, text.into_string()).into_response();
    answer.extensions_mut().insert(AsWritten);
    answer
}

fn foot(session: &Session) -> Markup {
    let caller = &session.caller;
    html! {
        footer {
            p { "Organization " strong { (caller.org_name) } ", " (caller.role.as_str()) }
            nav aria-label="Your account" {
                a href="/link" { "Link a device" }
                a href="/account" { "Account" }
                form method="post" action="/link/sign-out" {
                    (token(session))
                    button.plain type="submit" { "Sign out" }
                }
            }
        }
    }
}

/// What the sign-in page needs.
pub(super) struct SignInForm<'a> {
    pub(super) csrf: &'a str,
    pub(super) landing: &'a Landing,
    pub(super) provider: Option<&'a str>,
    pub(super) error: Option<&'a str>,
}

/// Asks who is there: the provider's button when there is one, and an API key.
pub(super) fn sign_in(form: &SignInForm<'_>) -> Markup {
    let to = form.landing.to_string();
    html! {
        @if let Landing::Link(Some(code)) = form.landing {
            p { "Sign in to see the device with the code " strong.code { (code) } "." }
        }
        @if let Some(error) = form.error {
            p.error role="alert" { (sentence(error)) }
        }
        @if let Some(provider) = form.provider {
            a.button href={ "/sign-in?to=" (to) } { "Sign in with " (provider) }
            p.or { span { "or" } }
        }
        form method="post" action="/link/sign-in" {
            input type="hidden" name="csrf" value=(form.csrf);
            input type="hidden" name="to" value=(to);
            label for="key" { "API key" }
            input #key name="key" type="password" autocomplete="off" spellcheck="false" required
                autofocus[form.provider.is_none()];
            button.secondary[form.provider.is_some()] type="submit" { "Sign in with the key" }
        }
    }
}

/// Shows where an invitation leads.
pub(super) fn invited(preview: &Preview, token: &str, provider: Option<&str>) -> Markup {
    let invitation = &preview.invitation;
    html! {
        p { "You can join the organization " strong { (preview.org) } " as "
            strong { (invitation.role.as_str()) } "." }
        @if let Some(email) = &invitation.email {
            p { "Sign in with the account that has the address " strong { (email) } "." }
        }
        @match provider {
            Some(provider) => {
                a.button href={ "/sign-in?to=/account&invitation=" (url_part(token)) } {
                    "Join with " (provider)
                }
                p.hint { "This link is good once, until " (moment(invitation.expires_at)) "." }
            }
            None => p.error role="alert" { "This server has no sign-in provider at the moment." },
        }
    }
}

/// Asks for a code.
pub(super) fn code_form(session: &Session) -> Markup {
    html! {
        form method="post" action="/link" {
            (token(session))
            label for="code" { "The code that the device shows" }
            input.code #code name="code" autocomplete="off" autocapitalize="characters" spellcheck="false"
                maxlength="16" required autofocus aria-describedby="code-hint";
            p.hint #code-hint { "Six letters and digits, printed by " code { "runmesh up" } "." }
            button type="submit" { "Continue" }
        }
    }
}

/// Shows what asks to be linked, and the two buttons while it may still be decided.
pub(super) fn link(link: &Link, session: &Session, now: Timestamp) -> Markup {
    html! {
        @match link.status {
            LinkStatus::Pending => {
                p.ask { "Did you just run this on this machine?" }
                div.match {
                    p #match-hint { "Then the device shows this number:" }
                    p.number aria-describedby="match-hint" { (link.match_number) }
                }
                p { "If it shows another one, or you did not start this, deny it: somebody else may have sent you here." }
            }
            LinkStatus::Approved => p.note role="status" { "This device was approved already." },
            LinkStatus::Denied => p.note role="status" { "This device was denied." },
            LinkStatus::Expired => p.error role="alert" { "This code has expired. Start again on the device." },
        }
        dl {
            dt { "Calls itself" } dd { (claim(link.device_label.as_deref())) }
            dt { "Host name" } dd { (claim(link.hostname.as_deref())) }
            dt { "System" } dd { (claim(link.os.as_deref())) }
            dt { "Asked from" } dd { (link.ip) }
            dt { "Asked at" } dd { (moment(link.created_at)) " (" (ago(now.since(link.created_at))) ")" }
            dt { "Code" } dd.code { (link.code) }
            dt { "Public key" } dd.key { (link.public_key) }
            dt { "Joins" } dd { (session.caller.org_name) }
        }
        @if link.status == LinkStatus::Pending {
            (decision_forms(link, session))
        } @else {
            p { a href="/link" { "Link another device" } }
        }
    }
}

/// Tells that the device is a node now.
pub(super) fn approved(node: &Node) -> Markup {
    html! {
        p.note role="status" { "The device is now " strong { (node.name) } "." }
        p { "Its address in the mesh is " code { (node.dns_name) } ". It connects within a few seconds; you can close \
             this page." }
        p { a href="/link" { "Link another device" } }
    }
}

/// Tells that the device was denied.
pub(super) fn denied(link: &Link) -> Markup {
    html! {
        p.note role="status" { "The device with the code " strong.code { (link.code) } " was not linked." }
        p { "If you do not know where the request came from, it was right to deny it." }
        p { a href="/link" { "Link another device" } }
    }
}

/// Tells why something did not work.
pub(super) fn refused(message: &str) -> Markup {
    html! {
        p.error role="alert" { (sentence(message)) }
        p { a href="/link" { "Back to the beginning" } }
    }
}

/// Leads to the provider, where somebody shows who is to be tied to them.
pub(super) fn to_provider(provider: &str, url: &Url) -> Markup {
    html! {
        p { "Sign in there with the account that you want to come in with from now on." }
        a.button href=(url) { "Continue at " (provider) }
        p.hint { "What you may do here stays as it is, and so do your keys." }
    }
}

/// Shows who somebody is here; their browsers when they may see them; whether the provider knows them; and a form for a
/// key.
pub(super) fn account(
    me: &Me,
    (open, provider): (Option<&[Listed]>, Option<(&str, bool)>),
    session: &Session,
) -> Markup {
    html! {
        dl {
            dt { "Name" } dd { (me.user.name) }
            dt { "Organization" } dd { (me.organization.name) }
            dt { "Role" } dd { (me.role.as_str()) }
        }
        @if let Some(open) = open {
            h2 { "Signed-in browsers" }
            ul.rows { @for row in open { (browser(row, session)) } }
        }
        @match provider {
            Some((name, true)) => p.hint { "You can sign in with " (name) "." },
            Some((name, false)) => {
                h2 { "Sign in without a key" }
                form method="post" action="/account/identity" {
                    (token(session))
                    button.secondary type="submit" { "Use my account at " (name) }
                }
            }
            None => {},
        }
        h2 { "A key for the command line" }
        form method="post" action="/account/keys" {
            (token(session))
            label for="name" { "What to call it" }
            input #name name="name" autocomplete="off" maxlength="128" placeholder="laptop" required;
            label for="expires" { "Good for" }
            select #expires name="expires" {
                option value="30d" { "30 days" }
                option value="90d" selected { "90 days" }
                option value="1y" { "a year" }
            }
            button type="submit" { "Make a key" }
        }
    }
}

fn browser(row: &Listed, session: &Session) -> Markup {
    let how = match row.method {
        SignInMethod::ApiKey => "with an API key",
        SignInMethod::Oidc => "at the provider",
    };
    html! {
        li {
            span {
                "From " (row.ip) ", " (how)
                @if row.current { " " strong { "(this one)" } }
                br;
                span.hint { "until " (moment(row.expires_at)) }
            }
            form method="post" action={ "/account/sessions/" (row.id) "/end" } {
                (token(session))
                button.secondary type="submit" { "Sign out" }
            }
        }
    }
}

/// Shows a new key, this once.
pub(super) fn new_key(created: &CreatedApiKey, server: &Url) -> Markup {
    html! {
        p.note role="status" { "This is the only time that the key is shown." }
        pre {
            "export RUNTOOLS_API_URL=" (server.as_str().trim_end_matches('/')) "\n"
            "export RUNTOOLS_API_KEY=" (created.key)
        }
        p { "Whoever has it acts as you. Delete it with " code { "runmesh keys delete " (created.record.id) } "." }
        p { a href="/account" { "Back to your account" } }
    }
}

fn decision_forms(link: &Link, session: &Session) -> Markup {
    html! {
        form method="post" action={ "/link/" (link.code) "/approve" } {
            (token(session))
            label for="name" { "Name in the mesh" }
            input #name name="name" autocomplete="off" autocapitalize="none" spellcheck="false"
                pattern="[a-z0-9]([a-z0-9\\-]*[a-z0-9])?" maxlength="63" aria-describedby="name-hint";
            p.hint #name-hint { "Lower-case letters, digits and hyphens. Left empty, it is made from the host name." }
            button type="submit" { "The numbers match: approve" }
        }
        form method="post" action={ "/link/" (link.code) "/deny" } {
            (token(session))
            button.secondary type="submit" { "Deny" }
        }
        p.hint { "This code is good until " (moment(link.expires_at)) "." }
    }
}

fn token(session: &Session) -> Markup {
    html! { input type="hidden" name="csrf" value=(session.csrf.expose()); }
}

fn claim(text: Option<&str>) -> Markup {
    html! { @if let Some(text) = text { "“" (text) "”" } @else { span.hint { "not said" } } }
}

/// A time for people, to the minute.
fn moment(time: Timestamp) -> Markup {
    let exact = time.to_string();
    let (day, rest) = exact.split_once('T').unwrap_or((&exact, ""));
    html! { time datetime=(exact) { (day) " " (rest.get(..5).unwrap_or_default()) " UTC" } }
}

fn ago(span: Duration) -> String {
    match span.as_secs() {
        0..60 => "less than a minute ago".to_owned(),
        60..120 => "a minute ago".to_owned(),
        seconds => format!("{} minutes ago", seconds / 60),
    }
}

/// The API's messages begin in lower case.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    format!(
        "{}{}.",
        first.unwrap_or_default(),
        letters.as_str().trim_end_matches('.')
    )
}

fn url_part(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
