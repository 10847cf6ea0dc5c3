//! What the status says of the netmap in force and its peers.

use types::{Netmap, PeerRecord};

use super::Membership;
use super::paths::Paths;
use super::step::Step;
use crate::status::{NodeSummary, Status};

impl Membership {
    /// Shows the netmap in force, and all peers.
    pub(super) fn show(&self) {
        let paths = self.paths();
        let current = self.current.borrow().clone();
        self.board.change(|status| {
            show_frame(status, current.as_deref(), &paths);
            let peers = current.iter().flat_map(|netmap| {
                let peers = netmap.peers.iter();
                peers.map(|peer| paths.shown(peer, netmap))
            });
            status.peers = peers.collect();
        });
    }

    pub(super) fn show_home(&self) {
        let current = self.current.borrow().clone();
        let home = current.and_then(|netmap| self.paths().home(&netmap));
        self.board.change(|status| status.home_relay = home);
    }

    /// Shows what became different.
    pub(super) fn show_step(&self, step: &Step) {
        let has_same_relays = step
            .before
            .as_ref()
            .is_some_and(|map| map.relays == step.netmap.relays);
        if step.blocks.is_none() || !has_same_relays {
            return self.show();
        }
        let paths = self.paths();
        self.board.change(|status| {
            show_frame(status, Some(&step.netmap), &paths);
            for change in &step.changes {
                let Some(id) = change.id() else { continue };
                let place = status.peers.binary_search_by_key(&id, |peer| peer.id);
                let shown = change.after.as_ref().map(|peer| paths.shown(peer, &step.netmap));
                match (place, shown) {
                    (Ok(place), Some(shown)) => status.peers[place] = shown,
                    (Err(place), Some(shown)) => status.peers.insert(place, shown),
                    (Ok(place), None) => drop(status.peers.remove(place)),
                    (Err(_), None) => {}
                }
            }
        });
    }

    pub(super) fn show_peer(&self, netmap: &Netmap, record: &PeerRecord) {
        let shown = self.paths().shown(record, netmap);
        self.board.change(|status| {
            // A netmap that came whole may be out of order.
            let place = status.peers.binary_search_by_key(&record.id, |peer| peer.id);
            let place = place
                .ok()
                .or_else(|| status.peers.iter().position(|peer| peer.id == record.id));
            if let Some(place) = place {
                status.peers[place] = shown;
            }
        });
    }
}

fn show_frame(status: &mut Status, netmap: Option<&Netmap>, paths: &Paths) {
    status.generation = netmap.map(|netmap| netmap.generation);
    status.home_relay = netmap.and_then(|netmap| paths.home(netmap));
    let Some(netmap) = netmap else { return };
    status.netmap_refused = None;
    status.key_life = netmap.node.key_life;
    let own = netmap.node.addresses;
    status.node = Some(NodeSummary {
        id: netmap.node.id,
        name: netmap.node.name.clone(),
        org_name: netmap.org_name.clone(),
        addresses: vec![own.mesh_ip4.to_string(), own.mesh_ip6.to_string()],
    });
}
