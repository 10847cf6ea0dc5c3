//! Whose Hello is worth its exchanges: cookies under load, and nobody who was expelled.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_core::Rng;
use subtle::ConstantTimeEq as _;
use types::relay::{RELAY_CLOCK_SKEW_MAX, RELAY_TICKET_LIFETIME};
use types::{Monotonic, NodePublicKey};

use super::super::frame::COOKIE_LEN;
use super::Source;
use crate::load::Load;
use crate::tunnel::cookie::CookieSecret;

/// For how long an expelled key stays out: as long as any ticket that was signed before.
const EXPULSION: Duration = RELAY_TICKET_LIFETIME.saturating_add(RELAY_CLOCK_SKEW_MAX.saturating_mul(2));

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
    expelled: BTreeMap<NodePublicKey, Monotonic>,
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

    /// Shuts a key out until every ticket it can have is over.
    pub(super) fn expel(&mut self, key: NodePublicKey, now: Monotonic) {
        self.expelled.retain(|_, until| *until > now);
        self.expelled.insert(key, now + EXPULSION);
    }

    pub(super) fn is_expelled(&self, key: &NodePublicKey, now: Monotonic) -> bool {
        self.expelled.get(key).is_some_and(|until| *until > now)
    }
}
