//! TUN mode: the network device by which the host itself is in the mesh. What a packet means, and which of them are the
//! host's, is not decided here but in the engine.
//!
//! The device lives as long as [`Tun`], or what was made of it, does, and no longer than the process, however that ends: it
//! is not persistent, and the kernel takes its addresses and routes with it. Nothing else of the host is changed.

pub mod framing;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
pub mod network;
pub mod offload;
pub mod plan;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::str::FromStr;

use rustix::io::Errno;
use tokio::sync::oneshot;
use types::AllowedIp;

use crate::netstack::{BATCH_PACKETS, Packets};
pub use network::HostNetwork;

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(target_os = "macos")]
use macos as imp;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("TUN mode knows Linux and macOS");

/// The name of the device when none is asked for; on macOS the system picks a number.
pub const DEFAULT_NAME: &str = if cfg!(target_os = "macos") {
    "utun"
} else {
    "runmesh0"
};

/// The longest name of a network device, in bytes.
pub const NAME_BYTES_MAX: usize = 15;

/// The name of a network device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TunName(String);

/// A text that names no network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no name of a network device: 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_` or `.`, the first a letter"
)]
pub struct TunNameError;

impl FromStr for TunName {
    type Err = TunNameError;

    fn from_str(text: &str) -> Result<Self, TunNameError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let is_name = text.len() <= NAME_BYTES_MAX
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.bytes().all(is_plain);
        is_name.then(|| Self(text.to_owned())).ok_or(TunNameError)
    }
}

impl Default for TunName {
    fn default() -> Self {
        Self(DEFAULT_NAME.to_owned())
    }
}

impl TunName {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why the host cannot be in the mesh.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The process may not make network devices.
    #[error("this process may not make the network device {0}")]
    NotPermitted(TunName),
    /// The system has no TUN devices.
    #[error("this system has no TUN devices: /dev/net/tun cannot be opened ({0})")]
    NotThere(io::Error),
    /// There is another device of this name.
    #[error("there is a network device {0} already")]
    NameTaken(TunName),
    /// The system does not name such a device like this.
    #[error("a TUN device cannot be called {0} here")]
    NameNotPossible(TunName),
    /// Another network of the host has our address.
    #[error("the mesh address {address} of this device is in a network of the host: {block} at {interface}")]
    AddressTaken {
        /// Our address.
        address: IpAddr,
        /// The network that holds it.
        block: AllowedIp,
        /// Which interface that is.
        interface: String,
    },
    /// Somebody took the device away.
    #[error("the network device {0} was taken away")]
    Lost(TunName),
    /// The system said no to something else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was to be done.
        what: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Where packets of the host's own TCP/IP come from and go to. Never blocks.
pub(crate) trait Device: AsFd + Send {
    /// Appends what the host sends, each packet whole and with its checksums, until the batch is full, which a last segment
    /// that is cut may exceed; tells whether more may wait. Longer packets than the mesh carries are left out and counted.
    fn read(&mut self, batch: &mut Packets) -> io::Result<ReadBatch>;

    /// Hands the host a batch; returns how many packets of it the system refused.
    fn write(&mut self, batch: &Packets) -> u64;
}

/// Reads packets one by one until the batch is full or none waits. `read` appends what one read brings, or nothing when that
/// is no packet that the mesh carries; it tells which.
fn read_batch(
    batch: &mut Packets,
    mut read: impl FnMut(&mut Packets) -> Result<bool, Errno>,
) -> io::Result<ReadBatch> {
    let mut outcome = ReadBatch::default();
    // What is left out has its limit, too: a host that sends nothing else must not keep the engine here.
    while !batch.is_full() && outcome.too_long < BATCH_PACKETS as u64 {
        match read(batch) {
            Ok(true) => {}
            Ok(false) => outcome.too_long += 1,
            Err(Errno::AGAIN) => return Ok(outcome),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    outcome.may_have_more = true;
    Ok(outcome)
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ReadBatch {
    /// More may wait.
    pub(crate) may_have_more: bool,
    /// Packets that were too long.
    pub(crate) too_long: u64,
}

/// A device of this host that nobody reads yet.
pub struct Tun {
    device: Box<dyn Device>,
    name: TunName,
}

impl fmt::Debug for Tun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tun")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Word of the loss of a device.
#[derive(Debug)]
pub struct Loss {
    name: TunName,
    gone: oneshot::Receiver<()>,
}

impl Loss {
    /// Waits until the device is gone: because somebody took it away, or because its mesh has stopped.
    pub async fn happened(self) -> TunError {
        // Nothing is ever sent: the sender goes with the device.
        let _ = self.gone.await;
        TunError::Lost(self.name)
    }
}

/// A device as its engine holds it.
pub(crate) struct Held {
    pub(crate) device: Box<dyn Device>,
    /// Dropped with the device, which is what [`Loss`] waits for.
    pub(crate) _alive: oneshot::Sender<()>,
}

impl Tun {
    /// Makes a network device without addresses, which is down.
    pub fn open(name: &TunName) -> Result<Self, TunError> {
        let (device, name) = imp::open(name)?;
        Ok(Self {
            device: Box::new(device),
            name,
        })
    }

    /// Returns what the system calls it.
    #[must_use]
    pub fn name(&self) -> &TunName {
        &self.name
    }

    /// Gives up the device to an engine.
    pub(crate) fn hold(self) -> (Held, Loss) {
        let (alive, gone) = oneshot::channel();
        let held = Held {
            device: self.device,
            _alive: alive,
        };
        let loss = Loss {
            name: self.name,
            gone,
        };
        (held, loss)
    }

    /// Makes one of anything that keeps packets apart.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn of(fd: std::os::fd::OwnedFd) -> Self {
        Self {
            device: Box::new(imp::LinuxTun::from(fd)),
            name: TunName::default(),
        }
    }
}

/// Words an error of the system.
pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> TunError {
    let what = what.into();
    move |source| TunError::System { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_sends_only_what_is_left_out_does_not_keep_the_reader_for_ever() {
        let mut batch = Packets::default();
        let read = read_batch(&mut batch, |_| Ok(false)).expect("read");
        assert!(batch.is_empty() && read.may_have_more);
        assert_eq!(read.too_long, BATCH_PACKETS as u64);
    }

    #[test]
    fn names_are_those_that_every_system_takes() {
        for good in ["runmesh0", "utun7", "a", "mesh-0_1.x", "fifteen-letters"] {
            assert_eq!(good.parse::<TunName>().expect(good).as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "-x",
            "0x",
            "a b",
            "a/b",
            "tun%d",
            "a\n",
            "ä",
            "sixteen-letters-",
        ] {
            assert_eq!(bad.parse::<TunName>(), Err(TunNameError), "{bad:?}");
        }
        assert!(DEFAULT_NAME.parse::<TunName>().is_ok());
    }
}
