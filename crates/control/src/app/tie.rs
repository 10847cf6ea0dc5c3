//! Tying an identity at the sign-in provider to somebody who was here first, with a key: the admin of the first start.
//!
//! From then on the provider vouches for them, and their sessions have no end but their own and are good for what the
//! membership is. So only a credential that has no end and is good for as much may tie: nobody gets more by it than they
//! held. It takes a browser that is signed in, before and after: no address, name or link makes one person of two.

use serde_json::{Map, json};

use super::audit::Deed;
use super::{App, AppError, Caller, audit};
use crate::provider::{Proof, Provider};
use crate::store::{self, Conn};

/// Tells by what name the provider is known, and whether the caller has an identity there; `None` without a provider.
pub(crate) async fn standing<'a>(app: &'a App, caller: &Caller) -> Result<Option<(&'a str, bool)>, AppError> {
    let Some(provider) = &app.provider else {
        return Ok(None);
    };
    let mut conn = app.store.read().await?;
    let is_tied = store::identities::has(&mut conn, provider.issuer(), caller.user).await?;
    Ok(Some((provider.name(), is_tied)))
}

/// Answers why the caller may not tie an identity to themselves.
pub(crate) async fn demand_tieable(app: &App, caller: &Caller) -> Result<(), AppError> {
    let provider = super::sign_in::provider(app)?;
    let mut conn = app.store.read().await?;
    demand(&mut conn, caller, provider).await
}

async fn demand(conn: &mut Conn, caller: &Caller, provider: &Provider) -> Result<(), AppError> {
    let member = store::users::member(conn, caller.org, caller.user).await?;
    let member = member.ok_or_else(AppError::internal)?;
    let is_whole = member.scopes.iter().all(|scope| caller.covers(*scope));
    if caller.key_until.is_some() || !is_whole {
        let message = "sign in with a key that has no end and is good for all that your membership is: \
             whoever the sign-in provider vouches for is no less";
        return Err(AppError::forbidden(message));
    }
    if store::identities::has(conn, provider.issuer(), caller.user).await? {
        let message = format!("you are known by an account at {} already", provider.name());
        return Err(AppError::conflict(message));
    }
    Ok(())
}

/// Says that the caller is who the provider has proven.
pub(super) async fn tie(
    app: &App,
    caller: &Caller,
    (provider, proof): (&Provider, &Proof),
) -> Result<(), AppError> {
    let mut tx = app.store.write().await?;
    demand(&mut tx, caller, provider).await?;
    let known = store::identities::find(&mut tx, provider.issuer(), &proof.subject).await?;
    if known.is_some() {
        let message = format!("this account at {} is somebody else here", provider.name());
        return Err(AppError::conflict(message));
    }
    let identity = (provider.issuer(), proof.subject.as_str());
    store::identities::insert(&mut tx, identity, caller.user, app.clock.wall()).await?;
    let deed = Deed {
        action: "member.identity_tied",
        target: Some(("user", caller.user.to_string())),
        actor: caller.actor(),
        attributes: Map::from_iter([
            ("issuer".to_owned(), json!(provider.issuer())),
            ("subject".to_owned(), json!(proof.subject)),
        ]),
    };
    audit::record(app, &mut tx, caller.org, deed).await?;
    Ok(tx.commit().await?)
}
