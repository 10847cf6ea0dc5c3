//! Which handshake messages are worth the four exchanges they cost: the defence against floods.
//!
//! The first MAC is always demanded. When more than [`LOAD_PER_SECOND`] handshake messages come within a second, the
//! tunnel is under load for that second and the next: then a message needs a second MAC made with a cookie, and
//! each source address gets at most [`SOURCE_PER_SECOND`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand_core::Rng;
use types::Monotonic;

use super::cookie::{CookieSecret, MacKeys};
use super::counters::DropReason;
use super::message::COOKIE_REPLY_LEN;

/// Handshake messages a second from which on a tunnel counts as under load: about a tenth of one core's exchanges.
pub const LOAD_PER_SECOND: u32 = 500;
/// Handshake messages a second that one source address (IPv6: one /64) gets under load.
pub const SOURCE_PER_SECOND: u32 = 250;
/// How many source addresses are counted at most; what is beyond is refused under load.
pub const SOURCES_MAX: usize = 4096;

const WINDOW: Duration = Duration::from_secs(1);

/// What to do with a handshake message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on.
    Admit,
    /// Send this cookie reply to the source, and drop the message.
    Challenge([u8; COOKIE_REPLY_LEN]),
    /// Drop it.
    Refuse(DropReason),
}

/// The gate before every handshake message.
#[derive(Default)]
pub(crate) struct Gate {
    cookies: CookieSecret,
    window_start: Monotonic,
    /// Messages with a right first MAC in this window.
    count: u32,
    /// Whether the window before this one was over the limit.
    was_loaded: bool,
    /// Messages admitted under load in this window, per source.
    sources: BTreeMap<IpAddr, u32>,
}

impl Gate {
    /// Judges the handshake message `bytes` from `source`; `own` belongs to our public key.
    pub(crate) fn judge(
        &mut self,
        own: &MacKeys,
        bytes: &[u8],
        source: SocketAddr,
        rng: &mut impl Rng,
        now: Monotonic,
    ) -> Verdict {
        if !own.accepts(bytes) {
            return Verdict::Refuse(DropReason::BadMac1);
        }
        self.count_one(now);
        if !self.is_loaded() {
            return Verdict::Admit;
        }
        if self.cookies.is_stale(now) {
            let mut secret = [0; 32];
            rng.fill_bytes(&mut secret);
            self.cookies.renew(secret, now);
        }
        if !self.cookies.accepts(bytes, source) {
            let mut nonce = [0; 24];
            rng.fill_bytes(&mut nonce);
            return Verdict::Challenge(self.cookies.reply(own, nonce, bytes, source));
        }
        if self.source_has_room(source.ip()) {
            Verdict::Admit
        } else {
            Verdict::Refuse(DropReason::RateLimited)
        }
    }

    fn is_loaded(&self) -> bool {
        self.was_loaded || self.count > LOAD_PER_SECOND
    }

    fn count_one(&mut self, now: Monotonic) {
        let age = now.since(self.window_start);
        if age >= WINDOW {
            self.was_loaded = self.count > LOAD_PER_SECOND && age < 2 * WINDOW;
            self.count = 0;
            self.sources.clear();
            self.window_start = now;
        }
        self.count = self.count.saturating_add(1);
    }

    fn source_has_room(&mut self, source: IpAddr) -> bool {
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
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng as _;
    use types::NodePrivateKey;

    use super::super::cookie::CookieJar;
    use super::super::message::{self, Message};
    use super::*;

    struct Bench {
        gate: Gate,
        keys: MacKeys,
        rng: ChaCha20Rng,
        jar: CookieJar,
    }

    fn bench() -> Bench {
        Bench {
            gate: Gate::default(),
            keys: MacKeys::of(&NodePrivateKey::from_random([1; 32]).public()),
            rng: ChaCha20Rng::from_seed([2; 32]),
            jar: CookieJar::default(),
        }
    }

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_millis(ms))
    }

    fn source(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 51820))
    }

    impl Bench {
        fn send(&mut self, source: SocketAddr, ms: u64) -> Verdict {
            let mut bytes = message::initiation(7, &[0x55; 108]);
            self.jar.stamp(&self.keys, &mut bytes, at(ms));
            self.gate.judge(&self.keys, &bytes, source, &mut self.rng, at(ms))
        }

        fn load(&mut self, ms: u64) {
            for _ in 0..LOAD_PER_SECOND {
                assert_eq!(self.send(source(1), ms), Verdict::Admit);
            }
        }

        fn earn_cookie(&mut self, source: SocketAddr, ms: u64) {
            let Verdict::Challenge(mut reply) = self.send(source, ms) else {
                panic!("a challenge");
            };
            let Ok(Message::CookieReply(reply)) = message::parse(&mut reply) else {
                panic!("a cookie reply");
            };
            assert!(self.jar.take(&self.keys, reply, at(ms)));
        }
    }

    #[test]
    fn a_wrong_first_mac_is_refused_and_not_counted() {
        let mut bench = bench();
        let bytes = message::initiation(7, &[0x55; 108]);
        for _ in 0..2 * LOAD_PER_SECOND {
            let verdict = bench
                .gate
                .judge(&bench.keys, &bytes, source(1), &mut bench.rng, at(0));
            assert_eq!(verdict, Verdict::Refuse(DropReason::BadMac1));
        }
        assert_eq!(bench.send(source(1), 0), Verdict::Admit);
    }

    #[test]
    fn under_load_a_cookie_is_demanded_and_helps() {
        let mut bench = bench();
        bench.load(0);
        bench.earn_cookie(source(1), 10);
        assert_eq!(bench.send(source(1), 20), Verdict::Admit);
        assert!(matches!(bench.send(source(2), 20), Verdict::Challenge(_)));
    }

    #[test]
    fn load_lasts_one_window_longer_and_then_ends() {
        let mut bench = bench();
        bench.load(0);
        assert!(matches!(bench.send(source(1), 0), Verdict::Challenge(_)));
        assert!(matches!(bench.send(source(1), 1500), Verdict::Challenge(_)));
        assert_eq!(bench.send(source(1), 2500), Verdict::Admit);
        let mut idle = self::bench();
        idle.load(0);
        assert!(matches!(idle.send(source(1), 0), Verdict::Challenge(_)));
        assert_eq!(idle.send(source(1), 60_000), Verdict::Admit);
    }

    #[test]
    fn one_source_cannot_take_everything_even_with_a_cookie() {
        let mut bench = bench();
        bench.load(0);
        bench.earn_cookie(source(1), 0);
        for _ in 0..SOURCE_PER_SECOND {
            assert_eq!(bench.send(source(1), 0), Verdict::Admit);
        }
        assert_eq!(bench.send(source(1), 0), Verdict::Refuse(DropReason::RateLimited));
    }

    #[test]
    fn the_table_of_sources_is_limited() {
        let mut gate = Gate::default();
        for number in 0..SOURCES_MAX as u32 {
            assert!(gate.source_has_room(IpAddr::from(number.to_be_bytes())));
        }
        assert!(!gate.source_has_room(IpAddr::from([0xff; 4])));
        assert!(gate.source_has_room(IpAddr::from([0; 4])));
        let near = [0x2001_u16, 0xdb8, 0, 1, 0, 0, 0, 1];
        let mut gate = Gate::default();
        for _ in 0..SOURCE_PER_SECOND {
            assert!(gate.source_has_room(IpAddr::from(near)));
        }
        let far = [0x2001_u16, 0xdb8, 0, 1, 9, 9, 9, 9];
        assert!(!gate.source_has_room(IpAddr::from(far)), "one /64 is one source");
    }
}
