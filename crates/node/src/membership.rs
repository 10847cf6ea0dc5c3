//! The node's place in the mesh: the netmap in force, the peers it made, and how each is reached.
//!
//! Every netmap, whether it comes over the control stream whole, as a delta, or from the last start, is checked by
//! [`InForce`], kept on disk, applied, and only then counts. A delta costs what it says: nothing here goes through all peers
//! for the sake of one.

mod paths;
mod showing;
mod step;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh::tunnel::Mobility;
use mesh::{MeshEvent, MeshPeer};
use net::{MeshNet, RelayPoint, resolve};
use tokio::sync::{broadcast, mpsc, watch};
use types::control::FromNode;
use types::netmap::{ENDPOINTS_MAX, InForce, NetmapDelta, NetmapError, Pins};
use types::{Generation, Netmap, NodeKind, NodePublicKey, PathReason, PeerRecord, RelayId, Timestamp};

use crate::keyring::{KeyView, Keyring};
use crate::link_state::Pinned;
use crate::netmap_file::{Kept, NetmapFile};
use crate::state_dir::StateDir;
use crate::status::StatusBoard;
use paths::{Path, Paths};
use step::Step;

/// How often an idle path to the platform is kept open through NATs and firewalls.
const KEEPALIVE: Duration = Duration::from_secs(25);

/// How many reports may wait for the control stream; the oldest state is said anew after a reconnect anyway.
const REPORTS_MAX: usize = 256;

/// The netmap in force and what follows from it.
pub struct Membership {
    mesh: MeshNet,
    keyring: Arc<Keyring>,
    pinned: Pinned,
    board: StatusBoard,
    current: watch::Sender<Option<Arc<Netmap>>>,
    /// What `current` shows.
    in_force: Mutex<Option<Arc<InForce>>>,
    control_opened: watch::Sender<u64>,
    paths: Mutex<Paths>,
    /// Two netmaps are never applied at once.
    applying: tokio::sync::Mutex<NetmapFile>,
    reports: mpsc::Sender<FromNode>,
}

impl Membership {
    /// Starts without a netmap. What there is to report comes out of the receiver.
    #[must_use]
    pub fn new(
        mesh: MeshNet,
        keyring: Arc<Keyring>,
        pinned: Pinned,
        state_dir: Arc<StateDir>,
        board: StatusBoard,
    ) -> (Arc<Self>, mpsc::Receiver<FromNode>) {
        let (reports, receiver) = mpsc::channel(REPORTS_MAX);
        let membership = Self {
            mesh,
            keyring,
            pinned,
            board,
            current: watch::Sender::new(None),
            in_force: Mutex::default(),
            control_opened: watch::Sender::new(0),
            paths: Mutex::default(),
            applying: tokio::sync::Mutex::new(NetmapFile::new(state_dir)),
            reports,
        };
        (Arc::new(membership), receiver)
    }

    /// Returns the mesh.
    #[must_use]
    pub fn mesh(&self) -> &MeshNet {
        &self.mesh
    }

