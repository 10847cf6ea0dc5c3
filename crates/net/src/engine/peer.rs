//! One peer as the engine sees it: our addresses towards it, its stack while it has connections, and its streams.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use types::{AllowedIp, Monotonic, NodePublicKey};

use crate::mesh_net::ConnectError;
use crate::netstack::{
    ConnFailure, ConnId, ConnStatus, NetStack, Packets, ReadOutcome, SmolStack, StackConfig,
};
use crate::random;
use crate::stream::{MeshStream, PeerNumber, StreamCore, StreamFailure};

/// What a connection of a stack is to the engine.
pub(crate) enum Flow {
    /// A task waits for it to open.
    Connecting(oneshot::Sender<Result<MeshStream, ConnectError>>),
    /// A task has its stream.
    Open(Arc<StreamCore>),
}

/// How long a SYN may stay unanswered before the session is doubted.
///
/// A peer that started anew has lost the session, cannot open what is sealed with it and, as WireGuard has it, says nothing.
/// TCP sends its second SYN after 1 s; renewed this much earlier, the session is a new one by then wherever a round trip
/// takes less than 300 ms. A longer way to a peer in order costs a handshake too many, every five seconds at most.
const SYN_PATIENCE: Duration = Duration::from_millis(700);

pub(crate) struct Peer {
    pub(crate) key: NodePublicKey,
    pub(crate) number: PeerNumber,
    pub(crate) locals: Vec<IpAddr>,
    pub(crate) stack: Option<Box<dyn NetStack>>,
    pub(crate) flows: BTreeMap<ConnId, Flow>,
    pub(crate) is_dirty: bool,
    /// When the oldest connection began that is to say whether the session still works.
    waiting_since: Option<Monotonic>,
    /// Under which deadline the peer is listed.
    pub(crate) listed: Option<Monotonic>,
    /// Its stack panicked and is gone; its streams have not been told yet.
    pub(crate) is_broken: bool,
}

impl Peer {
    pub(crate) fn new(key: NodePublicKey, number: PeerNumber) -> Self {
        Self {
            key,
            number,
            locals: Vec::new(),
            stack: None,
            flows: BTreeMap::new(),
            is_dirty: false,
            waiting_since: None,
            listed: None,
            is_broken: false,
        }
    }

    /// Returns the stack, made now if need be.
    pub(crate) fn stack(&mut self, config: StackConfig, now: Monotonic) -> &mut Box<dyn NetStack> {
        self.stack.get_or_insert_with(|| {
            let seed = u64::from_le_bytes(random::bytes());
            Box::new(SmolStack::new(config, &self.locals, seed, now))
        })
    }

    /// Calls into the stack. A panic there costs this peer its streams and nobody else anything.
    pub(crate) fn guarded<T>(&mut self, call: impl FnOnce(&mut dyn NetStack) -> T) -> Option<T> {
        let stack = self.stack.as_deref_mut()?;
        let result = catch_unwind(AssertUnwindSafe(|| call(stack)));
        if result.is_err() {
            self.stack = None;
            self.is_broken = true;
        }
        result.ok()
    }

    pub(crate) fn egress(&mut self, now: Monotonic, out: &mut Packets) -> bool {
        self.guarded(|stack| stack.egress(now, out)).unwrap_or(false)
    }

    /// Tells whether the stack has a connection between a local and a remote address.
    pub(crate) fn has(&mut self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.guarded(|stack| stack.has(local, remote)).unwrap_or(false)
    }

    pub(crate) fn touch(&mut self, conn: ConnId) {
        self.guarded(|stack| stack.touch(conn));
    }

    pub(crate) fn abort(&mut self, conn: ConnId) {
        self.guarded(|stack| stack.abort(conn));
    }

    /// Takes new addresses of our own and of the peer's; streams between others than those are cut.
    pub(crate) fn restrict(&mut self, locals: Vec<IpAddr>, allowed: &[AllowedIp]) {
        if locals != self.locals {
            self.locals = locals;
            let locals = self.locals.clone();
            self.guarded(|stack| stack.set_locals(&locals));
        }
        let conns: Vec<ConnId> = self.flows.keys().copied().collect();
        for conn in conns {
            let remote = self.guarded(|stack| stack.addresses(conn).1.ip());
            if remote.is_some_and(|remote| !allowed.iter().any(|block| block.contains(remote))) {
                self.abort(conn);
                self.close_flow(conn, ConnectError::NotThePeers, true);
            }
        }
    }

    /// Cuts every open stream that `may_stay` does not admit by its local and its remote address; returns how many.
    pub(crate) fn cut_unless(&mut self, may_stay: impl Fn(SocketAddr, SocketAddr) -> bool) -> usize {
        let is_open = |(conn, flow): (&ConnId, &Flow)| matches!(flow, Flow::Open(_)).then_some(*conn);
        let open: Vec<ConnId> = self.flows.iter().filter_map(is_open).collect();
        let mut cut = 0;
        for conn in open {
            let ends = self.guarded(|stack| stack.addresses(conn));
            if ends.is_some_and(|(local, remote)| !may_stay(local, remote)) {
                self.abort(conn);
                self.close_flow(conn, ConnectError::NotThePeers, true);
                cut += 1;
            }
        }
        cut
    }

