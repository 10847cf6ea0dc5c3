//! What the pages show. Everything a device said of itself is escaped and named as its own claim.

use api::links::{Link, LinkStatus};
use api::nodes::Node;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::http::respond::AsWritten;

/// No script, no frame, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; \
     base-uri 'none'";

/// Wraps a body into a whole page with its headers.
pub(super) fn page(title: &str, body: &Markup) -> Response {
    let text = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · RunMesh" }
                link rel="stylesheet" href="/link/style.css";
            }
            body { main { h1 { (title) } (body) } }
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

/// Asks for an API key.
pub(super) fn sign_in_form(csrf: &str, code: &str, error: Option<&str>) -> Markup {
    html! {
        @if let Some(error) = error {
            p.error role="alert" { (error) }
        }
        form method="post" action="/link/sign-in" {
            input type="hidden" name="csrf" value=(csrf);
            input type="hidden" name="code" value=(code);
            label for="key" { "API key" }
            input id="key" name="key" type="password" autocomplete="off" required autofocus;
            button type="submit" { "Sign in" }
        }
    }
}

/// Asks for a code.
pub(super) fn code_form(csrf: &str) -> Markup {
    html! {
        form method="post" action="/link" {
            input type="hidden" name="csrf" value=(csrf);
            label for="code" { "The code that the device shows" }
            input id="code" name="code" autocomplete="off" autocapitalize="characters" required autofocus;
            button type="submit" { "Continue" }
        }
        (sign_out_form(csrf))
    }
}

/// Shows what asks to be linked, and the two buttons while it may still be decided.
pub(super) fn link(link: &Link, org: &str, csrf: &str) -> Markup {
    html! {
        p { "Did you just run this on this machine?" }
        p.match { (link.match_number) }
        p { "The device shows the same two digits. If it does not, deny it." }
        dl {
            dt { "Code" } dd { (link.code) }
            dt { "Calls itself" } dd { (claim(link.device_label.as_deref())) }
            dt { "Host name" } dd { (claim(link.hostname.as_deref())) }
            dt { "System" } dd { (claim(link.os.as_deref())) }
            dt { "Asked from" } dd { (link.ip) }
            dt { "Asked at" } dd { (link.created_at) }
            dt { "Public key" } dd.key { (link.public_key) }
            dt { "Organization" } dd { (org) }
        }
        @match link.status {
            LinkStatus::Pending => (decision_forms(&link.code, csrf)),
            LinkStatus::Approved => p { "This device was approved already." },
            LinkStatus::Denied => p { "This device was denied." },
            LinkStatus::Expired => p.error { "This code has expired. Start again on the device." },
        }
        (sign_out_form(csrf))
    }
}

/// Tells that the device is a node now.
pub(super) fn approved(node: &Node) -> Markup {
    html! {
        p { "The device is now " strong { (node.name) } " and can be reached as " code { (node.dns_name) } "." }
        p { "It will connect within a few seconds. You can close this page." }
    }
}

/// Tells that the device was denied.
pub(super) fn denied(link: &Link) -> Markup {
    html! { p { "The device with the code " strong { (link.code) } " was not linked." } }
}

/// Tells why something did not work.
pub(super) fn refused(message: &str) -> Markup {
    html! {
        p.error role="alert" { (message) }
        p { a href="/link" { "Back" } }
    }
}

fn decision_forms(code: &str, csrf: &str) -> Markup {
    html! {
        form method="post" action={ "/link/" (code) "/approve" } {
            input type="hidden" name="csrf" value=(csrf);
            label for="name" { "Name (empty: made from the host name)" }
            input id="name" name="name" autocomplete="off" pattern="[a-z0-9]([a-z0-9-]*[a-z0-9])?" maxlength="63";
            button type="submit" { "Approve" }
        }
        form method="post" action={ "/link/" (code) "/deny" } {
            input type="hidden" name="csrf" value=(csrf);
            button.secondary type="submit" { "Deny" }
        }
    }
}

fn sign_out_form(csrf: &str) -> Markup {
    html! {
        form.quiet method="post" action="/link/sign-out" {
            input type="hidden" name="csrf" value=(csrf);
            button.secondary type="submit" { "Sign out" }
        }
    }
}

fn claim(text: Option<&str>) -> Markup {
    html! { @if let Some(text) = text { "“" (text) "”" } @else { "not said" } }
}