    /// Follows the netmap in force.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Netmap>>> {
        self.current.subscribe()
    }

    /// Takes note that the control stream was opened.
    pub fn control_opened(&self) {
        self.control_opened.send_modify(|count| *count += 1);
    }

    /// Follows the openings of the control stream: the control plane may be another process than before each time.
    #[must_use]
    pub fn follow_control(&self) -> watch::Receiver<u64> {
        self.control_opened.subscribe()
    }

    /// Drops the session with a peer and keeps the peer: the next packet begins with a handshake, as after a restart
    /// of the other end, which would otherwise be noticed only after 15 seconds without an answer.
    pub async fn renew_session(&self, peer: &NodePublicKey) {
        let _turn = self.applying.lock().await;
        let Some((netmap, record)) = self.named(peer) else {
            return;
        };
        self.mesh.remove_peer(*peer).await;
        self.put_peer(&netmap, &record).await;
    }

    /// Returns the netmap in force and what it says of a peer.
    fn named(&self, peer: &NodePublicKey) -> Option<(Arc<Netmap>, Arc<PeerRecord>)> {
        let in_force = self.in_force();
        let in_force = in_force.as_ref()?;
        Some((in_force.map().clone(), in_force.of_key(peer)?.clone()))
    }

    /// Returns which netmap is in force.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.current.borrow().as_ref().map(|netmap| netmap.generation)
    }

    /// Puts the netmap of the last start into force; one that does not pass is forgotten.
    pub async fn restore(&self) {
        let mut file = self.applying.lock().await;
        let restored = match file.read() {
            Ok(None) => return,
            Ok(Some(kept)) => match self.checked(&kept) {
                Ok((in_force, is_all)) => {
                    if is_all {
                        file.go_on(&kept);
                    }
                    Ok(in_force)
                }
                Err(error) => Err(self.refuse(&error)),
            },
            Err(error) => Err(error.to_string()),
        };
        match restored {
            Ok(in_force) => {
                self.put_whole_into_force(in_force).await;
                self.board.change(|status| status.netmaps.whole += 1);
            }
            Err(reason) => {
                tracing::warn!(reason, "the kept netmap is of no use");
                let _ = file.remove();
            }
        }
    }

    /// Checks what was kept, and tells whether it is all of it: deltas that do not pass are not believed, none of them.
    fn checked(&self, kept: &Kept) -> Result<(InForce, bool), NetmapError> {
        let whole = InForce::new(kept.whole.clone(), &self.pins(kept.whole.node.public_key), None)?;
        let mut latest = whole.clone();
        for delta in &kept.deltas {
            match latest.amended(delta, &self.pins_for(delta, latest.map())) {
                Ok(amended) => latest.put(amended),
                Err(error) => {
                    tracing::warn!(%error, "the log of netmaps is of no use; the last whole netmap is used");
                    return Ok((whole, false));
                }
            }
        }
        Ok((latest, true))
    }

    /// Checks a netmap and puts it into force; after a refusal everything is as before.
    pub async fn offer(&self, netmap: Netmap) -> Result<Generation, String> {
        let mut file = self.applying.lock().await;
        let generation = netmap.generation;
        if self.current.borrow().as_deref() == Some(&netmap) {
            return Ok(generation);
        }
        let pins = self.pins(netmap.node.public_key);
        let before = self.in_force().clone();
        let in_force = InForce::new(netmap, &pins, before.as_deref());
        let in_force = in_force.map_err(|error| self.refuse(&error))?;
        file.write(in_force.map()).map_err(|error| error.to_string())?;
        self.put_whole_into_force(in_force).await;
        self.board.change(|status| status.netmaps.whole += 1);
        Ok(generation)
    }

    /// Checks what a delta makes of the netmap in force, and puts that into force; after a refusal everything is as before,
    /// and the whole netmap is needed.
    pub async fn offer_delta(&self, delta: &NetmapDelta) -> Result<Generation, String> {
        let mut file = self.applying.lock().await;
        let before = self.in_force().clone();
        let amended = match &before {
            Some(before) => before.amended(delta, &self.pins_for(delta, before.map())),
            None => Err(NetmapError::Gap {
                current: Generation::default(),
                from: delta.from,
            }),
        };
        let amended = amended.map_err(|error| self.refuse(&error))?;
        file.add(delta, amended.map())
            .map_err(|error| error.to_string())?;
        let step = Step {
            before: before.map(|before| before.map().clone()),
            netmap: amended.map().clone(),
            changes: amended.changes().to_vec(),
            blocks: Some(amended.filter_blocks().clone()),
        };
        self.apply(&step).await;
        if let Some(in_force) = self.in_force().as_mut() {
            Arc::make_mut(in_force).put(amended);
        }
        self.count(&step);
        self.board.change(|status| status.netmaps.deltas += 1);
        Ok(delta.generation)
    }

    fn refuse(&self, error: &NetmapError) -> String {
        let reason = error.to_string();
        self.board.change(|status| {
            status.netmap_refused = Some(reason.clone());
            status.netmaps.refused += 1;
        });
        reason
    }

    /// Does what follows from a whole netmap that has been checked and kept.
    async fn put_whole_into_force(&self, in_force: InForce) {
        let before = self.in_force().clone();
        let step = Step {
            netmap: in_force.map().clone(),
            changes: in_force.changes_since(before.as_deref()),
            before: before.map(|before| before.map().clone()),
            blocks: None,
        };
        self.apply(&step).await;
        *self.in_force() = Some(Arc::new(in_force));
        self.count(&step);
    }

    /// From here on a netmap counts that has been applied.
    fn count(&self, step: &Step) {
        self.current.send_replace(Some(step.netmap.clone()));
        self.show_step(step);
        self.report_new(step);
        tracing::info!(generation = step.netmap.generation.0, "netmap in force");
    }

    /// Reports the paths of peers that the netmap before did not name: some were reached before this one counted, when nobody
    /// could tell yet who they are.
    fn report_new(&self, step: &Step) {
        let known: BTreeSet<_> = step.keys_before().collect();
        let records = step
            .records()
            .filter(|record| !known.contains(&record.public_key));
        for record in records {
            if self.paths().reason(&record.public_key) != PathReason::Idle {
                self.report_path(record);
            }
        }
    }

    fn report_path(&self, record: &PeerRecord) {
        if let Some(report) = self.paths().report(record) {
            // A full queue means that the control stream is away; it asks for all paths when it is back.
            let _ = self.reports.try_send(report);
        }
    }

    /// Forgets the netmap and cuts every session: the node was shut out.
    pub async fn forget(&self) {
        let mut file = self.applying.lock().await;
        let before = self.current.send_replace(None);
        *self.in_force() = None;
        for peer in before.iter().flat_map(|netmap| &netmap.peers) {
            self.mesh.remove_peer(peer.public_key).await;
        }
        self.paths().clear();
        if let Err(error) = file.remove() {
            tracing::error!(%error, "the netmap cannot be removed");
        }
        self.show();
    }

    /// Takes note of what the tunnel says, for ever; reports paths as they change.
    pub async fn watch_paths(&self) {
        let mut events = self.mesh.subscribe();
        loop {
            match events.recv().await {
                Ok(MeshEvent::Candidates) => self.report_endpoints().await,
                Ok(event) => self.noticed(event),
                Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_all().await,
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// What a netmap that names `named` as this node's key is held against.
    fn pins(&self, named: NodePublicKey) -> Pins {
        // The kept netmap may be of the key before, when a crash came right after the change.
        let own_key = Some(named).filter(|key| self.keyring.holds(key));
        Pins {
            own_key: own_key.unwrap_or_else(|| self.keyring.public()),
            org_id: self.pinned.org_id,
            org_signing_key: self.pinned.org_signing_key,
        }
    }

    /// What a netmap is held against that a delta makes.
    fn pins_for(&self, delta: &NetmapDelta, before: &Netmap) -> Pins {
        let node = delta.node.as_ref().unwrap_or(&before.node);
        self.pins(node.public_key)
    }

    async fn apply(&self, step: &Step) {
        let (netmap, before) = (&step.netmap, step.before.as_deref());
        // Before any peer comes: none is ever heard by the rules of another netmap.
        match &step.blocks {
            Some(blocks) if blocks.is_empty() => {}
            Some(blocks) => {
                let filter = netmap.filter.clone();
                self.mesh.change_filter(filter, blocks.clone()).await;
            }
            None if before.is_some_and(|map| map.filter == netmap.filter) => {}
            None => self.mesh.set_filter(netmap.filter.clone()).await,
        }
        self.rename_peers(step).await;
        let now: BTreeSet<_> = step.records().map(|record| record.public_key).collect();
        for gone in step.keys_before().filter(|key| !now.contains(key)) {
            self.mesh.remove_peer(gone).await;
            self.paths().forget(&gone);
        }
        if before.is_none_or(|map| map.relays != netmap.relays) {
            self.put_relays(netmap).await;
        }
        if before.is_some_and(|map| map.node.addresses != netmap.node.addresses) {
            // What is told of a peer names this node's own addresses.
            for peer in &netmap.peers {
                self.put_peer(netmap, peer).await;
            }
            return;
        }
        for peer in step.records() {
            self.put_peer(netmap, peer).await;
        }
    }

    /// A peer that has another key than before is the same peer: its session and its streams stay.
    async fn rename_peers(&self, step: &Step) {
        for change in &step.changes {
            let (Some(before), Some(after)) = (&change.before, &change.after) else {
                continue;
            };
            let (old, new) = (before.public_key, after.public_key);
            if old != new {
                // What the mesh says of the new key at once is of a peer that is known.
                self.paths().rename(&old, new);
                self.mesh.rename_peer(old, new).await;
            }
        }
    }

    async fn put_relays(&self, netmap: &Netmap) {
        let mut relays = Vec::new();
        for record in &netmap.relays {
            relays.push(RelayPoint::resolve(record).await);
        }
        self.mesh.set_relays(relays).await;
    }

    async fn put_peer(&self, netmap: &Netmap, peer: &PeerRecord) {
        let own = netmap.node.addresses;
        let endpoints = resolve(&peer.endpoints).await;
        self.paths().expect(peer.public_key);
        let is_platform = peer.kind == NodeKind::Platform;
        let config = MeshPeer {
            public_key: peer.public_key,
            preshared_key: None,
            allowed_ips: peer.allowed_ips.clone(),
            endpoints,
            relays: peer.home_relay.into_iter().collect(),
            mobility: Mobility::Managed,
            persistent_keepalive: is_platform.then_some(KEEPALIVE),
        };
        let locals = vec![own.mesh_ip4.into(), own.mesh_ip6.into()];
        self.mesh.upsert_peer(config, locals).await;
    }

    fn noticed(&self, event: MeshEvent) {
        match event {
            MeshEvent::Path(peer, view) => self.set_path(peer, view.into()),
            MeshEvent::HandshakeFailed(peer) => self.set_path(peer, Path::unreached(PathReason::PeerAsleep)),
            MeshEvent::HomeRelay(home) => {
                self.paths().set_home(home);
                self.show_home();
                // A full queue means that the control stream is away; its hello says it when it is back.
                let _ = self.reports.try_send(FromNode::HomeRelay { relay: home });
            }
            MeshEvent::SessionUp(_)
            | MeshEvent::SessionDown(..)
            | MeshEvent::Roamed(..)
            | MeshEvent::Pong(..)
            | MeshEvent::Candidates
            | MeshEvent::Relay(_) => {}
        }
    }

    async fn look_at_all(&self) {
        let home = self.mesh.surroundings().await.home;
        self.paths().set_home(home);
        self.show();
        let peers = self.paths().peers();
        for peer in peers {
            if let Some((_, Some(view))) = self.mesh.peer_status(peer).await {
                self.set_path(peer, view.into());
            }
        }
    }

    fn set_path(&self, peer: NodePublicKey, path: Path) {
        if !self.paths().set(&peer, path) {
            return;
        }
        if let Some((netmap, record)) = self.named(&peer) {
            self.show_peer(&netmap, &record);
            self.report_path(&record);
        }
    }

    /// Returns where this node may be reached directly, best first.
    pub async fn endpoints(&self) -> Vec<String> {
        let candidates = self.mesh.surroundings().await.candidates.into_iter();
        candidates
            .map(|candidate| candidate.address.to_string())
            .take(ENDPOINTS_MAX)
            .collect()
    }

    async fn report_endpoints(&self) {
        let endpoints = self.endpoints().await;
        // A full queue means that the control stream is away; its hello says where we are when it is back.
        let _ = self.reports.try_send(FromNode::Endpoints { endpoints });
    }

    /// Returns a report for every peer, to be said when the control stream opens.
    #[must_use]
    pub fn all_paths(&self) -> Vec<FromNode> {
        let paths = self.paths();
        let current = self.current.borrow();
        let records = current.iter().flat_map(|map| &map.peers);
        records.filter_map(|record| paths.report(record)).collect()
    }

    /// Returns why a peer is reached as it is, or is not.
    #[must_use]
    pub fn path_reason(&self, peer: &NodePublicKey) -> PathReason {
        self.paths().reason(peer)
    }

    /// Returns what a relay is called.
    #[must_use]
    pub fn relay_name(&self, relay: RelayId) -> String {
        let current = self.current.borrow();
        let name = current.as_ref().map(|netmap| paths::relay_name(netmap, relay));
        name.unwrap_or_else(|| relay.to_string())
    }

    fn in_force(&self) -> MutexGuard<'_, Option<Arc<InForce>>> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paths(&self) -> MutexGuard<'_, Paths> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was pinned at approval.
    #[must_use]
    pub fn pinned(&self) -> &Pinned {
        &self.pinned
    }

    /// Returns the addresses of this node inside the mesh, of both families; none without a netmap.
    #[must_use]
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        let current = self.current.borrow();
        let own = current.iter().map(|map| map.node.addresses);
        own.flat_map(|own| [own.mesh_ip4.into(), own.mesh_ip6.into()])
            .collect()
    }

    /// Returns when this node is to change its key, by the netmap in force.
    #[must_use]
    pub fn change_key_at(&self, keys: &KeyView) -> Option<Timestamp> {
        let current = self.current.borrow();
        let own = &current.as_ref()?.node;
        keys.change_at(&own.public_key, own.key_life)
    }

    /// Returns this node's keys.
    #[must_use]
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Has the mesh go by the keys that the keyring holds now.
    pub async fn use_keys(&self) {
        let (current, other) = self.keyring.both();
        let public = current.public();
        self.mesh.set_keys(current, other).await;
        self.board.change(|status| status.public_key = public);
    }
}

#[cfg(test)]
mod tests;
