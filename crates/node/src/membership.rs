//! The node's place in the mesh: the netmap in force, the peers it made, and how each is reached.
//!
//! Every netmap, whether it comes over the control stream whole, as a delta, or from the last start, is checked by
//! [`Netmap::verify`], applied, kept on disk, and only then counts.

mod paths;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh::tunnel::Mobility;
use mesh::{MeshEvent, MeshPeer};
use net::{MeshNet, RelayPoint, resolve};
use tokio::sync::{broadcast, mpsc, watch};
use types::control::FromNode;
use types::netmap::{ENDPOINTS_MAX, NetmapDelta, NetmapError, Pins};
use types::{Generation, Netmap, NodeKind, NodePublicKey, PathReason, PeerRecord, RelayId, Timestamp};

use crate::keyring::{KeyView, Keyring};
use crate::link_state::Pinned;
use crate::state_dir::StateDir;
use crate::status::{NodeSummary, StatusBoard};
use paths::{Path, Paths};

const FILE: &str = "netmap.json";

/// How often an idle path to the platform is kept open through NATs and firewalls.
const KEEPALIVE: Duration = Duration::from_secs(25);

/// How many reports may wait for the control stream; the oldest state is said anew after a reconnect anyway.
const REPORTS_MAX: usize = 256;

/// The netmap in force and what follows from it.
pub struct Membership {
    mesh: MeshNet,
    keyring: Arc<Keyring>,
    pinned: Pinned,
    state_dir: Arc<StateDir>,
    board: StatusBoard,
    current: watch::Sender<Option<Arc<Netmap>>>,
    control_opened: watch::Sender<u64>,
    paths: Mutex<Paths>,
    /// Two netmaps are never applied at once.
    applying: tokio::sync::Mutex<()>,
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
            state_dir,
            board,
            current: watch::Sender::new(None),
            control_opened: watch::Sender::new(0),
            paths: Mutex::default(),
            applying: tokio::sync::Mutex::new(()),
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
        let Some(netmap) = self.current.borrow().clone() else {
            return;
        };
        let Some(record) = netmap.peers.iter().find(|record| record.public_key == *peer) else {
            return;
        };
        self.mesh.remove_peer(*peer).await;
        self.put_peer(&netmap, record).await;
    }

    /// Returns which netmap is in force.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.current.borrow().as_ref().map(|netmap| netmap.generation)
    }

    /// Puts the netmap of the last start into force; one that does not pass is forgotten.
    pub async fn restore(&self) {
        match self.state_dir.read_json::<Netmap>(FILE) {
            Ok(None) => {}
            Ok(Some(netmap)) => {
                if let Err(reason) = self.offer(netmap).await {
                    tracing::warn!(reason, "the kept netmap is of no use");
                    let _ = self.state_dir.remove(FILE);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the kept netmap cannot be read");
                let _ = self.state_dir.remove(FILE);
            }
        }
    }

    /// Checks a netmap and puts it into force; after a refusal everything is as before.
    pub async fn offer(&self, netmap: Netmap) -> Result<Generation, String> {
        let _turn = self.applying.lock().await;
        let before = self.current.borrow().clone();
        let generation = netmap.generation;
        if before.as_deref() == Some(&netmap) {
            return Ok(generation);
        }
        netmap
            .verify(&self.pins(netmap.node.public_key), before.as_deref())
            .map_err(|error| self.refuse(&error))?;
        self.put_into_force(netmap, before.as_deref()).await?;
        self.board.change(|status| status.netmaps.whole += 1);
        Ok(generation)
    }

    /// Checks what a delta makes of the netmap in force, and puts that into force; after a refusal everything is as before,
    /// and the whole netmap is needed.
    pub async fn offer_delta(&self, delta: &NetmapDelta) -> Result<Generation, String> {
        let _turn = self.applying.lock().await;
        let before = self.current.borrow().clone();
        let amended = match before.as_deref() {
            Some(before) => {
                let node = delta.node.as_ref().unwrap_or(&before.node);
                before.amended(delta, &self.pins(node.public_key))
            }
            None => Err(NetmapError::Gap {
                current: Generation::default(),
                from: delta.from,
            }),
        };
        let netmap = amended.map_err(|error| self.refuse(&error))?;
        self.put_into_force(netmap, before.as_deref()).await?;
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

    /// Keeps a netmap that has been checked, and does what follows from it.
    async fn put_into_force(&self, netmap: Netmap, before: Option<&Netmap>) -> Result<(), String> {
        self.state_dir
            .write_json(FILE, &netmap)
            .map_err(|error| error.to_string())?;
        self.apply(&netmap, before).await;
        let generation = netmap.generation;
        self.current.send_replace(Some(Arc::new(netmap)));
        self.show();
        self.report_new(before);
        tracing::info!(generation = generation.0, "netmap in force");
        Ok(())
    }

    /// Reports the paths of peers that the netmap before did not name: some were reached before this one counted, when nobody
    /// could tell yet who they are.
    fn report_new(&self, before: Option<&Netmap>) {
        let known = by_key(before);
        let current = self.current.borrow();
        let peers = current.iter().flat_map(|map| &map.peers);
        for record in peers.filter(|record| !known.contains_key(&record.public_key)) {
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
        let _turn = self.applying.lock().await;
        let before = self.current.send_replace(None);
        for peer in before.iter().flat_map(|netmap| &netmap.peers) {
            self.mesh.remove_peer(peer.public_key).await;
        }
        self.paths().clear();
        if let Err(error) = self.state_dir.remove(FILE) {
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

    async fn apply(&self, netmap: &Netmap, before: Option<&Netmap>) {
        // Before any peer comes: none is ever heard by the rules of another netmap.
        if before.is_none_or(|map| map.filter != netmap.filter) {
            self.mesh.set_filter(netmap.filter.clone()).await;
        }
        self.rename_peers(netmap, before).await;
        let mut known = by_key(before);
        let now = by_key(Some(netmap));
        for gone in known.keys().filter(|key| !now.contains_key(*key)) {
            self.mesh.remove_peer(**gone).await;
            self.paths().forget(gone);
        }
        if before.is_none_or(|map| map.relays != netmap.relays) {
            self.put_relays(netmap).await;
        }
        if before.is_some_and(|map| map.node.addresses != netmap.node.addresses) {
            // What is told of a peer names this node's own addresses.
            known.clear();
        }
        for peer in &netmap.peers {
            let before = known.get(&peer.public_key);
            if !before.is_some_and(|before| Arc::ptr_eq(before, peer) || *before == peer) {
                self.put_peer(netmap, peer).await;
            }
        }
    }

    /// A peer that has another key than before is the same peer: its session and its streams stay.
    async fn rename_peers(&self, netmap: &Netmap, before: Option<&Netmap>) {
        let known = before.iter().flat_map(|map| &map.peers);
        let keys: BTreeMap<_, _> = known.map(|peer| (peer.id, peer.public_key)).collect();
        for peer in &netmap.peers {
            let old = keys.get(&peer.id).filter(|old| **old != peer.public_key);
            if let Some(old) = old {
                // What the mesh says of the new key at once is of a peer that is known.
                self.paths().rename(old, peer.public_key);
                self.mesh.rename_peer(*old, peer.public_key).await;
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
                self.show();
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
        self.show();
        let current = self.current.borrow();
        let record = current
            .iter()
            .flat_map(|map| &map.peers)
            .find(|record| record.public_key == peer);
        if let Some(record) = record {
            self.report_path(record);
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

    fn show(&self) {
        let paths = self.paths();
        let current = self.current.borrow().clone();
        self.board.change(|status| {
            status.generation = current.as_ref().map(|netmap| netmap.generation);
            let Some(netmap) = current else {
                status.peers.clear();
                status.home_relay = None;
                return;
            };
            status.netmap_refused = None;
            status.key_life = netmap.node.key_life;
            let own = netmap.node.addresses;
            status.node = Some(NodeSummary {
                id: netmap.node.id,
                name: netmap.node.name.clone(),
                org_name: netmap.org_name.clone(),
                addresses: vec![own.mesh_ip4.to_string(), own.mesh_ip6.to_string()],
            });
            status.home_relay = paths.home(&netmap);
            let peers = netmap.peers.iter();
            status.peers = peers.map(|peer| paths.shown(peer, &netmap)).collect();
        });
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

fn by_key(netmap: Option<&Netmap>) -> BTreeMap<&NodePublicKey, &Arc<PeerRecord>> {
    let peers = netmap.into_iter().flat_map(|map| &map.peers);
    peers.map(|peer| (&peer.public_key, peer)).collect()
}

#[cfg(test)]
mod tests;
