//! Whose Hello is worth its exchanges: cookies under load.

use rand_core::Rng;
use subtle::ConstantTimeEq as _;
use types::Monotonic;

use super::super::frame::COOKIE_LEN;
use super::Source;
use crate::load::Load;
use crate::tunnel::cookie::CookieSecret;

/// What to do with a Hello.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Admit,
    /// Ask for this cookie first.
    Challenge([u8; COOKIE_LEN]),
    Refuse,
}

/// The door of a relay.
#[derive(Default)]
pub(super) struct Admission {
    load: Load,
    cookies: CookieSecret,
}

impl Admission {
    /// Judges a Hello from `source` that carries `cookie`. Under load a UDP address must be shown not to be forged.
    pub(super) fn judge(
        &mut self,
        source: Source,
        cookie: &[u8; COOKIE_LEN],
        rng: &mut impl Rng,
        now: Monotonic,
    ) -> Verdict {
        self.load.count(now);
        if !self.load.is_heavy() {
            return Verdict::Admit;
        }
        if let Source::Udp(address) = source {
            if self.cookies.is_stale(now) {
                let mut secret = [0; 32];
                rng.fill_bytes(&mut secret);
                self.cookies.renew(secret, now);
            }
            let due = self.cookies.cookie(address);
            if !bool::from(due.ct_eq(cookie)) {
                return Verdict::Challenge(due);
            }
        }
        if self.load.source_has_room(source.address().ip()) {
            Verdict::Admit
        } else {
            Verdict::Refuse
        }
    }
}
