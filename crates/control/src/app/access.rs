//! Who calls, and what each route demands: the one place where it is decided whether a request may go on.
//!
//! Every route is registered with an [`Access`]; a route without one cannot be built and answers nothing. What a caller
//! may *see* of an org is decided by the look-ups of each noun, which all start with the caller's org.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::api_keys::ApiKey;
use api::audit::ActorType;
use api::{ErrorCode, Role, Scope};
use tokio::sync::watch;
use types::{ApiKeyId, NodeId, OrgId, OrgName, SessionId, Timestamp, UserId};

use super::{App, AppError};
use crate::secrets;
use crate::store::api_keys::CredentialRow;
use crate::store::{self, Conn};

/// How often `lastUsedAt` of a key is written, in milliseconds.
const TOUCH_EVERY_MS: i64 = 60_000;

/// How often it is looked whether a credential that is in use has ended.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What a route demands of its caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Access {
    /// Nothing: the route guards itself (link start and poll, the control stream, the pages, documents).
    Open,
    /// Any good credential.
    SignedIn,
    /// A credential that covers this scope.
    Scope(Scope),
    /// The same, of an admin.
    Admin(Scope),
}

/// How the caller proved who they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Credential {
    /// An API key.
    ApiKey(ApiKeyId),
    /// A session: a browser's, or its token in a program's hands.
    Session {
        /// Which one.
        id: SessionId,
        /// The API key that opened it and with which it dies; none when the sign-in provider vouched.
        key: Option<ApiKeyId>,
    },
}

impl Credential {
    /// The session that this is, if it is one.
    pub(crate) fn session(self) -> Option<SessionId> {
        match self {
            Self::Session { id, .. } => Some(id),
            Self::ApiKey(_) => None,
        }
    }
}

/// An authenticated person, in one org, with one credential.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) org: OrgId,
    pub(crate) org_name: OrgName,
    pub(crate) user: UserId,
    pub(crate) role: Role,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) credential: Credential,
    /// When the credential ends, if it does by itself.
    pub(crate) until: Option<Timestamp>,
    /// When the key ends that it is, or that opened the session. A session's own end is no bound of what its person may
    /// do: they sign in again.
    pub(crate) key_until: Option<Timestamp>,
    /// The address the request came from.
    pub(crate) ip: IpAddr,
}

impl Caller {
    /// Tells whether the caller sees what belongs to others: an admin whose credential covers `admin:resources`.
    pub(crate) fn is_admin(&self) -> bool {
        self.role == Role::Admin && self.covers(Scope::AdminResources)
    }

    /// Tells whether the credential covers `scope`.
    pub(crate) fn covers(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|held| held.covers(scope))
    }

    /// Answers 403 unless the caller sees what belongs to others: for `all=true` and its like.
    pub(crate) fn demand_admin(&self) -> Result<(), AppError> {
        self.demand_role()?;
        Access::Scope(Scope::AdminResources).check(self)
    }

    fn demand_role(&self) -> Result<(), AppError> {
        if self.role == Role::Admin {
            Ok(())
        } else {
            Err(AppError::forbidden(
                "only an admin of the organization may do this",
            ))
        }
    }

    /// Returns the caller as the actor of an audit or activity row.
    pub(crate) fn actor(&self) -> Actor {
        match self.credential {
            Credential::ApiKey(key) => Actor::key(key, self.user, self.ip),
            Credential::Session { .. } => Actor::person(self.user, self.ip),
        }
    }
}

/// Who did something, as the audit log and the activity list name it.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    pub(crate) kind: ActorType,
    pub(crate) id: Option<String>,
    /// The person it belongs to: whose activity list shows it.
    pub(crate) user: Option<UserId>,
    pub(crate) ip: Option<IpAddr>,
}

impl Actor {
    /// The control plane itself.
    pub(crate) fn system() -> Self {
        Self {
            kind: ActorType::System,
            id: None,
            user: None,
            ip: None,
        }
    }

    /// A person, by their API key.
    pub(crate) fn key(key: ApiKeyId, user: UserId, ip: IpAddr) -> Self {
        Self {
            kind: ActorType::ApiKey,
            id: Some(key.to_string()),
            user: Some(user),
            ip: Some(ip),
        }
    }

    /// A person who is signed in.
    pub(crate) fn person(user: UserId, ip: IpAddr) -> Self {
        Self {
            kind: ActorType::User,
            id: Some(user.to_string()),
            user: Some(user),
            ip: Some(ip),
        }
    }

    /// A device, on behalf of its owner.
    pub(crate) fn device(node: NodeId, owner: Option<UserId>) -> Self {
        Self {
            kind: ActorType::Device,
            id: Some(node.to_string()),
            user: owner,
            ip: None,
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::SignedIn => f.write_str("signed in"),
            Self::Scope(scope) => write!(f, "{scope}"),
            Self::Admin(scope) => write!(f, "{scope} (admin)"),
        }
    }
}

impl Access {
    /// Lets the caller through or says why not.
    pub(crate) fn check(self, caller: &Caller) -> Result<(), AppError> {
        let (scope, admin) = match self {
            Self::Open | Self::SignedIn => return Ok(()),
            Self::Scope(scope) => (scope, false),
            Self::Admin(scope) => (scope, true),
        };
        if !caller.covers(scope) {
            let message = format!("this credential lacks the scope {scope}");
            return Err(AppError::forbidden(message));
        }
        if admin { caller.demand_role() } else { Ok(()) }
    }
}

