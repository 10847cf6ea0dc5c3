//! Device linking: a code bound to a key, ten minutes, one decision, one transaction that makes the node.

use std::net::IpAddr;
use std::time::Duration;

use api::ErrorCode;
use api::activity::Severity;
use api::audit::ActorType;
use api::links::{Link, LinkApprove, LinkPoll, LinkPolled, LinkStart, LinkStarted, LinkStatus};
use api::nodes::Node;
use serde_json::{Map, json};
use types::{NodeId, NodePublicKey, NodeStatus, OrgId, Timestamp};

use super::admission::{self, Claims, Newcomer, read_label, read_tags};
use super::audit::Deed;
use super::nodes::{Change, name_taken, revoked};
use super::{Actor, App, AppError, Caller, RateLimit, audit, netmap, node_keys, nodes, policy, users};
use crate::door::origin;
use crate::secrets;
use crate::store::links::LinkRow;
use crate::store::{self, Conn, StoreError};

/// Upper-case letters and digits without look-alikes (no I, O, 0, 1).
const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// How many characters a code has: 30 bits.
const CODE_LEN: usize = 6;

/// How long a code lives.
const CODE_LIFETIME: Duration = Duration::from_secs(10 * 60);

/// How long a dead code is remembered, so that it can be told from one that never was.
const CODE_MEMORY: Duration = Duration::from_secs(60 * 60);

/// How long a device waits between polls, in seconds.
const POLL_INTERVAL: u32 = 1;

/// The most codes that wait at once.
const PENDING_MAX: u64 = 10_000;

/// How often a code is drawn again because it is taken.
const DRAWS_MAX: u32 = 8;

/// Makes a code for a device's key; a pending one of the same key ends.
pub(crate) async fn start(app: &App, ip: IpAddr, request: LinkStart) -> Result<LinkStarted, AppError> {
    let now = app.clock.now();
    let limit = app
        .limits
        .link_start
        .take(&origin(ip).to_string(), now.mono)
        .map_err(AppError::rate_limited)?;
    let mut row = read_start(app, ip, request, now.wall)?;
    let mut tx = app.store.write().await?;
    demand_linkable(&mut tx, &row.link.public_key).await?;
    store::links::sweep(&mut tx, now.wall - CODE_MEMORY).await?;
    store::links::supersede(&mut tx, &row.link.public_key).await?;
    if store::links::pending(&mut tx, now.wall).await? >= PENDING_MAX
        && !store::links::crowd_out(&mut tx, &row.link.ip, now.wall).await?
    {
        return Err(AppError::rate_limited(RateLimit {
            limit: limit.limit,
            remaining: 0,
            reset: CODE_LIFETIME,
        }));
    }
    row.link.code = free_code(&mut tx).await?;
    store::links::insert(&mut tx, &row).await?;
    tx.commit().await?;
    let url = app.config.public_url.join(&format!("link/{}", row.link.code));
    Ok(LinkStarted {
        code: row.link.code,
        url: url.map_err(|_| AppError::internal())?.into(),
        expires_at: row.link.expires_at,
        interval: POLL_INTERVAL,
        match_number: row.link.match_number,
    })
}

/// Tells the device that has the key how its code fares.
pub(crate) async fn poll(
    app: &App,
    ip: IpAddr,
    request: LinkPoll,
) -> Result<(LinkPolled, RateLimit), AppError> {
    let now = app.clock.now();
    let ip = origin(ip).to_string();
    app.limits
        .link_guess_by_address
        .look(&ip, now.mono)
        .map_err(AppError::rate_limited)?;
    app.limits
        .link_poll_by_address
        .take(&ip, now.mono)
        .map_err(AppError::rate_limited)?;
    let code = read_code(&request.code);
    let mut conn = app.store.read().await?;
    let found = match &code {
        Some(code) => store::links::find(&mut conn, code).await?,
        None => None,
    };
    let Some(row) = found.filter(|row| row.link.public_key.to_string() == request.public_key) else {
        return Err(wrong_guess(app, &ip, code.as_deref()));
    };
    let limit = app
        .limits
        .link_poll
        .take(&row.link.code, now.mono)
        .map_err(AppError::rate_limited)?;
    let status = standing(&row.link, now.wall);
    let mut polled = LinkPolled {
        status,
        node: None,
        config: None,
    };
    if let (LinkStatus::Approved, Some(org), Some(id)) = (status, row.org, row.node)
        && let Some(node) = store::nodes::find(&mut conn, org, id).await?
    {
        // It was approved, and is shut out since: who asked must not take it for a leave.
        if node.node.status == NodeStatus::Revoked {
            return Err(revoked());
        }
        polled.config = netmap::config(app, &mut conn, &node).await?;
        polled.node = Some(node.node);
    }
    Ok((polled, limit))
}

