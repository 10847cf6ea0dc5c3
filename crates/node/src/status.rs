//! What the daemon knows of itself, as one value: what `GET /status` on the local socket answers.

use std::collections::BTreeMap;

use net::mesh_net::MeshCounters;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use types::policy::KeyLife;
use types::{
    Generation, NodeId, NodeKind, NodeName, NodePublicKey, OrgName, PathKind, PathReason, RunId, RunStatus,
    ThreadId, Timestamp,
};

use crate::port_mapping::PortMappingState;

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
    /// When its key expires, and when it is to be changed; absent when it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_life: Option<KeyLife>,
    /// Whether the key is about to expire although the node should have changed it long ago.
    #[serde(default)]
    pub key_in_danger: bool,
    /// What the org calls this node; absent before it is linked.
    pub node: Option<NodeSummary>,
    /// The control stream.
    pub control: Connection,
    /// The netmap in force.
    pub generation: Option<Generation>,
    /// Why the last offered netmap was refused, if it was.
    pub netmap_refused: Option<String>,
    /// `userspace`, or `tun` and the name of the network device by which the host is in the mesh.
    #[serde(default = "userspace")]
    pub mode: String,
    /// How netmaps came since this start, and how many were refused.
    #[serde(default)]
    pub netmaps: NetmapCounts,
    /// The UDP address of the mesh socket.
    pub mesh_address: Option<String>,
    /// Whether the router opened a port that leads to the mesh socket.
    #[serde(default)]
    pub port_mapping: PortMappingState,
    /// Where the proxy into the mesh listens, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_address: Option<String>,
    /// Where names of the mesh are answered to programs on this device, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names_address: Option<String>,
    /// At which of its mesh addresses they are answered, too: in TUN mode, as far as their port could be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names_mesh_addresses: Vec<String>,
    /// What went through the mesh and what did not, since this start; absent before the device is a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// The relay that is nearest, at which others find this node; absent while none is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_relay: Option<String>,
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

/// The mode without a network device.
fn userspace() -> String {
    "userspace".to_owned()
}

/// How many netmaps came since the daemon started; one that was kept from before counts as whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetmapCounts {
    /// Put into force as they came.
    pub whole: u64,
    /// Put into force by a delta.
    pub deltas: u64,
    /// Refused, whole or delta.
    pub refused: u64,
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
    /// The node's key has expired.
    Expired,
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

/// What went through the mesh since the daemon started, and what did not.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Packets sent to peers.
    pub packets_sent: u64,
    /// Bytes in those.
    pub bytes_sent: u64,
    /// Packets received from peers and found in order.
    pub packets_received: u64,
    /// Bytes in those.
    pub bytes_received: u64,
    /// Handshakes that gave a session.
    pub handshakes: u64,
    /// Cookies sent because too many handshakes came.
    pub cookies_sent: u64,
    /// By reason: how many datagrams or packets went no further, or what was given up. Reasons that never occurred
    /// are left out.
    pub dropped: BTreeMap<String, u64>,
}

impl From<&MeshCounters> for Traffic {
    fn from(counters: &MeshCounters) -> Self {
        let tunnel = &counters.tunnel;
        let in_tunnel = tunnel.drops().map(|(reason, count)| (reason.as_str(), count));
        let in_filter = counters
            .filter
            .drops()
            .map(|(reason, count)| (reason.as_str(), count));
        let in_shell = counters.net.drops().into_iter().filter(|(_, count)| *count > 0);
        Self {
            packets_sent: tunnel.packets_sent,
            bytes_sent: tunnel.bytes_sent,
            packets_received: tunnel.packets_received,
            bytes_received: tunnel.bytes_received,
            handshakes: tunnel.handshakes,
            cookies_sent: tunnel.cookies_sent,
            dropped: in_tunnel
                .chain(in_filter)
                .chain(in_shell)
                .map(|(reason, count)| (reason.to_owned(), count))
                .collect(),
        }
    }
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
            key_life: None,
            key_in_danger: false,
            node: None,
            control: Connection::down(now, "not linked yet"),
            generation: None,
            netmap_refused: None,
            mode: userspace(),
            netmaps: NetmapCounts::default(),
            mesh_address: None,
            port_mapping: PortMappingState::Off,
            proxy_address: None,
            names_address: None,
            names_mesh_addresses: Vec::new(),
            traffic: None,
            home_relay: None,
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

#[cfg(test)]
mod tests {
    use net::mesh_net::NetCounters;

    use super::*;

    #[test]
    fn only_reasons_that_occurred_are_told_those_of_the_tunnel_and_those_of_the_shell() {
        let net = NetCounters {
            packets_misdirected: 2,
            ..NetCounters::default()
        };
        let traffic = Traffic::from(&MeshCounters {
            net,
            ..MeshCounters::default()
        });
        let dropped: Vec<_> = traffic.dropped.into_iter().collect();
        assert_eq!(dropped, [("misdirected".to_owned(), 2)]);
    }

    #[test]
    fn no_two_reasons_share_a_word() {
        let tunnel = mesh::tunnel::DropReason::ALL.iter().map(|reason| reason.as_str());
        let filter = mesh::filter::FilterDrop::ALL.iter().map(|reason| reason.as_str());
        let shell = NetCounters::default().drops();
        let words: Vec<_> = tunnel
            .chain(filter)
            .chain(shell.iter().map(|(word, _)| *word))
            .collect();
        let distinct: std::collections::BTreeSet<_> = words.iter().collect();
        assert_eq!(distinct.len(), words.len(), "{words:?}");
    }
}
