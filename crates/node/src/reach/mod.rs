//! Connections between programs on this device and the mesh: what they reach at other nodes ([`forward`], [`proxy`]), and
//! what they offer to them ([`expose`]).
//!
//! Everything is TCP, carried byte for byte with both ends' own ways of ending (`carry`). Only what the netmap names
//! can be reached: this is no way out to any other network.

mod accept;
mod carry;
pub mod expose;
pub mod forward;
mod place;
pub mod proxy;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh::paths::{PathView, Pong};
use mesh::proxy::{Host, Target};
use net::mesh_net::CONNECT_TIMEOUT;
use net::{ConnectError, MeshStream, PingError};
use types::{MeshNameError, NodeName, NodePublicKey, PathReason, PeerRecord, RelayId};

use crate::membership::Membership;
pub(crate) use accept::accept_each;
pub use place::Place;

/// The most connections that one forward, one exposed port or the proxy carries at once; one more is cut at once. As many as
/// a peer's stack takes, and each may hold 0.6 MiB while it is stuck.
pub const CONNECTIONS_MAX: usize = 256;

/// Why a target in the mesh was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// The device is no node yet, or has no netmap.
    #[error("this device has no netmap yet")]
    NoNetmap,
    /// The host is of some other network, or of another org.
    #[error("{host} is not of this mesh: {reason}")]
    NotOfTheMesh {
        /// The host, as it was named.
        host: String,
        /// Why.
        reason: MeshNameError,
    },
    /// The netmap names no such node.
    #[error("no node {host} is known here: it is not there, or this node may not talk to it")]
    Unknown {
        /// The host, as it was named.
        host: String,
    },
    /// The host is this node.
    #[error("{host} is this device itself: connect to 127.0.0.1 instead")]
    ThisDevice {
        /// The host, as it was named.
        host: String,
    },
    /// The node has nothing at that port.
    #[error("{node} refused the connection to port {port}: nothing is exposed there")]
    Refused {
        /// The node.
        node: NodeName,
        /// Its port.
        port: u16,
    },
    /// The node did not answer.
    #[error("{node} did not answer within {} s ({})", CONNECT_TIMEOUT.as_secs(), word(*reason))]
    Unreached {
        /// The node.
        node: NodeName,
        /// How it was last reached, or why not.
        reason: PathReason,
    },
    /// There are too many connections to the node.
    #[error("there are too many connections to {node}")]
    TooMany {
        /// The node.
        node: NodeName,
    },
    /// The node has no address of a family that this node has one of.
    #[error("{node} has no address that can be connected to")]
    NoAddress {
        /// The node.
        node: NodeName,
    },
    /// The mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

/// What this node is to others.
pub(crate) struct Own {
    /// Its full name.
    pub(crate) name: String,
    /// Its mesh addresses.
    pub(crate) addresses: [IpAddr; 2],
}

/// The mesh, as programs on this device reach it.
#[derive(Clone)]
pub struct Reach {
    membership: Arc<Membership>,
}

impl Reach {
    /// Reaches what the netmap in force names.
    #[must_use]
    pub fn new(membership: Arc<Membership>) -> Self {
        Self { membership }
    }

    /// Finds what a target means now.
    pub fn place(&self, target: &Target) -> Result<Place, ReachError> {
        let netmap = self.membership.follow().borrow().clone();
        let netmap = netmap.ok_or(ReachError::NoNetmap)?;
        place::find(&netmap, target)
    }

    /// Finds the peer that a host names now.
    pub(crate) fn peer(&self, host: &Host) -> Result<PeerRecord, ReachError> {
        let netmap = self.membership.follow().borrow().clone();
        let netmap = netmap.ok_or(ReachError::NoNetmap)?;
        place::peer(&netmap, host).cloned()
    }

    /// Pings a peer inside its session.
    pub(crate) async fn ping(&self, peer: NodePublicKey, timeout: Duration) -> Result<Pong, PingError> {
        self.membership.mesh().ping(peer, timeout).await
    }

    /// Returns how a peer is reached now.
    pub(crate) async fn path(&self, peer: NodePublicKey) -> Option<PathView> {
        self.membership.mesh().peer_status(peer).await?.1
    }

    /// Returns what a relay is called.
    pub(crate) fn relay_name(&self, relay: RelayId) -> String {
        self.membership.relay_name(relay)
    }

    /// Connects to a target within [`CONNECT_TIMEOUT`].
    pub async fn connect(&self, target: &Target) -> Result<MeshStream, ReachError> {
        let place = self.place(target)?;
        let connected = self.membership.mesh().connect(place.peer, place.address);
        connected.await.map_err(|error| self.explain(error, place))
    }

    /// Returns what this node is to others.
    pub(crate) fn own(&self) -> Option<Own> {
        let netmap = self.membership.follow().borrow().clone()?;
        let node = &netmap.node;
        Some(Own {
            name: node.name.dns_name(&netmap.org_name),
            addresses: [node.addresses.mesh_ip4.into(), node.addresses.mesh_ip6.into()],
        })
    }

    fn explain(&self, error: ConnectError, place: Place) -> ReachError {
        let node = place.name;
        match error {
            ConnectError::PeerUnknown => ReachError::Unknown {
                host: node.to_string(),
            },
            ConnectError::NotThePeers | ConnectError::NoLocalAddress => ReachError::NoAddress { node },
            ConnectError::TooMany => ReachError::TooMany { node },
            ConnectError::TimedOut => ReachError::Unreached {
                reason: self.membership.path_reason(&place.peer),
                node,
            },
            ConnectError::Refused => ReachError::Refused {
                node,
                port: place.address.port(),
            },
            ConnectError::Stopped => ReachError::Stopped,
        }
    }

    /// Names the peer that a connection came from; `None` when the netmap in force does not name it, and then it gets
    /// nothing. Which of a peer's packets come in at all is the packet filter's matter, before there is a connection.
    fn peer_named(&self, peer: &NodePublicKey) -> Option<NodeName> {
        let netmap = self.membership.follow().borrow().clone()?;
        let record = netmap.peers.iter().find(|record| record.public_key == *peer)?;
        Some(record.name.clone())
    }
}

/// The word of a reason, as it stands in the API.
fn word(reason: PathReason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(word)) => word,
        _ => format!("{reason:?}"),
    }
}
