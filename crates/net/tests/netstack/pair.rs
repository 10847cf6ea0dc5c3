//! Two stacks, the line between them, and its faults.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use net::netstack::{
    Admission, ConnId, ConnStatus, Header, NetStack, Packets, ReadOutcome, SmolStack, StackConfig,
};
use types::Monotonic;

pub(crate) const PORT: u16 = 7420;

pub(crate) fn admits(port: u16) -> Admission {
    if port == PORT {
        Admission::Accept
    } else {
        Admission::Closed
    }
}

pub(crate) fn ip(side: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, u16::from(side)).into()
    } else {
        Ipv4Addr::new(100, 64, 0, side).into()
    }
}

pub(crate) struct Pair {
    pub(crate) stacks: [SmolStack; 2],
    pub(crate) now: Monotonic,
    /// Packets for each side.
    pub(crate) wire: [Vec<Vec<u8>>; 2],
    pub(crate) is_cut: bool,
    /// One packet of so many is lost, another one doubled, another one late; zero for none.
    pub(crate) one_of: u64,
    pub(crate) random: u64,
    /// Packets that arrived.
    pub(crate) carried: u64,
    /// Deadlines in a row that were not in the future.
    pub(crate) spins: u32,
}

impl Pair {
    pub(crate) fn new(config: StackConfig) -> Self {
        Self::of(config, config)
    }

    pub(crate) fn of(near: StackConfig, far: StackConfig) -> Self {
        let now = Monotonic::from_start(Duration::from_secs(1000));
        let stack = |side, config| {
            SmolStack::new(
                config,
                &[ip(side, false), ip(side, true)],
                u64::from(side) << 33,
                now,
            )
        };
        Self {
            stacks: [stack(1, near), stack(2, far)],
            now,
            wire: [Vec::new(), Vec::new()],
            is_cut: false,
            one_of: 0,
            random: 1,
            carried: 0,
            spins: 0,
        }
    }

    /// Lets packets flow until none do; returns how many did.
    pub(crate) fn settle(&mut self) -> usize {
        let mut count = 0;
        loop {
            let before = count;
            for side in 0..2 {
                let mut out = Packets::default();
                for packet in std::mem::take(&mut self.wire[side]) {
                    let header = Header::parse(&packet).expect("a stack writes whole packets");
                    self.stacks[side].ingress((&header, &packet), &mut admits, self.now, &mut out);
                }
                while self.stacks[side].egress(self.now, &mut out) {}
                count += out.len();
                for index in 0..out.len() {
                    self.carry(1 - side, out.packet(index));
                }
            }
            if count == before {
                return count;
            }
        }
    }

    pub(crate) fn chance(&mut self) -> bool {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.one_of > 0 && (self.random >> 33).is_multiple_of(self.one_of)
    }

    pub(crate) fn carry(&mut self, to: usize, packet: &[u8]) {
        if self.is_cut || self.chance() {
            return;
        }
        self.carried += 1;
        if self.chance() {
            self.wire[to].push(packet.to_vec());
        }
        let at = if self.chance() {
            self.wire[to].len().saturating_sub(3)
        } else {
            self.wire[to].len()
        };
        self.wire[to].insert(at, packet.to_vec());
    }

    /// Moves the clock to the next deadline of either side, again and again, for `span` in all.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.settle();
            let next = (0..2)
                .filter_map(|side| self.stacks[side].next_deadline(self.now))
                .min();
            match next {
                Some(at) if at <= end => {
                    // A stack that is due again at once with nothing to send would keep its thread busy for ever.
                    self.spins = if at > self.now { 0 } else { self.spins + 1 };
                    assert!(self.spins < 3, "due again and again");
                    self.now = at.max(self.now + Duration::from_micros(1));
                }
                _ => break,
            }
        }
        self.now = end;
        self.settle();
    }

    pub(crate) fn dial(&mut self, port: u16, v6: bool) -> ConnId {
        let remote = SocketAddr::new(ip(2, v6), port);
        let deadline = self.now + Duration::from_secs(10);
        self.stacks[0]
            .connect(ip(1, v6), remote, deadline)
            .expect("begins")
    }

    /// Opens a connection and returns both ends of it.
    pub(crate) fn open(&mut self, v6: bool) -> (ConnId, ConnId) {
        let near = self.dial(PORT, v6);
        self.settle();
        assert_eq!(self.stacks[0].status(near), ConnStatus::Open);
        let far = std::iter::from_fn(|| self.stacks[1].next_touched())
            .last()
            .expect("accepted");
        assert_eq!(self.stacks[1].status(far), ConnStatus::Open);
        (near, far)
    }

    pub(crate) fn read(&mut self, side: usize, conn: ConnId) -> (Vec<u8>, ReadOutcome) {
        let mut bytes = Vec::new();
        let outcome = self.stacks[side].read(conn, &mut |chunk| {
            bytes.extend_from_slice(chunk);
            chunk.len()
        });
        (bytes, outcome)
    }
}
