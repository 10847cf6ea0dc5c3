//! A real server per test: its own database in its own directory, port 0, and a client that speaks plain HTTP.
//!
//! The database is SQLite, or PostgreSQL when `RUNMESH_TEST_POSTGRES_URL` names a server where databases may be made.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod browser;
pub(crate) mod device;
pub(crate) mod provider;
pub(crate) mod sign_in;

use control::clock::Clock;
use control::{ServeConfig, Server, Tuning, serve_with};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use types::{NodePrivateKey, RelayId, RelayRecord};

/// A running server with an admin.
pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) clock: Clock,
    pub(crate) admin: String,
    pub(crate) http: reqwest::Client,
    pub(crate) dir: TempDir,
    /// How it was started, and can be started again.
    pub(crate) config: ServeConfig,
}

/// What the server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Answer {
    /// The code of a refusal; checks that the envelope is whole.
    pub(crate) fn code(&self) -> &str {
        let error = &self.body["error"];
        assert!(error["message"].is_string(), "{self:?}");
        let id = error["requestId"].as_str().expect("a request id");
        assert!(id.starts_with("req_"));
        error["code"].as_str().expect("a code")
    }

    /// What was asked for; checks the status and that the envelope is whole.
    pub(crate) fn data(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert!(self.body["meta"]["requestId"].is_string(), "{self:?}");
        &self.body["data"]
    }
}

/// How a test server is started in `dir`.
pub(crate) fn config(dir: &TempDir, clock: &Clock) -> ServeConfig {
    ServeConfig {
        data_dir: dir.path().join("data"),
        database_url: None,
        listen: "127.0.0.1:0".parse().expect("address"),
        mesh_listen: "127.0.0.1:0".parse().expect("address"),
        public_url: None,
        org_name: "home".parse().expect("name"),
        trusted_proxies: Vec::new(),
        relay: None,
        relays_elsewhere: Vec::new(),
        provider: None,
        clock: clock.clone(),
    }
}

/// A relay that runs elsewhere, as the control plane is told of it.
pub(crate) fn relay_elsewhere(seed: u8) -> RelayRecord {
    RelayRecord {
        id: RelayId(NodePrivateKey::from_random([seed; 32]).public()),
        name: format!("relay{seed}").parse().expect("a label"),
        endpoints: vec![format!("192.0.2.{seed}:3478")],
        url: None,
        stun_endpoints: Vec::new(),
    }
}

impl Fixture {
    /// A server with a relay that runs elsewhere.
    pub(crate) async fn start_with_relay() -> Self {
        Self::start_with(Tuning::default(), |start| {
            start.relays_elsewhere = vec![relay_elsewhere(8)];
        })
        .await
    }

    /// A server with a sign-in provider that says what the test wants.
    pub(crate) async fn start_with_provider() -> (Self, provider::Provider) {
        let clock = Clock::system();
        let provider = provider::Provider::start(&clock).await;
        let config = provider.config();
        let fixture = Self::start_with(Tuning::default(), |start| {
            start.clock = clock;
            start.provider = Some(config);
        });
        (fixture.await, provider)
    }

    /// Signs in with an API key as a browser does; returns the session's token.
    pub(crate) async fn session(&self, key: &str) -> String {
        let mut browser = browser::Browser::new(self);
        let signed = browser.sign_in(key, "/link").await;
        let token = browser.session();
        token
            .unwrap_or_else(|| panic!("not signed in: {signed:?}"))
            .to_owned()
    }

    pub(crate) async fn start() -> Self {
        Self::start_with(Tuning::default(), |_| {}).await
    }

    /// Starts a server after `change` of how.
    pub(crate) async fn start_with(tuning: Tuning, change: impl FnOnce(&mut ServeConfig)) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let clock = Clock::system();
        let mut config = config(&dir, &clock);
        change(&mut config);
        if let Ok(url) = std::env::var("RUNMESH_TEST_POSTGRES_URL") {
            let database = control::scratch_database(&url)
                .await
                .expect("a PostgreSQL server");
            config.database_url = Some(database);
        }
        let server = serve_with(config.clone(), tuning)
            .await
            .expect("the server starts");
        let admin = server
            .admin_key
            .as_ref()
            .expect("first start")
            .expose()
            .to_owned();
        Self {
            server,
            clock: config.clock.clone(),
            admin,
            http: reqwest::Client::new(),
            dir,
            config,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.http_addr)
    }

    /// One request; `body` is sent as JSON.
    pub(crate) async fn call(
        &self,
        key: Option<&str>,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.http.request(method, self.url(path));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    }

    /// GET as the admin.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Some(&self.admin), Method::GET, path, None).await
    }

    /// POST as the admin.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Some(&self.admin), Method::POST, path, Some(body)).await
    }
}

/// Sends a request and reads all of the answer.
pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let headers = response.headers().clone();
    let text = response.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer {
        status,
        headers,
        body,
        text,
    }
}
