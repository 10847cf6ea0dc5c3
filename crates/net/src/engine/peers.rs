//! All peers of an engine: who wants attention, who is due when, and the way in for decrypted packets.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use mesh::tunnel::PacketSink;
use tokio::sync::{mpsc, oneshot};
use types::{AllowedIp, Monotonic, NodePublicKey, Now};

use super::host::HostSide;
use super::peer::{Flow, Peer};
use crate::mesh_net::{ConnectError, NetCounters, Responder};
use crate::netstack::{Admission, ConnId, ConnStatus, Datagram, Header, OpenError, Packets, StackConfig};
use crate::stream::{Doorbell, MeshStream, PeerNumber, StreamCore, StreamId};

/// Where streams to a port go.
type Listeners = BTreeMap<u16, mpsc::Sender<MeshStream>>;

type ConnectReply = oneshot::Sender<Result<MeshStream, ConnectError>>;

pub(crate) struct Peers {
    pub(super) map: HashMap<NodePublicKey, Peer>,
    pub(super) listeners: Listeners,
    /// By UDP port: what is answered at once.
    pub(super) responders: BTreeMap<u16, Responder>,
    pub(super) counters: NetCounters,
    /// Under which key each peer is in `map`.
    keys: HashMap<PeerNumber, NodePublicKey>,
    last_number: u64,
    /// Each once; whoever waits longest is served first.
    dirty: VecDeque<NodePublicKey>,
    deadlines: BTreeSet<(Monotonic, NodePublicKey)>,
    config: StackConfig,
    doorbell: Arc<Doorbell>,
}

impl Peers {
    pub(crate) fn new(config: StackConfig, doorbell: Arc<Doorbell>) -> Self {
        Self {
            map: HashMap::new(),
            listeners: BTreeMap::new(),
            responders: BTreeMap::new(),
            counters: NetCounters::default(),
            keys: HashMap::new(),
            last_number: 0,
            dirty: VecDeque::new(),
            deadlines: BTreeSet::new(),
            config,
            doorbell,
        }
    }

    pub(super) fn upsert(&mut self, key: NodePublicKey, locals: Vec<IpAddr>, allowed: &[AllowedIp]) {
        let (keys, last_number) = (&mut self.keys, &mut self.last_number);
        let peer = self.map.entry(key).or_insert_with(|| {
            *last_number += 1;
            let number = PeerNumber(*last_number);
            keys.insert(number, key);
            Peer::new(key, number)
        });
        peer.restrict(locals, allowed);
        self.mark_dirty(&key);
    }

    /// Takes a peer out for good.
    pub(super) fn remove(&mut self, key: &NodePublicKey) -> Option<Peer> {
        let peer = self.take_out(key)?;
        self.keys.remove(&peer.number);
        Some(peer)
    }

    /// A peer goes by another key from now on, which must be nobody's; its streams stay.
    pub(super) fn rename(&mut self, old: &NodePublicKey, new: NodePublicKey, now: Monotonic) {
        let Some(mut peer) = self.take_out(old) else {
            return;
        };
        peer.key = new;
        // Its place in the queue stands under the old key.
        peer.is_dirty = false;
        self.keys.insert(peer.number, new);
        self.put_back(peer, now);
        self.mark_dirty(&new);
    }

    /// Takes a peer out to work on it; [`Peers::put_back`] is the way back.
    pub(super) fn take_out(&mut self, key: &NodePublicKey) -> Option<Peer> {
        let mut peer = self.map.remove(key)?;
        if let Some(listed) = peer.listed.take() {
            self.deadlines.remove(&(listed, *key));
        }
        Some(peer)
    }

    pub(super) fn put_back(&mut self, mut peer: Peer, now: Monotonic) {
        peer.tidy();
        peer.listed = peer.next_deadline(now);
        if let Some(deadline) = peer.listed {
            self.deadlines.insert((deadline, peer.key));
        }
        self.map.insert(peer.key, peer);
    }

