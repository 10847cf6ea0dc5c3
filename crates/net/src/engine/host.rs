//! TUN mode: which packets of peers are for the host's own TCP/IP, and where those that it sends go.
//!
//! The host and the stacks of the peers have the same addresses. A packet of a peer is for a stack when that holds the
//! connection, or when a program of the node listens at its port; all else is for the host. So the node's own services work
//! as they do without a device, whatever the host does, and the host is given every port that the node does not use.

#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::os::fd::{AsFd, BorrowedFd};

use mesh::Mesh;
use types::{NodePublicKey, Now};

use super::peers::Peers;
use super::{Engine, contained};
use crate::netstack::{Header, Packets};
use crate::tun::{Held, ReadBatch};

/// How many batches of the host go out in one turn before the socket is asked again.
const READS_PER_TURN: usize = 4;

/// The host, as the engine has to do with it.
pub(super) struct HostSide {
    held: Held,
    /// What peers sent to the host, from the batch that is being taken in.
    pub(super) inbound: Packets,
    /// To whom each run of packets in a batch of the host goes, and where it ends; nobody gets what is dropped.
    runs: Vec<(Option<NodePublicKey>, usize)>,
}

impl AsFd for HostSide {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.held.device.as_fd()
    }
}

impl HostSide {
    pub(super) fn new(held: Held) -> Self {
        Self {
            held,
            inbound: Packets::default(),
            runs: Vec::new(),
        }
    }

    /// Hands over what came for the host; returns how many packets the system refused.
    fn deliver(&mut self) -> u64 {
        self.held.device.write(&self.inbound)
    }

    /// Finds out to whom each packet of a batch goes.
    fn sort(&mut self, batch: &Packets, mesh: &Mesh, peers: &mut Peers) {
        self.runs.clear();
        for number in 0..batch.len() {
            let to = recipient(batch.packet(number), mesh, peers);
            match self.runs.last_mut() {
                Some((last, end)) if *last == to => *end = number + 1,
                _ => self.runs.push((to, number + 1)),
            }
        }
    }
}

/// Returns the peer for whom a packet of the host is; `None`, counted, when it must not go out.
fn recipient(packet: &[u8], mesh: &Mesh, peers: &mut Peers) -> Option<NodePublicKey> {
    let Ok(header) = Header::parse(packet) else {
        peers.counters.host_malformed += 1;
        return None;
    };
    let key = mesh.route(header.destination);
    let Some((key, peer)) = key.and_then(|key| Some((key, peers.map.get_mut(&key)?))) else {
        peers.counters.host_unrouted += 1;
        return None;
    };
    if !peer.locals.contains(&header.source) {
        peers.counters.host_spoofed += 1;
        return None;
    }
    if header
        .segment
        .is_some_and(|segment| peer.has(segment.source, segment.destination))
    {
        peers.counters.host_port_taken += 1;
        return None;
    }
    peers.counters.packets_from_host += 1;
    Some(key)
}

impl Engine {
    /// Seals and sends what the host has sent.
    pub(super) fn take_from_host(&mut self, now: Now) {
        for _ in 0..READS_PER_TURN {
            // While the socket is full, the host's packets wait in the device, where its TCP sees them wait.
            if self.blocked.is_some() {
                return;
            }
            let Some(read) = self.read_host() else {
                return;
            };
            self.peers.counters.host_malformed += read.too_long;
            self.seal_for_host(now);
            self.transmit();
            if !read.may_have_more {
                return;
            }
        }
        self.has_more = true;
    }

    /// Reads a batch; `None` when there is no device, or no longer.
    fn read_host(&mut self) -> Option<ReadBatch> {
        let host = self.host.as_mut()?;
        match host.held.device.read(&mut self.out) {
            Ok(read) => Some(read),
            Err(error) => {
                tracing::error!(%error, "the host's network device is lost");
                self.out.clear();
                self.host = None;
                None
            }
        }
    }

    fn seal_for_host(&mut self, now: Now) {
        let Some(host) = &mut self.host else {
            return;
        };
        let (batch, mesh, peers) = (&self.out, &self.mesh, &mut self.peers);
        let broken = contained(|| host.sort(batch, mesh, peers));
        let runs = std::mem::take(&mut host.runs);
        let mut first = 0;
        for (to, end) in &runs {
            if let Some(key) = to {
                self.seal(key, first..*end, now);
            }
            first = *end;
        }
        self.peers.counters.batches_broken += broken;
        self.out.clear();
        if let Some(host) = &mut self.host {
            host.runs = runs;
        }
    }

    /// Hands the host what the last batch brought for it.
    pub(super) fn hand_to_host(&mut self) {
        if let Some(host) = self.host.as_mut().filter(|host| !host.inbound.is_empty()) {
            let counters = &mut self.peers.counters;
            counters.batches_broken += contained(|| counters.host_refused += host.deliver());
            host.inbound.clear();
        }
    }
}
