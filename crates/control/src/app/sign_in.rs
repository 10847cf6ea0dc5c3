//! Signing in at the provider: out with a secret per try, back once, and in only for who was let in by name.
//!
//! A person is an issuer and a subject. An e-mail address may open the door once, when an admin or the configuration
//! names it and the provider has verified it; it never says who somebody is, and no org follows from it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use api::orgs::User;
use api::{ErrorCode, Role, Scope};
use serde_json::{Map, json};
use types::{DisplayText, InvitationId, OrgId, SecretString, UserId};
use url::Url;

use super::audit::Deed;
use super::invitations::demand_open;
use super::sessions::{Opening, demand_patience, open};
use super::{Actor, App, AppError, Caller, audit, links, tie};
use crate::provider::{Details, Flow, Proof, Provider, ProviderError, Who};
use crate::secrets;
use crate::store::sign_ins::SignInRow;
use crate::store::{self, Conn};

/// How long a person may take at the provider.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// The most sign-ins under way; a further one forgets the oldest.
pub(crate) const UNDER_WAY_MAX: i64 = 10_000;

/// Where a browser goes once it is signed in: only pages of this server can be written so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Landing {
    /// The link page, of a code or to enter one.
    Link(Option<String>),
    /// The person's own page.
    Account,
}

impl fmt::Display for Landing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(None) => f.write_str("/link"),
            Self::Link(Some(code)) => write!(f, "/link/{code}"),
            Self::Account => f.write_str("/account"),
        }
    }
}

impl FromStr for Landing {
    type Err = std::convert::Infallible;

    /// Anything else than one of our pages is the link page.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "/account" => Self::Account,
            _ => Self::Link(text.strip_prefix("/link/").and_then(links::read_code)),
        })
    }
}

/// A sign-in that was begun.
#[derive(Debug)]
pub(crate) struct Begun {
    /// The provider's page.
    pub(crate) url: Url,
    /// What the browser must bring back beside the answer.
    pub(crate) browser: SecretString,
}

/// What the browser brings back from the provider.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) state: String,
    pub(crate) code: Option<String>,
    pub(crate) error: Option<String>,
    /// The issuer (RFC 9207), when it names itself.
    pub(crate) issuer: Option<String>,
}

/// What somebody goes to the provider for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Errand<'a> {
    /// To come in, as who they are there.
    ComeIn,
    /// To come in by the invitation with this token.
    Join(&'a str),
    /// To be known here as who they are there: somebody who is signed in.
    Tie(UserId),
}

/// Begins a sign-in: remembers what must come back and says where to go.
pub(crate) async fn begin(
    app: &App,
    ip: IpAddr,
    landing: Landing,
    errand: Errand<'_>,
) -> Result<Begun, AppError> {
    let provider = provider(app)?;
    demand_patience(app, ip)?;
    let (invitation, tied_to) = match errand {
        Errand::ComeIn => (None, None),
        Errand::Join(token) => (
            Some(super::invitations::preview(app, token).await?.invitation.id),
            None,
        ),
        Errand::Tie(user) => (None, Some(user)),
    };
    let (state, browser) = (secrets::token(), secrets::token());
    let flow = Flow {
        nonce: secrets::token(),
        verifier: secrets::token(),
    };
    let now = app.clock.now();
    let url = provider.authorize(&state, &flow, now).await.map_err(away)?;
    let row = SignInRow {
        state_hash: secrets::hash(state.expose()),
        browser_hash: secrets::hash(browser.expose()),
        nonce: flow.nonce,
        verifier: flow.verifier,
        landing: landing.to_string(),
        invitation,
        tied_to,
        expires_at: now.wall + PATIENCE,
    };
    let mut tx = app.store.write().await?;
    store::sign_ins::insert(&mut tx, &row).await?;
    store::sign_ins::sweep(&mut tx, now.wall, UNDER_WAY_MAX).await?;
    tx.commit().await?;
    Ok(Begun { url, browser })
}

/// Ends a sign-in: returns the new session's token, if one was opened, and where to go. `signed_in` is who the browser
/// stands for already.
pub(crate) async fn finish(
    app: &App,
    (ip, signed_in): (IpAddr, Option<&Caller>),
    browser: Option<&str>,
    answer: Answer,
) -> Result<(Option<SecretString>, Landing), AppError> {
    let provider = provider(app)?;
    let row = take(app, browser, &answer.state).await?;
    let proof = proven(app, provider, &row, &answer).await?;
    let landing = row.landing.parse().unwrap_or(Landing::Link(None));
    if let Some(user) = row.tied_to {
        let caller = signed_in.filter(|caller| caller.user == user);
        let gone = || AppError::forbidden("you are not signed in any more; sign in and begin again");
        tie::tie(app, caller.ok_or_else(gone)?, (provider, &proof)).await?;
        return Ok((None, landing));
    }
    let details = details(app, provider, &proof, row.invitation).await?;
    let mut tx = app.store.write().await?;
    let (org, user) = admit(app, &mut tx, (provider, ip), (&proof, &details), row.invitation).await?;
    let opening = Opening {
        org,
        user,
        key: None,
        ip,
    };
    let token = open(app, &mut tx, opening).await?;
    tx.commit().await?;
    Ok((Some(token), landing))
}

