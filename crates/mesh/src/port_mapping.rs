//! A port that the router opens for us (PCP, NAT-PMP, UPnP): when to ask for it, what to believe of the answer, and when what
//! was given is over. How routers are spoken to is the caller's matter.
//!
//! Inputs: [`PortMapping::granted`], [`PortMapping::failed`], [`PortMapping::network_changed`]. Output:
//! [`PortMapping::due`], the next moment with its reason, and [`PortMapping::address`]. What the caller owes: at each
//! [`Timer::Ask`] or [`Timer::Renew`] one attempt, whose end it reports.

pub mod word;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use types::Monotonic;

/// For how long a port is asked for: what RFC 6886 section 3.3 recommends, so that a crash leaves it open no longer.
pub const LIFETIME: Duration = Duration::from_secs(7200);

/// The shortest lifetime that is taken: a router that gives less would be asked all the time.
pub const LIFETIME_MIN: Duration = Duration::from_secs(120);

/// The longest time until a port is asked for again: a router that has forgotten it may not say so, or not be heard.
pub const RENEW_MAX: Duration = Duration::from_secs(600);

/// The shortest time between two attempts because a router began anew: whoever shares its network can say so in its name.
pub const ANEW_MIN: Duration = Duration::from_secs(10);

/// How long to wait after a first attempt in vain; each one after it waits twice as long, up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_secs(30);

/// The longest wait between two attempts in vain: most routers open no ports, and are not bothered for it.
pub const RETRY_MAX: Duration = Duration::from_secs(3600);

/// How routers are asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// Port Control Protocol (RFC 6887).
    Pcp,
    /// NAT Port Mapping Protocol (RFC 6886).
    NatPmp,
    /// The Internet Gateway Device of UPnP.
    Upnp,
}

/// What a router says that it gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// By which protocol.
    pub protocol: Protocol,
    /// The outer address.
    pub address: SocketAddrV4,
    /// For how long.
    pub lifetime: Duration,
    /// For how many seconds the router has known what it knows, where the protocol says it.
    pub epoch: Option<u32>,
}

/// Why a grant is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Implausible {
    /// Nobody on the internet has this address: it is private, of a group, or of this device; behind a router with such an
    /// outer address stands another NAT.
    #[error("its outer address {0} is none of the internet")]
    NotPublic(Ipv4Addr),
    /// Port 0.
    #[error("its outer port is 0")]
    NoPort,
    /// Less than [`LIFETIME_MIN`].
    #[error("it ends after {} s", .0.as_secs())]
    TooShort(Duration),
}

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    /// Ask for a port.
    Ask,
    /// Ask for the same port again: at half its lifetime or after [`RENEW_MAX`], and after each attempt in vain at half of
    /// what is left.
    Renew,
    /// The port is closed: the caller withdraws it by [`PortMapping::expired`].
    Expire,
}

/// What we have from the router of the network that we are in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortMapping {
    held: Option<Held>,
    next: Monotonic,
    /// Attempts in vain since the last that was not.
    failures: u32,
    /// From when on a router that began anew is asked again.
    anew_from: Monotonic,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    grant: Grant,
    until: Monotonic,
    /// The router's epoch, and when it was told.
    epoch: Option<(u32, Monotonic)>,
}

impl PortMapping {
    /// Begins with an attempt at once.
    #[must_use]
    pub fn new(now: Monotonic) -> Self {
        Self {
            held: None,
            next: now,
            failures: 0,
            anew_from: now,
        }
    }

    /// Returns what is due next, and when.
    #[must_use]
    pub fn due(&self) -> (Monotonic, Timer) {
        match self.held {
            Some(held) if held.until <= self.next => (held.until, Timer::Expire),
            Some(_) => (self.next, Timer::Renew),
            None => (self.next, Timer::Ask),
        }
    }

    /// Returns what was given, while it lasts.
    #[must_use]
    pub fn grant(&self) -> Option<Grant> {
        self.held.map(|held| held.grant)
    }

