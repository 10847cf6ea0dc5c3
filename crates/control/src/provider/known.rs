//! What is known of the provider: its metadata and keys, kept for a while, fetched by one request at a time.

use std::sync::Arc;
use std::time::Duration;

use openidconnect::core::CoreProviderMetadata;
use openidconnect::{DiscoveryError, IssuerUrl};
use tokio::sync::Mutex;
use types::Monotonic;
use url::Url;

use super::ProviderError;
use super::config::is_guarded;
use super::fetch::{FetchError, Fetcher, reason};

/// After how long it is asked again.
const FRESH: Duration = Duration::from_secs(60 * 60);

/// For how long what is known serves on while the provider cannot be asked.
const STALE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long it is left alone after it was asked: after a failure, and for keys that are not among the known ones.
const PAUSE: Duration = Duration::from_secs(10);

/// Metadata and keys, and when they were fetched.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) metadata: CoreProviderMetadata,
    fetched: Monotonic,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Arc<Known>>,
    failed: Option<(Monotonic, ProviderError)>,
}

/// Whatever is known. Held locked while it is fetched: who comes meanwhile waits for the same answer.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<State>);

impl Cache {
    /// Returns what is known, fetched within the last hour when the provider can be reached.
    pub(super) async fn known(
        &self,
        issuer: &str,
        fetcher: &Fetcher,
        now: Monotonic,
    ) -> Result<Arc<Known>, ProviderError> {
        let mut state = self.0.lock().await;
        if let Some(known) = state.younger_than(FRESH, now) {
            return Ok(known);
        }
        state.fetch(issuer, fetcher, now).await
    }

    /// Returns what is known after a signature by an unknown key: fetched anew unless somebody has done so since `old`,
    /// or a moment ago.
    pub(super) async fn newer(
        &self,
        old: &Known,
        issuer: &str,
        fetcher: &Fetcher,
        now: Monotonic,
    ) -> Result<Arc<Known>, ProviderError> {
        let mut state = self.0.lock().await;
        match state.younger_than(PAUSE, now) {
            Some(known) => Ok(known),
            None if state
                .known
                .as_ref()
                .is_some_and(|known| known.fetched > old.fetched) =>
            {
                state.known.clone().ok_or(never())
            }
            None => state.fetch(issuer, fetcher, now).await,
        }
    }
}

impl State {
    fn younger_than(&self, age: Duration, now: Monotonic) -> Option<Arc<Known>> {
        let known = self.known.as_ref()?;
        (now.since(known.fetched) < age).then(|| Arc::clone(known))
    }

    async fn fetch(
        &mut self,
        issuer: &str,
        fetcher: &Fetcher,
        now: Monotonic,
    ) -> Result<Arc<Known>, ProviderError> {
        let waiting = self.failed.as_ref().filter(|(when, _)| now.since(*when) < PAUSE);
        let error = match waiting {
            Some((_, error)) => error.clone(),
            None => match discover(issuer, fetcher).await {
                Ok(metadata) => {
                    let known = Arc::new(Known {
                        metadata,
                        fetched: now,
                    });
                    self.failed = None;
                    self.known = Some(Arc::clone(&known));
                    return Ok(known);
                }
                Err(error) => {
                    tracing::warn!(%error, "the sign-in provider was not found");
                    self.failed = Some((now, error.clone()));
                    error
                }
            },
        };
        self.younger_than(STALE_MAX, now).ok_or(error)
    }
}

fn never() -> ProviderError {
    ProviderError::Unreachable("nothing is known of it".to_owned())
}

async fn discover(issuer: &str, fetcher: &Fetcher) -> Result<CoreProviderMetadata, ProviderError> {
    let refused = |text: &str| ProviderError::Refused(text.to_owned());
    let url = IssuerUrl::new(issuer.to_owned()).map_err(|_| refused("the issuer is no address"))?;
    let metadata = CoreProviderMetadata::discover_async(url, fetcher).await;
    let metadata = metadata.map_err(|error| explained(&error))?;
    let endpoints: [Option<&Url>; 4] = [
        Some(metadata.authorization_endpoint().url()),
        metadata.token_endpoint().map(|url| url.url()),
        Some(metadata.jwks_uri().url()),
        metadata.userinfo_endpoint().map(|url| url.url()),
    ];
    if !endpoints.into_iter().flatten().all(is_guarded) {
        return Err(refused("its metadata names an address without TLS"));
    }
    if metadata.token_endpoint().is_none() {
        return Err(refused("its metadata names no token endpoint"));
    }
    Ok(metadata)
}

fn explained(error: &DiscoveryError<FetchError>) -> ProviderError {
    match error {
        DiscoveryError::Request(FetchError::Transport(error)) => ProviderError::Unreachable(reason(error)),
        DiscoveryError::Request(error) => ProviderError::Refused(error.to_string()),
        DiscoveryError::Response(status, _, _) if status.is_server_error() => {
            ProviderError::Unreachable(format!("it answered {status}"))
        }
        DiscoveryError::Response(status, _, _) => ProviderError::Refused(format!("it answered {status}")),
        other => ProviderError::Refused(other.to_string()),
    }
}
