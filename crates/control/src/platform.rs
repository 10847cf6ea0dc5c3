//! The platform's own node: one WireGuard key and one socket for all orgs, a peer of every node that may take part.
//!
//! A node reaches it at the platform's IPv6 address in its own org. Each peer has a userspace stack of its own, so that
//! nothing crosses between peers or orgs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use net::RelayPoint;
use net::mesh_net::{MeshListener, MeshNet, MeshNetConfig};
use net::netstack::StackConfig;
use types::policy::DISPATCH_PORT;
use types::{
    AllowedIp, NodePrivateKey, NodePublicKey, PacketFilter, PortRange, Ports, SignedRelayExpulsion,
    SignedRelayTicket,
};
use url::Url;

use mesh::MeshPeer;
use mesh::tunnel::Mobility;

use crate::relays::public_endpoint;

/// The running platform node.
#[derive(Clone, Debug)]
pub(crate) struct Platform {
    net: MeshNet,
    endpoint: String,
}

impl Platform {
    /// Starts the node; its endpoint is the socket's address, or the public host's when the socket is bound to all.
    pub(crate) fn start(
        private_key: NodePrivateKey,
        listen: SocketAddr,
        public_url: &Url,
    ) -> Result<Self, net::mesh_net::StartError> {
        let config = MeshNetConfig { private_key, listen };
        let net = MeshNet::start_with(config, StackConfig::for_platform())?;
        let bound = net.local_addr();
        let endpoint = public_endpoint(bound, public_url);
        Ok(Self { net, endpoint })
    }

    /// Where nodes reach it.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        vec![self.endpoint.clone()]
    }

    /// Where its socket is.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.net.local_addr()
    }

    /// Closes everything but the dispatch port: what a policy says of other nodes, holds of this one in every org.
    pub(crate) async fn guard(&self) {
        let dispatch = PortRange::new(DISPATCH_PORT, DISPATCH_PORT).expect("a port");
        let filter = PacketFilter::everybody(Ports::Tcp(dispatch));
        self.net.set_filter(Some(Arc::new(filter))).await;
    }

    /// Lets a node in: it may speak from `node`, to the platform's address `own` in its org.
    pub(crate) async fn admit(&self, key: NodePublicKey, node: IpAddr, own: IpAddr) {
        let config = MeshPeer {
            public_key: key,
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(node)],
            endpoints: Vec::new(),
            relays: Vec::new(),
            mobility: Mobility::Managed,
            persistent_keepalive: None,
        };
        self.net.upsert_peer(config, vec![own]).await;
    }

    /// A node goes by another key from now on; its session and its streams stay.
    pub(crate) async fn rename(&self, old: NodePublicKey, new: NodePublicKey) {
        let known = self.net.rename_peer(old, new).await;
        tracing::info!(%old, %new, known, "a node has another key");
    }

    /// Shuts a node out: when this returns, its session is dropped and its streams are reset.
    pub(crate) async fn expel(&self, key: NodePublicKey) {
        let known = self.net.remove_peer(key).await;
        tracing::info!(%key, known, "a node was shut out of the platform");
    }

    /// Takes the relays through which nodes reach it that cannot do so directly.
    pub(crate) async fn use_relays(&self, relays: Vec<RelayPoint>) {
        self.net.set_relays(relays).await;
    }

    /// Takes the next ticket for the relays.
    pub(crate) async fn renew_ticket(&self, ticket: SignedRelayTicket) {
        self.net.set_ticket(ticket).await;
    }

    /// Has every relay shut a node out.
    pub(crate) async fn expel_from_relays(&self, expulsion: SignedRelayExpulsion) {
        self.net.expel_from_relays(expulsion).await;
    }

    /// Listens for streams of every peer.
    pub(crate) async fn listen(&self, port: u16) -> Result<MeshListener, net::mesh_net::ListenError> {
        self.net.listen(port).await
    }

    /// Stops the node.
    pub(crate) async fn stop(&self) {
        self.net.shutdown().await;
    }
}
