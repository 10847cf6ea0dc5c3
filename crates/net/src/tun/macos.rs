//! The `utun` device of macOS: a kernel-control socket, one packet a call with its family before it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use types::MESH_MTU;

use super::framing::{is_utun_header, utun_header, utun_unit};
use super::{Device, ReadBatch, TunError, TunName, read_batch, system};
use crate::netstack::Packets;

/// The kernel control that makes `utun` devices.
const CONTROL: &[u8] = b"com.apple.net.utun_control";

// `cargo xtask check-macos --prove` shows by this that a mistake in this file is seen where there is no Mac.
#[cfg(prove_check_macos)]
const MISTAKE: u32 = "no number";

/// A device that is open.
#[derive(Debug)]
pub(super) struct Utun {
    fd: OwnedFd,
}

/// Makes the device; `utun` alone takes any free number.
pub(super) fn open(name: &TunName) -> Result<(Utun, TunName), TunError> {
    let unit = utun_unit(name.as_str()).ok_or_else(|| TunError::NameNotPossible(name.clone()))?;
    let fd = control_socket().map_err(system("open a kernel control socket"))?;
    connect(&fd, unit).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted(name.clone()),
        Some(libc::EBUSY) => TunError::NameTaken(name.clone()),
        _ => system(format!("make the network device {name}"))(error),
    })?;
    let name = name_of(&fd).map_err(system("ask for the name of a utun device"))?;
    rustix::io::ioctl_fionbio(&fd, true)
        .map_err(|error| system("keep a utun device from blocking")(error.into()))?;
    Ok((Utun { fd }, name))
}

#[allow(unsafe_code)]
fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(libc::PF_SYSTEM, libc::SOCK_DGRAM, libc::SYSPROTO_CONTROL) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // No program started by the daemon must keep the device alive.
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

#[allow(unsafe_code)]
fn connect(fd: &OwnedFd, unit: u32) -> io::Result<()> {
    // SAFETY: `ctl_info` is plain memory of which all zeros is a value.
    let mut info: libc::ctl_info = unsafe { std::mem::zeroed() };
    for (slot, byte) in info.ctl_name.iter_mut().zip(CONTROL) {
        *slot = byte.cast_signed();
    }
    // SAFETY: CTLIOCGINFO reads and writes one `ctl_info`, which lives as long as the call; the descriptor is open.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::CTLIOCGINFO, &raw mut info) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let len = size_of::<libc::sockaddr_ctl>();
    let address = libc::sockaddr_ctl {
        sc_len: u8::try_from(len).expect("a small struct"),
        sc_family: u8::try_from(libc::AF_SYSTEM).expect("a small number"),
        ss_sysaddr: u16::try_from(libc::AF_SYS_CONTROL).expect("a small number"),
        sc_id: info.ctl_id,
        sc_unit: unit,
        sc_reserved: [0; 5],
    };
    let len = libc::socklen_t::try_from(len).expect("a small struct");
    // SAFETY: the pointer is to a `sockaddr_ctl` of this length that lives as long as the call.
    if unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[allow(unsafe_code)]
fn name_of(fd: &OwnedFd) -> io::Result<TunName> {
    let mut name = [0_u8; libc::IFNAMSIZ];
    let mut len = libc::socklen_t::try_from(name.len()).expect("a small array");
    let (level, option) = (libc::SYSPROTO_CONTROL, libc::UTUN_OPT_IFNAME);
    // SAFETY: the kernel writes at most `len` bytes into the array, which lives as long as the call.
    if unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            option,
            name.as_mut_ptr().cast(),
            &raw mut len,
        )
    } < 0
    {
        return Err(io::Error::last_os_error());
    }
    let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(io::Error::other)?;
    text.parse().map_err(io::Error::other)
}

impl AsFd for Utun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Device for Utun {
    fn read(&mut self, batch: &mut Packets) -> io::Result<ReadBatch> {
        read_batch(batch, |batch| {
            // One byte more than the longest, so that a longer one is told apart and not taken for a whole one.
            let taken = batch.push_up_to(MESH_MTU + 1, |room| {
                let mut header = [0; 4];
                let parts = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(room)];
                let len = rustix::io::readv(&self.fd, parts)?;
                let len = len.saturating_sub(header.len());
                let is_whole = len <= MESH_MTU && is_utun_header(header, &room[..len]);
                Ok::<_, rustix::io::Errno>(is_whole.then_some(len))
            })?;
            Ok(taken.is_some())
        })
    }

    fn write(&mut self, batch: &Packets) -> u64 {
        let refused = (0..batch.len()).filter(|number| {
            let packet = batch.packet(*number);
            let Some(header) = utun_header(packet) else {
                return true;
            };
            rustix::io::writev(&self.fd, &[IoSlice::new(&header), IoSlice::new(packet)]).is_err()
        });
        refused.count() as u64
    }
}
