//! Telling this system's own resolver of the org's names, and taking that back: when the node stops, and when it starts after
//! a crash. Nothing is told unless it was asked for, and `/etc/resolv.conf` is never touched.
//!
//! What is told is made from the org's name, which is a strict label wherever it stands, and from digits.

#[cfg(target_os = "linux")]
mod resolved;
#[cfg(any(target_os = "macos", test))]
mod resolver_files;

#[cfg(target_os = "linux")]
use self::resolved as imp;
#[cfg(target_os = "macos")]
use self::resolver_files as imp;

use std::net::SocketAddr;

use net::tun::TunName;
use types::NodeId;

/// Why the system's resolver is not told of the org's names.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// Only root may.
    #[error("only root may tell the system's resolver of the mesh's names")]
    NotRoot,
    /// There is nobody to tell.
    #[error("there is no resolver here that can be told of the mesh's names: {0}")]
    NoResolver(String),
    /// It was told, and said no.
    #[error("the system's resolver was not told of the mesh's names: `{command}`: {reason}")]
    Command {
        /// What was asked of it.
        command: String,
        /// What it said.
        reason: String,
    },
    /// A file cannot be written.
    #[error("the system's resolver was not told of the mesh's names: {path}: {source}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file stands there that others wrote.
    #[error("{0} is not ours to change: somebody else wrote it")]
    Foreign(std::path::PathBuf),
}

/// The system's resolver, as far as one node has told it something.
#[derive(Debug)]
pub(crate) struct SystemResolver {
    node: NodeId,
    device: Option<TunName>,
}

impl SystemResolver {
    /// Speaks for one node: what others told stays.
    pub(crate) fn of(node: NodeId) -> Self {
        Self { node, device: None }
    }

    /// Has the node's own network device carry what is told, where the system tells by device.
    pub(crate) fn by(self, device: Option<TunName>) -> Self {
        Self { device, ..self }
    }

    /// Fails where there is nothing that could be told.
    pub(crate) async fn check() -> Result<(), SystemError> {
        imp::check().await
    }

    /// Has the system ask `server` for these domains, and for no others.
    pub(crate) async fn tell(&self, server: SocketAddr, domains: &[String]) -> Result<(), SystemError> {
        imp::tell(self.node, self.device.as_ref(), server, domains).await
    }

    /// Takes back whatever this node told, be it before a crash.
    pub(crate) async fn take_back(&self) {
        if let Err(error) = imp::take_back(self.node, self.device.as_ref()).await {
            tracing::warn!(%error, "the system's resolver still knows of the mesh's names");
        }
    }
}

/// Nobody has written how such a system is told.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod unknown {
    use std::net::SocketAddr;

    use net::tun::TunName;
    use types::NodeId;

    use super::SystemError;

    pub(super) async fn check() -> Result<(), SystemError> {
        Err(SystemError::NoResolver("not on this system".to_owned()))
    }

    pub(super) async fn tell(
        _: NodeId,
        _: Option<&TunName>,
        _: SocketAddr,
        _: &[String],
    ) -> Result<(), SystemError> {
        check().await
    }

    pub(super) async fn take_back(_: NodeId, _: Option<&TunName>) -> Result<(), SystemError> {
        Ok(())
    }
}
