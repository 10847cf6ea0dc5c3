//! A typed client of the API: one method per route, one file per noun.
//!
//! Errors carry the contract's code, message and request id. It neither retries nor caches.

mod agents;
mod api_keys;
mod auth_keys;
mod events;
mod invitations;
mod links;
mod nodes;
mod orgs;
mod policy;
mod relays;
mod runs;
mod sessions;
mod threads;

pub use events::Frames;
pub use runs::StartedRun;

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use types::SecretString;
use url::Url;

use crate::envelope::{ErrorBody, ErrorEnvelope, Success};

/// The largest answer that is read into memory, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take to arrive whole.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a live stream may be silent; the server comments on an idle one every twenty seconds.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why a request gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said no.
    #[error("{} ({}, {})", .0.message, .0.code, .0.request_id)]
    Api(ErrorBody),
    /// Something that does not speak this API answered.
    #[error("the server answered {status} with something that is not this API")]
    NotOurs {
        /// The HTTP status.
        status: u16,
    },
    /// The answer is larger than [`ANSWER_BYTES_MAX`].
    #[error("the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    /// The server cannot be reached, or went away in the middle.
    #[error("the server cannot be reached")]
    Transport(#[from] reqwest::Error),
    /// The server said nothing on a live stream for a minute.
    #[error("the server has fallen silent")]
    Silent,
    /// The address is no `http://` or `https://` address.
    #[error("the server's address must start with http:// or https://")]
    BadUrl,
}

impl ClientError {
    /// Returns what the server said, when it said anything.
    #[must_use]
    pub fn api(&self) -> Option<&ErrorBody> {
        match self {
            Self::Api(body) => Some(body),
            _ => None,
        }
    }
}

/// A client of one server with one credential. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    credential: Option<SecretString>,
}

impl Client {
    /// Makes a client of the server at `base`, such as `https://mesh.example.org`; without a credential for the two
    /// open routes.
    pub fn new(base: &str, credential: Option<SecretString>) -> Result<Self, ClientError> {
        let mut base: Url = base.parse().map_err(|_| ClientError::BadUrl)?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(ClientError::BadUrl);
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self {
            http: http()?,
            base,
            credential,
        })
    }

    /// Returns the server's address; it ends with a slash.
    #[must_use]
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Builds a request of `path` (without the leading slash) with the credential in place.
    pub(crate) fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, ClientError> {
        let url = self.base.join(path).map_err(|_| ClientError::BadUrl)?;
        let request = self.http.request(method, url);
        Ok(match &self.credential {
            Some(credential) => request.bearer_auth(credential.expose()),
            None => request,
        })
    }

    pub(crate) async fn get<Q: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Q,
    ) -> Result<T, ClientError> {
        let call = self.request(Method::GET, path)?.query(query);
        read(call.timeout(ANSWER_TIMEOUT).send().await?).await
    }

    pub(crate) async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let call = self.request(method, path)?.json(body);
        read(call.timeout(ANSWER_TIMEOUT).send().await?).await
    }

    pub(crate) async fn text<Q: Serialize + ?Sized>(
        &self,
        path: &str,
        query: &Q,
    ) -> Result<String, ClientError> {
        let call = self.request(Method::GET, path)?.query(query);
        let answer = checked(call.timeout(ANSWER_TIMEOUT).send().await?).await?;
        String::from_utf8(bounded(answer).await?).map_err(|_| ClientError::NotOurs { status: 200 })
    }
}

/// The API redirects nowhere: following one would take the request to where the caller did not send it.
fn http() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .build()
}

/// No query parameters.
pub(crate) const NO_QUERY: &[(&str, &str)] = &[];

/// Sends a request whose answer is a live stream: only its beginning must come soon.
pub(crate) async fn open(call: RequestBuilder) -> Result<Response, ClientError> {
    let opening = tokio::time::timeout(SILENCE_MAX, call.send());
    checked(opening.await.map_err(|_| ClientError::Silent)??).await
}

/// Turns an answer that is no success into its error.
pub(crate) async fn checked(answer: Response) -> Result<Response, ClientError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let bytes = bounded(answer).await?;
    Err(match serde_json::from_slice::<ErrorEnvelope>(&bytes) {
        Ok(envelope) => ClientError::Api(envelope.error),
        Err(_) => ClientError::NotOurs {
            status: status.as_u16(),
        },
    })
}

async fn read<T: DeserializeOwned>(answer: Response) -> Result<T, ClientError> {
    let answer = checked(answer).await?;
    let status = answer.status().as_u16();
    serde_json::from_slice(&bounded(answer).await?).map_err(|_| ClientError::NotOurs { status })
}

async fn bounded(mut answer: Response) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(ClientError::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Takes what was asked for out of its envelope.
pub(crate) fn data<T>(answer: Success<T>) -> T {
    answer.data
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives one answer to its first request; returns its address and what it was asked.
    async fn once(answer: String) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a client");
            let mut asked = vec![0; 8192];
            let n = socket.read(&mut asked).await.expect("a request");
            socket.write_all(answer.as_bytes()).await.expect("sent");
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        (format!("http://{address}"), task)
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let (elsewhere, untouched) = once(String::new()).await;
        let answer = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {elsewhere}/v1/me\r\ncontent-length: 0\r\n\r\n"
        );
        let (base, asked) = once(answer).await;
        let key = SecretString::new("rt_live_x".to_owned());
        let client = Client::new(&base, Some(key)).expect("an address");
        let error = client.me().await.expect_err("no answer of the API");
        assert!(matches!(error, ClientError::NotOurs { status: 307 }), "{error}");
        assert!(asked.await.expect("asked").contains("Bearer rt_live_x"));
        assert!(!untouched.is_finished());
    }

    #[tokio::test]
    async fn an_address_with_a_path_keeps_it() {
        let (base, asked) = once("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
        let client = Client::new(&format!("{base}/mesh"), None).expect("an address");
        client.me().await.expect_err("refused");
        assert!(
            asked
                .await
                .expect("asked")
                .starts_with("GET /mesh/v1/me HTTP/1.1")
        );
    }

    #[test]
    fn only_http_addresses_are_taken_and_a_credential_is_not_printed() {
        for bad in [
            "",
            "mesh.example.org",
            "ftp://mesh.example.org",
            "file:///etc/passwd",
        ] {
            assert!(Client::new(bad, None).is_err(), "{bad}");
        }
        let key = SecretString::new("rt_live_x".to_owned());
        let client = Client::new("https://mesh.example.org", Some(key)).expect("an address");
        assert!(!format!("{client:?}").contains("rt_live_x"));
    }
}
