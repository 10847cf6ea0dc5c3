//! A network that delays, loses, reorders and doubles datagrams by a seed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use types::Monotonic;

use crate::dice::Dice;

/// A datagram on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Where it says it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// What it carries.
    pub bytes: Vec<u8>,
}

/// How badly a network behaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Faults {
    /// How long a datagram takes; drawn for each, so that a wide range reorders.
    pub delay: Range<Duration>,
    /// Datagrams lost, of a thousand.
    pub loss: u64,
    /// Datagrams that arrive twice, of a thousand.
    pub doubling: u64,
}

impl Faults {
    /// A network without faults: one millisecond, in order.
    #[must_use]
    pub fn none() -> Self {
        let delay = Duration::from_millis(1);
        Self {
            delay: delay..delay,
            loss: 0,
            doubling: 0,
        }
    }

    /// Draws faults: up to 60 % of loss, 30 % of doubling and two seconds of delay.
    #[must_use]
    pub fn drawn(dice: &mut Dice) -> Self {
        let shortest = dice.span(Duration::ZERO..Duration::from_millis(200));
        let longest = shortest + dice.span(Duration::ZERO..Duration::from_millis(1800));
        Self {
            delay: shortest..longest,
            loss: dice.number(0..600),
            doubling: dice.number(0..300),
        }
    }
}

/// The network between all nodes.
pub struct Link {
    dice: Dice,
    /// How it behaves from now on; what is on its way already is not changed.
    pub faults: Faults,
    /// By arrival, and for equal arrivals by departure.
    in_flight: BTreeMap<(Monotonic, u64), Datagram>,
    departed: u64,
    lost: Vec<Datagram>,
}

impl Link {
    /// Makes a network without faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed, 1),
            faults: Faults::none(),
            in_flight: BTreeMap::new(),
            departed: 0,
            lost: Vec::new(),
        }
    }

    /// Sends a datagram on its way, or loses it.
    pub fn send(&mut self, datagram: Datagram, now: Monotonic) {
        if self.dice.chance(self.faults.loss) {
            self.lost.push(datagram);
            return;
        }
        if self.dice.chance(self.faults.doubling) {
            self.depart(datagram.clone(), now);
        }
        self.depart(datagram, now);
    }

    /// Returns when the next datagram arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Monotonic> {
        self.in_flight.first_key_value().map(|((arrival, _), _)| *arrival)
    }

    /// Takes a datagram that has arrived at `now`.
    pub fn take_arrived(&mut self, now: Monotonic) -> Option<Datagram> {
        let first = self.in_flight.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Returns every datagram that was lost so far.
    #[must_use]
    pub fn lost(&self) -> &[Datagram] {
        &self.lost
    }

    fn depart(&mut self, datagram: Datagram, now: Monotonic) {
        let delay = self.dice.span(self.faults.delay.clone());
        self.departed += 1;
        self.in_flight.insert((now + delay, self.departed), datagram);
    }
}
