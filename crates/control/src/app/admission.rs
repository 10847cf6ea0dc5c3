//! Making a node: what every newcomer says of itself and is given, however it was let in (`links`, `auth_keys`).

use api::links::{CLIENT_METADATA_BYTES_MAX, LinkStart};
use api::nodes::Node;
use serde_json::{Map, Value, json};
use types::address::{host_ip4, node_ip6};
use types::names::{DISPLAY_TEXT_CHARS_MAX, is_unprintable};
use types::{AuthKeyId, NodeId, NodeKind, NodeName, NodePublicKey, NodeStatus, OrgId, OrgName, UserId};

use super::nodes::name_taken;
use super::{App, AppError, display_text, node_keys, reach};
use crate::secrets;
use crate::store::{self, Conn};

/// The most tags of a node.
const TAGS_MAX: usize = 16;

/// Up to which number devices of the same name are counted; later ones get a drawn number.
const NUMBERED_MAX: u32 = 20;

/// How often a number is drawn again because it is taken.
const DRAWS_MAX: u32 = 8;

/// What a device says of itself; only the key is more than a claim.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    pub(crate) public_key: NodePublicKey,
    pub(crate) device_label: Option<String>,
    pub(crate) os: Option<String>,
    pub(crate) app_version: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) client_metadata: Map<String, Value>,
}

impl Claims {
    /// Reads what a device sent; texts that say nothing count as absent.
    pub(crate) fn read(app: &App, request: LinkStart) -> Result<Self, AppError> {
        let public_key: NodePublicKey = request
            .public_key
            .parse()
            .map_err(|error| AppError::bad_request(format!("publicKey {error}")))?;
        if app.keys.include(&public_key) {
            return Err(AppError::conflict("publicKey is a key of this server"));
        }
        let text = |field, text: Option<String>| {
            let text = text.filter(|text| !is_blank(text));
            let text = text.map(|text| display_text(field, &text)).transpose()?;
            Ok::<_, AppError>(text.map(|text| text.to_string()))
        };
        let client_metadata = request.client_metadata.unwrap_or_default();
        let size = serde_json::to_string(&client_metadata).map_or(usize::MAX, |text| text.len());
        if size > CLIENT_METADATA_BYTES_MAX {
            let message = format!("clientMetadata is larger than {CLIENT_METADATA_BYTES_MAX} bytes");
            return Err(AppError::bad_request(message));
        }
        Ok(Self {
            public_key,
            device_label: text("deviceLabel", request.device_label)?,
            os: text("os", request.os)?,
            app_version: text("appVersion", request.app_version)?,
            hostname: text("hostname", request.hostname)?,
            client_metadata,
        })
    }

    /// Returns them for the audit log.
    pub(crate) fn attributes(&self) -> Map<String, Value> {
        Map::from_iter([
            ("publicKey".to_owned(), json!(self.public_key)),
            ("deviceLabel".to_owned(), json!(self.device_label)),
            ("os".to_owned(), json!(self.os)),
            ("hostname".to_owned(), json!(self.hostname)),
        ])
    }
}

/// A device that is let in, and on what terms.
#[derive(Clone, Debug)]
pub(crate) struct Newcomer {
    pub(crate) claims: Claims,
    /// Its name; made from what it claims when absent.
    pub(crate) name: Option<NodeName>,
    pub(crate) tags: Vec<String>,
    pub(crate) org: OrgId,
    pub(crate) org_name: OrgName,
    pub(crate) owner: UserId,
    /// The key that let it in, and whether it vanishes when it goes.
    pub(crate) auth_key: Option<AuthKeyId>,
    pub(crate) ephemeral: bool,
}

/// Makes the node.
pub(crate) async fn admit(app: &App, conn: &mut Conn, newcomer: Newcomer) -> Result<Node, AppError> {
    let Newcomer { claims, org, .. } = newcomer;
    if store::node_keys::is_retired(conn, &claims.public_key).await? {
        return Err(node_keys::retired());
    }
    let name = free_name(conn, org, newcomer.name, &claims).await?;
    let id = NodeId::from_random(secrets::bytes());
    let host = store::orgs::take_host_number(conn, org).await?;
    let rules = reach::in_force(conn, org).await?.node_keys;
    let now = app.clock.wall();
    let full = || AppError::conflict("the organization has no IPv4 address left");
    let node = Node {
        id,
        org_id: org,
        kind: NodeKind::Device,
        dns_name: name.dns_name(&newcomer.org_name),
        name: name.to_string(),
        device_label: claims.device_label,
        os: claims.os,
        hostname: claims.hostname,
        app_version: claims.app_version,
        client_metadata: claims.client_metadata,
        public_key: claims.public_key,
        mesh_ip4: host_ip4(host).ok_or_else(full)?,
        mesh_ip6: node_ip6(org, id),
        status: NodeStatus::Offline,
        last_seen_at: None,
        path: None,
        path_reason: None,
        home_relay: None,
        tags: newcomer.tags,
        owner_user_id: Some(newcomer.owner),
        ephemeral: newcomer.ephemeral,
        created_at: now,
        revoked_at: None,
        key_expires_at: rules.expiry_of_new(now),
        cut_off: None,
    };
    store::nodes::insert(conn, &node, newcomer.auth_key).await?;
    Ok(node)
}

async fn free_name(
    conn: &mut Conn,
    org: OrgId,
    wanted: Option<NodeName>,
    claims: &Claims,
) -> Result<NodeName, AppError> {
    if let Some(name) = wanted {
        let taken = store::nodes::name_taken(conn, org, &name).await?;
        return if taken { Err(name_taken(&name)) } else { Ok(name) };
    }
    let text = claims.hostname.as_ref().or(claims.device_label.as_ref());
    let nearest = NodeName::nearest(text.map_or("device", String::as_str), "device");
    if !store::nodes::name_taken(conn, org, &nearest).await? {
        return Ok(nearest);
    }
    // Where many share a name, counting up would ask for each of them.
    let drawn = || 1000 + u32::from(u16::from_be_bytes(secrets::bytes()));
    let numbers = (2..=NUMBERED_MAX).chain((0..DRAWS_MAX).map(|_| drawn()));
    for number in numbers {
        let name = nearest.numbered(number);
        if !store::nodes::name_taken(conn, org, &name).await? {
            return Ok(name);
        }
    }
    Err(AppError::conflict(
        "no free name is left near this one; give a name",
    ))
}

/// White space alone says nothing, as long as it is nothing worse.
fn is_blank(text: &str) -> bool {
    let harmless = text.chars().count() <= DISPLAY_TEXT_CHARS_MAX && !text.chars().any(is_unprintable);
    harmless && text.trim().is_empty()
}

/// Reads tags: each a label, at most 16, sorted, none twice.
pub(crate) fn read_tags(tags: Vec<String>) -> Result<Vec<String>, AppError> {
    if tags.len() > TAGS_MAX {
        return Err(AppError::bad_request(format!("tags must be at most {TAGS_MAX}")));
    }
    let mut tags: Vec<String> = tags
        .iter()
        .map(|tag| read_label("tags", tag).map(|tag| tag.to_string()))
        .collect::<Result<_, _>>()?;
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

/// Reads a DNS label; the message names the field.
pub(crate) fn read_label(field: &str, text: &str) -> Result<NodeName, AppError> {
    text.parse()
        .map_err(|error| AppError::bad_request(format!("{field} {error}")))
}