/// Finds whose credential `token` is: an API key or a session token.
pub(crate) async fn authenticate(app: &App, token: Option<&str>, ip: IpAddr) -> Result<Caller, AppError> {
    let Some(token) = token else {
        let message = "a credential is needed: Authorization: Bearer <token>, or X-API-Key: <key>";
        return Err(AppError::new(ErrorCode::Unauthorized, message));
    };
    let now = app.clock.wall();
    let hash = secrets::hash(token);
    let mut conn = app.store.read().await?;
    let found = if token.starts_with(secrets::SESSION_PREFIX) {
        by_session(&mut conn, &hash).await?
    } else {
        let row = store::api_keys::credential(&mut conn, &hash).await?;
        row.map(Found::by_key)
    };
    drop(conn);
    let revoked = |found: &Found| found.key.as_ref().is_some_and(|key| key.revoked_at.is_some());
    let found = found
        .filter(|found| !revoked(found))
        .ok_or_else(|| AppError::new(ErrorCode::InvalidToken, "this credential is unknown or revoked"))?;
    let key_end = found.key.as_ref().and_then(|key| key.expires_at);
    let until = [key_end, found.session_end].into_iter().flatten().min();
    if until.is_some_and(|end| end <= now) {
        return Err(AppError::new(
            ErrorCode::TokenExpired,
            "this credential has expired",
        ));
    }
    if let Some(key) = &found.key {
        let used = key.last_used_at.map_or(0, Timestamp::unix_ms);
        if now.unix_ms() - used >= TOUCH_EVERY_MS {
            touch(app, key.id).await;
        }
    }
    Ok(Caller {
        org: found.org,
        org_name: found.org_name,
        user: found.user,
        role: found.role,
        scopes: found.scopes,
        credential: found.credential,
        until,
        key_until: key_end,
        ip,
    })
}

/// Whom a credential stands for, before it is looked whether it is still good.
struct Found {
    org: OrgId,
    org_name: OrgName,
    user: UserId,
    role: Role,
    scopes: Vec<Scope>,
    credential: Credential,
    /// The key that it is, or that opened the session.
    key: Option<ApiKey>,
    session_end: Option<Timestamp>,
}

impl Found {
    fn by_key(row: CredentialRow) -> Self {
        Self {
            org: row.org,
            org_name: row.org_name,
            user: row.key.user_id,
            role: row.role,
            scopes: row.key.scopes.clone(),
            credential: Credential::ApiKey(row.key.id),
            key: Some(row.key),
            session_end: None,
        }
    }
}

/// A session that a key opened is good for what the key is, one that the provider vouched for what the membership says.
async fn by_session(conn: &mut Conn, hash: &str) -> Result<Option<Found>, AppError> {
    let Some(row) = store::sessions::find(conn, hash).await? else {
        return Ok(None);
    };
    let key = match row.key {
        Some(id) => Some(
            store::api_keys::find(conn, row.org, id)
                .await?
                .ok_or_else(AppError::internal)?,
        ),
        None => None,
    };
    Ok(Some(Found {
        org: row.org,
        org_name: row.org_name,
        user: row.user,
        role: row.role,
        scopes: key.as_ref().map_or(row.scopes, |key| key.scopes.clone()),
        credential: Credential::Session {
            id: row.id,
            key: row.key,
        },
        key,
        session_end: Some(row.expires_at),
    }))
}

/// Says that a credential was revoked, to whoever still uses one.
#[derive(Clone, Debug)]
pub(crate) struct Revocations(watch::Sender<()>);

impl Default for Revocations {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Revocations {
    /// To be called after the commit.
    pub(crate) fn announce(&self) {
        self.0.send_replace(());
    }
}

/// Waits until the caller's credential is good no more: for answers that go on for long.
pub(crate) async fn ended(app: Arc<App>, caller: Caller) {
    let mut revocations = app.revocations.0.subscribe();
    loop {
        if caller.until.is_some_and(|end| end <= app.clock.wall()) {
            return;
        }
        match is_revoked(&app, &caller).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a credential in use was not looked at"),
        }
        // The sender lives as long as the app; what is looked at again by itself is the end of its time.
        let _ = tokio::time::timeout(LOOK_EVERY, revocations.changed()).await;
    }
}

async fn is_revoked(app: &App, caller: &Caller) -> Result<bool, AppError> {
    let mut conn = app.store.read().await?;
    let key = match caller.credential {
        Credential::ApiKey(key) => Some(key),
        Credential::Session { id, key } => {
            if !store::sessions::stands(&mut conn, id).await? {
                return Ok(true);
            }
            key
        }
    };
    let Some(key) = key else {
        return Ok(false);
    };
    let key = store::api_keys::find(&mut conn, caller.org, key).await?;
    Ok(key.is_none_or(|key| key.revoked_at.is_some()))
}

/// A key stays good when the note of its use cannot be written.
async fn touch(app: &App, key: ApiKeyId) {
    let noted = async {
        let mut tx = app.store.write().await?;
        store::api_keys::touch(&mut tx, key, app.clock.wall()).await?;
        tx.commit().await
    };
    if let Err(error) = noted.await {
        tracing::warn!(%error, "the use of an API key was not noted");
    }
}
