//! Guessing a port: what the two ends of an attempt have still to do, and what became of the attempts before.
//!
//! When the NAT of one end gives every destination another port, and that of the other lets in only the very port that was
//! sent to, neither can be told where to send. Then the first end opens many sockets towards the other and the other tries
//! many ports: by the birthday paradox one is soon met. What is sent here proves nothing and is not waited for: whoever
//! receives such a Ping answers it and asks back, as always, and only that makes a path.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use types::Monotonic;

use super::{
    GUESS_AHEAD, GUESS_BEHIND, GUESS_BURST, GUESS_GAP, GUESS_OFFER_EVERY, GUESS_PASS, GUESS_PATIENCE,
    GUESS_PROBES, GUESS_RESTS, GUESS_STRIDE_MAX, GUESS_TICK, GUESS_TIME,
};
use crate::endpoint::{Endpoint, SocketNumber};

/// The first port that is guessed: no NAT gives out those below.
const PORT_MIN: u16 = 1024;

/// How many there are.
const PORTS: u32 = 65_536 - PORT_MIN as u32;

/// From one guess to the next: without a divisor in common with [`PORTS`], so that none comes twice.
const PORT_STEP: u32 = 39_871;

/// Which part of an attempt is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// Our NAT maps by destination: we open sockets.
    Opens,
    /// The peer's does: we try ports.
    Tries,
}

/// Where an attempt stands.
#[derive(Debug, Default)]
pub(super) enum Guess {
    #[default]
    Idle,
    /// The node is asked whether it has sockets and time for it.
    Asking(Side),
    Opening(Opening),
    Trying(Trying),
    /// A path was met. These sockets stay open: until the time, all on which something was heard; after it, what is in use.
    Kept(Vec<SocketNumber>, Option<Monotonic>),
}

impl Guess {
    pub(super) fn due(&self) -> Option<Monotonic> {
        match self {
            Self::Idle | Self::Asking(_) => None,
            Self::Opening(opening) => Some(opening.due),
            Self::Trying(trying) => Some(trying.due),
            Self::Kept(_, until) => *until,
        }
    }

    /// Tells whether the node counts this attempt among those under way.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self, Self::Opening(_) | Self::Trying(_))
    }

    /// Returns the extra sockets that are open.
    pub(super) fn sockets(&self) -> &[SocketNumber] {
        match self {
            Self::Opening(opening) => &opening.sockets,
            Self::Kept(sockets, _) => sockets,
            Self::Idle | Self::Asking(_) | Self::Trying(_) => &[],
        }
    }

    pub(super) fn into_sockets(self) -> Vec<SocketNumber> {
        match self {
            Self::Opening(opening) => opening.sockets,
            Self::Kept(sockets, _) => sockets,
            Self::Idle | Self::Asking(_) | Self::Trying(_) => Vec::new(),
        }
    }
}

/// What an end does when it is woken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// Pings go there.
    pub(super) pings: Vec<Endpoint>,
    /// The peer is asked to guess.
    pub(super) is_offer: bool,
    /// The attempt has failed.
    pub(super) is_over: bool,
}

/// The end that opens sockets.
#[derive(Debug)]
pub(super) struct Opening {
    remote: SocketAddr,
    pub(super) sockets: Vec<SocketNumber>,
    /// Which socket of this pass is next, and when the pass began.
    next: usize,
    pass: Monotonic,
    offer: Option<Monotonic>,
    due: Monotonic,
    end: Monotonic,
}

impl Opening {
    pub(super) fn new(remote: SocketAddr, sockets: Vec<SocketNumber>, now: Monotonic) -> Self {
        Self {
            remote,
            sockets,
            next: 0,
            pass: now,
            offer: None,
            due: now,
            end: now + GUESS_TIME,
        }
    }

    pub(super) fn turn(&mut self, now: Monotonic) -> Turn {
        let mut turn = Turn {
            is_over: now >= self.end,
            ..Turn::default()
        };
        if turn.is_over || now < self.due {
            return turn;
        }
        if self.next >= self.sockets.len() && now.since(self.pass) >= GUESS_PASS {
            self.next = 0;
            self.pass = now;
        }
        let batch = self.sockets.iter().skip(self.next).take(GUESS_BURST);
        turn.pings = batch.map(|socket| direct(*socket, self.remote)).collect();
        self.next += turn.pings.len();
        // Before all have sent the peer would guess ports that are not there yet.
        let is_open = self.next >= self.sockets.len();
        if self.offer.is_none() && is_open || self.offer.is_some_and(|offer| offer <= now) {
            turn.is_offer = true;
            self.offer = Some(now + GUESS_OFFER_EVERY);
        }
        self.due = (now + GUESS_TICK).min(self.end);
        turn
    }
}

