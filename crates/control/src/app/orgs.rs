//! Orgs: the first one at first start, others by request.

use api::Role;
use api::Scope;
use api::api_keys::CreatedApiKey;
use api::nodes::Node;
use api::orgs::{CreateOrganization, CreatedOrganization, Organization, User};
use serde_json::{Map, json};
use types::address::{host_ip4, node_ip6};
use types::{DisplayText, NodeId, NodeKind, NodeName, NodeStatus, OrgId, OrgName, SigningPrivateKey, UserId};

use super::api_keys::{NewKey, issue};
use super::audit::Deed;
use super::{Actor, App, AppError, Caller, audit};
use crate::secrets;
use crate::store::orgs::OrgRow;
use crate::store::{self, Conn, StoreError};

/// Makes the org, the admin and the first key of an empty database; `None` when there is an org already.
pub(crate) async fn first_start(app: &App, name: &OrgName) -> Result<Option<CreatedApiKey>, AppError> {
    let mut tx = app.store.write().await?;
    if !store::orgs::all(&mut tx).await?.is_empty() {
        return Ok(None);
    }
    let admin = User {
        id: UserId::from_random(secrets::bytes()),
        name: "admin".to_owned(),
        created_at: app.clock.wall(),
    };
    store::users::insert(&mut tx, &admin).await?;
    let (_, key) = found(app, &mut tx, name, (admin.id, Actor::system())).await?;
    tx.commit().await?;
    Ok(Some(key))
}

/// Makes an org; the caller becomes its first admin.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    request: CreateOrganization,
) -> Result<CreatedOrganization, AppError> {
    let name = request
        .name
        .parse()
        .map_err(|error| AppError::bad_request(format!("name {error}")))?;
    let mut tx = app.store.write().await?;
    let founder = (caller.user, caller.actor());
    let (organization, api_key) = match found(app, &mut tx, &name, founder).await {
        Err(StoreError::Taken) => return Err(AppError::conflict("another organization has this name")),
        other => other?,
    };
    tx.commit().await?;
    Ok(CreatedOrganization {
        organization,
        api_key,
    })
}

/// Returns the org of the credential.
pub(crate) async fn current(app: &App, caller: &Caller) -> Result<Organization, AppError> {
    let mut conn = app.store.read().await?;
    let org = store::orgs::find(&mut conn, caller.org).await?;
    org.map(|row| shown(&row)).ok_or_else(AppError::internal)
}

async fn found(
    app: &App,
    conn: &mut Conn,
    name: &OrgName,
    (founder, actor): (UserId, Actor),
) -> Result<(Organization, CreatedApiKey), StoreError> {
    let now = app.clock.wall();
    let org = OrgRow {
        id: OrgId::from_random(secrets::bytes()),
        name: name.clone(),
        signing_key: SigningPrivateKey::from_random(secrets::bytes()),
        created_at: now,
    };
    store::orgs::insert(conn, &org).await?;
    store::users::insert_member(conn, org.id, founder, Role::Admin, now).await?;
    let host = store::orgs::take_host_number(conn, org.id).await?;
    let platform = platform_node(app, &org, host);
    store::nodes::insert(conn, &platform, None).await?;
    store::nodes::set_endpoints(conn, platform.id, &app.platform.endpoints()).await?;
    let new = NewKey {
        user: founder,
        name: first_key_name(),
        scopes: vec![Scope::All],
        is_test: false,
        now,
        expires_at: None,
    };
    let key = issue(conn, org.id, new).await?;
    let deed = Deed {
        action: "organization.created",
        target: Some(("organization", org.id.to_string())),
        actor,
        attributes: Map::from_iter([("name".to_owned(), json!(name))]),
    };
    audit::record(app, conn, org.id, deed).await?;
    Ok((shown(&org), key))
}

/// The platform's own node in an org: the same key everywhere, an address of its own in each.
fn platform_node(app: &App, org: &OrgRow, host: u32) -> Node {
    let id = NodeId::from_random(secrets::bytes());
    let name = NodeName::nearest("platform", "platform");
    Node {
        id,
        org_id: org.id,
        kind: NodeKind::Platform,
        dns_name: name.dns_name(&org.name),
        name: name.to_string(),
        device_label: None,
        os: None,
        hostname: None,
        app_version: None,
        client_metadata: Map::new(),
        public_key: app.keys.platform.public(),
        mesh_ip4: host_ip4(host).expect("the first host number is in the block"),
        mesh_ip6: node_ip6(org.id, id),
        status: NodeStatus::Online,
        last_seen_at: None,
        path: None,
        path_reason: None,
        home_relay: None,
        tags: Vec::new(),
        owner_user_id: None,
        ephemeral: false,
        created_at: org.created_at,
        revoked_at: None,
        key_expires_at: None,
        cut_off: None,
    }
}

/// The name of the key that comes with an org or a membership.
pub(crate) fn first_key_name() -> DisplayText {
    "first key".parse().expect("a printable constant")
}

fn shown(row: &OrgRow) -> Organization {
    Organization {
        id: row.id,
        name: row.name.to_string(),
        created_at: row.created_at,
    }
}
