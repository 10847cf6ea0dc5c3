//! The control plane's only clock, which tests can turn forward.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use types::{Monotonic, Now, Timestamp};

/// Both clocks, read together. Clones share their offset.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    ahead_ms: Arc<AtomicU64>,
}

impl Clock {
    /// Makes a clock that shows the system's time.
    #[must_use]
    pub fn system() -> Self {
        Self {
            start: Instant::now(),
            ahead_ms: Arc::default(),
        }
    }

    /// Reads both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let ahead = Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed));
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + ahead;
        Now {
            mono: Monotonic::from_start(self.start.elapsed() + ahead),
            wall: Timestamp::from_unix_ms(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    /// Reads the wall clock.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        self.now().wall
    }

    /// Turns the clock forward, for tests of what expires. It does not move tokio's timers.
    pub fn advance(&self, span: Duration) {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.ahead_ms.fetch_add(ms, Ordering::Relaxed);
    }
}
