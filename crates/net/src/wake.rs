//! Wakes a thread that blocks in `poll`: an eventfd on Linux, a socket pair elsewhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// One end that any thread may ring and one descriptor that becomes readable when it rang.
///
/// Ringing while already rung costs no system call.
#[derive(Debug)]
pub struct Bell {
    fds: imp::Fds,
    rung: AtomicBool,
}

impl Bell {
    /// Makes a silent bell; fails when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            fds: imp::Fds::new()?,
            rung: AtomicBool::new(false),
        })
    }

    /// Makes the descriptor readable until [`Bell::silence`].
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.fds.signal();
        }
    }

    /// Makes the descriptor unreadable again. Look for work only *after* this call: what rings later is then seen later.
    pub fn silence(&self) {
        if self.rung.load(Ordering::Acquire) {
            self.fds.drain();
            // A swap, so that the work of a ring that came between the two lines is visible to the caller.
            self.rung.swap(false, Ordering::AcqRel);
        }
    }

    /// Tells whether the bell rang since it was last silenced.
    #[must_use]
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fds.readable()
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};

    #[derive(Debug)]
    pub(super) struct Fds(OwnedFd);

    impl Fds {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        // The counter can only be full when the bell is already rung, and then nothing is lost.
        pub(super) fn signal(&self) {
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }

        pub(super) fn drain(&self) {
            let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
        }

        pub(super) fn readable(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::io::{self, Read as _, Write as _};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::unix::net::UnixStream;

    #[derive(Debug)]
    pub(super) struct Fds {
        near: UnixStream,
        far: UnixStream,
    }

    impl Fds {
        pub(super) fn new() -> io::Result<Self> {
            let (near, far) = UnixStream::pair()?;
            near.set_nonblocking(true)?;
            far.set_nonblocking(true)?;
            Ok(Self { near, far })
        }

        // A full buffer means that the bell is already rung.
        pub(super) fn signal(&self) {
            let _ = (&self.far).write(&[1]);
        }

        pub(super) fn drain(&self) {
            while matches!((&self.near).read(&mut [0; 64]), Ok(64)) {}
        }

        pub(super) fn readable(&self) -> BorrowedFd<'_> {
            self.near.as_fd()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn readable(bell: &Bell) -> bool {
        let none = Timespec::try_from(Duration::ZERO).expect("zero");
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, Some(&none)).expect("poll") == 1
    }

    #[test]
    fn a_bell_rings_until_it_is_silenced() {
        let bell = Bell::new().expect("bell");
        assert!(!readable(&bell) && !bell.is_rung());
        bell.ring();
        bell.ring();
        assert!(readable(&bell) && bell.is_rung());
        bell.silence();
        assert!(!readable(&bell) && !bell.is_rung());
        bell.ring();
        assert!(readable(&bell));
    }
}
