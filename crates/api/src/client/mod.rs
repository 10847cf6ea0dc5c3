//! A typed client of the API: one method per route, one file per noun.
//!
//! Errors carry the contract's code, message and request id. It neither retries nor caches.

mod agents;
mod api_keys;
mod events;
mod links;
mod nodes;
mod orgs;
mod runs;
mod threads;

pub use events::Frames;
pub use runs::StartedRun;

use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use types::SecretString;
use url::Url;

use crate::envelope::{ErrorBody, ErrorEnvelope, Success};

/// The largest answer that is read into memory, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

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
            http: reqwest::Client::builder().build()?,
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
        read(self.request(Method::GET, path)?.query(query).send().await?).await
    }

    pub(crate) async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        read(self.request(method, path)?.json(body).send().await?).await
    }

    pub(crate) async fn text<Q: Serialize + ?Sized>(
        &self,
        path: &str,
        query: &Q,
    ) -> Result<String, ClientError> {
        let answer = checked(self.request(Method::GET, path)?.query(query).send().await?).await?;
        String::from_utf8(bounded(answer).await?).map_err(|_| ClientError::NotOurs { status: 200 })
    }
}

/// No query parameters.
pub(crate) const NO_QUERY: &[(&str, &str)] = &[];

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
