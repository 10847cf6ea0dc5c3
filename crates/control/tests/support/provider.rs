//! A sign-in provider that says whatever a test wants, signed or not: certified ones do not lie.
//!
//! There is no page: a test plays the person, takes what it needs from the address that it was sent to, and comes back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::Router;
use axum::extract::{Form, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use control::clock::Clock;
use control::provider::ProviderConfig;
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use types::SigningPrivateKey;
use url::Url;

pub(crate) const CLIENT: &str = "runmesh-test";
pub(crate) const SECRET: &str = "a-client-secret-of-at-least-32-bytes";

/// How it behaves next.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    /// What the ID token says beyond the usual claims; `null` takes a claim out.
    pub(crate) claims: Value,
    /// What the token's head says beyond algorithm and key.
    pub(crate) head: Value,
    /// What user info says; nothing is there when `null`.
    pub(crate) info: Value,
    /// What its metadata say beyond the usual; `null` takes a field out.
    pub(crate) metadata: Value,
    /// Which key signs, and which key it publishes.
    pub(crate) keys: (u8, u8),
    /// What stands in the place of the signature.
    pub(crate) signature: Option<String>,
    /// The client secret makes the signature, by HMAC.
    pub(crate) hmac: bool,
    /// The ID token is left out.
    pub(crate) no_id_token: bool,
    /// Metadata come after so long.
    pub(crate) delay: Duration,
    /// Metadata are filled up to so many bytes.
    pub(crate) padding: usize,
    /// Metadata are answered with this status.
    pub(crate) status: StatusCode,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            claims: json!({}),
            head: json!({}),
            info: Value::Null,
            metadata: json!({}),
            keys: (1, 1),
            signature: None,
            hmac: false,
            no_id_token: false,
            delay: Duration::ZERO,
            padding: 0,
            status: StatusCode::OK,
        }
    }
}

#[derive(Debug, Default)]
struct Inside {
    behaviour: Behaviour,
    /// Code to nonce and PKCE challenge.
    codes: BTreeMap<String, (String, String)>,
    /// Every PKCE verifier that it was sent.
    verifiers: Vec<String>,
    discoveries: usize,
    issuer: String,
}

/// The provider; dropping it closes its port.
#[derive(Debug)]
pub(crate) struct Provider {
    inside: Arc<Mutex<Inside>>,
    clock: Clock,
    task: JoinHandle<()>,
}

type Shared = State<(Arc<Mutex<Inside>>, Clock)>;

impl Provider {
    pub(crate) async fn start(clock: &Clock) -> Self {
        Self::start_at(clock, "127.0.0.1:0").await
    }

    pub(crate) async fn start_at(clock: &Clock, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let inside = Arc::new(Mutex::new(Inside {
            issuer: format!("http://{address}"),
            ..Inside::default()
        }));
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .route("/me", get(info))
            .with_state((Arc::clone(&inside), clock.clone()));
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        Self {
            inside,
            clock: clock.clone(),
            task,
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("not poisoned")
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.inside().behaviour = behaviour;
    }

    /// Signs this subject in from now on.
    pub(crate) fn subject(&self, subject: &str) {
        self.claims(json!({"sub": subject}));
    }

    pub(crate) fn claims(&self, claims: Value) {
        self.behave(Behaviour {
            claims,
            ..Behaviour::default()
        });
    }

    pub(crate) fn issuer(&self) -> String {
        self.inside().issuer.clone()
    }

    /// How often its metadata were asked for.
    pub(crate) fn discoveries(&self) -> usize {
        self.inside().discoveries
    }

    pub(crate) fn config(&self) -> ProviderConfig {
        config(&self.issuer())
    }

    /// The person signs in: returns the query with which the browser comes back from the address it was sent to.
    pub(crate) fn answer(&self, sent_to: &str) -> String {
        let url: Url = sent_to.parse().expect("an address");
        let asked: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["code_challenge_method"], "S256");
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"));
        let mut inside = self.inside();
        let code = format!("code-{}", inside.codes.len());
        let bound = (asked["nonce"].clone(), asked["code_challenge"].clone());
        inside.codes.insert(code.clone(), bound);
        format!("code={code}&state={}", asked["state"])
    }

    /// The PKCE verifiers that it was sent.
    pub(crate) fn verifiers(&self) -> Vec<String> {
        self.inside().verifiers.clone()
    }

