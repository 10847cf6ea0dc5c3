//! How far the link is, as it is kept in `link.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use types::{NodeId, NodeName, NodePublicKey, OrgId, SigningPublicKey, Timestamp};

use crate::state_dir::{StateDir, StateDirError, peek_json};

const FILE: &str = "link.json";

/// What is kept of the link between starts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkRecord {
    /// The control plane.
    pub server_url: String,
    /// How far the link is.
    pub state: LinkState,
}

/// How far the link is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LinkState {
    /// A code waits for approval.
    Pending(PendingCode),
    /// The device is a node.
    Linked(Box<Pinned>),
    /// The org shut this key out.
    Revoked,
    /// The key has expired: the device is linked anew, and is the same node then.
    Expired,
}

/// A code that waits for approval.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingCode {
    /// Six characters.
    pub code: String,
    /// The two digits shown on both screens.
    pub match_number: String,
    /// The page to open.
    pub url: String,
    /// When the code dies.
    pub expires_at: Timestamp,
    /// How long to wait between polls, in seconds.
    pub interval: u32,
}

/// What was pinned at approval: from now on nothing else is believed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pinned {
    /// The control plane's key on the control stream.
    pub control_key: NodePublicKey,
    /// The org.
    pub org_id: OrgId,
    /// The key with which the org signs tickets and records.
    pub org_signing_key: SigningPublicKey,
    /// This node's id.
    pub node_id: NodeId,
    /// The name it had at approval.
    pub name: NodeName,
    /// Its mesh addresses, as text.
    pub addresses: Vec<String>,
}

/// Reads the record, if there is one.
pub fn read(state_dir: &StateDir) -> Result<Option<LinkRecord>, StateDirError> {
    state_dir.read_json(FILE)
}

/// Reads the record of a state directory that a daemon may be using.
pub fn peek(dir: &Path) -> Result<Option<LinkRecord>, StateDirError> {
    peek_json(dir, FILE)
}

/// Writes the record.
pub fn write(state_dir: &StateDir, record: &LinkRecord) -> Result<(), StateDirError> {
    state_dir.write_json(FILE, record).map(drop)
}

/// Forgets the record.
pub fn forget(state_dir: &StateDir) -> Result<(), StateDirError> {
    state_dir.remove(FILE)
}
