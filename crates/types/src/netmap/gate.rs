//! The gate that every peer record passes, of a whole netmap or of a delta: signed by the org, well formed, and sharing no
//! key, id, name or address with another.
//!
//! A delta comes upon a netmap that has passed, so that only what it brings is held against all the rest, of which is
//! remembered what is taken. What comes of either way is the same, which a property test shows.

use std::collections::{BTreeMap, BTreeSet};

use super::delta::NetmapDelta;
use super::{ALLOWED_IPS_MAX, Netmap, NetmapError, PeerRecord, Pins, SIGNATURES_MAX, check_endpoints};
use crate::address::AllowedIp;
use crate::filter::UNKNOWN_BLOCK;
use crate::ids::NodeId;
use crate::keys::NodePublicKey;
use crate::names::NodeName;

/// Which node has which key, name and address, this one included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Taken {
    keys: BTreeMap<NodePublicKey, NodeId>,
    names: BTreeMap<NodeName, NodeId>,
    blocks: BTreeMap<AllowedIp, NodeId>,
}

impl Netmap {
    /// Checks every peer, and that the packet filter names nobody else.
    pub(super) fn verify_peers(&self, pins: &Pins, current: Option<&Self>) -> Result<Taken, NetmapError> {
        let mut gate = PeerGate::for_node(self, pins);
        for peer in &self.peers {
            let is_known = current.is_some_and(|map| map.has(peer));
            gate.admit(peer, is_known).map_err(|reason| bad(peer, reason))?;
        }
        let blocks = &gate.taken.blocks;
        let filter = self.filter.as_ref();
        filter
            .map_or(Ok(()), |filter| filter.verify(|block| blocks.contains_key(block)))
            .map_err(NetmapError::BadFilter)?;
        Ok(gate.taken)
    }

    /// Checks what a delta made of `current`, which has passed with these pins and of which this is taken, as
    /// [`Netmap::verify`] would.
    pub(super) fn verify_amended(
        &self,
        (current, taken): (&Self, &Taken),
        delta: &NetmapDelta,
        pins: &Pins,
    ) -> Result<(), NetmapError> {
        self.verify_frame(pins, Some(current))?;
        let mut gate = PeerGate::for_node(self, pins);
        let stays = |id: &NodeId| !delta.names(*id);
        for peer in &delta.upserted {
            gate.admit(peer, current.has(peer))
                .and_then(|()| taken.check(peer, stays))
                .map_err(|reason| bad(peer, reason))?;
        }
        let is_known = |block: &AllowedIp| {
            block.prefix_len() == 0
                || gate.taken.blocks.contains_key(block)
                || taken.blocks.get(block).is_some_and(stays)
        };
        let mut opened = delta.filter.opened.iter().flat_map(|rule| &rule.from);
        let filter = self.filter.as_ref();
        let filter = filter.map_or(Ok(()), |filter| filter.verify_sizes());
        filter
            .and_then(|()| opened.all(is_known).then_some(()).ok_or(UNKNOWN_BLOCK))
            .map_err(NetmapError::BadFilter)?;
        self.verify_relays().map_err(NetmapError::BadRelay)?;
        self.verify_orchestrator()
    }
}

impl Taken {
    /// Returns whose a key is.
    pub(super) fn of_key(&self, key: &NodePublicKey) -> Option<NodeId> {
        self.keys.get(key).copied()
    }

    /// Holds a peer against those of the others that stay as they are.
    fn check(&self, peer: &PeerRecord, stays: impl Fn(&NodeId) -> bool) -> Result<(), &'static str> {
        if self.keys.get(&peer.public_key).is_some_and(&stays) {
            return Err(KEY_TAKEN);
        }
        if self.names.get(&peer.name).is_some_and(&stays) {
            return Err(NAME_TAKEN);
        }
        let is_taken = |block| self.blocks.get(block).is_some_and(&stays);
        if peer.allowed_ips.iter().any(is_taken) {
            return Err(ADDRESS_TAKEN);
        }
        Ok(())
    }

    /// Takes note that a peer has gone.
    pub(super) fn release(&mut self, peer: &PeerRecord) {
        self.keys.remove(&peer.public_key);
        self.names.remove(&peer.name);
        for block in &peer.allowed_ips {
            self.blocks.remove(block);
        }
    }

    /// Takes note of a peer that has passed.
    pub(super) fn take(&mut self, peer: &PeerRecord) {
        self.keys.insert(peer.public_key, peer.id);
        self.names.insert(peer.name.clone(), peer.id);
        for block in &peer.allowed_ips {
            self.blocks.insert(*block, peer.id);
        }
    }
}

const KEY_TAKEN: &str = "its key is taken";
const NAME_TAKEN: &str = "its name is taken";
const ADDRESS_TAKEN: &str = "an address is taken";

fn bad(peer: &PeerRecord, reason: &'static str) -> NetmapError {
    NetmapError::BadPeer {
        name: peer.name.clone(),
        reason,
    }
}

/// What has been admitted so far, so that no two peers share a key, an id, a name or an address.
struct PeerGate<'a> {
    pins: &'a Pins,
    ids: BTreeSet<NodeId>,
    taken: Taken,
}

impl<'a> PeerGate<'a> {
    fn for_node(map: &Netmap, pins: &'a Pins) -> Self {
        let (own, id) = (&map.node, map.node.id);
        let own_blocks = [
            AllowedIp::host(own.addresses.mesh_ip4.into()),
            AllowedIp::host(own.addresses.mesh_ip6.into()),
        ];
        Self {
            pins,
            ids: BTreeSet::from([id]),
            taken: Taken {
                keys: BTreeMap::from([(pins.own_key, id)]),
                names: BTreeMap::from([(own.name.clone(), id)]),
                blocks: own_blocks.map(|block| (block, id)).into(),
            },
        }
    }

    fn admit(&mut self, peer: &PeerRecord, is_known: bool) -> Result<(), &'static str> {
        let Taken { keys, names, blocks } = &mut self.taken;
        if keys.insert(peer.public_key, peer.id).is_some() {
            return Err(KEY_TAKEN);
        }
        if !self.ids.insert(peer.id) {
            return Err("its id is taken");
        }
        if names.insert(peer.name.clone(), peer.id).is_some() {
            return Err(NAME_TAKEN);
        }
        if peer.allowed_ips.is_empty() || peer.allowed_ips.len() > ALLOWED_IPS_MAX {
            return Err("it must have 1 to 16 allowed IPs");
        }
        check_endpoints(&peer.endpoints)?;
        for block in &peer.allowed_ips {
            if !block.is_host() {
                return Err("an allowed IP is not a single address");
            }
            if blocks.insert(*block, peer.id).is_some() {
                return Err(ADDRESS_TAKEN);
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
}
