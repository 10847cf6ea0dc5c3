//! How each peer is reached now: what the tunnel says about sessions, kept as paths with their reasons.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh::tunnel::{PeerStatus as TunnelStatus, TunnelEvent};
use types::control::FromNode;
use types::{NodePublicKey, PathKind, PathReason, PeerRecord};

use crate::status::PeerStatus;

/// How one peer is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Path {
    kind: Option<PathKind>,
    reason: PathReason,
    endpoint: Option<SocketAddr>,
}

/// How every known peer is reached. Peers come by [`Paths::expect`] and go by [`Paths::forget`]; what is said about others
/// is passed over.
#[derive(Debug, Default)]
pub(super) struct Paths(BTreeMap<NodePublicKey, Path>);

impl Paths {
    /// Takes note of a peer that is about to be tried; one that is known stays as it is.
    pub(super) fn expect(&mut self, peer: NodePublicKey, endpoint: Option<SocketAddr>) {
        let reason = match endpoint {
            Some(_) => PathReason::Probing,
            None => PathReason::NoCandidate,
        };
        self.0.entry(peer).or_insert(Path::unreached(reason));
    }

    pub(super) fn forget(&mut self, peer: &NodePublicKey) {
        self.0.remove(peer);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn peers(&self) -> Vec<NodePublicKey> {
        self.0.keys().copied().collect()
    }

    /// Sets how a known peer is reached; `true` when that is news.
    pub(super) fn set(&mut self, peer: &NodePublicKey, path: Path) -> bool {
        match self.0.get_mut(peer) {
            Some(known) => std::mem::replace(known, path) != path,
            None => false,
        }
    }

    /// Returns what to tell the control plane about a peer.
    pub(super) fn report(&self, record: &PeerRecord) -> Option<FromNode> {
        self.0.get(&record.public_key).map(|path| FromNode::Path {
            peer_id: record.id,
            path: path.kind,
            reason: path.reason,
        })
    }

    /// Returns what to show of a peer on this device.
    pub(super) fn shown(&self, record: &PeerRecord) -> PeerStatus {
        let path = self.0.get(&record.public_key).copied();
        let path = path.unwrap_or(Path::unreached(PathReason::NoCandidate));
        let addresses = record.allowed_ips.iter();
        PeerStatus {
            id: record.id,
            name: record.name.clone(),
            kind: record.kind,
            public_key: record.public_key,
            addresses: addresses.map(|block| block.address().to_string()).collect(),
            path: path.kind,
            reason: path.reason,
            endpoint: path.endpoint.map(|endpoint| endpoint.to_string()),
        }
    }
}

impl Path {
    /// Returns whose path follows from an event of the tunnel, and which.
    pub(super) fn after(event: TunnelEvent) -> (NodePublicKey, Self) {
        match event {
            TunnelEvent::SessionUp { peer, endpoint } | TunnelEvent::EndpointChanged { peer, endpoint } => {
                (peer, Self::reached(Some(endpoint)))
            }
            TunnelEvent::SessionDown { peer, .. } => (peer, Self::unreached(PathReason::PeerAsleep)),
            TunnelEvent::HandshakeFailed { peer } => (peer, Self::unreached(PathReason::Probing)),
        }
    }

    /// Returns the path that a look at the tunnel shows.
    pub(super) fn of(status: &TunnelStatus) -> Self {
        if status.has_session {
            Self::reached(status.endpoint)
        } else {
            Self::unreached(PathReason::Probing)
        }
    }

    fn reached(endpoint: Option<SocketAddr>) -> Self {
        Self {
            kind: Some(PathKind::Direct),
            reason: PathReason::EndpointAnswered,
            endpoint,
        }
    }

    fn unreached(reason: PathReason) -> Self {
        Self {
            kind: None,
            reason,
            endpoint: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use types::NodePrivateKey;

    use super::*;

    fn peer(seed: u8) -> NodePublicKey {
        NodePrivateKey::from_random([seed; 32]).public()
    }

    fn up(peer: NodePublicKey) -> TunnelEvent {
        let endpoint = "127.0.0.1:7".parse().expect("an address");
        TunnelEvent::SessionUp { peer, endpoint }
    }

    #[test]
    fn only_what_changes_is_news_and_only_of_peers_that_are_known() {
        let mut paths = Paths::default();
        let (known, path) = Path::after(up(peer(1)));
        assert!(!paths.set(&known, path), "nobody knows it yet");
        paths.expect(known, None);
        assert!(paths.set(&known, path));
        assert!(!paths.set(&known, path), "the same again");
        let (_, lost) = Path::after(TunnelEvent::HandshakeFailed { peer: known });
        assert!(paths.set(&known, lost));
        paths.forget(&known);
        assert!(!paths.set(&known, path));
    }

    #[test]
    fn a_peer_that_is_told_again_keeps_its_path() {
        let mut paths = Paths::default();
        let (known, path) = Path::after(up(peer(1)));
        paths.expect(known, None);
        paths.set(&known, path);
        paths.expect(known, None);
        assert!(!paths.set(&known, path), "it was still there");
    }
}
