//! An endpoint: where a datagram of a peer comes from, and where one goes to.
//!
//! The tunnel compares endpoints and learns nothing else of them; which one is used is decided in `paths`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use types::{NodePublicKey, RelayId};

/// Which of our UDP sockets. Number 0 is the one that is always there; others are opened to guess ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SocketNumber(pub u16);

impl SocketNumber {
    /// The socket that is always there.
    pub const MAIN: Self = Self(0);
}

/// One way to a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// Straight, from one of our sockets to an address.
    Direct {
        /// Ours.
        socket: SocketNumber,
        /// Theirs.
        remote: SocketAddr,
    },
    /// Through a relay.
    Relayed {
        /// Which relay.
        relay: RelayId,
        /// Whom the relay knows there.
        peer: NodePublicKey,
    },
}

impl Endpoint {
    /// Returns the address of a direct endpoint.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Direct { remote, .. } => Some(*remote),
            Self::Relayed { .. } => None,
        }
    }

    /// Returns our socket of a direct endpoint.
    #[must_use]
    pub fn socket(&self) -> Option<SocketNumber> {
        match self {
            Self::Direct { socket, .. } => Some(*socket),
            Self::Relayed { .. } => None,
        }
    }

    /// Tells whether there is no relay on the way.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.remote().is_some()
    }

    /// Returns the same way to a peer that goes by another key.
    pub(crate) fn renamed(self, peer: NodePublicKey) -> Self {
        match self {
            Self::Direct { .. } => self,
            Self::Relayed { relay, .. } => Self::Relayed { relay, peer },
        }
    }

    /// Returns what stands for this endpoint where sources are told apart: IP and port, or the start of the key that the
    /// relay vouches for.
    pub(crate) fn source(&self) -> SocketAddr {
        match self {
            Self::Direct { remote, .. } => *remote,
            Self::Relayed { peer, .. } => {
                let start: [u8; 16] = peer.as_bytes()[..16].try_into().expect("16 bytes");
                SocketAddr::new(IpAddr::V6(Ipv6Addr::from(start)), 0)
            }
        }
    }
}

impl From<SocketAddr> for Endpoint {
    /// The way from our main socket.
    fn from(remote: SocketAddr) -> Self {
        Self::Direct {
            socket: SocketNumber::MAIN,
            remote,
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct { socket, remote } if *socket == SocketNumber::MAIN => write!(f, "{remote}"),
            Self::Direct { socket, remote } => write!(f, "{remote} (socket {})", socket.0),
            Self::Relayed { relay, .. } => write!(f, "relay {relay}"),
        }
    }
}