    pub(super) fn keys(&self) -> Vec<NodePublicKey> {
        self.map.keys().copied().collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(super) fn mark_due(&mut self, now: Monotonic) {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        for key in due.map(|(_, key)| *key).collect::<Vec<_>>() {
            self.mark_dirty(&key);
        }
    }

    pub(super) fn mark_dirty(&mut self, key: &NodePublicKey) {
        if let Some(peer) = self.map.get_mut(key)
            && !std::mem::replace(&mut peer.is_dirty, true)
        {
            self.dirty.push_back(*key);
        }
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn mark_all_dirty(&mut self) {
        for key in self.keys() {
            self.mark_dirty(&key);
        }
    }

    pub(super) fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    pub(super) fn pop_dirty(&mut self) -> Option<NodePublicKey> {
        let key = self.dirty.pop_front()?;
        if let Some(peer) = self.map.get_mut(&key) {
            peer.is_dirty = false;
        }
        Some(key)
    }

    pub(super) fn touch_stream(&mut self, (number, conn): StreamId) {
        let Some(key) = self.keys.get(&number).copied() else {
            return;
        };
        if let Some(peer) = self.map.get_mut(&key) {
            peer.touch(conn);
            self.mark_dirty(&key);
        }
    }

    pub(super) fn are_quiet(&self) -> bool {
        self.map.values().all(Peer::is_quiet)
    }

    /// Begins a connection, or hands the reply back with the reason why not.
    pub(super) fn connect(
        &mut self,
        (key, remote): (NodePublicKey, SocketAddr),
        route: Option<NodePublicKey>,
        reply: ConnectReply,
        (now, timeout): (Now, Duration),
    ) -> Result<(), (ConnectError, ConnectReply)> {
        let Some(peer) = self.map.get_mut(&key) else {
            return Err((ConnectError::PeerUnknown, reply));
        };
        if route != Some(key) {
            return Err((ConnectError::NotThePeers, reply));
        }
        let Some(local) = peer.local_towards(remote) else {
            return Err((ConnectError::NoLocalAddress, reply));
        };
        peer.abandon();
        peer.stack(self.config, now.mono);
        match peer.guarded(|stack| stack.connect(local, remote, now.mono + timeout)) {
            Some(Ok(conn)) => {
                peer.flows.insert(conn, Flow::Connecting(reply));
                peer.await_answer(now.mono);
                self.mark_dirty(&key);
                Ok(())
            }
            Some(Err(OpenError::TooMany)) => Err((ConnectError::TooMany, reply)),
            Some(Err(OpenError::BadAddress)) | None => Err((ConnectError::NotThePeers, reply)),
        }
    }

    /// Looks after every connection of a peer that may have changed.
    pub(super) fn pump(&mut self, peer: &mut Peer, now: Now) {
        while let Some(conn) = peer.guarded(|stack| stack.next_touched()).flatten() {
            let visit = catch_unwind(AssertUnwindSafe(|| self.pump_conn(peer, conn, now)));
            if visit.is_err() {
                peer.stack = None;
                peer.is_broken = true;
            }
        }
        if std::mem::take(&mut peer.is_broken) {
            tracing::error!(peer = %peer.key, "the peer's TCP/IP stack panicked; its streams are reset");
            self.counters.stacks_broken += 1;
            peer.fail_all(ConnectError::Refused, false);
        }
    }

    fn pump_conn(&mut self, peer: &mut Peer, conn: ConnId, now: Now) {
        let Some(stack) = peer.stack.as_deref_mut() else {
            return;
        };
        let status = stack.status(conn);
        match (peer.flows.remove(&conn), status) {
            (None, ConnStatus::Opening) => {}
            (None, ConnStatus::Failed(_)) => stack.release(conn, now.mono),
            (None, ConnStatus::Open | ConnStatus::Finished) => self.accept(peer, conn),
            (Some(Flow::Connecting(reply)), ConnStatus::Opening) if !reply.is_closed() => {
                peer.flows.insert(conn, Flow::Connecting(reply));
            }
            (Some(Flow::Connecting(_)), ConnStatus::Opening) => stack.abort(conn),
            (Some(Flow::Connecting(reply)), ConnStatus::Failed(failure)) => {
                stack.release(conn, now.mono);
                let _ = reply.send(Err(failure.into()));
            }
            (Some(Flow::Connecting(reply)), ConnStatus::Open | ConnStatus::Finished) => {
                let stream = self.open(peer, conn);
                // A caller that gave up drops the stream, and that closes it.
                let _ = reply.send(Ok(stream));
            }
            (Some(open @ Flow::Open(_)), _) => {
                peer.flows.insert(conn, open);
            }
        }
        peer.exchange(conn, now.mono);
    }

    fn accept(&mut self, peer: &mut Peer, conn: ConnId) {
        let Some(local) = peer.stack.as_ref().map(|stack| stack.addresses(conn).0) else {
            return;
        };
        let sender = self.listeners.get(&local.port()).cloned();
        let stream = self.open(peer, conn);
        if sender.is_none_or(|sender| sender.try_send(stream).is_err()) {
            self.counters.accepts_refused += 1;
            peer.flows.remove(&conn);
            peer.abort(conn);
        }
    }

    fn open(&self, peer: &mut Peer, conn: ConnId) -> MeshStream {
        let core = StreamCore::new((peer.number, conn), self.doorbell.clone());
        let stack = peer.stack.as_ref().expect("the connection is in a stack");
        let stream = MeshStream::new(core.clone(), peer.key, stack.addresses(conn));
        peer.flows.insert(conn, Flow::Open(core));
        stream
    }
}

/// The way from the tunnel into the stacks.
pub(super) struct Ingress<'a> {
    peers: &'a mut Peers,
    out: &'a mut Packets,
    replies: &'a mut Vec<(NodePublicKey, usize)>,
    /// What is for the host, if it is in the mesh.
    host: Option<&'a mut Packets>,
    now: Now,
}

impl<'a> Ingress<'a> {
    pub(super) fn new(
        peers: &'a mut Peers,
        out: &'a mut Packets,
        replies: &'a mut Vec<(NodePublicKey, usize)>,
        now: Now,
    ) -> Self {
        Self {
            peers,
            out,
            replies,
            host: None,
            now,
        }
    }