    /// Tells whether the last attempt was in vain.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Returns where we are reached by it.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.held.map(|held| held.grant.address.into())
    }

    /// An attempt had this answer. One that is not believed counts as an attempt in vain.
    pub fn granted(&mut self, grant: Grant, now: Monotonic) -> Result<(), Implausible> {
        if let Err(reason) = check(&grant) {
            self.failed(now);
            return Err(reason);
        }
        let lifetime = grant.lifetime.min(LIFETIME);
        self.held = Some(Held {
            grant,
            until: now + lifetime,
            epoch: grant.epoch.map(|epoch| (epoch, now)),
        });
        self.next = now + (lifetime / 2).min(RENEW_MAX);
        self.failures = 0;
        Ok(())
    }

    /// An attempt was in vain.
    pub fn failed(&mut self, now: Monotonic) {
        let wait = RETRY_MIN
            .saturating_mul(1 << self.failures.min(10))
            .min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        let wait = match self.held {
            // At the end less than a moment is left, and then it is over.
            Some(held) => wait.min(held.until.since(now) / 2).max(RETRY_MIN),
            None => wait,
        };
        self.next = now + wait;
    }

    /// The router told everybody for how many seconds it has known what it knows. If it lost what it gave us, or has never
    /// given anything, it is asked after `wait`, but no sooner than [`ANEW_MIN`] after the last time; returns whether it is.
    pub fn announced(&mut self, protocol: Protocol, epoch: u32, wait: Duration, now: Monotonic) -> bool {
        if let Some(held) = &mut self.held {
            if held.grant.protocol != protocol {
                return false;
            }
            let before = held.epoch.replace((epoch, now));
            if before.is_none_or(|(before, at)| is_same_life(before, epoch, now.since(at))) {
                return false;
            }
        }
        self.next = self.next.min((now + wait).max(self.anew_from));
        self.anew_from = now + ANEW_MIN;
        true
    }

    /// What was given is over; the next attempt is due at once.
    pub fn expired(&mut self, now: Monotonic) {
        self.held = None;
        self.next = now;
    }

    /// We are in another network: what the router of the last one gave leads nowhere.
    pub fn network_changed(&mut self, now: Monotonic) {
        *self = Self::new(now);
    }
}

/// Tells whether a router that has counted from one epoch to another in a time still knows what it did (RFC 6887 section 8.5).
fn is_same_life(before: u32, epoch: u32, elapsed: Duration) -> bool {
    let (ours, theirs) = (elapsed.as_secs(), u64::from(epoch.saturating_sub(before)));
    let is_in_step = |one: u64, other: u64| one + 2 >= other - other / 16;
    epoch.saturating_add(1) >= before && is_in_step(ours, theirs) && is_in_step(theirs, ours)
}

fn check(grant: &Grant) -> Result<(), Implausible> {
    let address = *grant.address.ip();
    if !is_public(address) {
        return Err(Implausible::NotPublic(address));
    }
    if grant.address.port() == 0 {
        return Err(Implausible::NoPort);
    }
    if grant.lifetime < LIFETIME_MIN {
        return Err(Implausible::TooShort(grant.lifetime));
    }
    Ok(())
}