/// Returns what the approve page shows. Once it is decided, that belongs to whoever sees the node that came of it.
pub(crate) async fn find(app: &App, caller: &Caller, code: &str) -> Result<Link, AppError> {
    let mut conn = app.store.read().await?;
    let row = known(app, &mut conn, caller, code).await?;
    if let Some(node) = row.node {
        nodes::visible(app, &mut conn, caller, node).await?;
    }
    let mut link = row.link;
    link.status = standing(&link, app.clock.wall());
    Ok(link)
}

/// Admits the device behind a code; the approver becomes its owner.
pub(crate) async fn approve(app: &App, caller: &Caller, request: LinkApprove) -> Result<Node, AppError> {
    let name = request
        .name
        .as_deref()
        .map(|text| read_label("name", text))
        .transpose()?;
    let tags = read_tags(request.tags.unwrap_or_default())?;
    let mut tx = app.store.write().await?;
    users::demand_member(&mut tx, caller).await?;
    let row = undecided(app, &mut tx, caller, &request.code).await?;
    policy::demand_tags(&mut tx, caller, &tags).await?;
    let newcomer = Newcomer {
        claims: claims(&row),
        name,
        tags,
        org: caller.org,
        org_name: caller.org_name.clone(),
        owner: caller.user,
        auth_key: None,
        ephemeral: false,
    };
    let known = store::nodes::find_by_key(&mut tx, &row.link.public_key).await?;
    let is_new = known.is_none();
    let node = match known {
        Some(known) => relink(app, &mut tx, caller, (newcomer, known.node)).await?,
        None => admission::admit(app, &mut tx, newcomer).await?,
    };
    let decision = (caller.org, Some(node.id));
    decide(app, &mut tx, &row, LinkStatus::Approved, decision).await?;
    record_approval(app, &mut tx, caller, (&row, &node)).await?;
    let generation = store::orgs::raise_topology(&mut tx, caller.org).await?;
    // Within the write: a revocation waits for it and so cannot be overtaken by the admission.
    app.admit_to_platform(&mut tx, &node).await?;
    if let Err(error) = tx.commit().await {
        if is_new {
            app.platform.expel(node.public_key).await;
        }
        return Err(error.into());
    }
    app.tell_circle(caller.org, node.id, generation).await;
    Ok(node)
}

/// Refuses the device behind a code.
pub(crate) async fn deny(app: &App, caller: &Caller, code: &str) -> Result<Link, AppError> {
    let mut tx = app.store.write().await?;
    let mut row = undecided(app, &mut tx, caller, code).await?;
    decide(app, &mut tx, &row, LinkStatus::Denied, (caller.org, None)).await?;
    record_start(app, &mut tx, caller.org, (&row, None)).await?;
    let deed = Deed {
        action: "device.denied",
        target: Some(("link", row.link.code.clone())),
        actor: caller.actor(),
        attributes: attributes(&row),
    };
    audit::record(app, &mut tx, caller.org, deed).await?;
    tx.commit().await?;
    row.link.status = LinkStatus::Denied;
    Ok(row.link)
}

