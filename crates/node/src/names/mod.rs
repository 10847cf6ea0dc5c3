//! The names of the mesh, answered by DNS: to peers at this node's mesh addresses, and to programs on this device at a loopback
//! address, if that is asked for ([`host`]), of which the system's own resolver can be told ([`system`]). In TUN mode the host
//! has the mesh addresses, too, and its programs are answered there (`mesh_address`).
//!
//! What is said stands in [`mesh::dns`]: a zone made from the netmap in force. Nobody else is ever asked anything. Which
//! peers may ask is the packet filter's matter; whoever may is told of this node and of itself, and of nothing more.

mod converse;
pub mod host;
mod mesh_address;
pub mod system;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh::dns::{Asker, Transport, Zone, answer};
use net::{ListenError, MeshNet};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use types::Netmap;

use self::converse::converse;
use self::host::HostResolver;
use self::system::SystemResolver;
use crate::config::OnTalk;
use crate::talk::Talk;

/// Where DNS is spoken.
const PORT: u16 = 53;

/// How many peers' connections are served at once; one more is cut. UDP is what is used.
const MESH_CONNECTIONS_MAX: usize = 16;

/// How often is tried again what somebody else is in the way of: a port, or the system's resolver.
const RETRY: Duration = Duration::from_secs(10);

/// What the names of the mesh mean now. Clones share what they keep.
#[derive(Clone)]
pub(crate) struct Names {
    netmap: watch::Receiver<Option<Arc<Netmap>>>,
    kept: Arc<Mutex<Option<Kept>>>,
}

/// A zone, and what it was made from.
struct Kept {
    netmap: Arc<Netmap>,
    zone: Arc<Zone>,
}

impl Names {
    pub(crate) fn new(netmap: watch::Receiver<Option<Arc<Netmap>>>) -> Self {
        Self {
            netmap,
            kept: Arc::default(),
        }
    }

    /// Answers a message, if it gets an answer.
    fn answer(&self, message: &[u8], asker: Asker, transport: Transport) -> Option<Vec<u8>> {
        answer(self.zone().as_deref(), message, asker, transport)
    }

    /// Returns the zone of the netmap in force. It is made when it is first asked for.
    fn zone(&self) -> Option<Arc<Zone>> {
        let netmap = self.netmap.borrow().clone()?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_ref().filter(|kept| Arc::ptr_eq(&kept.netmap, &netmap)) {
            return Some(kept.zone.clone());
        }
        let zone = Arc::new(Zone::new(&netmap));
        *kept = Some(Kept {
            netmap,
            zone: zone.clone(),
        });
        Some(zone)
    }

    /// Has the system's resolver ask `resolver` for the org's names as they are, for ever.
    pub(crate) async fn keep_told(&self, system: &SystemResolver, resolver: &HostResolver, on_talk: &OnTalk) {
        let mut netmaps = self.netmap.clone();
        let (mut told, mut said) = (Vec::new(), None);
        loop {
            netmaps.mark_unchanged();
            let domains = self.zone().map(|zone| zone.domains());
            let mut wait = Duration::MAX;
            if let Some(domains) = domains.filter(|domains| *domains != told) {
                let outcome = tell(system, resolver.address(), &domains).await;
                if matches!(outcome, Talk::NamesTold { .. }) {
                    told = domains;
                } else {
                    told.clear();
                    wait = RETRY;
                }
                if said.as_ref() != Some(&outcome) {
                    on_talk(&outcome);
                    said = Some(outcome);
                }
            }
            if let Ok(Err(_)) = timeout(wait, netmaps.changed()).await {
                return std::future::pending().await;
            }
        }
    }

    /// Answers peers that the packet filter lets through, for ever; dropping this cuts their connections.
    pub(crate) async fn serve_peers(&self, mesh: &MeshNet) {
        let names = self.clone();
        mesh.respond(
            PORT,
            Arc::new(move |from, message| names.answer(message, Asker::Peer(from.ip()), Transport::Udp)),
        )
        .await;
        loop {
            match mesh.listen(PORT).await {
                Ok(listener) => self.accept(listener).await,
                Err(ListenError::Stopped) => {}
                Err(error) => tracing::debug!(%error, "names are not answered by TCP inside the mesh"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn accept(&self, mut listener: net::MeshListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(stream) if connections.len() < MESH_CONNECTIONS_MAX => {
                        let (names, asker) = (self.clone(), Asker::Peer(stream.remote_addr().ip()));
                        connections.spawn(async move { converse(stream, &names, asker).await });
                    }
                    Ok(mut stream) => stream.reset(),
                    Err(_) => return,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// Tells the system's resolver, and words what came of it.
async fn tell(system: &SystemResolver, server: SocketAddr, domains: &[String]) -> Talk {
    match system.tell(server, domains).await {
        Ok(()) => Talk::NamesTold {
            domain: domains[0].clone(),
        },
        Err(error) => Talk::NamesNotTold {
            reason: error.to_string(),
        },
    }
}