/// Redeems the provider's answer for who somebody is there.
async fn proven(app: &App, provider: &Provider, row: &SignInRow, answer: &Answer) -> Result<Proof, AppError> {
    if answer
        .issuer
        .as_deref()
        .is_some_and(|issuer| issuer != provider.issuer())
    {
        return Err(AppError::forbidden(
            "this answer comes from another sign-in provider",
        ));
    }
    if let Some(error) = &answer.error {
        tracing::info!(?error, "the sign-in provider signed nobody in");
        return Err(AppError::forbidden(match error.as_str() {
            "access_denied" => "you did not sign in: it was refused at the sign-in provider",
            _ => "the sign-in provider did not sign you in; try again",
        }));
    }
    let code = answer.code.as_deref().filter(|code| !code.is_empty());
    let code = code.ok_or_else(|| AppError::bad_request("the sign-in provider sent no code"))?;
    let flow = Flow {
        nonce: row.nonce.clone(),
        verifier: row.verifier.clone(),
    };
    let redeemed = provider.redeem(code, &flow, app.clock.now()).await;
    redeemed.map_err(away)
}

pub(super) fn provider(app: &App) -> Result<&Provider, AppError> {
    app.provider
        .as_ref()
        .ok_or_else(|| AppError::not_found("sign-in provider"))
}

/// Spends what was remembered. Only the browser that began may spend it: whoever was handed the answer's address gets
/// nothing and takes nothing away.
async fn take(app: &App, browser: Option<&str>, state: &str) -> Result<SignInRow, AppError> {
    let lost = || {
        let message = "this sign-in was not begun in this browser, or is over; begin again";
        AppError::new(ErrorCode::Forbidden, message)
    };
    let hash = secrets::hash(state);
    let mut conn = app.store.read().await?;
    let row = store::sign_ins::find(&mut conn, &hash).await?.ok_or_else(lost)?;
    drop(conn);
    let browser = browser.map(secrets::hash).map(SecretString::new);
    let own = browser.is_some_and(|browser| browser.matches(&row.browser_hash));
    if !own || row.expires_at <= app.clock.wall() {
        return Err(lost());
    }
    let mut tx = app.store.write().await?;
    if !store::sign_ins::take(&mut tx, &hash).await? {
        return Err(lost());
    }
    tx.commit().await?;
    Ok(row)
}

/// Asks the provider for name and e-mail of whoever is to join; of whoever is known already nothing more is needed.
async fn details(
    app: &App,
    provider: &Provider,
    proof: &Proof,
    invitation: Option<InvitationId>,
) -> Result<Details, AppError> {
    let mut conn = app.store.read().await?;
    let known = store::identities::find(&mut conn, provider.issuer(), &proof.subject).await?;
    drop(conn);
    if known.is_some() && invitation.is_none() {
        return Ok(Details::default());
    }
    provider.details(proof, app.clock.now()).await.map_err(away)
}

/// Finds who somebody is and in which org they are to be, and lets them in when they may: all of it in one write.
async fn admit(
    app: &App,
    conn: &mut Conn,
    (provider, ip): (&Provider, IpAddr),
    (proof, details): (&Proof, &Details),
    invitation: Option<InvitationId>,
) -> Result<(OrgId, UserId), AppError> {
    let known = store::identities::find(conn, provider.issuer(), &proof.subject).await?;
    let orgs = match known {
        Some(user) => store::users::memberships(conn, user).await?,
        None => Vec::new(),
    };
    let entry = match invitation {
        Some(id) => by_invitation(app, conn, details, id).await?,
        None => match (known, orgs.first()) {
            (Some(user), Some((org, _))) => return Ok((*org, user)),
            _ => by_configuration(conn, provider, proof, details).await?,
        },
    };
    if let Some(user) = known
        && orgs.iter().any(|(org, _)| *org == entry.org)
    {
        return Ok((entry.org, user));
    }
    let user = match known {
        Some(user) => user,
        None => insert_person(app, conn, provider, (proof, details)).await?,
    };
    join(app, conn, (user, ip), (provider, proof, details), &entry).await?;
    Ok((entry.org, user))
}

/// On what ground somebody joins.
struct Entry {
    org: OrgId,
    role: Role,
    scopes: Vec<Scope>,
    invitation: Option<InvitationId>,
}

