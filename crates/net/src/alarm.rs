//! Waits for descriptors until a time of the monotonic clock of [`Clock`](crate::clock::Clock), time asleep included.
//!
//! On Linux the time is kept by a timer descriptor on `CLOCK_BOOTTIME`, since the timeout of `poll` itself stands still while
//! the machine sleeps. It does not wake the machine; it is due at once when something else has.

use std::io;

use rustix::event::{PollFd, PollFlags};
use types::Monotonic;

/// How many descriptors one wait can be for.
pub const FDS_MAX: usize = 3;

/// An alarm for one thread that waits.
#[derive(Debug)]
pub struct Alarm(imp::Timer);

impl Alarm {
    /// Makes an alarm; fails when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        imp::Timer::new().map(Self)
    }

    /// Waits until one of the descriptors (at most [`FDS_MAX`]) is ready or `until` has come; for ever with `None`.
    ///
    /// May return early, and does after a signal. Returns what each descriptor is ready for.
    pub fn wait<const N: usize>(&mut self, fds: [PollFd<'_>; N], until: Option<Monotonic>) -> [PollFlags; N] {
        const { assert!(N <= FDS_MAX, "more descriptors than an alarm has room for") };
        self.0.wait(fds, until)
    }

    /// Waits like [`Alarm::wait`], for any number of descriptors at the price of an allocation.
    pub fn wait_for_many(&mut self, fds: Vec<PollFd<'_>>, until: Option<Monotonic>) -> Vec<PollFlags> {
        self.0.wait_for_many(fds, until)
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::io;
    use std::os::fd::OwnedFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
    };
    use types::Monotonic;

    use super::FDS_MAX;

    #[derive(Debug)]
    pub(super) struct Timer {
        fd: OwnedFd,
        /// When the descriptor becomes readable.
        armed: Option<Monotonic>,
    }

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            Ok(Self {
                fd: timerfd_create(TimerfdClockId::Boottime, flags)?,
                armed: None,
            })
        }

        pub(super) fn wait<const N: usize>(
            &mut self,
            fds: [PollFd<'_>; N],
            until: Option<Monotonic>,
        ) -> [PollFlags; N] {
            let timeout = self.prepare(until);
            let mut all: [PollFd<'_>; FDS_MAX + 1] =
                std::array::from_fn(|_| PollFd::new(&self.fd, PollFlags::IN));
            for (slot, fd) in all.iter_mut().zip(fds) {
                *slot = fd;
            }
            if poll(&mut all[..=N], timeout.as_ref()).is_err() {
                // An interrupted wait is a short one; nothing else can go wrong with descriptors of our own.
                return [PollFlags::empty(); N];
            }
            let ready = std::array::from_fn(|index| all[index].revents());
            let has_struck = !all[N].revents().is_empty();
            self.note(has_struck);
            ready
        }

        pub(super) fn wait_for_many(
            &mut self,
            mut fds: Vec<PollFd<'_>>,
            until: Option<Monotonic>,
        ) -> Vec<PollFlags> {
            let timeout = self.prepare(until);
            let count = fds.len();
            let mut all: Vec<_> = fds
                .drain(..)
                .chain([PollFd::new(&self.fd, PollFlags::IN)])
                .collect();
            if poll(&mut all, timeout.as_ref()).is_err() {
                return vec![PollFlags::empty(); count];
            }
            let mut ready: Vec<_> = all.iter().map(PollFd::revents).collect();
            let has_struck = ready.pop().is_some_and(|ready| !ready.is_empty());
            self.note(has_struck);
            ready
        }

        /// Sets the alarm; returns how long to wait at most, should that fail.
        fn prepare(&mut self, until: Option<Monotonic>) -> Option<Timespec> {
            // An alarm that is set too early costs one wait that ends early; setting it anew costs a call at every turn.
            let suffices = until.is_none() || self.armed.is_some_and(|armed| Some(armed) <= until);
            if suffices || self.arm(until).is_ok() {
                return None;
            }
            // Unheard of for a descriptor of our own; better to look again soon than to sleep for ever.
            Some(Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            })
        }

        fn note(&mut self, has_struck: bool) {
            if has_struck {
                let _ = rustix::io::read(&self.fd, &mut [0_u8; 8]);
                self.armed = None;
            }
        }

        fn arm(&mut self, until: Option<Monotonic>) -> rustix::io::Result<()> {
            let due = until.map(Monotonic::since_start).unwrap_or_default();
            let mut value = Timespec::try_from(due).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            });
            // Zero would mean never.
            if until.is_some() && due.is_zero() {
                value.tv_nsec = 1;
            }
            let never = Timespec::default();
            let setting = Itimerspec {
                it_interval: never,
                it_value: value,
            };
            timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &setting)?;
            self.armed = until;
            Ok(())
        }
    }

    #[cfg(test)]
    impl Timer {
        pub(super) fn clock_of_descriptor(&self) -> String {
            use std::os::fd::AsRawFd as _;
            let path = format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd());
            std::fs::read_to_string(path).expect("an open descriptor")
        }
    }
}

