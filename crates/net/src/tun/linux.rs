//! The TUN device of Linux: `/dev/net/tun`, one packet a call, not persistent.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::io::Errno;
use types::MESH_MTU;

use super::{Device, ReadBatch, TunError, TunName, read_batch, system};
use crate::netstack::Packets;

const PATH: &str = "/dev/net/tun";

/// A device that is open.
#[derive(Debug)]
pub(super) struct LinuxTun {
    // Closed with this: `OpenOptions` sets O_CLOEXEC, so that no program started by the daemon keeps the device alive.
    file: File,
}

/// Makes the device.
pub(super) fn open(name: &TunName) -> Result<(LinuxTun, TunName), TunError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(PATH)
        .map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => TunError::NotPermitted(name.clone()),
            _ => TunError::NotThere(error),
        })?;
    // A persistent device of this name would be joined, with whatever it is set up for, instead of made.
    if index_of(name).is_ok() {
        return Err(TunError::NameTaken(name.clone()));
    }
    attach(&file, name).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted(name.clone()),
        Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => TunError::NameTaken(name.clone()),
        _ => system(format!("make the network device {name}"))(error),
    })?;
    Ok((LinuxTun { file }, name.clone()))
}

/// Returns the number of a network device.
#[allow(unsafe_code)]
pub(super) fn index_of(name: &TunName) -> io::Result<u32> {
    let name = CString::new(name.as_str()).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    // SAFETY: the pointer is to a text that ends with a zero and lives as long as the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Makes a device for an open file.
#[allow(unsafe_code)]
fn attach(file: &File, name: &TunName) -> io::Result<()> {
    // SAFETY: `ifreq` is plain memory of which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The name is shorter than its field, so that a zero stays behind it.
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *slot = byte.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).expect("two low bits");
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives as long as the call; the descriptor is open.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A device made of anything that keeps packets apart.
#[cfg(test)]
impl From<std::os::fd::OwnedFd> for LinuxTun {
    fn from(fd: std::os::fd::OwnedFd) -> Self {
        Self { file: fd.into() }
    }
}

impl AsFd for LinuxTun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Device for LinuxTun {
    fn read(&mut self, batch: &mut Packets) -> io::Result<ReadBatch> {
        read_batch(batch, |room| match rustix::io::read(&self.file, room)? {
            // There are no empty packets: nothing will come any more.
            0 => Err(Errno::NXIO),
            len => Ok((len <= MESH_MTU).then_some(len)),
        })
    }

    fn write(&mut self, batch: &Packets) -> u64 {
        let refused =
            (0..batch.len()).filter(|number| rustix::io::write(&self.file, batch.packet(*number)).is_err());
        refused.count() as u64
    }
}