    /// Ends every stream and cuts every connection.
    pub(crate) fn fail_all(&mut self, error: ConnectError, forget: bool) {
        for conn in self.flows.keys().copied().collect::<Vec<_>>() {
            self.abort(conn);
            self.close_flow(conn, error, forget);
        }
    }

    /// Carries bytes between an open stream and its connection, and tells each of the other's end.
    pub(crate) fn exchange(&mut self, conn: ConnId, now: Monotonic) {
        let (Some(Flow::Open(core)), Some(stack)) = (self.flows.get(&conn), self.stack.as_deref_mut()) else {
            return;
        };
        let status = stack.status(conn);
        core.begin_visit();
        core.receive(status != ConnStatus::Open, |room, ring| {
            let mut left = room;
            let outcome = stack.read(conn, &mut |bytes| {
                let taken = bytes.len().min(left);
                ring.extend(&bytes[..taken]);
                left -= taken;
                taken
            });
            outcome == ReadOutcome::End
        });
        let wishes = core.send(|bytes| stack.write(conn, bytes, now));
        if wishes.is_reset {
            stack.abort(conn);
            self.flows.remove(&conn);
            return;
        }
        let is_over = match status {
            ConnStatus::Failed(failure) => {
                core.fail(failure.into(), false);
                true
            }
            ConnStatus::Finished => true,
            ConnStatus::Opening | ConnStatus::Open => wishes.is_dropped && wishes.is_write_finished,
        };
        if is_over {
            stack.release(conn, now);
            self.flows.remove(&conn);
        } else if wishes.is_write_finished {
            stack.shutdown(conn);
        } else if wishes.is_dropped {
            stack.disown(conn, now);
        }
    }