/// A code can be asked for with a public key alone, so that only the owner or an admin may take a node up again.
async fn relink(
    app: &App,
    conn: &mut Conn,
    caller: &Caller,
    (newcomer, mut node): (Newcomer, Node),
) -> Result<Node, AppError> {
    if node.status == NodeStatus::Revoked {
        return Err(revoked());
    }
    let own = node.owner_user_id == Some(caller.user) || caller.is_admin();
    if node.org_id != caller.org || !own {
        return Err(AppError::conflict(
            "this device is linked to somebody else already",
        ));
    }
    let claims = newcomer.claims;
    if let Some(name) = newcomer.name.filter(|name| name.as_str() != node.name) {
        if store::nodes::name_taken(conn, caller.org, &name).await? {
            return Err(name_taken(&name));
        }
        node.dns_name = name.dns_name(&caller.org_name);
        node.name = name.to_string();
    }
    node.device_label = claims.device_label.or(node.device_label);
    node.os = claims.os.or(node.os);
    node.hostname = claims.hostname.or(node.hostname);
    node.app_version = claims.app_version.or(node.app_version);
    node.client_metadata = claims.client_metadata;
    if !newcomer.tags.is_empty() {
        node.tags = newcomer.tags;
    }
    store::nodes::relink(conn, &node).await?;
    node_keys::extend(app, conn, &mut node).await?;
    tracing::info!(node = %node.id, at = %app.clock.wall(), "a device was linked again");
    Ok(node)
}

async fn record_approval(
    app: &App,
    conn: &mut Conn,
    caller: &Caller,
    (row, node): (&LinkRow, &Node),
) -> Result<(), StoreError> {
    record_start(app, conn, node.org_id, (row, Some(node.id))).await?;
    let change = Change {
        action: "device.approved",
        event: "runmesh.device.linked",
        severity: Severity::Success,
        title: format!("{} was linked", node.name),
        attributes: attributes(row),
    };
    nodes::record(app, conn, caller.actor(), node, change).await
}

/// Enters that a device asked for a code. Until somebody decides no org knows of it: it is entered where it turns out to
/// belong, right before the decision, with the time it happened. What nobody decides stands in no log.
async fn record_start(
    app: &App,
    conn: &mut Conn,
    org: OrgId,
    (row, node): (&LinkRow, Option<NodeId>),
) -> Result<(), StoreError> {
    let mut attributes = attributes(row);
    attributes.insert("startedAt".to_owned(), json!(row.link.created_at));
    let target = match node {
        Some(node) => ("node", node.to_string()),
        None => ("link", row.link.code.clone()),
    };
    let started = Deed {
        action: "device.link_started",
        target: Some(target),
        actor: Actor {
            kind: ActorType::Device,
            id: node.map(|node| node.to_string()),
            user: None,
            ip: row.link.ip.parse().ok(),
        },
        attributes,
    };
    audit::record(app, conn, org, started).await
}

/// What the device said of itself when it asked.
fn claims(row: &LinkRow) -> Claims {
    let link = &row.link;
    Claims {
        public_key: link.public_key,
        device_label: link.device_label.clone(),
        os: link.os.clone(),
        app_version: link.app_version.clone(),
        hostname: link.hostname.clone(),
        client_metadata: row.client_metadata.clone(),
    }
}

/// The same for the log, with the address that asked.
fn attributes(row: &LinkRow) -> Map<String, serde_json::Value> {
    let mut attributes = claims(row).attributes();
    attributes.insert("deviceIp".to_owned(), json!(row.link.ip));
    attributes
}

async fn decide(
    app: &App,
    conn: &mut Conn,
    row: &LinkRow,
    status: LinkStatus,
    decision: (OrgId, Option<NodeId>),
) -> Result<(), AppError> {
    let now = app.clock.wall();
    if store::links::decide(conn, &row.link.code, status, decision, now).await? {
        Ok(())
    } else {
        Err(decided())
    }
}

