//! The org's policy: reading it, changing it, trying it out, and who may give which tag.

use api::policy::{
    DecidedBy, ExplainPolicy, PolicyExplained, PolicyFailure, PolicyTested, PolicyView, PutPolicy, TestPolicy,
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use types::policy::{Basis, PolicyError};
use types::{Decision, NodeId, Policy, Protocol, Service};

use super::audit::Deed;
use super::{App, AppError, Caller, audit, node_keys, reach};
use crate::store::nodes::NodeRow;
use crate::store::policies::PolicyRow;
use crate::store::{self, Conn, StoreError};

/// Returns the policy of the caller's org.
pub(crate) async fn find(app: &App, caller: &Caller) -> Result<PolicyView, AppError> {
    let mut conn = app.store.read().await?;
    let row = store::policies::find(&mut conn, caller.org).await?;
    shown(row)
}

/// Replaces the policy, if it is what it should be and its own tests hold. When this returns, every connected node of the
/// org is being told.
pub(crate) async fn put(app: &App, caller: &Caller, request: PutPolicy) -> Result<PolicyView, AppError> {
    let policy = Policy::from_value(request.document).map_err(|error| refused(&error))?;
    let mut tx = app.store.write().await?;
    let before = store::policies::find(&mut tx, caller.org).await?;
    let version = before.as_ref().map_or(0, |row| row.version);
    if request.version.is_some_and(|expected| expected != version) {
        let message = format!("the policy was changed meanwhile: it has version {version} now");
        return Err(AppError::conflict(message));
    }
    let nodes = store::nodes::in_org(&mut tx, caller.org).await?;
    let subjects: Vec<_> = nodes.iter().map(reach::subject).collect();
    if let Some(failure) = policy.failures(&subjects).first() {
        return Err(refused(failure));
    }
    let row = PolicyRow {
        version: version + 1,
        document: policy.to_text(),
        updated_at: app.clock.wall(),
        updated_by: Some(caller.user),
    };
    store::policies::put(&mut tx, caller.org, &row).await?;
    record(app, &mut tx, caller, (before.as_ref(), &row)).await?;
    let rules_before = before.map_or(Ok(Policy::standard()), |row| Policy::parse(&row.document));
    if rules_before.map_err(|_| AppError::internal())?.node_keys != policy.node_keys {
        node_keys::keep_rules(app, &mut tx, caller.org, &policy.node_keys).await?;
    }
    let generation = store::orgs::raise_topology(&mut tx, caller.org).await?;
    tx.commit().await?;
    app.hub.changed_org(caller.org, generation);
    shown(Some(row))
}

/// The log tells documents apart by their digest: they are too large to stand in it.
async fn record(
    app: &App,
    conn: &mut Conn,
    caller: &Caller,
    (before, after): (Option<&PolicyRow>, &PolicyRow),
) -> Result<(), StoreError> {
    let digest = |text: &str| {
        let digest = Sha256::digest(text.as_bytes());
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let deed = Deed {
        action: "policy.changed",
        target: Some(("policy", caller.org.to_string())),
        actor: caller.actor(),
        attributes: Map::from_iter([
            (
                "fromVersion".to_owned(),
                json!(before.map_or(0, |row| row.version)),
            ),
            (
                "fromSha256".to_owned(),
                json!(before.map(|row| digest(&row.document))),
            ),
            ("toVersion".to_owned(), json!(after.version)),
            ("toSha256".to_owned(), json!(digest(&after.document))),
        ]),
    };
    audit::record(app, conn, caller.org, deed).await
}

/// Checks a document and runs the tests inside it, or those of the policy in force, and changes nothing.
pub(crate) async fn test(app: &App, caller: &Caller, request: TestPolicy) -> Result<PolicyTested, AppError> {
    let mut conn = app.store.read().await?;
    let policy = match request.document {
        Some(document) => Policy::from_value(document).map_err(|error| refused(&error))?,
        None => reach::in_force(&mut conn, caller.org).await?,
    };
    let nodes = store::nodes::in_org(&mut conn, caller.org).await?;
    let subjects: Vec<_> = nodes.iter().map(reach::subject).collect();
    let failures = policy.failures(&subjects);
    Ok(PolicyTested {
        passed: failures.is_empty(),
        grants: policy.grants.len(),
        tests: policy.tests.len(),
        failures: failures
            .into_iter()
            .map(|failure| PolicyFailure {
                path: failure.path,
                reason: failure.reason,
            })
            .collect(),
    })
}

/// Says whether one node may reach something of another, and by what.
pub(crate) async fn explain(
    app: &App,
    caller: &Caller,
    request: ExplainPolicy,
) -> Result<PolicyExplained, AppError> {
    let service = service(&request)?;
    let mut conn = app.store.read().await?;
    let policy = match request.document {
        Some(document) => Policy::from_value(document).map_err(|error| refused(&error))?,
        None => reach::in_force(&mut conn, caller.org).await?,
    };
    let nodes = store::nodes::in_org(&mut conn, caller.org).await?;
    let src = named("src", &nodes, &request.src)?;
    let dst = named("dst", &nodes, &request.dst)?;
    let decision = policy.decide(&reach::subject(src), &reach::subject(dst), service);
    let (by, grant) = match decision {
        Decision::Accept(Basis::BuiltIn) => (Some(DecidedBy::BuiltIn), None),
        Decision::Accept(Basis::Grant(number)) => (Some(DecidedBy::Grant), Some(number)),
        Decision::Deny => (None, None),
    };
    Ok(PolicyExplained {
        src: src.node.name.clone(),
        dst: dst.node.name.clone(),
        service: service.to_string(),
        accepted: by.is_some(),
        by,
        grant,
        text: grant.map(|number| json!(policy.grants[number])),
    })
}

fn service(request: &ExplainPolicy) -> Result<Service, AppError> {
    let port = request
        .port
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0);
    match (request.proto.unwrap_or_default(), port) {
        (Protocol::Tcp, Some(port)) => Ok(Service::Tcp(port)),
        (Protocol::Udp, Some(port)) => Ok(Service::Udp(port)),
        (Protocol::Icmp, _) => Ok(Service::Icmp),
        (_, None) => Err(AppError::bad_request("port must be from 1 to 65535")),
    }
}

/// Finds a node by its name or its id.
fn named<'a>(field: &str, nodes: &'a [NodeRow], text: &str) -> Result<&'a NodeRow, AppError> {
    let id = text.parse::<NodeId>().ok();
    let is_meant = |row: &&NodeRow| row.name.as_str() == text || Some(row.node.id) == id;
    let missing = || AppError::not_found(&format!("node as {field} names"));
    nodes.iter().find(is_meant).ok_or_else(missing)
}

