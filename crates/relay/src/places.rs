//! How many connections are held, in all and from each address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// A number of places, of which one address may have some.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    taken: Arc<Mutex<Taken>>,
    in_all_max: usize,
    per_address_max: usize,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_origin: BTreeMap<IpAddr, usize>,
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    origin: IpAddr,
}

impl Places {
    pub(crate) fn new(in_all_max: usize, per_address_max: usize) -> Self {
        Self {
            taken: Arc::default(),
            in_all_max,
            per_address_max,
        }
    }

    /// Takes a place for a connection from `ip`; `None` when it, or everybody together, has as many as may be.
    pub(crate) fn take(&self, ip: IpAddr) -> Option<Place> {
        let origin = origin(ip);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let held = taken.by_origin.get(&origin).copied().unwrap_or_default();
        if taken.in_all >= self.in_all_max || held >= self.per_address_max {
            return None;
        }
        taken.in_all += 1;
        taken.by_origin.insert(origin, held + 1);
        Some(Place {
            places: self.clone(),
            origin,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.in_all -= 1;
        if let Some(held) = taken.by_origin.get_mut(&self.origin) {
            *held -= 1;
            if *held == 0 {
                taken.by_origin.remove(&self.origin);
            }
        }
    }
}

/// Returns what counts as one address: an IPv4 address, or the first of the /64 that an IPv6 host is given whole.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_per_address_and_given_back() {
        let places = Places::new(3, 2);
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let first = places.take(ip("192.0.2.1")).expect("free");
        let _second = places.take(ip("::ffff:192.0.2.1")).expect("free");
        assert!(places.take(ip("192.0.2.1")).is_none());
        let third = places.take(ip("2001:db8::1")).expect("free");
        assert!(places.take(ip("192.0.2.2")).is_none());
        drop(third);
        drop(first);
        let _fourth = places.take(ip("192.0.2.1")).expect("free again");
        assert_eq!(places.taken.lock().expect("nobody panicked").by_origin.len(), 1);
    }

    #[test]
    fn an_ipv6_host_is_its_whole_network() {
        let places = Places::new(10, 1);
        let _place = places.take("2001:db8::1".parse().expect("an address"));
        assert!(
            places
                .take("2001:db8::2:1".parse().expect("an address"))
                .is_none()
        );
        assert!(
            places
                .take("2001:db8:0:1::1".parse().expect("an address"))
                .is_some()
        );
    }
}