    /// Forgets the stack when nothing depends on it.
    pub(crate) fn tidy(&mut self) {
        if self.flows.is_empty() && self.stack.as_ref().is_some_and(|stack| stack.is_idle()) {
            self.stack = None;
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.stack.as_ref().is_none_or(|stack| stack.is_quiet())
    }

    /// Cuts connections that nobody waits for any more: the caller gave up before its time was over.
    pub(crate) fn abandon(&mut self) {
        let is_abandoned = |flow: &Flow| matches!(flow, Flow::Connecting(reply) if reply.is_closed());
        for conn in self.flows.keys().copied().collect::<Vec<_>>() {
            if self.flows.get(&conn).is_some_and(is_abandoned) {
                self.flows.remove(&conn);
                self.abort(conn);
            }
        }
    }

    /// Notes that a connection was begun, whose answer will say whether the session works.
    pub(crate) fn await_answer(&mut self, now: Monotonic) {
        self.waiting_since.get_or_insert(now);
    }

    /// Returns when the stack or a doubt is due.
    pub(crate) fn next_deadline(&mut self, now: Monotonic) -> Option<Monotonic> {
        let stack = self.guarded(|stack| stack.next_deadline(now)).flatten();
        let doubt = self.waiting_since.map(|since| since + SYN_PATIENCE);
        stack.into_iter().chain(doubt).min()
    }

    /// Tells since when a connection waits for its answer when that is too long; tells it once.
    pub(crate) fn take_doubt(&mut self, now: Monotonic) -> Option<Monotonic> {
        let since = self.waiting_since.take_if(|since| now >= *since + SYN_PATIENCE)?;
        let mut flows = self.flows.values();
        flows
            .any(|flow| matches!(flow, Flow::Connecting(_)))
            .then_some(since)
    }

    pub(crate) fn local_towards(&self, remote: SocketAddr) -> Option<IpAddr> {
        let mut locals = self.locals.iter().copied();
        locals.find(|local| local.is_ipv4() == remote.is_ipv4())
    }

    fn close_flow(&mut self, conn: ConnId, error: ConnectError, forget: bool) {
        match self.flows.remove(&conn) {
            Some(Flow::Connecting(reply)) => {
                let _ = reply.send(Err(error));
            }
            Some(Flow::Open(core)) => {
                let is_stopped = error == ConnectError::Stopped;
                let failure = if is_stopped {
                    StreamFailure::Stopped
                } else {
                    StreamFailure::Reset
                };
                core.fail(failure, forget);
            }
            None => {}
        }
    }
}

impl Drop for Peer {
    /// However a peer goes, with its engine or by a panic: nobody may wait for it for ever.
    fn drop(&mut self) {
        self.fail_all(ConnectError::Stopped, false);
    }
}

impl From<ConnFailure> for StreamFailure {
    fn from(failure: ConnFailure) -> Self {
        match failure {
            ConnFailure::Refused | ConnFailure::Reset => Self::Reset,
            ConnFailure::TimedOut => Self::TimedOut,
        }
    }
}

impl From<ConnFailure> for ConnectError {
    fn from(failure: ConnFailure) -> Self {
        match failure {
            ConnFailure::Refused | ConnFailure::Reset => Self::Refused,
            ConnFailure::TimedOut => Self::TimedOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netstack::{Admission, Header, OpenError};
    use types::NodePrivateKey;

    /// A stack whose every call is a defect.
    struct Broken;

    impl NetStack for Broken {
        fn set_locals(&mut self, _: &[IpAddr]) {
            panic!("defect")
        }
        fn ingress(
            &mut self,
            _: (&Header, &[u8]),
            _: &mut dyn FnMut(u16) -> Admission,
            _: Monotonic,
            out: &mut Packets,
        ) {
            out.push_with(100, |_| panic!("defect"))
        }
        fn egress(&mut self, _: Monotonic, _: &mut Packets) -> bool {
            panic!("defect")
        }
        fn next_deadline(&mut self, _: Monotonic) -> Option<Monotonic> {
            panic!("defect")
        }
        fn connect(&mut self, _: IpAddr, _: SocketAddr, _: Monotonic) -> Result<ConnId, OpenError> {
            panic!("defect")
        }
        fn next_touched(&mut self) -> Option<ConnId> {
            panic!("defect")
        }
        fn touch(&mut self, _: ConnId) {
            panic!("defect")
        }
        fn status(&self, _: ConnId) -> ConnStatus {
            panic!("defect")
        }
        fn has(&self, _: SocketAddr, _: SocketAddr) -> bool {
            panic!("defect")
        }
        fn addresses(&self, _: ConnId) -> (SocketAddr, SocketAddr) {
            panic!("defect")
        }
        fn read(&mut self, _: ConnId, _: &mut dyn FnMut(&[u8]) -> usize) -> ReadOutcome {
            panic!("defect")
        }
        fn write(&mut self, _: ConnId, _: &[u8], _: Monotonic) -> usize {
            panic!("defect")
        }
        fn disown(&mut self, _: ConnId, _: Monotonic) {
            panic!("defect")
        }
        fn shutdown(&mut self, _: ConnId) {
            panic!("defect")
        }
        fn abort(&mut self, _: ConnId) {
            panic!("defect")
        }
        fn release(&mut self, _: ConnId, _: Monotonic) {
            panic!("defect")
        }
        fn is_quiet(&self) -> bool {
            panic!("defect")
        }
        fn is_idle(&self) -> bool {
            panic!("defect")
        }
    }

    #[test]
    fn a_stack_that_panics_is_thrown_away_and_the_next_packet_gets_a_new_one() {
        let mut peer = Peer::new(NodePrivateKey::from_random([1; 32]).public(), PeerNumber(0));
        peer.stack = Some(Box::new(Broken));
        assert!(!peer.egress(Monotonic::ZERO, &mut Packets::default()));
        assert!(peer.is_broken && peer.stack.is_none());
        peer.stack(StackConfig::default(), Monotonic::ZERO);
        assert!(!peer.egress(Monotonic::ZERO, &mut Packets::default()));
        assert!(peer.stack.is_some());
    }

    #[tokio::test]
    async fn a_peer_that_is_dropped_fails_its_streams_and_connects() {
        use tokio::io::AsyncReadExt as _;

        let key = NodePrivateKey::from_random([1; 32]).public();
        let mut peer = Peer::new(key, PeerNumber(0));
        let doorbell = Arc::new(crate::stream::Doorbell::new().expect("doorbell"));
        let core = StreamCore::new((PeerNumber(0), ConnId(1)), doorbell);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut stream = MeshStream::new(core.clone(), key, (nowhere, nowhere));
        let (reply, answer) = oneshot::channel();
        peer.flows.insert(ConnId(1), Flow::Open(core));
        peer.flows.insert(ConnId(2), Flow::Connecting(reply));
        drop(peer);
        let error = stream.read(&mut [0]).await.expect_err("failed");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        let refused = answer.await.expect("an answer");
        assert_eq!(refused.expect_err("failed"), ConnectError::Stopped);
    }

    #[test]
    fn a_packet_half_written_by_a_panic_is_not_in_the_batch() {
        let mut out = Packets::default();
        out.push_with(3, |packet| packet.fill(1));
        let result = catch_unwind(AssertUnwindSafe(|| out.push_with(100, |_| panic!("defect"))));
        assert!(result.is_err());
        out.push_with(2, |packet| packet.fill(2));
        assert_eq!(
            (out.len(), out.packet(0), out.packet(1)),
            (2, [1, 1, 1].as_slice(), [2, 2].as_slice())
        );
    }
}
