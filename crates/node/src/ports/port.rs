//! What a port is: what it leads to, and what of this device or of the mesh it has for itself.

use std::fmt;
use std::net::SocketAddr;

use mesh::proxy::Target;
use serde::{Deserialize, Serialize};

/// A port that leads into the mesh, or out of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Port {
    /// A port of this device that is offered in the mesh.
    Exposed {
        /// The port on this device's loopback.
        port: u16,
        /// The port in the mesh.
        #[serde(rename = "as")]
        offered: u16,
    },
    /// A port of this device that leads to one of another node.
    Forwarded {
        /// Where it listens on this device.
        local: SocketAddr,
        /// What it leads to, as it was asked for: each connection finds out anew which node that is.
        #[serde(with = "as_text")]
        target: Target,
    },
}

impl Port {
    /// Returns what nobody else can have meanwhile.
    pub(super) fn claim(&self) -> Claim {
        match self {
            Self::Exposed { offered, .. } => Claim::InMesh(*offered),
            Self::Forwarded { local, .. } => Claim::Here(*local),
        }
    }

    /// Tells whether every port in it is one: 0 names none.
    pub(super) fn is_named(&self) -> bool {
        match self {
            Self::Exposed { port, offered } => *port != 0 && *offered != 0,
            Self::Forwarded { local, .. } => local.port() != 0,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exposed { port, offered } => {
                write!(f, "port {port} of this device is port {offered} in the mesh")
            }
            Self::Forwarded { local, target } => write!(f, "{local} leads to {target}"),
        }
    }
}

/// What a port has for itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Claim {
    /// A port of this node in the mesh.
    InMesh(u16),
    /// A place to listen at on this device.
    Here(SocketAddr),
}

impl Claim {
    /// Tells whether only one of two can be had. A place at every address of the device takes in those at each.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Here(one), Self::Here(other)) if one.port() == other.port() && one.port() != 0 => {
                one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified()
            }
            _ => self == other,
        }
    }
}

/// Which ports are meant, by whoever wants them back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    /// A port of this device, under one port of the mesh or under all that it has.
    Exposed {
        /// The port on this device.
        port: u16,
        /// The port in the mesh; every one when left out.
        offered: Option<u16>,
    },
    /// What listens at a place of this device.
    Forwarded {
        /// Where.
        local: SocketAddr,
        /// What it must lead to; anything when left out.
        target: Option<Target>,
    },
}

impl Which {
    /// Tells whether a port is meant.
    pub(super) fn means(&self, is: &Port) -> bool {
        match (self, is) {
            (Self::Exposed { port, offered }, Port::Exposed { port: p, offered: o }) => {
                port == p && offered.is_none_or(|offered| offered == *o)
            }
            (Self::Forwarded { local, target }, Port::Forwarded { local: l, target: t }) => {
                local == l && target.as_ref().is_none_or(|target| target == t)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exposed { port, offered: None } => write!(f, "port {port} of this device is not exposed"),
            Self::Exposed {
                port,
                offered: Some(offered),
            } => write!(f, "port {port} of this device is not exposed as port {offered}"),
            Self::Forwarded { local, target: None } => write!(f, "{local} leads nowhere"),
            Self::Forwarded {
                local,
                target: Some(target),
            } => write!(f, "{local} does not lead to {target}"),
        }
    }
}

/// A target as the text that it is written as.
mod as_text {
    use mesh::proxy::Target;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(target: &Target, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(target)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Target, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| D::Error::custom(format!("the target {error}")))
    }
}
