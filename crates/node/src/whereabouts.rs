//! Where this device is: the addresses of its interfaces, told to the mesh as they change.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use net::networks::{Changes, Networks, source_toward};
use tokio::sync::watch;
use url::Url;

use crate::membership::Membership;

/// How long to wait before the system is asked again after it gave no answer.
const RETRY_IN: Duration = Duration::from_secs(5);

/// Follows where the device is.
pub(crate) struct Whereabouts {
    membership: Arc<Membership>,
    server_url: Url,
    networks: Networks,
    has_lan_discovery: bool,
    changes: watch::Sender<u64>,
}

impl Whereabouts {
    pub(crate) fn new(membership: Arc<Membership>, server_url: Url, has_lan_discovery: bool) -> Self {
        Self {
            membership,
            server_url,
            networks: Networks::default(),
            has_lan_discovery,
            changes: watch::Sender::new(0),
        }
    }

    /// Follows changes of the networks: each has another number.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes the networks as they are now.
    pub(crate) async fn look(&mut self) {
        let now = match Networks::now() {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(%error, "the addresses of this device cannot be read");
                return;
            }
        };
        let before = std::mem::replace(&mut self.networks, now);
        if self.networks == before {
            return;
        }
        let mesh = self.membership.mesh();
        mesh.set_local(self.endpoints().await).await;
        // Even the same links are other ones with another address: what is joined there is joined anew.
        if self.has_lan_discovery {
            mesh.set_links(self.networks.links.clone()).await;
        }
        let is_first = before == Networks::default();
        if !is_first && self.networks.are_others_than(&before) {
            tracing::debug!(networks = ?self.networks, "the networks around this device");
            tracing::info!("this device is in another network");
            mesh.network_changed().await;
        }
        self.changes.send_modify(|number| *number += 1);
    }

    /// Looks again whenever something may have changed, for ever.
    pub(crate) async fn follow(mut self) {
        loop {
            match Changes::listen() {
                Ok(changes) => self.until_deaf(changes).await,
                Err(error) => tracing::warn!(%error, "changes of the network are not noticed"),
            }
            tokio::time::sleep(RETRY_IN).await;
        }
    }

    async fn until_deaf(&mut self, mut changes: Changes) {
        loop {
            // What changed before the listening is seen as well.
            self.look().await;
            if let Err(error) = changes.next().await {
                tracing::warn!(%error, "changes of the network are not noticed");
                return;
            }
        }
    }

    /// Where our socket is reached from our own networks. The mesh's own addresses lead back into it and are left out; a
    /// loopback address counts when that is how the control plane is reached, since then all of it is one machine.
    async fn endpoints(&self) -> Vec<SocketAddr> {
        let port = self.membership.mesh().local_addr().port();
        let own = self.membership.own_addresses();
        let near = self.source_toward_server().await.filter(IpAddr::is_loopback);
        let addresses = self.networks.addresses.iter().copied();
        let addresses = near.into_iter().chain(addresses.filter(|ip| !own.contains(ip)));
        addresses.map(|ip| SocketAddr::new(ip, port)).collect()
    }

    async fn source_toward_server(&self) -> Option<IpAddr> {
        let host = self.server_url.host_str()?.trim_matches(['[', ']']).to_owned();
        let port = self.server_url.port_or_known_default()?;
        source_toward(tokio::net::lookup_host((host, port)).await.ok()?.next()?)
    }
}
