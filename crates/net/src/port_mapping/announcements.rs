//! Hearing routers that begin anew: they tell every host of their network (RFC 6887 section 14.1, RFC 6886 section 3.2.1).

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use mesh::port_mapping::word::{LEN_MAX, LISTENER_PORT, ROUTER_PORT, Word};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Router;

/// Every host of a network.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// A socket at which one router is heard.
#[derive(Debug)]
pub struct Announcements {
    socket: UdpSocket,
    from: SocketAddr,
}

impl Announcements {
    /// Begins to listen, beside whoever else of this device does. Must be called within a runtime.
    pub fn of(router: Router) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        #[cfg(target_os = "macos")]
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, LISTENER_PORT).into())?;
        // Where every host is in the group anyway, it cannot be joined twice.
        let _ = socket.join_multicast_v4(&ALL_HOSTS, &router.local);
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            from: (router.gateway, ROUTER_PORT).into(),
        })
    }

    /// Waits for a word of the router; what others say is passed over. Dropping this loses nothing.
    pub async fn next(&self) -> io::Result<Word> {
        let mut buffer = [0; LEN_MAX + 1];
        loop {
            let (len, from) = self.socket.recv_from(&mut buffer).await?;
            if from != self.from {
                continue;
            }
            if let Some(word) = Word::read(&buffer[..len]) {
                return Ok(word);
            }
        }
    }
}