    /// Seconds since the epoch, by the server's clock.
    pub(crate) fn now(&self) -> i64 {
        self.clock.wall().unix_ms() / 1000
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a server is told of a provider.
pub(crate) fn config(issuer: &str) -> ProviderConfig {
    ProviderConfig {
        issuer: issuer.to_owned(),
        client_id: CLIENT.to_owned(),
        client_secret: Some(SECRET.to_owned().into()),
        name: "Example ID".to_owned(),
        joiners: Vec::new(),
    }
}

async fn metadata(State((inside, _)): Shared) -> Response {
    let (behaviour, issuer) = {
        let mut inside = inside.lock().expect("not poisoned");
        inside.discoveries += 1;
        (inside.behaviour.clone(), inside.issuer.clone())
    };
    tokio::time::sleep(behaviour.delay).await;
    let usual = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/auth"),
        "token_endpoint": format!("{issuer}/token"),
        "userinfo_endpoint": format!("{issuer}/me"),
        "jwks_uri": format!("{issuer}/jwks"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA", "HS256", "none"],
        "filling": " ".repeat(behaviour.padding),
    });
    let text = merged(usual, &behaviour.metadata).to_string();
    let mut answer = (
        behaviour.status,
        [(header::CONTENT_TYPE, "application/json")],
        text,
    )
        .into_response();
    if behaviour.status.is_redirection() {
        let to = format!("{issuer}/elsewhere").parse().expect("a header");
        answer.headers_mut().insert(header::LOCATION, to);
    }
    answer
}

async fn jwks(State((inside, _)): Shared) -> Response {
    let published = inside.lock().expect("not poisoned").behaviour.keys.1;
    let public = SigningPrivateKey::from_random([published; 32]).public();
    let x = URL_SAFE_NO_PAD.encode(public.as_bytes());
    let key =
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": format!("key-{published}"), "x": x});
    axum::Json(json!({"keys": [key]})).into_response()
}

async fn token(
    State((inside, clock)): Shared,
    headers: axum::http::HeaderMap,
    Form(form): Form<BTreeMap<String, String>>,
) -> Response {
    let refuse = |error: &str| (StatusCode::BAD_REQUEST, axum::Json(json!({"error": error}))).into_response();
    let basic = STANDARD.encode(format!("{CLIENT}:{SECRET}"));
    if headers.get("authorization").and_then(|v| v.to_str().ok()) != Some(&format!("Basic {basic}")) {
        return refuse("invalid_client");
    }
    let mut inside = inside.lock().expect("not poisoned");
    let Some((nonce, challenge)) = inside.codes.remove(&form["code"]) else {
        return refuse("invalid_grant");
    };
    inside.verifiers.push(form["code_verifier"].clone());
    if URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(form["code_verifier"].as_bytes())) != challenge {
        return refuse("invalid_grant");
    }
    let now = clock.wall().unix_ms() / 1000;
    let usual = json!({"iss": inside.issuer, "aud": CLIENT, "sub": "nobody", "iat": now, "exp": now + 300,
        "nonce": nonce});
    let id_token = signed(&inside.behaviour, merged(usual, &inside.behaviour.claims));
    let mut answer = json!({"access_token": "an-access-token", "token_type": "Bearer", "expires_in": 300});
    if !inside.behaviour.no_id_token {
        answer["id_token"] = json!(id_token);
    }
    axum::Json(answer).into_response()
}

async fn info(State((inside, _)): Shared) -> Response {
    let info = inside.lock().expect("not poisoned").behaviour.info.clone();
    if info.is_null() {
        return StatusCode::NOT_FOUND.into_response();
    }
    axum::Json(info).into_response()
}

fn signed(behaviour: &Behaviour, claims: Value) -> String {
    let (signing, _) = behaviour.keys;
    let head = merged(
        json!({"alg": "EdDSA", "kid": format!("key-{signing}")}),
        &behaviour.head,
    );
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(&head), encode(&claims));
    let signature = if behaviour.hmac {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()))
    } else {
        let signature = SigningPrivateKey::from_random([signing; 32]).sign(text.as_bytes());
        let bytes = STANDARD.decode(signature.to_string()).expect("its own text");
        URL_SAFE_NO_PAD.encode(bytes)
    };
    let signature = behaviour.signature.clone().unwrap_or(signature);
    format!("{text}.{signature}")
}

/// `usual` with the fields of `change` in it; `null` takes one out.
fn merged(mut usual: Value, change: &Value) -> Value {
    for (name, value) in change.as_object().into_iter().flatten() {
        let fields = usual.as_object_mut().expect("an object");
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    usual
}
