//! Which handshake messages are worth the four exchanges they cost: the defence against floods.
//!
//! The first MAC is always demanded. When more than [`LOAD_PER_SECOND`](crate::load::LOAD_PER_SECOND) handshake messages come within a second, the
//! tunnel is under load for that second and the next: then a message needs a second MAC made with a cookie, and
//! each source address gets a limited share of them.

use std::net::SocketAddr;

use rand_core::Rng;
use types::Monotonic;

use super::cookie::{CookieSecret, MacKeys};
use super::counters::DropReason;
use super::message::COOKIE_REPLY_LEN;
use crate::load::Load;

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
    /// Messages with a right first MAC.
    load: Load,
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
        self.load.count(now);
        if !self.load.is_heavy() {
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
        if self.load.source_has_room(source.ip()) {
            Verdict::Admit
        } else {
            Verdict::Refuse(DropReason::RateLimited)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng as _;
    use types::NodePrivateKey;

    use super::super::cookie::CookieJar;
    use super::super::message::{self, Message};
    use super::*;
    use crate::load::{LOAD_PER_SECOND, SOURCE_PER_SECOND};

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
}
