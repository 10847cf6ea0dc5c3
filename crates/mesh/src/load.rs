//! How many handshakes come in, in all and from each source: when a cookie must be demanded, and who has had enough.
//!
//! Used by the tunnel's gate and by the relay, which both pay several exchanges for a handshake. What they demand under
//! load is theirs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use types::Monotonic;

/// Handshake messages a second from which on there is load: about a tenth of one core's exchanges.
pub const LOAD_PER_SECOND: u32 = 500;
/// Handshake messages a second that one source address (IPv6: one /64) gets under load.
pub const SOURCE_PER_SECOND: u32 = 250;
/// How many source addresses are counted at most; what is beyond is refused under load.
pub const SOURCES_MAX: usize = 4096;

const WINDOW: Duration = Duration::from_secs(1);

/// A count of handshake messages, over windows of a second.
#[derive(Default)]
pub(crate) struct Load {
    window_start: Monotonic,
    count: u32,
    /// Whether the window before this one was over the limit.
    was_heavy: bool,
    /// Messages admitted under load in this window, per source.
    sources: BTreeMap<IpAddr, u32>,
}

impl Load {
    /// Counts one message.
    pub(crate) fn count(&mut self, now: Monotonic) {
        let age = now.since(self.window_start);
        if age >= WINDOW {
            self.was_heavy = self.count > LOAD_PER_SECOND && age < 2 * WINDOW;
            self.count = 0;
            self.sources.clear();
            self.window_start = now;
        }
        self.count = self.count.saturating_add(1);
    }

    /// Tells whether this window or the one before is over the limit.
    pub(crate) fn is_heavy(&self) -> bool {
        self.was_heavy || self.count > LOAD_PER_SECOND
    }

    /// Takes one message from the share of `source`; tells whether there was something left of it.
    pub(crate) fn source_has_room(&mut self, source: IpAddr) -> bool {
        let key = match source {
            IpAddr::V4(_) => source,
            IpAddr::V6(ip) => IpAddr::from((ip.to_bits() >> 64 << 64).to_be_bytes()),
        };
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&key) {
            return false;
        }
        let count = self.sources.entry(key).or_default();
        *count += 1;
        *count <= SOURCE_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_sources_is_limited() {
        let mut load = Load::default();
        for number in 0..SOURCES_MAX as u32 {
            assert!(load.source_has_room(IpAddr::from(number.to_be_bytes())));
        }
        assert!(!load.source_has_room(IpAddr::from([0xff; 4])));
        assert!(load.source_has_room(IpAddr::from([0; 4])));
        let near = [0x2001_u16, 0xdb8, 0, 1, 0, 0, 0, 1];
        let mut load = Load::default();
        for _ in 0..SOURCE_PER_SECOND {
            assert!(load.source_has_room(IpAddr::from(near)));
        }
        let far = [0x2001_u16, 0xdb8, 0, 1, 9, 9, 9, 9];
        assert!(!load.source_has_room(IpAddr::from(far)), "one /64 is one source");
    }
}
