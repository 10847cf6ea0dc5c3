//! The TUN device of Linux: `/dev/net/tun`, not persistent, with segmentation offload.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::io::Errno;

use super::offload::{GROUP_MAX, HEADER_LEN, Join, PACKET_BYTES_MAX, VnetHeader, split};
use super::{Device, ReadBatch, TunError, TunName, read_batch, system};
use crate::netstack::Packets;

const PATH: &str = "/dev/net/tun";

/// A device that is open.
#[derive(Debug)]
pub(super) struct LinuxTun {
    // Closed with this: `OpenOptions` sets O_CLOEXEC, so that no program started by the daemon keeps the device alive.
    file: File,
    /// Where the kernel puts a segment: 64 KiB, touched only as far as it goes.
    segment: Vec<u8>,
    join: Join,
}

impl From<File> for LinuxTun {
    fn from(file: File) -> Self {
        Self {
            file,
            segment: vec![0; PACKET_BYTES_MAX],
            join: Join::default(),
        }
    }
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
    // Without it every packet crosses by itself, as it does on a kernel that is too old for all of it.
    if let Err(error) = offload(&file) {
        tracing::debug!(%error, "the network device does without segmentation offload");
    }
    Ok((file.into(), name.clone()))
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
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).expect("low bits");
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives as long as the call; the descriptor is open.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks the kernel to hand over whole segments of TCP and, since Linux 6.2, runs of UDP, without their checksums.
#[allow(unsafe_code)]
fn offload(file: &File) -> io::Result<()> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let all = tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let mut outcome = Ok(());
    for wanted in [all, tcp] {
        // SAFETY: TUNSETOFFLOAD takes a number and touches no memory of ours; the descriptor is open.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(wanted)) } == 0 {
            return Ok(());
        }
        outcome = Err(io::Error::last_os_error());
    }
    outcome
}

/// A device made of anything that keeps packets apart.
#[cfg(test)]
impl From<std::os::fd::OwnedFd> for LinuxTun {
    fn from(fd: std::os::fd::OwnedFd) -> Self {
        File::from(fd).into()
    }
}

impl AsFd for LinuxTun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Device for LinuxTun {
    fn read(&mut self, batch: &mut Packets) -> io::Result<ReadBatch> {
        let Self { file, segment, .. } = self;
        read_batch(batch, |batch| {
            let mut header = [0; HEADER_LEN];
            let parts = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(segment)];
            let len = match rustix::io::readv(&*file, parts) {
                // There are no empty packets: nothing will come any more.
                Ok(0) => return Err(Errno::NXIO),
                Ok(len) => len.saturating_sub(HEADER_LEN),
                // A segment for which the kernel has no header: it is gone, and the device is not.
                Err(Errno::INVAL) => return Ok(false),
                Err(error) => return Err(error),
            };
            Ok(split(&VnetHeader::read(header), &segment[..len], batch).is_ok())
        })
    }

    fn write(&mut self, batch: &Packets) -> u64 {
        self.join.sort(batch);
        let mut refused = 0;
        for group in self.join.groups() {
            let (head, members) = self.join.parts(group, batch);
            let mut parts = [IoSlice::new(&[]); 1 + GROUP_MAX as usize];
            let mut count = 0;
            for part in std::iter::once(head.as_bytes()).chain(members) {
                parts[count] = IoSlice::new(part);
                count += 1;
            }
            if rustix::io::writev(&self.file, &parts[..count]).is_err() {
                refused += group.count;
            }
        }
        refused
    }
}
