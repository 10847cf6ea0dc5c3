//! A TCP port of this device, offered at this node's mesh addresses. Whatever is not exposed is refused.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use net::{ListenError, MeshListener, MeshStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::carry::carry;
use super::forward::Failed;
use super::{CONNECTIONS_MAX, Reach};

/// How long the program on this device may take to accept.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A port that is offered.
pub struct Exposure {
    listener: MeshListener,
    reach: Reach,
    port: u16,
}

impl Exposure {
    /// Offers the local port `port` as port `offered` in the mesh.
    pub async fn open(reach: Reach, port: u16, offered: u16) -> Result<Self, ListenError> {
        if port == 0 {
            return Err(ListenError::BadPort);
        }
        let listener = reach.membership.mesh().listen(offered).await?;
        Ok(Self {
            listener,
            reach,
            port,
        })
    }

    /// Returns the port in the mesh.
    #[must_use]
    pub fn offered(&self) -> u16 {
        self.listener.port()
    }

    /// Carries connections until the mesh stops; dropping this cuts them. What led nowhere is told, as long as there is room.
    pub async fn serve(mut self, failures: mpsc::Sender<Failed>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(stream) if connections.len() < CONNECTIONS_MAX => {
                        connections.spawn(one(stream, self.reach.clone(), self.port, failures.clone()));
                    }
                    Ok(mut stream) => {
                        tracing::warn!(CONNECTIONS_MAX, "a connection was cut: there are as many as may be");
                        stream.reset();
                    }
                    Err(_) => return,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn one(mut mesh: MeshStream, reach: Reach, port: u16, failures: mpsc::Sender<Failed>) {
    let Some(from) = reach.peer_named(&mesh.peer()) else {
        return mesh.reset();
    };
    // Programs listen on either; which one they mean by localhost is theirs to choose.
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    let reason = match timeout(LOCAL_TIMEOUT, TcpStream::connect(&addresses[..])).await {
        Ok(Ok(local)) => {
            let _ = local.set_nodelay(true);
            if let Err(error) = carry(local, mesh).await {
                tracing::debug!(%error, "a connection to an exposed port broke");
            }
            return;
        }
        Ok(Err(error)) => format!("port {port} of this device cannot be connected to: {error}"),
        Err(_) => format!("port {port} of this device does not accept"),
    };
    mesh.reset();
    let from = from.to_string();
    let _ = failures.try_send(Failed { from, reason });
}
