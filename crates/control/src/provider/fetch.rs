//! Requests to the provider: no redirect, a limit on time and size, no trust in what comes back.

use std::pin::Pin;
use std::time::Duration;

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use reqwest::redirect::Policy;

use super::config::is_guarded;

/// How long one request may take, from the first byte sent to the last received.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer, in bytes: metadata and key sets have a few thousand.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// It cannot be reached, or went away, or took too long.
    #[error("the request failed: {0}")]
    Transport(#[from] reqwest::Error),
    /// Anybody on the way could answer.
    #[error("the address has no TLS")]
    Unguarded,
    /// The answer is too large.
    #[error("the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    /// The answer cannot be put together.
    #[error("the answer is not HTTP")]
    NotHttp(#[from] openidconnect::http::Error),
}

/// The HTTP client.
#[derive(Debug)]
pub(super) struct Fetcher(reqwest::Client);

impl Fetcher {
    pub(super) fn new(timeout: Option<Duration>) -> Result<Self, reqwest::Error> {
        // To follow a redirect would take the client's secret to where the metadata did not send it.
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .timeout(timeout.unwrap_or(TIMEOUT))
            .build()?;
        Ok(Self(client))
    }

    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, FetchError> {
        let request: reqwest::Request = request.try_into()?;
        if !is_guarded(request.url()) {
            return Err(FetchError::Unguarded);
        }
        let mut answer = self.0.execute(request).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(FetchError::TooLarge);
            }
            bytes.extend_from_slice(&chunk);
        }
        let mut response = openidconnect::http::Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            response = response.header(name, value);
        }
        Ok(response.body(bytes)?)
    }
}

impl<'c> AsyncHttpClient<'c> for Fetcher {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.fetch(request))
    }
}

/// Says why a request failed, to the end of the chain: the client's own text stops at "error sending request".
pub(super) fn reason(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
