//! A browser without JavaScript: cookies for each origin, forms, no redirect followed by itself.

use reqwest::header::{COOKIE, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder};
use url::Url;

use super::Fixture;

pub(crate) struct Browser {
    base: Url,
    http: reqwest::Client,
    cookies: Vec<(String, String, String)>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) policy: Option<String>,
    /// `Retry-After`, and what remains of the limit.
    pub(crate) limit: (Option<String>, Option<String>),
    /// The cookies it sets, as they were sent.
    pub(crate) cookies: Vec<String>,
    pub(crate) text: String,
}

impl Shown {
    /// The token of the first form.
    pub(crate) fn csrf(&self) -> String {
        let rest = self.text.split("name=\"csrf\" value=\"").nth(1).expect("a form");
        rest.split('"').next().expect("a value").to_owned()
    }

    /// Where it leads; fails when it leads nowhere.
    pub(crate) fn leads(&self) -> &str {
        self.location
            .as_deref()
            .unwrap_or_else(|| panic!("no redirect: {self:?}"))
    }
}

impl Browser {
    /// A browser that has been nowhere.
    pub(crate) fn new(fixture: &Fixture) -> Self {
        let http = reqwest::Client::builder()
            .redirect(Policy::none())
            .build()
            .expect("a client");
        Self {
            base: fixture.url("/").parse().expect("an address"),
            http,
            cookies: Vec::new(),
        }
    }

    /// A request of a path of the server, or of another address, with the cookies that go with it.
    pub(crate) fn request(&self, method: Method, place: &str) -> RequestBuilder {
        let url = self.base.join(place).expect("an address");
        let mine = self
            .cookies
            .iter()
            .filter(|(origin, ..)| *origin == origin_of(&url));
        let cookies: Vec<String> = mine.map(|(_, n, v)| format!("{n}={v}")).collect();
        let request = self.http.request(method, url);
        if cookies.is_empty() {
            request
        } else {
            request.header(COOKIE, cookies.join("; "))
        }
    }

    pub(crate) async fn send(&mut self, request: RequestBuilder) -> Shown {
        let answer = request.send().await.expect("an answer");
        let origin = origin_of(answer.url());
        let header = |name| {
            let value = answer.headers().get(name);
            value.map(|v| v.to_str().expect("text").to_owned())
        };
        let (location, policy) = (header("location"), header("content-security-policy"));
        let limit = (header("retry-after"), header("x-ratelimit-remaining"));
        let set = answer.headers().get_all(SET_COOKIE).iter();
        let cookies: Vec<String> = set.map(|v| v.to_str().expect("text").to_owned()).collect();
        for cookie in &cookies {
            let pair = cookie.split(';').next().expect("a pair");
            let (name, value) = pair.split_once('=').expect("a pair");
            self.cookies
                .retain(|(at, known, _)| *at != origin || known != name);
            if !value.is_empty() {
                self.cookies
                    .push((origin.clone(), name.to_owned(), value.to_owned()));
            }
        }
        Shown {
            status: answer.status().as_u16(),
            location,
            policy,
            limit,
            cookies,
            text: answer.text().await.expect("a body"),
        }
    }

    pub(crate) async fn get(&mut self, place: &str) -> Shown {
        let request = self.request(Method::GET, place);
        self.send(request).await
    }

    /// Submits a form of the same origin.
    pub(crate) async fn submit(&mut self, place: &str, fields: &[(&str, &str)]) -> Shown {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let request = self
            .request(Method::POST, place)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("sec-fetch-site", "same-origin");
        self.send(request.body(body)).await
    }

    /// Signs in with an API key, on the way to a page.
    pub(crate) async fn sign_in(&mut self, key: &str, to: &str) -> Shown {
        let csrf = self.get(to).await.csrf();
        self.submit("/link/sign-in", &[("csrf", &csrf), ("key", key), ("to", to)])
            .await
    }

    /// The session token that it keeps.
    pub(crate) fn session(&self) -> Option<&str> {
        let mut all = self.cookies.iter();
        let found = all.find(|(_, name, _)| name.ends_with("runmesh_session"));
        found.map(|(_, _, value)| value.as_str())
    }
}

fn origin_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}
