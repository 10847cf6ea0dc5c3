//! What the daemon knows of itself, as one value: what `GET /status` on the local socket answers.

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use types::{
    Generation, NodeId, NodeKind, NodeName, NodePublicKey, OrgName, PathKind, PathReason, RunId, RunStatus,
    ThreadId, Timestamp,
};

/// The daemon at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The control plane it belongs to.
    pub server_url: Option<String>,
    /// How far the link is.
    pub link: LinkStatus,
    /// The node's public key.
    pub public_key: NodePublicKey,
    /// What the org calls this node; absent before it is linked.
    pub node: Option<NodeSummary>,
    /// The control stream.
    pub control: Connection,
    /// The netmap in force.
    pub generation: Option<Generation>,
    /// Why the last offered netmap was refused, if it was.
    pub netmap_refused: Option<String>,
    /// The UDP address of the mesh socket.
    pub mesh_address: Option<String>,
    /// Every node this one may talk to.
    pub peers: Vec<PeerStatus>,
    /// The dispatch session.
    pub sidecar: Connection,
    /// The runs under way.
    pub runs: Vec<RunSummary>,
    /// How many runs the journal holds: those under way, and those whose events are not all acknowledged.
    pub journal_runs: usize,
    /// How many bytes of events wait for their acknowledgement.
    pub journal_bytes: u64,
    /// Why the policy file is not in force, if it is not; then no run is accepted.
    pub policy_error: Option<String>,
}

/// How far this device is on the way to being a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum LinkStatus {
    /// No code yet.
    Unlinked,
    /// A code waits for approval.
    Pending {
        /// The code.
        code: String,
        /// The two digits shown on both screens.
        match_number: String,
        /// The page to open.
        url: String,
        /// When the code dies.
        expires_at: Timestamp,
    },
    /// The device is a node.
    Linked,
    /// Somebody said no.
    Denied,
    /// The org shut the node out.
    Revoked,
}

/// What the org calls this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// The org's name.
    pub org_name: OrgName,
    /// Its mesh addresses.
    pub addresses: Vec<String>,
}

/// A connection that is kept up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Whether it is up.
    pub connected: bool,
    /// Since when it is as it is.
    pub since: Timestamp,
    /// Why it is down, if it is.
    pub reason: Option<String>,
}

impl Connection {
    /// A connection that is up since `since`.
    #[must_use]
    pub fn up(since: Timestamp) -> Self {
        Self {
            connected: true,
            since,
            reason: None,
        }
    }

    /// A connection that is down since `since`, and why.
    #[must_use]
    pub fn down(since: Timestamp, reason: impl Into<String>) -> Self {
        Self {
            connected: false,
            since,
            reason: Some(reason.into()),
        }
    }
}

/// A peer and how it is reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// What it is.
    pub kind: NodeKind,
    /// Its public key.
    pub public_key: NodePublicKey,
    /// The addresses it may send from.
    pub addresses: Vec<String>,
    /// How it is reached now; absent when it is not.
    pub path: Option<PathKind>,
    /// Why so.
    pub reason: PathReason,
    /// Where it was last heard.
    pub endpoint: Option<String>,
}

/// A run on this device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunSummary {
    /// The run.
    pub run_id: RunId,
    /// The thread its events go to.
    pub thread_id: ThreadId,
    /// `dispatched` until the runner was started, then `running`, then how it ended.
    pub status: RunStatus,
    /// The runner that executes it.
    pub runner: String,
}

/// The daemon's status, written by its parts and read by anyone.
#[derive(Clone, Debug)]
pub struct StatusBoard(watch::Sender<Status>);

impl StatusBoard {
    /// Starts with an unlinked node.
    #[must_use]
    pub fn new(version: String, public_key: NodePublicKey, now: Timestamp) -> Self {
        Self(watch::Sender::new(Status {
            version,
            server_url: None,
            link: LinkStatus::Unlinked,
            public_key,
            node: None,
            control: Connection::down(now, "not linked yet"),
            generation: None,
            netmap_refused: None,
            mesh_address: None,
            peers: Vec::new(),
            sidecar: Connection::down(now, "not linked yet"),
            runs: Vec::new(),
            journal_runs: 0,
            journal_bytes: 0,
            policy_error: None,
        }))
    }

    /// Changes the status.
    pub fn change(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_modify(change);
    }

    /// Returns the status as it is now.
    #[must_use]
    pub fn read(&self) -> Status {
        self.0.borrow().clone()
    }

    /// Follows every change; slow followers see the latest only.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }
}