// Without such a descriptor the timeout of `poll` must do. macOS does not count time asleep in it: after waking, a deadline
// comes late by at most the time slept, unless a packet or a task comes first, and then everything that is due is done.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::io;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use types::Monotonic;

    use crate::clock::Clock;

    #[derive(Debug)]
    pub(super) struct Timer(Clock);

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(Clock::new()))
        }

        pub(super) fn wait<const N: usize>(
            &mut self,
            fds: [PollFd<'_>; N],
            until: Option<Monotonic>,
        ) -> [PollFlags; N] {
            let timeout = self.timeout(until);
            let mut fds = fds;
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) => fds.map(|fd| fd.revents()),
                // An interrupted wait is a short one; nothing else can go wrong with descriptors of our own.
                Err(_) => [PollFlags::empty(); N],
            }
        }

        pub(super) fn wait_for_many(
            &mut self,
            mut fds: Vec<PollFd<'_>>,
            until: Option<Monotonic>,
        ) -> Vec<PollFlags> {
            match poll(&mut fds, self.timeout(until).as_ref()) {
                Ok(_) => fds.iter().map(PollFd::revents).collect(),
                Err(_) => vec![PollFlags::empty(); fds.len()],
            }
        }

        fn timeout(&self, until: Option<Monotonic>) -> Option<Timespec> {
            let left = until.map(|until| until.since(self.0.mono()));
            left.map(|left| Timespec::try_from(left).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::wake::Bell;

    fn wait(alarm: &mut Alarm, bells: &[Bell; 2], until: Option<Monotonic>) -> [bool; 2] {
        let fds = [0, 1].map(|index: usize| PollFd::new(&bells[index], PollFlags::IN));
        alarm.wait(fds, until).map(|ready| ready.contains(PollFlags::IN))
    }

    fn bells() -> [Bell; 2] {
        [0, 1].map(|_| Bell::new().expect("bell"))
    }

    #[test]
    fn a_wait_ends_at_its_time_and_not_before() {
        let (clock, bells) = (Clock::new(), bells());
        let mut alarm = Alarm::new().expect("alarm");
        for ms in [30, 5] {
            let until = clock.mono() + Duration::from_millis(ms);
            let mut waits = 0;
            while clock.mono() < until {
                assert_eq!(wait(&mut alarm, &bells, Some(until)), [false, false]);
                waits += 1;
            }
            assert!(waits <= 2, "{waits} waits are a busy loop");
        }
        let past = Monotonic::ZERO;
        wait(&mut alarm, &bells, Some(past));
        wait(&mut alarm, &bells, Some(past));
    }

    #[test]
    fn a_descriptor_ends_a_wait_and_an_alarm_set_for_later_does_not_hold_up_an_earlier_one() {
        let (clock, bells) = (Clock::new(), bells());
        let mut alarm = Alarm::new().expect("alarm");
        let far = clock.mono() + Duration::from_secs(3600);
        bells[1].ring();
        assert_eq!(wait(&mut alarm, &bells, Some(far)), [false, true]);
        assert_eq!(wait(&mut alarm, &bells, None), [false, true]);
        bells[1].silence();
        let near = clock.mono() + Duration::from_millis(5);
        while clock.mono() < near {
            assert_eq!(wait(&mut alarm, &bells, Some(near)), [false, false]);
        }
    }

    #[test]
    fn many_descriptors_are_told_apart_and_their_wait_ends_at_its_time() {
        let clock = Clock::new();
        let bells: Vec<_> = (0..50).map(|_| Bell::new().expect("bell")).collect();
        let mut alarm = Alarm::new().expect("alarm");
        bells[17].ring();
        let fds = || {
            bells
                .iter()
                .map(|bell| PollFd::new(bell, PollFlags::IN))
                .collect()
        };
        let ready = alarm.wait_for_many(fds(), None);
        let rung: Vec<_> = (0..50)
            .filter(|index| ready[*index].contains(PollFlags::IN))
            .collect();
        assert_eq!(rung, [17]);
        bells[17].silence();
        let until = clock.mono() + Duration::from_millis(20);
        while clock.mono() < until {
            let ready = alarm.wait_for_many(fds(), Some(until));
            assert!(ready.iter().all(|ready| ready.is_empty()));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_time_that_is_waited_for_goes_on_while_the_machine_sleeps() {
        let alarm = Alarm::new().expect("alarm");
        let info = alarm.0.clock_of_descriptor();
        let clock = info.lines().find_map(|line| line.strip_prefix("clockid:"));
        assert_eq!(clock.map(str::trim), Some("7"), "CLOCK_BOOTTIME is 7: {info}");
    }
}
