//! How each peer is reached now: what the mesh says of paths, kept with their reasons.

use std::collections::BTreeMap;

use mesh::Endpoint;
use mesh::paths::PathView;
use types::control::FromNode;
use types::{Netmap, NodePublicKey, PathKind, PathReason, PeerRecord, RelayId};

use crate::status::PeerStatus;

/// How one peer is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Path {
    kind: Option<PathKind>,
    reason: PathReason,
    endpoint: Option<Endpoint>,
}

/// How every known peer is reached. Peers come by [`Paths::expect`] and go by [`Paths::forget`]; what is said about others
/// is passed over.
#[derive(Debug, Default)]
pub(super) struct Paths {
    peers: BTreeMap<NodePublicKey, Path>,
    home: Option<RelayId>,
}

impl Paths {
    /// Takes note of a peer; one that is known stays as it is.
    pub(super) fn expect(&mut self, peer: NodePublicKey) {
        self.peers
            .entry(peer)
            .or_insert(Path::unreached(PathReason::Idle));
    }

    pub(super) fn forget(&mut self, peer: &NodePublicKey) {
        self.peers.remove(peer);
    }

    pub(super) fn clear(&mut self) {
        self.peers.clear();
    }

    pub(super) fn peers(&self) -> Vec<NodePublicKey> {
        self.peers.keys().copied().collect()
    }

    /// Sets how a known peer is reached; `true` when that is news.
    pub(super) fn set(&mut self, peer: &NodePublicKey, path: Path) -> bool {
        match self.peers.get_mut(peer) {
            Some(known) => std::mem::replace(known, path) != path,
            None => false,
        }
    }

    /// Returns why a peer is reached as it is.
    pub(super) fn reason(&self, peer: &NodePublicKey) -> PathReason {
        let path = self.peers.get(peer);
        path.map_or(PathReason::NoCandidate, |path| path.reason)
    }

    /// Returns what to tell the control plane about a peer.
    pub(super) fn report(&self, record: &PeerRecord) -> Option<FromNode> {
        self.peers.get(&record.public_key).map(|path| FromNode::Path {
            peer_id: record.id,
            path: path.kind,
            reason: path.reason,
        })
    }

    /// A peer goes by another key from now on.
    pub(super) fn rename(&mut self, old: &NodePublicKey, new: NodePublicKey) {
        if let Some(path) = self.peers.remove(old) {
            self.peers.insert(new, path);
        }
    }

    /// Sets which relay is the nearest.
    pub(super) fn set_home(&mut self, home: Option<RelayId>) {
        self.home = home;
    }

    /// Returns what the nearest relay is called.
    pub(super) fn home(&self, netmap: &Netmap) -> Option<String> {
        self.home.map(|home| relay_name(netmap, home))
    }

    /// Returns what to show of a peer on this device.
    pub(super) fn shown(&self, record: &PeerRecord, netmap: &Netmap) -> PeerStatus {
        let path = self.peers.get(&record.public_key).copied();
        let path = path.unwrap_or(Path::unreached(PathReason::Idle));
        let addresses = record.allowed_ips.iter();
        PeerStatus {
            id: record.id,
            name: record.name.clone(),
            kind: record.kind,
            public_key: record.public_key,
            addresses: addresses.map(|block| block.address().to_string()).collect(),
            path: path.kind,
            reason: path.reason,
            endpoint: path.endpoint.map(|endpoint| match endpoint {
                Endpoint::Direct { .. } => format!("{endpoint:?}"),
                Endpoint::Relayed { relay, .. } => format!("relay {}", relay_name(netmap, relay)),
            }),
        }
    }
}

/// Returns what a relay is called, or its key when the netmap names it no longer.
pub(super) fn relay_name(netmap: &Netmap, id: RelayId) -> String {
    let record = netmap.relays.iter().find(|record| record.id == id);
    record.map_or_else(|| id.to_string(), |record| record.name.to_string())
}

impl Path {
    pub(super) fn unreached(reason: PathReason) -> Self {
        Self {
            kind: None,
            reason,
            endpoint: None,
        }
    }
}

impl From<PathView> for Path {
    fn from(view: PathView) -> Self {
        Self {
            kind: view.kind,
            reason: view.reason,
            endpoint: view.endpoint.filter(|_| view.kind.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use types::NodePrivateKey;

    use super::*;

    fn peer(seed: u8) -> NodePublicKey {
        NodePrivateKey::from_random([seed; 32]).public()
    }

    fn direct() -> Path {
        let endpoint: SocketAddr = "127.0.0.1:7".parse().expect("an address");
        let view = PathView {
            endpoint: Some(endpoint.into()),
            kind: Some(PathKind::Direct),
            reason: PathReason::EndpointAnswered,
            rtt: None,
        };
        view.into()
    }

    #[test]
    fn only_what_changes_is_news_and_only_of_peers_that_are_known() {
        let mut paths = Paths::default();
        let known = peer(1);
        assert!(!paths.set(&known, direct()), "nobody knows it yet");
        paths.expect(known);
        assert!(paths.set(&known, direct()));
        assert!(!paths.set(&known, direct()), "the same again");
        assert!(paths.set(&known, Path::unreached(PathReason::PeerAsleep)));
        paths.forget(&known);
        assert!(!paths.set(&known, direct()));
    }

    #[test]
    fn a_peer_that_is_told_again_keeps_its_path() {
        let mut paths = Paths::default();
        let known = peer(1);
        paths.expect(known);
        paths.set(&known, direct());
        paths.expect(known);
        assert!(!paths.set(&known, direct()), "it was still there");
    }
}