async fn by_invitation(
    app: &App,
    conn: &mut Conn,
    details: &Details,
    id: InvitationId,
) -> Result<Entry, AppError> {
    let found = store::invitations::find(conn, id).await?;
    let invitation = found.ok_or_else(|| AppError::not_found("invitation"))?;
    demand_open(&invitation, app.clock.wall())?;
    if invitation.email.is_some() && invitation.email != details.email {
        return Err(AppError::forbidden(
            "this invitation is for another e-mail address, or the sign-in provider has not verified yours",
        ));
    }
    Ok(Entry {
        org: invitation.org_id,
        role: invitation.role,
        scopes: invitation.scopes,
        invitation: Some(id),
    })
}

async fn by_configuration(
    conn: &mut Conn,
    provider: &Provider,
    proof: &Proof,
    details: &Details,
) -> Result<Entry, AppError> {
    let named = provider.joiners().iter().find(|joiner| match &joiner.who {
        Who::Subject(subject) => *subject == proof.subject,
        Who::Email(email) => details.email.as_ref() == Some(email),
    });
    let Some(joiner) = named else {
        return Err(AppError::forbidden(format!(
            "you are signed in at {}, but nobody has invited you here; ask an admin for an invitation",
            provider.name()
        )));
    };
    let first = store::orgs::all(conn).await?.into_iter().next();
    Ok(Entry {
        org: first.ok_or_else(AppError::internal)?.id,
        role: joiner.role,
        scopes: vec![Scope::All],
        invitation: None,
    })
}

async fn insert_person(
    app: &App,
    conn: &mut Conn,
    provider: &Provider,
    (proof, details): (&Proof, &Details),
) -> Result<UserId, AppError> {
    let now = app.clock.wall();
    let user = User {
        id: UserId::from_random(secrets::bytes()),
        name: name_of(details).to_string(),
        created_at: now,
    };
    store::users::insert(conn, &user).await?;
    store::identities::insert(conn, (provider.issuer(), &proof.subject), user.id, now).await?;
    Ok(user.id)
}

async fn join(
    app: &App,
    conn: &mut Conn,
    (user, ip): (UserId, IpAddr),
    (provider, proof, details): (&Provider, &Proof, &Details),
    entry: &Entry,
) -> Result<(), AppError> {
    let now = app.clock.wall();
    store::users::insert_member(conn, entry.org, user, entry.role, now).await?;
    store::users::set_scopes(conn, entry.org, user, &entry.scopes).await?;
    if let Some(id) = entry.invitation
        && !store::invitations::accept(conn, id, user, now).await?
    {
        return Err(AppError::new(ErrorCode::Gone, "this invitation was used already"));
    }
    let deed = Deed {
        action: "member.joined",
        target: Some(("user", user.to_string())),
        actor: Actor::person(user, ip),
        attributes: Map::from_iter([
            ("issuer".to_owned(), json!(provider.issuer())),
            ("subject".to_owned(), json!(proof.subject)),
            ("email".to_owned(), json!(details.email)),
            ("role".to_owned(), json!(entry.role)),
            ("invitation".to_owned(), json!(entry.invitation)),
        ]),
    };
    Ok(audit::record(app, conn, entry.org, deed).await?)
}

/// What the provider calls somebody, when it can be shown.
fn name_of(details: &Details) -> DisplayText {
    let told = [&details.name, &details.email];
    let mut texts = told
        .into_iter()
        .flatten()
        .filter_map(|text| text.trim().parse().ok());
    texts
        .next()
        .unwrap_or_else(|| "member".parse().expect("a printable constant"))
}

/// What a person is told; the particulars are for the log.
fn away(error: ProviderError) -> AppError {
    tracing::warn!(%error, "nobody was signed in");
    let (code, message) = match error {
        ProviderError::Unreachable(_) => (
            ErrorCode::InternalError,
            "the sign-in provider cannot be reached; try again in a moment",
        ),
        ProviderError::Refused(_) => (
            ErrorCode::Forbidden,
            "what the sign-in provider answered is not believed; try again, and tell an admin if it stays so",
        ),
    };
    AppError::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landing(text: &str) -> String {
        let landing: Landing = text.parse().expect("any text");
        landing.to_string()
    }

    #[test]
    fn a_browser_lands_on_pages_of_ours_only() {
        assert_eq!(landing("/account"), "/account");
        assert_eq!(landing("/link/abcd23"), "/link/ABCD23");
        for hostile in [
            "",
            "/",
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/link/..//evil.example",
            "/link/ABCD23?x=//evil.example",
            "/account/../../evil",
            "javascript:alert(1)",
            "/link/ABCD23\r\nset-cookie: a=b",
        ] {
            assert_eq!(landing(hostile), "/link", "{hostile}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_shown_is_not_taken() {
        let named = |name: &str, email: Option<&str>| {
            let details = Details {
                name: Some(name.to_owned()),
                email: email.map(str::to_owned),
            };
            name_of(&details).to_string()
        };
        assert_eq!(named("Ada Lovelace", None), "Ada Lovelace");
        assert_eq!(named("evil\u{202e}", Some("ada@example.com")), "ada@example.com");
        assert_eq!(named(&"x".repeat(200), None), "member");
    }
}
