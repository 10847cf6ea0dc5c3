//! A local TCP port that leads to a port of another node.

use std::io;
use std::net::SocketAddr;

use mesh::proxy::Target;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::accept::accept_each;
use super::carry::carry;
use super::{Place, Reach, ReachError};

/// Why a port cannot be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The target is nowhere.
    #[error(transparent)]
    Target(#[from] ReachError),
    /// The local port cannot be listened on.
    #[error("{address} cannot be listened on: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A connection that led nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    place: Place,
    reach: Reach,
    target: Target,
}

impl Forward {
    /// Starts to listen, once the target is known to name a node.
    pub async fn open(reach: Reach, local: SocketAddr, target: Target) -> Result<Self, ForwardError> {
        let place = reach.place(&target)?;
        let at = |source| ForwardError::Listen {
            address: local,
            source,
        };
        let listener = TcpListener::bind(local).await.map_err(at)?;
        let address = listener.local_addr().map_err(at)?;
        Ok(Self {
            listener,
            address,
            place,
            reach,
            target,
        })
    }

    /// Returns where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what the target meant when it was opened; each connection asks anew.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
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
