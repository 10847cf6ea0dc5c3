//! A person's way through the pages to the provider and back.

use reqwest::Method;
use serde_json::Value;

use super::browser::{Browser, Shown};
use super::provider::Provider;
use super::{Answer, Fixture};

/// Makes an invitation and returns its link, as a path.
pub(crate) async fn invite(fixture: &Fixture, body: Value) -> String {
    let made = fixture.post("/v1/invitations", body).await;
    let url = made.data(201)["url"].as_str().expect("a link").to_owned();
    url.replacen(fixture.server.public_url.as_str(), "/", 1)
}

/// Where the page's link to the provider leads.
pub(crate) fn button(shown: &Shown) -> String {
    let rest = shown.text.split("href=\"/sign-in?").nth(1);
    let rest = rest.unwrap_or_else(|| panic!("no button: {shown:?}"));
    let query = rest.split('"').next().expect("an end").replace("&amp;", "&");
    format!("/sign-in?{query}")
}

/// Begins at a page and signs in at the provider.
pub(crate) async fn sign_in(browser: &mut Browser, provider: &Provider, page: &str) -> Shown {
    let shown = browser.get(page).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    let sent = browser.get(&button(&shown)).await;
    assert_eq!(sent.status, 303, "{sent:?}");
    let back = provider.answer(sent.leads());
    browser.get(&format!("/sign-in/callback?{back}")).await
}

/// A new browser that signs in without an invitation.
pub(crate) async fn arrive(fixture: &Fixture, provider: &Provider) -> (Browser, Shown) {
    let mut browser = Browser::new(fixture);
    let shown = sign_in(&mut browser, provider, "/link").await;
    (browser, shown)
}

pub(crate) async fn me(fixture: &Fixture, browser: &Browser) -> Answer {
    fixture.call(browser.session(), Method::GET, "/v1/me", None).await
}

pub(crate) async fn members(fixture: &Fixture) -> usize {
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let path = format!("/v1/organizations/{}/members", org.as_str().expect("an id"));
    fixture.get(&path).await.data(200).as_array().expect("rows").len()
}
