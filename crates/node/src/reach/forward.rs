//! A local TCP port that leads to a port of another node.

use std::io;
use std::net::SocketAddr;

use mesh::proxy::Target;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::accept::accept_each;
use super::carry::carry;
use super::{Reach, ReachError};

/// A local port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{address} cannot be listened on: {source}")]
pub struct NotListening {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

/// A connection that led nowhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// Who asked for it: a program on this device, or the node of that name.
    pub from: String,
    /// Why.
    pub reason: String,
}

/// A port that is listened on.
pub struct Forward {
    listener: TcpListener,
    address: SocketAddr,
    reach: Reach,
    target: Target,
}

impl Forward {
    /// Starts to listen. Each connection finds out what the target means by then: the netmap need not name it yet.
    pub async fn open(reach: Reach, local: SocketAddr, target: Target) -> Result<Self, NotListening> {
        let at = |source| NotListening {
            address: local,
            source,
        };
        let listener = TcpListener::bind(local).await.map_err(at)?;
        let address = listener.local_addr().map_err(at)?;
        Ok(Self {
            listener,
            address,
            reach,
            target,
        })
    }

    /// Returns where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries connections, for ever; dropping this cuts them. What led nowhere is told, as long as there is room.
    pub async fn serve(self, failures: mpsc::Sender<Failed>) {
        accept_each(&self.listener, |local, from| {
            let (reach, target, failures) = (self.reach.clone(), self.target.clone(), failures.clone());
            async move {
                if let Err(error) = one(local, &reach, &target).await {
                    let failed = Failed {
                        from: from.to_string(),
                        reason: error.to_string(),
                    };
                    let _ = failures.try_send(failed);
                }
            }
        })
        .await;
    }
}

async fn one(local: TcpStream, reach: &Reach, target: &Target) -> Result<(), ReachError> {
    let mesh = reach.connect(target).await.inspect_err(|_| {
        let _ = local.set_zero_linger();
    })?;
    // What breaks from here on, both ends see for themselves.
    if let Err(error) = carry(local, mesh).await {
        tracing::debug!(%error, "a forwarded connection broke");
    }
    Ok(())
}