/// Tells whether somebody on the internet may have an address. Those for documentation count, so that a laboratory can use them.
fn is_public(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    let is_shared = first == 100 && second & 0xc0 == 64;
    !(ip.is_private() || is_shared || ip.is_loopback() || ip.is_link_local() || first == 0 || first >= 224)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(seconds))
    }

    fn grant(address: &str, seconds: u64) -> Grant {
        Grant {
            protocol: Protocol::Pcp,
            address: address.parse().expect("an address"),
            lifetime: Duration::from_secs(seconds),
            epoch: Some(100),
        }
    }

    const OUTER: &str = "203.0.113.7:4000";

    #[test]
    fn a_port_is_renewed_at_half_its_life_and_gone_at_its_end() {
        let mut mapping = PortMapping::new(at(10));
        assert_eq!(mapping.due(), (at(10), Timer::Ask));
        mapping.granted(grant(OUTER, 1000), at(11)).expect("plausible");
        assert_eq!(mapping.address(), Some(OUTER.parse().expect("an address")));
        assert_eq!(mapping.due(), (at(511), Timer::Renew));
        let mut attempts = 0;
        loop {
            let (now, timer) = mapping.due();
            assert!(now <= at(1011));
            if timer == Timer::Expire {
                break;
            }
            attempts += 1;
            mapping.failed(now);
        }
        assert!((3..20).contains(&attempts), "{attempts}");
        assert_eq!(mapping.due(), (at(1011), Timer::Expire));
        assert!(mapping.address().is_some(), "until then it is open");
        mapping.expired(at(1011));
        assert_eq!((mapping.address(), mapping.due()), (None, (at(1011), Timer::Ask)));
    }

    #[test]
    fn a_router_that_gives_nothing_is_asked_less_and_less_and_anew_in_another_network() {
        let mut mapping = PortMapping::new(at(0));
        let mut waits = Vec::new();
        for _ in 0..40 {
            let (now, timer) = mapping.due();
            assert_eq!(timer, Timer::Ask);
            mapping.failed(now);
            waits.push(mapping.due().0.since(now));
        }
        assert_eq!(waits[0], RETRY_MIN);
        assert!(waits.is_sorted());
        assert_eq!(waits[39], RETRY_MAX);
        mapping.network_changed(at(9_000_000));
        assert_eq!(mapping.due(), (at(9_000_000), Timer::Ask));
        mapping.failed(at(9_000_000));
        assert_eq!(mapping.due().0, at(9_000_000) + RETRY_MIN);
    }

    #[test]
    fn no_router_keeps_a_port_open_for_longer_than_was_asked_for() {
        let mut mapping = PortMapping::new(at(0));
        mapping
            .granted(grant(OUTER, u64::from(u32::MAX)), at(0))
            .expect("plausible");
        assert_eq!(mapping.due(), (at(600), Timer::Renew));
        while mapping.due().1 == Timer::Renew {
            mapping.failed(mapping.due().0);
        }
        assert_eq!(mapping.due(), (at(7200), Timer::Expire));
    }

    #[test]
    fn a_router_that_began_anew_is_asked_soon_and_one_that_only_says_so_often_is_not_asked_often() {
        let wait = Duration::from_secs(1);
        let mut mapping = PortMapping::new(at(0));
        mapping.granted(grant(OUTER, 7200), at(0)).expect("plausible");
        // As it counted on, with the drift that two clocks may have.
        for (epoch, now) in [(100, 0), (99, 0), (160, 60), (214, 118), (330, 240)] {
            let mut other = mapping.clone();
            assert!(!other.announced(Protocol::Pcp, epoch, wait, at(now)), "{epoch}");
            assert_eq!(other.due(), mapping.due());
        }
        for (epoch, now) in [(0, 0), (98, 0), (100, 60), (400, 60), (0, 400)] {
            let mut other = mapping.clone();
            assert!(other.announced(Protocol::Pcp, epoch, wait, at(now)), "{epoch}");
            assert_eq!(other.due(), (at(now + 1), Timer::Renew));
        }
        assert!(
            !mapping.announced(Protocol::NatPmp, 0, wait, at(1)),
            "another clock"
        );
        assert!(mapping.announced(Protocol::Pcp, 0, wait, at(1)));
        mapping.granted(grant(OUTER, 7200), at(2)).expect("plausible");
        assert!(mapping.announced(Protocol::Pcp, 0, wait, at(3)));
        assert_eq!(
            mapping.due(),
            (at(11), Timer::Renew),
            "ten seconds after the first"
        );
    }

    #[test]
    fn a_router_that_gave_nothing_is_asked_when_it_begins_anew() {
        let mut mapping = PortMapping::new(at(0));
        for _ in 0..9 {
            mapping.failed(mapping.due().0);
        }
        let (due, _) = mapping.due();
        let now = at(10_000);
        assert!(due > now);
        assert!(mapping.announced(Protocol::Pcp, 0, Duration::ZERO, now));
        assert_eq!(mapping.due(), (now, Timer::Ask));
    }

    #[test]
    fn what_cannot_be_is_not_believed_and_what_is_held_stays() {
        let mut mapping = PortMapping::new(at(0));
        mapping.granted(grant(OUTER, 7200), at(0)).expect("plausible");
        for bad in [
            "0.0.0.0:1",
            "0.1.2.3:1",
            "10.0.0.1:1",
            "100.64.0.1:1",
            "100.127.255.255:1",
            "127.0.0.1:1",
            "169.254.1.1:1",
            "172.16.0.1:1",
            "192.168.1.1:1",
            "224.0.0.1:1",
            "240.0.0.1:1",
            "255.255.255.255:1",
        ] {
            let said = mapping.granted(grant(bad, 7200), at(3600));
            assert!(matches!(said, Err(Implausible::NotPublic(_))), "{bad}");
        }
        let said = mapping.granted(grant("203.0.113.7:0", 7200), at(3600));
        assert_eq!(said, Err(Implausible::NoPort));
        let said = mapping.granted(grant(OUTER, 119), at(3600));
        assert!(matches!(said, Err(Implausible::TooShort(_))));
        assert!(mapping.address().is_some());
        mapping
            .granted(grant(OUTER, 120), at(3600))
            .expect("just long enough");
        for good in [
            "100.63.0.1:1",
            "100.128.0.1:1",
            "172.32.0.1:1",
            "223.255.255.255:65535",
        ] {
            mapping.granted(grant(good, 7200), at(3600)).expect(good);
        }
    }
}