async fn undecided(app: &App, conn: &mut Conn, caller: &Caller, code: &str) -> Result<LinkRow, AppError> {
    let row = known(app, conn, caller, code).await?;
    match standing(&row.link, app.clock.wall()) {
        LinkStatus::Pending => Ok(row),
        LinkStatus::Expired => Err(AppError::new(
            ErrorCode::Gone,
            "this code has expired; start again on the device",
        )),
        LinkStatus::Approved | LinkStatus::Denied => Err(decided()),
    }
}

fn decided() -> AppError {
    AppError::conflict("this code has been used already")
}

/// Finds a code for a person; wrong ones are counted against them, as are those that another org has decided.
async fn known(app: &App, conn: &mut Conn, caller: &Caller, code: &str) -> Result<LinkRow, AppError> {
    let now = app.clock.now().mono;
    let user = caller.user.to_string();
    app.limits
        .link_guess_by_user
        .look(&user, now)
        .map_err(AppError::rate_limited)?;
    let found = match read_code(code) {
        Some(code) => store::links::find(conn, &code).await?,
        None => None,
    };
    let found = found.filter(|row| row.org.is_none_or(|org| org == caller.org));
    found.ok_or_else(|| match app.limits.link_guess_by_user.take(&user, now) {
        Ok(_) => AppError::not_found("code"),
        Err(limit) => AppError::rate_limited(limit),
    })
}

/// The right key is never refused for the guesses of others; a wrong one is, per address and per code.
fn wrong_guess(app: &App, ip: &str, code: Option<&str>) -> AppError {
    let now = app.clock.now().mono;
    let by_code = app.limits.link_guess_by_code.take(code.unwrap_or_default(), now);
    let by_address = app.limits.link_guess_by_address.take(ip, now);
    match by_code.and(by_address) {
        Ok(_) => AppError::not_found("code for this key"),
        Err(limit) => AppError::rate_limited(limit),
    }
}

fn standing(link: &Link, now: Timestamp) -> LinkStatus {
    if link.status == LinkStatus::Pending && link.expires_at <= now {
        LinkStatus::Expired
    } else {
        link.status
    }
}

fn read_start(app: &App, ip: IpAddr, request: LinkStart, now: Timestamp) -> Result<LinkRow, AppError> {
    let claims = Claims::read(app, request)?;
    Ok(LinkRow {
        link: Link {
            code: String::new(),
            status: LinkStatus::Pending,
            public_key: claims.public_key,
            device_label: claims.device_label,
            os: claims.os,
            app_version: claims.app_version,
            hostname: claims.hostname,
            ip: ip.to_string(),
            match_number: secrets::text(b"0123456789", 2),
            created_at: now,
            expires_at: now + CODE_LIFETIME,
        },
        client_metadata: claims.client_metadata,
        org: None,
        node: None,
    })
}

async fn demand_linkable(conn: &mut Conn, key: &NodePublicKey) -> Result<(), AppError> {
    let known = store::nodes::find_by_key(conn, key).await?;
    if known.is_some_and(|row| row.node.status == NodeStatus::Revoked) {
        return Err(revoked());
    }
    if store::node_keys::is_retired(conn, key).await? {
        return Err(node_keys::retired());
    }
    Ok(())
}

async fn free_code(conn: &mut Conn) -> Result<String, AppError> {
    for _ in 0..DRAWS_MAX {
        let code = secrets::text(ALPHABET, CODE_LEN);
        if store::links::find(conn, &code).await?.is_none() {
            return Ok(code);
        }
    }
    Err(AppError::internal())
}

/// Reads a code as people type it: any case, spaces and hyphens.
pub(crate) fn read_code(text: &str) -> Option<String> {
    if text.len() > 64 {
        return None;
    }
    let code: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .map(|c| c.to_ascii_uppercase())
        .collect();
    let valid = code.len() == CODE_LEN && code.bytes().all(|b| ALPHABET.contains(&b));
    valid.then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        assert_eq!(read_code(" abc-d23 ").as_deref(), Some("ABCD23"));
        for bad in ["", "ABCD2", "ABCD234", "ABCD10", "ABCDÉ2", "ABCD2I"] {
            assert_eq!(read_code(bad), None, "{bad}");
        }
    }
}
