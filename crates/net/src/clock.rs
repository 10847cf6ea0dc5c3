//! The two clocks of the operating system, read together. The only place in the data plane that reads a clock.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use types::{Monotonic, Now, Timestamp};

// A timer that stands still while a laptop sleeps would keep a session for hours that its peer has long given up.
#[cfg(target_os = "linux")]
const MONOTONIC: ClockId = ClockId::Boottime;

// Apple's CLOCK_MONOTONIC goes on while the machine sleeps, which CLOCK_UPTIME_RAW there and Linux's clock of the same name
// do not. CLOCK_MONOTONIC_RAW would do too, but rustix does not name it for these systems.
#[cfg(not(target_os = "linux"))]
const MONOTONIC: ClockId = ClockId::Monotonic;

/// A source of [`Now`]: a monotonic clock that counts time asleep, and the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Makes a clock; it has no state.
    #[must_use]
    pub fn new() -> Self {
        Self
    }

    /// Reads both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = span(clock_gettime(ClockId::Realtime));
        Now {
            mono: self.mono(),
            wall: Timestamp::from_unix_ms(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    /// Reads the monotonic clock alone.
    #[must_use]
    pub fn mono(&self) -> Monotonic {
        Monotonic::from_start(span(clock_gettime(MONOTONIC)))
    }
}

/// Returns how much of a processor the calling thread has used since it began.
#[must_use]
pub fn thread_cpu() -> Duration {
    span(clock_gettime(ClockId::ThreadCPUTime))
}

/// A wall clock before 1970 counts as 1970.
fn span(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back_and_the_wall_clock_is_of_this_age() {
        let clock = Clock::new();
        let first = clock.now();
        let second = clock.now();
        assert!(second.mono >= first.mono);
        assert!(first.wall > Timestamp::from_unix_ms(1_700_000_000_000));
    }
}
