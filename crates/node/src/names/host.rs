//! The resolver for programs on this device: UDP and TCP at one of its own addresses, of loopback or of the mesh.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mesh::dns::{Asker, QUERY_LEN_MAX, Transport};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::sleep;

use super::converse::converse;
use super::{Names, PORT};
use crate::reach::accept_each;

/// How long to wait when the system gives nothing to read.
const RETRY: Duration = Duration::from_millis(100);

/// How often a port is looked for that is free by UDP and TCP alike.
const ATTEMPTS: usize = 16;

/// Where names are answered to programs on this device, and whether its system is told so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DnsConfig {
    /// The address, one of loopback; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether the system's resolver is led there for the org's names, until the node stops.
    pub tell_system: bool,
}

impl DnsConfig {
    /// Any free port of 127.0.0.1.
    pub const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
}

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// Others than this device could ask it.
    #[error("names would be answered at {0} to whoever reaches that address")]
    Open(SocketAddr),
    /// The address cannot be listened on.
    #[error("names cannot be answered at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// The resolver's port, taken.
pub(crate) struct HostResolver {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl HostResolver {
    /// Takes the port; must be called inside the runtime.
    pub(crate) fn bind(config: &DnsConfig) -> Result<Self, ResolverError> {
        let listen = config.listen;
        if !listen.ip().is_loopback() {
            return Err(ResolverError::Open(listen));
        }
        let mut bound = bind_both(listen);
        for _ in 1..ATTEMPTS {
            // A free port of UDP may be taken by TCP.
            if listen.port() != 0 || bound.is_ok() {
                break;
            }
            bound = bind_both(listen);
        }
        bound.map_err(|source| ResolverError::Listen {
            address: listen,
            source,
        })
    }

    /// Takes DNS's port of a mesh address that the host has; must be called inside the runtime.
    pub(super) fn at_mesh_address(ip: IpAddr) -> Result<Self, ResolverError> {
        let address = SocketAddr::new(ip, PORT);
        bind_both(address).map_err(|source| ResolverError::Listen { address, source })
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers programs on this device, for ever.
    pub(crate) async fn serve(&self, names: Names) {
        let by_tcp = accept_each(&self.tcp, |stream, from| {
            let names = self.is_of_this_device(from.ip()).then(|| names.clone());
            async move {
                if let Some(names) = names {
                    converse(stream, &names, Asker::Host).await;
                }
            }
        });
        tokio::select! {
            _ = by_tcp => {}
            () = self.serve_udp(&names) => {}
        }
    }

    /// Tells whether a program on this device asks from there. Whoever shares a network with the host can send to its mesh
    /// address by that network; what the host asks itself comes from the address that it asks.
    fn is_of_this_device(&self, from: IpAddr) -> bool {
        let own = self.address.ip();
        own.is_loopback() || from == own
    }

    async fn serve_udp(&self, names: &Names) {
        // One byte more than is read, so that what is too long is seen to be.
        let mut buffer = [0; QUERY_LEN_MAX + 1];
        loop {
            let (len, from) = match self.udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "no question can be received");
                    sleep(RETRY).await;
                    continue;
                }
            };
            if !self.is_of_this_device(from.ip()) {
                continue;
            }
            let Some(answer) = names.answer(&buffer[..len], Asker::Host, Transport::Udp) else {
                continue;
            };
            // Who cannot be answered asks again.
            let _ = self.udp.try_send_to(&answer, from);
        }
    }
}

fn bind_both(listen: SocketAddr) -> io::Result<HostResolver> {
    let udp = std::net::UdpSocket::bind(listen)?;
    let address = udp.local_addr()?;
    let tcp = std::net::TcpListener::bind(address)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok(HostResolver {
        udp: UdpSocket::from_std(udp)?,
        tcp: TcpListener::from_std(tcp)?,
        address,
    })
}
