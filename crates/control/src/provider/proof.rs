//! What comes back from the provider: a code becomes an ID token, and the token, once everything in it holds, a proof.

use std::time::Duration;

use chrono::{DateTime, Utc};
use openidconnect::core::{
    CoreErrorResponseType, CoreIdToken, CoreIdTokenClaims, CoreJsonWebKey, CoreJwsSigningAlgorithm,
    CoreUserInfoClaims,
};
use openidconnect::{
    AccessToken, AccessTokenHash, AuthorizationCode, ClaimsVerificationError, ClientId, IdTokenVerifier,
    IssuerUrl, Nonce, OAuth2TokenResponse as _, PkceCodeVerifier, RequestTokenError,
    SignatureVerificationError, StandardErrorResponse, SubjectIdentifier, TokenResponse as _, UserInfoError,
};
use types::{Now, SecretString, Timestamp};

use super::config::read_email;
use super::fetch::FetchError;
use super::known::Known;
use super::{Flow, Provider, ProviderError};

type Verifier = IdTokenVerifier<'static, CoreJsonWebKey>;

/// By how much the provider's clock may differ from ours.
const SKEW: Duration = Duration::from_secs(60);

/// How old an ID token may be: it comes straight from the provider.
const AGE_MAX: Duration = Duration::from_secs(10 * 60);

/// The longest subject (OpenID Connect Core, section 2).
const SUBJECT_BYTES_MAX: usize = 255;

/// Signatures that are believed: by the provider's own keys. HMAC would make the client secret a signing key, and an
/// unsigned token proves nothing.
const SIGNATURES: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// Somebody whom the provider has signed in just now, for us.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    /// Who they are at the issuer; with it, who they are.
    pub(crate) subject: String,
    details: Details,
    access: SecretString,
}

/// What the provider says of somebody beside who they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Details {
    /// An e-mail address that it has verified, in lower case.
    pub(crate) email: Option<String>,
    /// What to call them: hostile text.
    pub(crate) name: Option<String>,
}

impl Provider {
    /// Redeems the code that a browser brought back, and believes the ID token only if all of it holds.
    pub(crate) async fn redeem(&self, code: &str, flow: &Flow, now: Now) -> Result<Proof, ProviderError> {
        let known = self.known(now).await?;
        let client = self.client(&known);
        let request = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|error| ProviderError::Refused(error.to_string()))?
            .set_pkce_verifier(PkceCodeVerifier::new(flow.verifier.expose().to_owned()));
        let answer = request.request_async(&self.fetcher).await;
        let answer = answer.map_err(|error| not_redeemed(&error))?;
        let token = answer.id_token();
        let token = token.ok_or_else(|| ProviderError::Refused("it sent no ID token".to_owned()))?;
        let (verifier, claims) = self.verify(&known, token, flow, now).await?;
        demand_own_access_token(&verifier, (token, &claims), answer.access_token())?;
        let subject = claims.subject().as_str().to_owned();
        let plain = subject
            .bytes()
            .all(|byte| byte.is_ascii() && !byte.is_ascii_control());
        if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX || !plain {
            return Err(ProviderError::Refused(
                "its subject has no proper form".to_owned(),
            ));
        }
        Ok(Proof {
            subject,
            details: details_of_token(&claims),
            access: SecretString::new(answer.access_token().secret().clone()),
        })
    }

    /// Learns what else the provider says of somebody, asking its user-info endpoint for what the ID token leaves out.
    pub(crate) async fn details(&self, proof: &Proof, now: Now) -> Result<Details, ProviderError> {
        let told = &proof.details;
        if told.email.is_some() && told.name.is_some() {
            return Ok(told.clone());
        }
        let known = self.known(now).await?;
        let client = self.client(&known);
        let subject = SubjectIdentifier::new(proof.subject.clone());
        let Ok(request) = client.user_info(AccessToken::new(proof.access.expose().to_owned()), Some(subject))
        else {
            return Ok(told.clone());
        };
        let info: CoreUserInfoClaims = match request.request_async(&self.fetcher).await {
            Ok(info) => info,
            // Another subject's, or signed by nobody: then nothing that it says is to be believed.
            Err(UserInfoError::ClaimsVerification(error)) => {
                return Err(ProviderError::Refused(format!("user info: {error}")));
            }
            Err(error) => {
                tracing::warn!(%error, "the sign-in provider tells nothing more of a person");
                return Ok(told.clone());
            }
        };
        let more = details_of_info(&info);
        Ok(Details {
            email: told.email.clone().or(more.email),
            name: told.name.clone().or(more.name),
        })
    }

    /// A provider changes its keys at will: a signature by an unknown one is looked at once more with what it has now.
    async fn verify(
        &self,
        known: &Known,
        token: &CoreIdToken,
        flow: &Flow,
        now: Now,
    ) -> Result<(Verifier, CoreIdTokenClaims), ProviderError> {
        let nonce = Nonce::new(flow.nonce.expose().to_owned());
        let mut verifier = self.verifier(known, now);
        let mut verified = token.claims(&verifier, &nonce).cloned();
        let unknown_key =
            ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey);
        if verified.as_ref().is_err_and(|error| *error == unknown_key) {
            let newer = self
                .cache
                .newer(known, &self.config.issuer, &self.fetcher, now.mono);
            verifier = self.verifier(&*newer.await?, now);
            verified = token.claims(&verifier, &nonce).cloned();
        }
        let claims = verified.map_err(|error| ProviderError::Refused(format!("its ID token: {error}")))?;
        Ok((verifier, claims))
    }

    fn verifier(&self, known: &Known, now: Now) -> Verifier {
        let wall = now.wall;
        let id = ClientId::new(self.config.client_id.clone());
        let issuer: IssuerUrl = known.metadata.issuer().clone();
        IdTokenVerifier::new_public_client(id, issuer, known.metadata.jwks().clone())
            .set_allowed_algs(SIGNATURES)
            .set_time_fn(move || instant(wall, SKEW, false))
            .set_issue_time_verifier_fn(move |issued| {
                let early = issued > instant(wall, SKEW, true);
                let late = issued < instant(wall, AGE_MAX, false);
                match (early, late) {
                    (false, false) => Ok(()),
                    (true, _) => Err("it was issued in the future".to_owned()),
                    (_, true) => Err("it was issued too long ago".to_owned()),
                }
            })
    }
}