    /// Leaves to the host what no stack holds.
    pub(super) fn with_host(mut self, host: Option<&'a mut HostSide>) -> Self {
        self.host = host.map(|host| &mut host.inbound);
        self
    }
}

/// Answers a datagram for a port that has a responder; tells whether it was one. Nothing of it is remembered, so a flood of
/// questions takes no more than the time to answer each.
fn respond(
    responders: &BTreeMap<u16, Responder>,
    (header, packet): (&Header, &[u8]),
    mtu: usize,
    out: &mut Packets,
) -> bool {
    if header.segment.is_some() || responders.is_empty() {
        return false;
    }
    let Some(datagram) = Datagram::read(header, packet) else {
        return false;
    };
    let Some(responder) = responders.get(&datagram.destination.port()) else {
        return false;
    };
    if let Some(answer) = responder(datagram.source, datagram.payload) {
        datagram.reply(&answer, mtu, out);
    }
    true
}

impl PacketSink for Ingress<'_> {
    /// A packet of a peer goes to that peer's stack and to no other, or to the host, and only if it is for one of our
    /// addresses there.
    fn packet(&mut self, from: &NodePublicKey, packet: &[u8]) {
        let counters = &mut self.peers.counters;
        let Ok(header) = Header::parse(packet) else {
            return counters.packets_malformed += 1;
        };
        let Some(peer) = self.peers.map.get_mut(from) else {
            return counters.packets_misdirected += 1;
        };
        if !peer.locals.contains(&header.destination) {
            return counters.packets_misdirected += 1;
        }
        let (before, mtu) = (self.out.len(), self.peers.config.mtu);
        if respond(&self.peers.responders, (&header, packet), mtu, self.out) {
            counters.packets_taken += 1;
            if self.out.len() > before {
                self.replies.push((*from, self.out.len()));
            }
            return;
        }
        if let Some(host) = self.host.as_deref_mut()
            && !is_for_stack(&header, peer, &self.peers.listeners)
        {
            counters.packets_to_host += 1;
            return host.push_with(packet.len(), |room| room.copy_from_slice(packet));
        }
        // The filter has put fragments together, and a stack knows no extension headers.
        if !header.is_plain {
            return counters.packets_malformed += 1;
        }
        counters.packets_taken += 1;
        let (mono, listeners) = (self.now.mono, &self.peers.listeners);
        let mut admits = |port: u16| match listeners.get(&port) {
            Some(queue) if queue.is_closed() => Admission::Closed,
            Some(queue) if queue.capacity() == 0 => Admission::Busy,
            Some(_) => Admission::Accept,
            None => Admission::Closed,
        };
        peer.stack(self.peers.config, mono);
        peer.guarded(|stack| stack.ingress((&header, packet), &mut admits, mono, self.out));
        if self.out.len() > before {
            self.replies.push((*from, self.out.len()));
        }
        if !std::mem::replace(&mut peer.is_dirty, true) {
            self.peers.dirty.push_back(*from);
        }
    }
}

/// Tells whether a packet is for a peer's stack, which shares its addresses with the host.
fn is_for_stack(header: &Header, peer: &mut Peer, listeners: &Listeners) -> bool {
    header.segment.is_some_and(|segment| {
        let listener = listeners.get(&segment.destination.port());
        let is_listened = segment.is_opening && listener.is_some_and(|queue| !queue.is_closed());
        is_listened || peer.has(segment.destination, segment.source)
    })
}

#[cfg(test)]
mod tests {
    use types::NodePrivateKey;

    use super::*;

    #[test]
    fn who_is_marked_twice_has_one_turn_and_who_comes_again_is_last() {
        let doorbell = Arc::new(Doorbell::new().expect("doorbell"));
        let mut peers = Peers::new(StackConfig::default(), doorbell);
        let keys = [1, 2, 3].map(|byte| NodePrivateKey::from_random([byte; 32]).public());
        for key in &keys {
            peers.upsert(*key, Vec::new(), &[]);
            peers.mark_dirty(key);
        }
        assert_eq!((peers.dirty_count(), peers.pop_dirty()), (3, Some(keys[0])));
        peers.mark_dirty(&keys[0]);
        let rest: Vec<_> = std::iter::from_fn(|| peers.pop_dirty()).collect();
        assert_eq!(rest, [keys[1], keys[2], keys[0]]);
        assert!(!peers.has_dirty());
    }
}
