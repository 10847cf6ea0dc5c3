//! A stream of bytes inside the mesh, as a program has one: whatever the network does it must come out whole and in order.
//!
//! It is a sliding window with cumulative acknowledgements, and gives up never: how long a loss lasts is for others to judge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use types::Monotonic;

use crate::mesh_world::{MeshWorld, NodeNumber};

/// How many pieces are under way at most.
const WINDOW: u32 = 8;

/// How long after it was sent a piece is sent again.
const RESEND: Duration = Duration::from_millis(800);

enum Meaning {
    Piece(u32),
    /// Everything below this number is there.
    Acknowledgement(u32),
}

/// One stream from one node to another.
pub struct Transfer {
    from: NodeNumber,
    to: NodeNumber,
    len: u32,
    /// The first piece of which the sender does not know that it is there.
    unacknowledged: u32,
    sent: BTreeMap<u32, Monotonic>,
    received: BTreeSet<u32>,
    /// The first piece that is not there.
    wanted: u32,
    /// Packets on their way.
    flying: BTreeMap<u64, Meaning>,
}

impl Transfer {
    /// Makes a stream of so many pieces.
    #[must_use]
    pub fn new(from: NodeNumber, to: NodeNumber, len: u32) -> Self {
        Self {
            from,
            to,
            len,
            unacknowledged: 0,
            sent: BTreeMap::new(),
            received: BTreeSet::new(),
            wanted: 0,
            flying: BTreeMap::new(),
        }
    }

    /// Tells whether all of it is there, and the sender knows.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.unacknowledged == self.len
    }

    /// Takes what arrived and sends what is due; to be called every now and then.
    pub fn turn(&mut self, world: &mut MeshWorld) {
        let arrived = self
            .flying
            .extract_if(.., |packet, _| world.arrived(*packet).is_some());
        let arrived: Vec<_> = arrived.map(|(_, meaning)| meaning).collect();
        let mut is_heard = false;
        for meaning in arrived {
            match meaning {
                Meaning::Piece(piece) => {
                    is_heard = true;
                    self.take(piece);
                }
                Meaning::Acknowledgement(below) => self.unacknowledged = self.unacknowledged.max(below),
            }
        }
        if is_heard {
            let packet = world.send(self.to, self.from);
            self.flying.insert(packet, Meaning::Acknowledgement(self.wanted));
        }
        self.send_due(world);
    }

    fn take(&mut self, piece: u32) {
        self.received.insert(piece);
        while self.received.remove(&self.wanted) {
            self.wanted += 1;
        }
        self.received.retain(|piece| *piece > self.wanted);
        assert!(self.wanted <= self.len, "no more comes out than went in");
    }

    fn send_due(&mut self, world: &mut MeshWorld) {
        let now = world.now();
        let end = self.len.min(self.unacknowledged + WINDOW);
        for piece in self.unacknowledged..end {
            let sent = self.sent.get(&piece);
            if sent.is_none_or(|sent| now.since(*sent) >= RESEND) {
                self.sent.insert(piece, now);
                let packet = world.send(self.from, self.to);
                self.flying.insert(packet, Meaning::Piece(piece));
            }
        }
        assert!(
            self.unacknowledged <= self.wanted,
            "nothing is acknowledged that is not there"
        );
    }
}
