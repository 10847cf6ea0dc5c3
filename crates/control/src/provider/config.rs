//! How a provider is configured, and what of it is refused at the start.

use std::str::FromStr;

use api::Role;
use types::SecretString;
use url::{Host, Url};

/// A sign-in provider.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Its identifier, exactly as it writes it itself: an `https://` address, or `http://` on this machine.
    pub issuer: String,
    /// What it calls this server.
    pub client_id: String,
    /// What this server proves itself with; without one it is a public client, which PKCE alone protects.
    pub client_secret: Option<SecretString>,
    /// What people call it, on the button.
    pub name: String,
    /// Who joins the first org without an invitation; nobody by default.
    pub joiners: Vec<Joiner>,
}

/// Somebody who may join the first org without an invitation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joiner {
    /// What they are to be.
    pub role: Role,
    /// Who they are.
    pub who: Who,
}

/// How somebody is known before they have signed in for the first time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// By their subject at the provider.
    Subject(String),
    /// By an e-mail address that the provider has verified, in lower case. It opens the door once; who they are from
    /// then on is their subject.
    Email(String),
}

/// A text that says nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not ROLE:sub:SUBJECT or ROLE:email:ADDRESS, with the role `admin` or `member`")]
pub struct JoinerError;

/// Why a provider cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProviderConfigError {
    /// The issuer is no address that can be trusted.
    #[error(
        "the issuer must be an https:// address without query or fragment (http:// only on this machine)"
    )]
    Issuer,
    /// There is no client id.
    #[error("the client id is empty")]
    ClientId,
    /// The secret's file was empty.
    #[error("the client secret is empty")]
    ClientSecret,
    /// The name cannot stand on a button.
    #[error("the provider's name must be 1 to 128 printable characters")]
    Name,
    /// The server's own address cannot be led back to.
    #[error("the public address of this server has no path that the provider could lead back to")]
    PublicUrl,
    /// The system's certificates cannot be used.
    #[error("cannot set up TLS")]
    Tls,
}

impl FromStr for Joiner {
    type Err = JoinerError;

    fn from_str(text: &str) -> Result<Self, JoinerError> {
        let mut parts = text.splitn(3, ':');
        let (Some(role), Some(kind), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(JoinerError);
        };
        let role = role.parse().map_err(|_| JoinerError)?;
        let who = match kind {
            "sub" if !rest.is_empty() => Who::Subject(rest.to_owned()),
            "email" => Who::Email(read_email(rest).ok_or(JoinerError)?),
            _ => return Err(JoinerError),
        };
        Ok(Self { role, who })
    }
}

/// Reads an e-mail address as it is compared: in lower case, at most 254 characters, with exactly one `@`.
pub(crate) fn read_email(text: &str) -> Option<String> {
    let text = text.trim();
    let (local, domain) = text.split_once('@')?;
    let whole = !local.is_empty() && !domain.is_empty() && !domain.contains('@') && text.len() <= 254;
    let plain = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
    (whole && plain).then(|| text.to_lowercase())
}

impl ProviderConfig {
    pub(super) fn check(&self) -> Result<(), ProviderConfigError> {
        let issuer: Url = self.issuer.parse().map_err(|_| ProviderConfigError::Issuer)?;
        let plain = issuer.query().is_none() && issuer.fragment().is_none() && issuer.username().is_empty();
        if !plain || !is_guarded(&issuer) {
            return Err(ProviderConfigError::Issuer);
        }
        if self.client_id.is_empty() {
            return Err(ProviderConfigError::ClientId);
        }
        if self
            .client_secret
            .as_ref()
            .is_some_and(|secret| secret.expose().is_empty())
        {
            return Err(ProviderConfigError::ClientSecret);
        }
        let named: Result<types::DisplayText, _> = self.name.parse();
        named.map(|_| ()).map_err(|_| ProviderConfigError::Name)
    }
}

/// Tells whether what is asked at an address cannot be answered by somebody on the way.
pub(super) fn is_guarded(url: &Url) -> bool {
    let on_this_machine = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && on_this_machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(issuer: &str) -> Result<(), ProviderConfigError> {
        let config = ProviderConfig {
            issuer: issuer.to_owned(),
            client_id: "runmesh".to_owned(),
            client_secret: None,
            name: "Example".to_owned(),
            joiners: Vec::new(),
        };
        config.check()
    }

    #[test]
    fn an_issuer_that_others_could_answer_for_is_refused() {
        for good in [
            "https://id.example.com",
            "https://id.example.com/realms/a",
            "http://127.0.0.1:3000",
            "http://localhost:3000",
            "http://[::1]:3000",
        ] {
            assert_eq!(issuer(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "id.example.com",
            "http://id.example.com",
            "http://127.0.0.1.example.com",
            "ftp://127.0.0.1",
            "https://id.example.com/?a=b",
            "https://id.example.com/#a",
            "https://user@id.example.com/",
        ] {
            assert_eq!(issuer(bad), Err(ProviderConfigError::Issuer), "{bad}");
        }
    }

    #[test]
    fn who_joins_is_said_in_full() {
        let joiner: Joiner = "admin:email:Ada@Example.com".parse().expect("somebody");
        assert_eq!(joiner.who, Who::Email("ada@example.com".to_owned()));
        let joiner: Joiner = "member:sub:a:b".parse().expect("somebody");
        assert_eq!(
            (joiner.role, joiner.who),
            (Role::Member, Who::Subject("a:b".to_owned()))
        );
        for bad in [
            "",
            "admin",
            "admin:sub:",
            "owner:sub:1",
            "admin:email:example.com",
            "admin:email:@example.com",
            "admin:domain:example.com",
            "admin:email:a@b@example.com",
        ] {
            assert_eq!(bad.parse::<Joiner>(), Err(JoinerError), "{bad}");
        }
    }
}
