//! The OpenID Connect provider: where people sign in, found when it is first needed, trusted only for what it signs.
//!
//! It knows neither the store nor HTTP pages (`app::sign_in`, `http::pages`). The protocol's messages and signatures are
//! those of the `openidconnect` crate; what is ours is which of them are believed, and every limit.

mod config;
mod fetch;
mod known;
mod proof;

use std::sync::Arc;
use std::time::Duration;

use openidconnect::core::{CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod};
use openidconnect::{
    AuthType, ClientId, ClientSecret, CsrfToken, EndpointMaybeSet, EndpointNotSet, EndpointSet, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope,
};
use types::{Now, SecretString};
use url::Url;

pub(crate) use config::read_email;
pub use config::{Joiner, JoinerError, ProviderConfig, ProviderConfigError, Who};
pub(crate) use proof::{Details, Proof};

use fetch::Fetcher;
use known::{Cache, Known};

/// A client whose endpoints come from the provider's metadata.
type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Why nobody was signed in. The text is for the log: it may hold what the provider said.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ProviderError {
    /// It did not answer, or not in time.
    #[error("the sign-in provider cannot be reached: {0}")]
    Unreachable(String),
    /// It answered something that is not believed.
    #[error("the sign-in provider's answer is refused: {0}")]
    Refused(String),
}

/// The secrets of one sign-in.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) nonce: SecretString,
    /// The PKCE code verifier.
    pub(crate) verifier: SecretString,
}

/// The configured provider.
#[derive(Debug)]
pub(crate) struct Provider {
    config: ProviderConfig,
    redirect: RedirectUrl,
    fetcher: Fetcher,
    cache: Cache,
}

impl Provider {
    /// Checks the configuration; asks the provider nothing, which may be down when this server starts.
    pub(crate) fn new(
        config: ProviderConfig,
        public_url: &Url,
        timeout: Option<Duration>,
    ) -> Result<Self, ProviderConfigError> {
        config.check()?;
        let redirect = public_url.join("sign-in/callback");
        let redirect = redirect.map_err(|_| ProviderConfigError::PublicUrl)?;
        Ok(Self {
            redirect: RedirectUrl::from_url(redirect),
            fetcher: Fetcher::new(timeout).map_err(|_| ProviderConfigError::Tls)?,
            cache: Cache::default(),
            config,
        })
    }

    /// What people call it.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Its identifier: half of who somebody is.
    pub(crate) fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// Who joins without an invitation.
    pub(crate) fn joiners(&self) -> &[Joiner] {
        &self.config.joiners
    }

    /// Returns where a browser signs in.
    pub(crate) async fn authorize(
        &self,
        state: &SecretString,
        flow: &Flow,
        now: Now,
    ) -> Result<Url, ProviderError> {
        let known = self.known(now).await?;
        let client = self.client(&known);
        let verifier = PkceCodeVerifier::new(flow.verifier.expose().to_owned());
        let (state, nonce) = (state.expose().to_owned(), flow.nonce.expose().to_owned());
        let (url, _, _) = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                || CsrfToken::new(state),
                || Nonce::new(nonce),
            )
            .add_scope(Scope::new("email".to_owned()))
            .add_scope(Scope::new("profile".to_owned()))
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .url();
        Ok(url)
    }

    async fn known(&self, now: Now) -> Result<Arc<Known>, ProviderError> {
        self.cache
            .known(&self.config.issuer, &self.fetcher, now.mono)
            .await
    }

    fn client(&self, known: &Known) -> Client {
        let metadata = known.metadata.clone();
        let methods = metadata.token_endpoint_auth_methods_supported();
        let basic = methods.is_none_or(|all| all.contains(&CoreClientAuthMethod::ClientSecretBasic));
        let secret = self.config.client_secret.as_ref();
        let secret = secret.map(|secret| ClientSecret::new(secret.expose().to_owned()));
        let id = ClientId::new(self.config.client_id.clone());
        CoreClient::from_provider_metadata(metadata, id, secret)
            .set_redirect_uri(self.redirect.clone())
            .set_auth_type(if basic {
                AuthType::BasicAuth
            } else {
                AuthType::RequestBody
            })
    }
}
