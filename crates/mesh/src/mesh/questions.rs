//! What may be asked of a mesh; nothing of it changes anything.

use std::net::{IpAddr, SocketAddr};

use types::{NodePublicKey, Now, RelayId};

use super::{Mesh, RelayView};
use crate::filter::FilterCounters;
use crate::paths::{OwnCandidates, PathView, PeerPaths};
use crate::tunnel::{Counters, PeerStatus};

impl Mesh {
    /// Returns our own public key.
    #[must_use]
    pub fn public_key(&self) -> NodePublicKey {
        self.tunnel.public_key()
    }

    /// Returns what went through the tunnel and what was dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        self.tunnel.counters()
    }

    /// Returns what the packet filter did.
    #[must_use]
    pub fn filter_counters(&self) -> &FilterCounters {
        self.filter.counters()
    }

    /// Says whether a TCP connection between an address of ours and a peer's may go on by the rules of now.
    #[must_use]
    pub fn admits_tcp(&self, local: SocketAddr, remote: SocketAddr, now: Now) -> bool {
        self.filter.admits_tcp(local, remote, now.mono)
    }

    /// Returns what is known of a peer's session.
    #[must_use]
    pub fn peer_status(&self, peer: &NodePublicKey) -> Option<PeerStatus> {
        self.tunnel.peer_status(peer)
    }

    /// Returns how a peer is reached; `None` when it is no managed peer.
    #[must_use]
    pub fn path(&self, peer: &NodePublicKey) -> Option<PathView> {
        self.peers.get(peer).map(PeerPaths::view)
    }

    /// Returns what we say of ourselves.
    #[must_use]
    pub fn own_candidates(&self) -> &OwnCandidates {
        &self.own
    }

    /// Returns the relay at which peers find us best.
    #[must_use]
    pub fn home_relay(&self) -> Option<RelayId> {
        self.relays.home()
    }

    /// Returns every relay as we see it.
    pub fn relays(&self) -> impl Iterator<Item = RelayView> + '_ {
        self.relays.views()
    }

    /// Returns the peer that packets to `address` belong to.
    #[must_use]
    pub fn route(&self, address: IpAddr) -> Option<NodePublicKey> {
        self.tunnel.route(address)
    }
}