/// The end that tries ports.
#[derive(Debug)]
pub(super) struct Trying {
    ip: IpAddr,
    ports: Vec<u16>,
    next: usize,
    due: Monotonic,
}

impl Trying {
    /// `seen` is where relays see the peer; the first says at which address.
    pub(super) fn new(ip: IpAddr, seen: &[SocketAddr], start: u32, now: Monotonic) -> Self {
        Self {
            ip,
            ports: ports(ip, seen, start),
            next: 0,
            due: now,
        }
    }

    pub(super) fn turn(&mut self, now: Monotonic) -> Turn {
        let mut turn = Turn::default();
        if now < self.due {
            return turn;
        }
        turn.is_over = self.next >= self.ports.len();
        let batch = self.ports.iter().skip(self.next).take(GUESS_BURST);
        turn.pings = batch
            .map(|port| direct(SocketNumber::MAIN, (self.ip, *port).into()))
            .collect();
        self.next += turn.pings.len();
        let is_last = self.next >= self.ports.len();
        self.due = now + if is_last { GUESS_PATIENCE } else { GUESS_TICK };
        turn
    }
}

fn direct(socket: SocketNumber, remote: SocketAddr) -> Endpoint {
    Endpoint::Direct { socket, remote }
}

/// Chooses the ports to try: those next to where relays see the peer when its NAT seems to count, then any.
fn ports(ip: IpAddr, seen: &[SocketAddr], start: u32) -> Vec<u16> {
    let mut taken = BTreeSet::new();
    let mut ports = Vec::with_capacity(GUESS_PROBES);
    let start = start % PORTS;
    let any = (0..PORTS).map(|step| PORT_MIN + ((start + step * PORT_STEP) % PORTS) as u16);
    for port in likely(ip, seen).into_iter().chain(any) {
        if ports.len() < GUESS_PROBES && taken.insert(port) {
            ports.push(port);
        }
        if ports.len() == GUESS_PROBES {
            break;
        }
    }
    ports
}

/// Returns the ports that a NAT which counts gives out next; none when it does not seem to.
fn likely(ip: IpAddr, seen: &[SocketAddr]) -> Vec<u16> {
    let here = seen.iter().filter(|seen| seen.ip() == ip);
    let seen: BTreeSet<u16> = here.map(SocketAddr::port).collect();
    let is_close = |pair: (&u16, &u16)| pair.1 - pair.0 <= GUESS_STRIDE_MAX;
    let (Some(first), Some(last)) = (seen.first(), seen.last()) else {
        return Vec::new();
    };
    if seen.len() < 2 || !seen.iter().zip(seen.iter().skip(1)).all(is_close) {
        return Vec::new();
    }
    let ahead = last.saturating_add(1)..=last.saturating_add(GUESS_AHEAD);
    let behind = first.saturating_sub(GUESS_BEHIND)..*first;
    ahead.chain(behind).filter(|port| *port >= PORT_MIN).collect()
}

/// What became of the attempts with one peer.
#[derive(Debug, Default)]
pub(super) struct Memory {
    failures: usize,
    rest_until: Option<Monotonic>,
    last_start: Option<Monotonic>,
}

impl Memory {
    /// Returns for how long nothing may be guessed yet; zero when it may.
    pub(super) fn wait(&self, now: Monotonic) -> Duration {
        let gap = self.last_start.map(|start| start + GUESS_GAP);
        let until = self.rest_until.max(gap);
        until.map_or(Duration::ZERO, |until| until.since(now))
    }

    pub(super) fn start(&mut self, now: Monotonic) {
        self.last_start = Some(now);
    }

    pub(super) fn failed(&mut self, now: Monotonic) {
        let rest = GUESS_RESTS[self.failures.min(GUESS_RESTS.len() - 1)];
        self.failures += 1;
        self.rest_until = Some(now + rest);
    }

    /// The peer, or this node, has no room for an attempt now.
    pub(super) fn put_off(&mut self, wait: Duration, now: Monotonic) {
        let wait = wait.min(GUESS_RESTS[GUESS_RESTS.len() - 1]);
        self.rest_until = self.rest_until.max(Some(now + wait));
    }