/// The access token opens the user-info endpoint: it must be the one that came with the ID token.
fn demand_own_access_token(
    verifier: &Verifier,
    (token, claims): (&CoreIdToken, &CoreIdTokenClaims),
    access: &AccessToken,
) -> Result<(), ProviderError> {
    let Some(expected) = claims.access_token_hash() else {
        return Ok(());
    };
    let computed = token
        .signing_alg()
        .and_then(|alg| Ok((alg, token.signing_key(verifier)?)))
        .map_err(|error| ProviderError::Refused(error.to_string()))
        .and_then(|(alg, key)| {
            AccessTokenHash::from_token(access, alg, key)
                .map_err(|error| ProviderError::Refused(error.to_string()))
        })?;
    if computed == *expected {
        Ok(())
    } else {
        Err(ProviderError::Refused("its access token is another's".to_owned()))
    }
}

fn details_of_token(claims: &CoreIdTokenClaims) -> Details {
    let name = claims
        .name()
        .and_then(|all| all.get(None))
        .map(|name| name.as_str());
    let login = claims.preferred_username().map(|name| name.as_str());
    details(
        claims.email().map(|email| email.as_str()),
        claims.email_verified(),
        name.or(login),
    )
}

fn details_of_info(claims: &CoreUserInfoClaims) -> Details {
    let name = claims
        .name()
        .and_then(|all| all.get(None))
        .map(|name| name.as_str());
    let login = claims.preferred_username().map(|name| name.as_str());
    details(
        claims.email().map(|email| email.as_str()),
        claims.email_verified(),
        name.or(login),
    )
}

/// An address that nobody has verified is anybody's.
fn details(email: Option<&str>, verified: Option<bool>, name: Option<&str>) -> Details {
    Details {
        email: email.filter(|_| verified == Some(true)).and_then(read_email),
        name: name.map(str::to_owned),
    }
}

fn instant(wall: Timestamp, span: Duration, later: bool) -> DateTime<Utc> {
    let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let ms = if later {
        wall.unix_ms().saturating_add(span)
    } else {
        wall.unix_ms().saturating_sub(span)
    };
    DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::UNIX_EPOCH)
}

fn not_redeemed(
    error: &RequestTokenError<FetchError, StandardErrorResponse<CoreErrorResponseType>>,
) -> ProviderError {
    match error {
        RequestTokenError::Request(FetchError::Transport(error)) => {
            ProviderError::Unreachable(super::fetch::reason(error))
        }
        RequestTokenError::Request(error) => ProviderError::Refused(error.to_string()),
        // What stands in the answer may be a token.
        RequestTokenError::Parse(..) => ProviderError::Refused("its token answer cannot be read".to_owned()),
        RequestTokenError::ServerResponse(answer) => {
            ProviderError::Refused(format!("it did not redeem the code: {}", answer.error()))
        }
        RequestTokenError::Other(text) => ProviderError::Refused(text.clone()),
    }
}
