//! The gate that every peer record passes, of a whole netmap or of a delta: signed by the org, well formed, and sharing no
//! key, id, name or address with another.
//!
//! A delta comes upon a netmap that has passed, so that only what it brings is held against all the rest, in one pass over
//! them. What comes of either way is the same, which a property test shows.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::delta::NetmapDelta;
use super::{ALLOWED_IPS_MAX, Netmap, NetmapError, PeerRecord, Pins, SIGNATURES_MAX, check_endpoints};
use crate::address::AllowedIp;
use crate::filter::UNKNOWN_BLOCK;
use crate::ids::NodeId;
use crate::keys::NodePublicKey;
use crate::names::NodeName;

impl Netmap {
    /// Checks every peer, and that the packet filter names nobody else.
    pub(super) fn verify_peers(&self, pins: &Pins, current: Option<&Self>) -> Result<(), NetmapError> {
        let mut gate = PeerGate::for_node(self, pins);
        for peer in &self.peers {
            let is_known = current.is_some_and(|map| map.has(peer));
            gate.admit(peer, is_known).map_err(|reason| bad(peer, reason))?;
        }
        let filter = self.filter.as_ref();
        filter
            .map_or(Ok(()), |filter| filter.verify(&gate.blocks))
            .map_err(NetmapError::BadFilter)
    }

    /// Checks what a delta made of `current`, which has passed with these pins, as [`Netmap::verify`] would.
    pub(super) fn verify_amended(
        &self,
        current: &Self,
        delta: &NetmapDelta,
        pins: &Pins,
    ) -> Result<(), NetmapError> {
        if delta.node.is_some() {
            // Every peer is to be held against the other self.
            return self.verify(pins, Some(current));
        }
        self.verify_frame(pins, Some(current))?;
        let mut gate = PeerGate::for_node(self, pins);
        for peer in &delta.upserted {
            gate.admit(peer, current.has(peer))
                .map_err(|reason| bad(peer, reason))?;
        }
        let opened = delta.filter.opened.iter().flat_map(|rule| &rule.from);
        let is_unknown = |block: &&AllowedIp| block.prefix_len() != 0 && !gate.blocks.contains(block);
        let mut unknown: BTreeSet<AllowedIp> = opened.filter(is_unknown).copied().collect();
        if !delta.upserted.is_empty() || !unknown.is_empty() {
            for peer in unchanged(&self.peers, &delta.upserted) {
                gate.pass(peer).map_err(|reason| bad(peer, reason))?;
                if !unknown.is_empty() {
                    unknown.retain(|block| !peer.allowed_ips.contains(block));
                }
            }
        }
        let filter = self.filter.as_ref();
        let filter = filter.map_or(Ok(()), |filter| filter.verify_sizes());
        filter
            .and_then(|()| unknown.is_empty().then_some(()).ok_or(UNKNOWN_BLOCK))
            .map_err(NetmapError::BadFilter)?;
        self.verify_relays().map_err(NetmapError::BadRelay)?;
        self.verify_orchestrator()
    }
}

fn bad(peer: &PeerRecord, reason: &'static str) -> NetmapError {
    NetmapError::BadPeer {
        name: peer.name.clone(),
        reason,
    }
}

/// Returns the peers that a delta does not name, both in the order of ids.
fn unchanged<'a>(
    peers: &'a [Arc<PeerRecord>],
    upserted: &'a [Arc<PeerRecord>],
) -> impl Iterator<Item = &'a Arc<PeerRecord>> {
    let mut upserted = upserted.iter().peekable();
    peers
        .iter()
        .filter(move |peer| upserted.next_if(|new| new.id == peer.id).is_none())
}

/// What has been admitted so far, so that no two peers share a key, an id, a name or an address.
struct PeerGate<'a> {
    pins: &'a Pins,
    keys: BTreeSet<NodePublicKey>,
    ids: BTreeSet<NodeId>,
    names: BTreeSet<NodeName>,
    blocks: BTreeSet<AllowedIp>,
}

impl<'a> PeerGate<'a> {
    fn for_node(map: &Netmap, pins: &'a Pins) -> Self {
        let own_blocks = [
            AllowedIp::host(map.node.addresses.mesh_ip4.into()),
            AllowedIp::host(map.node.addresses.mesh_ip6.into()),
        ];
        Self {
            pins,
            keys: BTreeSet::from([pins.own_key]),
            ids: BTreeSet::from([map.node.id]),
            names: BTreeSet::from([map.node.name.clone()]),
            blocks: BTreeSet::from(own_blocks),
        }
    }

    fn admit(&mut self, peer: &PeerRecord, is_known: bool) -> Result<(), &'static str> {
        if !self.keys.insert(peer.public_key) {
            return Err("its key is taken");
        }
        if !self.ids.insert(peer.id) {
            return Err("its id is taken");
        }
        if !self.names.insert(peer.name.clone()) {
            return Err("its name is taken");
        }
        if peer.allowed_ips.is_empty() || peer.allowed_ips.len() > ALLOWED_IPS_MAX {
            return Err("it must have 1 to 16 allowed IPs");
        }
        check_endpoints(&peer.endpoints)?;
        for block in &peer.allowed_ips {
            if !block.is_host() {
                return Err("an allowed IP is not a single address");
            }
            if !self.blocks.insert(*block) {
                return Err("an address is taken");
            }
        }
        // Last, since it costs more than all the rest.
        if peer.signatures.len() > SIGNATURES_MAX {
            return Err("it has more than 8 signatures");
        }
        if !is_known && !peer.is_signed(self.pins.org_id, &self.pins.org_signing_key) {
            return Err("the org has not signed it");
        }
        Ok(())
    }

    /// Holds what was admitted against a peer that passed before.
    fn pass(&self, peer: &PeerRecord) -> Result<(), &'static str> {
        if self.keys.contains(&peer.public_key) {
            return Err("its key is taken");
        }
        if self.ids.contains(&peer.id) {
            return Err("its id is taken");
        }
        if self.names.contains(&peer.name) {
            return Err("its name is taken");
        }
        if peer.allowed_ips.iter().any(|block| self.blocks.contains(block)) {
            return Err("an address is taken");
        }
        Ok(())
    }
}