/// Answers 403 unless the caller may give and take each of these tags: an admin, or whom the policy names.
pub(crate) async fn demand_tags(conn: &mut Conn, caller: &Caller, tags: &[String]) -> Result<(), AppError> {
    if tags.is_empty() || caller.is_admin() {
        return Ok(());
    }
    let policy = reach::in_force(conn, caller.org).await?;
    let may = |tag: &&String| tag.parse().is_ok_and(|tag| policy.may_tag(caller.user, &tag));
    match tags.iter().find(|tag| !may(tag)) {
        Some(tag) => Err(AppError::forbidden(format!(
            "the tag {tag} may be given by an admin, or by whom the policy names under tagOwners"
        ))),
        None => Ok(()),
    }
}

fn refused(error: &PolicyError) -> AppError {
    AppError::bad_request(format!("document: {error}"))
}

fn shown(row: Option<PolicyRow>) -> Result<PolicyView, AppError> {
    let document = match &row {
        Some(row) => serde_json::from_str::<Value>(&row.document).map_err(|_| AppError::internal())?,
        None => json!(Policy::standard()),
    };
    Ok(PolicyView {
        version: row.as_ref().map_or(0, |row| row.version),
        document,
        is_standard: row.is_none(),
        updated_at: row.as_ref().map(|row| row.updated_at),
        updated_by: row.and_then(|row| row.updated_by),
    })
}
