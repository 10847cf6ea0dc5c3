//! TUN mode: the host's addresses and routes follow the netmap in force.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use net::tun::plan::Plan;
use net::tun::{HostNetwork, Loss, TunError};
use tokio::sync::watch;
use tokio::time::timeout;
use types::Netmap;

use crate::config::OnTalk;
use crate::talk::Talk;

/// How long to wait before what the system refused is tried again.
const RETRY_IN: Duration = Duration::from_secs(5);

/// The host's place in the mesh.
pub(crate) struct HostPlace {
    pub(crate) network: HostNetwork,
    /// Tells when the device is gone.
    pub(crate) loss: Loss,
    pub(crate) on_talk: OnTalk,
    /// Is told of the addresses that the host has.
    pub(crate) addresses: watch::Sender<BTreeSet<IpAddr>>,
}

impl HostPlace {
    /// Follows the netmap in force until the host can be in the mesh no longer, and returns why.
    pub(crate) async fn keep(self, netmaps: watch::Receiver<Option<Arc<Netmap>>>) -> TunError {
        let Self {
            network,
            loss,
            on_talk,
            addresses,
        } = self;
        tokio::select! {
            error = loss.happened() => error,
            error = follow(network, netmaps, on_talk, addresses) => error,
        }
    }
}

async fn follow(
    mut network: HostNetwork,
    mut netmaps: watch::Receiver<Option<Arc<Netmap>>>,
    on_talk: OnTalk,
    addresses: watch::Sender<BTreeSet<IpAddr>>,
) -> TunError {
    let mut told = Plan::default();
    loop {
        let wanted = netmaps
            .borrow_and_update()
            .as_deref()
            .map(plan)
            .unwrap_or_default();
        let became = network.become_as(wanted.clone()).await;
        addresses.send_if_modified(|known| {
            let is_new = known != network.addresses();
            known.clone_from(network.addresses());
            is_new
        });
        match became {
            Ok(()) if wanted.addresses != told.addresses => {
                on_talk(&Talk::Host {
                    device: network.name().to_string(),
                    addresses: wanted.addresses.iter().map(ToString::to_string).collect(),
                });
                told = wanted;
            }
            Ok(()) => {}
            Err(error @ TunError::AddressTaken { .. }) => return error,
            Err(error) => {
                tracing::warn!(%error, "the host's network is not yet as it should be");
                // A netmap that comes sooner is tried sooner.
                let _ = timeout(RETRY_IN, netmaps.changed()).await;
                continue;
            }
        }
        if netmaps.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What a netmap makes of the host: it has the node's addresses, and reaches those of every peer.
fn plan(netmap: &Netmap) -> Plan {
    let own = netmap.node.addresses;
    let peers = netmap.peers.iter().flat_map(|peer| &peer.allowed_ips);
    Plan {
        addresses: [own.mesh_ip4.into(), own.mesh_ip6.into()].into(),
        routes: peers.map(|block| block.address()).collect(),
    }
}