    /// Either end is in another network, or a guess succeeded.
    pub(super) fn forget(&mut self) {
        self.failures = 0;
        self.rest_until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::GUESS_SOCKETS;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    fn start() -> Monotonic {
        Monotonic::from_start(Duration::from_secs(100))
    }

    #[test]
    fn ports_are_tried_once_each_at_a_bounded_rate_and_no_more_than_allowed() {
        let mut trying = Trying::new(at("203.0.113.1:1").ip(), &[], 64_000, start());
        let (mut now, mut tried) = (start(), BTreeSet::new());
        loop {
            let turn = trying.turn(now);
            assert!(turn.pings.len() <= GUESS_BURST);
            assert!(turn.pings.iter().all(|ping| tried.insert(*ping)));
            assert_eq!(trying.turn(now), Turn::default(), "not before it is due");
            if turn.is_over {
                break;
            }
            now = trying.due;
        }
        assert_eq!(tried.len(), GUESS_PROBES);
        let rounds = (GUESS_PROBES / GUESS_BURST) as u32;
        assert_eq!(now.since(start()), (rounds - 1) * GUESS_TICK + GUESS_PATIENCE);
        let low = tried
            .iter()
            .filter_map(Endpoint::remote)
            .map(|remote| remote.port())
            .min();
        assert!(low >= Some(PORT_MIN));
    }

    #[test]
    fn sockets_open_the_nat_first_then_the_peer_is_asked_and_after_its_time_it_is_over() {
        let sockets: Vec<_> = (1..=GUESS_SOCKETS as u16).map(SocketNumber).collect();
        let mut opening = Opening::new(at("203.0.113.1:5000"), sockets, start());
        let (mut now, mut sent, mut offers) = (start(), 0, 0);
        loop {
            let turn = opening.turn(now);
            assert!(turn.pings.len() <= GUESS_BURST);
            sent += turn.pings.len();
            assert!(!turn.is_offer || sent >= GUESS_SOCKETS);
            offers += usize::from(turn.is_offer);
            if turn.is_over {
                break;
            }
            now = opening.due;
        }
        assert_eq!(now.since(start()), GUESS_TIME);
        assert_eq!(sent, 3 * GUESS_SOCKETS);
        assert!((8..=10).contains(&offers), "{offers}");
    }

    #[test]
    fn a_nat_that_counts_has_its_next_ports_tried_first() {
        let ip = at("203.0.113.1:1").ip();
        let tried = ports(ip, &[at("203.0.113.1:40000"), at("203.0.113.1:40016")], 7);
        assert_eq!(tried[..3], [40_017, 40_018, 40_019]);
        assert_eq!(tried[usize::from(GUESS_AHEAD)], 40_000 - GUESS_BEHIND);
        assert_eq!(tried.len(), GUESS_PROBES);
        let distinct: BTreeSet<_> = tried.iter().collect();
        assert_eq!(distinct.len(), GUESS_PROBES);
        for seen in [
            vec![at("203.0.113.1:40000"), at("203.0.113.1:40017")],
            vec![at("203.0.113.1:40000"), at("203.0.113.2:40001")],
            vec![at("203.0.113.1:40000")],
        ] {
            assert!(likely(ip, &seen).is_empty(), "{seen:?}");
        }
        let edge = likely(ip, &[at("203.0.113.1:65535"), at("203.0.113.1:65534")]);
        assert!(edge.iter().all(|port| *port >= PORT_MIN));
        let low = likely(ip, &[at("203.0.113.1:1025"), at("203.0.113.1:1026")]);
        assert!(low.iter().all(|port| *port >= PORT_MIN));
    }

    #[test]
    fn failures_are_remembered_ever_longer_and_another_network_forgets_them_but_not_the_gap() {
        let mut memory = Memory::default();
        let mut now = start();
        for rest in GUESS_RESTS.into_iter().chain([GUESS_RESTS[2]]) {
            assert_eq!(memory.wait(now), Duration::ZERO);
            memory.start(now);
            memory.failed(now);
            assert_eq!(memory.wait(now + (rest - MS)), MS);
            now = now + rest;
        }
        memory.start(now);
        memory.failed(now);
        memory.forget();
        assert_eq!(memory.wait(now), GUESS_GAP);
        assert_eq!(memory.wait(now + GUESS_GAP), Duration::ZERO);
        memory.put_off(Duration::from_secs(u64::from(u16::MAX)), now);
        assert_eq!(memory.wait(now), GUESS_RESTS[2], "nobody puts us off for longer");
    }
}
