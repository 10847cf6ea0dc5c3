//! Userspace TCP/IP: one small stack for each peer, behind a trait so that the implementation can change.
//!
//! A stack does no I/O and reads no clock: packets and times come in, packets come out in batches. It knows nothing of
//! peers, keys or tasks.

mod conn;
mod datagram;
mod header;
mod link;
mod smol;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use types::{MESH_MTU, Monotonic};

pub use datagram::Datagram;
pub use header::{Header, Segment};
pub use smol::SmolStack;

/// How many packets a batch takes before it is sealed: two full segmentation-offload sends of 49 packets, as many as fit
/// into 64 KiB with what WireGuard puts around each.
pub const BATCH_PACKETS: usize = 98;

/// The limits of one stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackConfig {
    /// The largest packet, in bytes; default [`MESH_MTU`]. Between two of our own stacks a super-segment of up to 64 KiB could
    /// cross this seam and be cut behind it: a batch is one buffer with ends, so only this and the cutting would change.
    pub mtu: usize,
    /// The receive window of a connection, in bytes; default 256 KiB. Memory is touched only as data comes, but
    /// then stays.
    pub receive_buffer: usize,
    /// The unacknowledged data of a connection, in bytes; default 256 KiB.
    pub send_buffer: usize,
    /// The connections of one peer, half-open ones included; default 256, so that a hostile peer can make us hold
    /// 256 times both buffers and a stream's rings at most: 256 MiB.
    pub connections_max: usize,
    /// The connections that a peer has begun and not finished opening; default 128.
    pub half_open_max: usize,
    /// How long a peer may take to finish opening a connection; default 10 s.
    pub handshake_timeout: Duration,
    /// After how long without a word of ours an idle connection asks whether the other end is still there; default 20 s,
    /// so that three questions fit into [`StackConfig::silence_timeout`] and a NAT on the way, which may forget a UDP flow
    /// after 30 s, does not. `None` asks never.
    pub keepalive: Option<Duration>,
    /// How long nothing may be heard from an end that owes an answer, to data or to a keepalive; default 75 s: longer than
    /// the 60 s to which TCP slows down its questions to a reader that stalls, long enough for a device that changes
    /// networks, short enough that whoever waits for it learns that it is gone.
    pub silence_timeout: Duration,
    /// How long a connection that nobody holds any more may take to say goodbye, or, while it has data left to send, how
    /// long none of it may get away; default 60 s.
    pub orphan_timeout: Duration,
}

impl Default for StackConfig {
    fn default() -> Self {
        Self {
            mtu: MESH_MTU,
            receive_buffer: 256 * 1024,
            send_buffer: 256 * 1024,
            connections_max: 256,
            half_open_max: 128,
            handshake_timeout: Duration::from_secs(10),
            keepalive: Some(Duration::from_secs(20)),
            silence_timeout: Duration::from_secs(75),
            orphan_timeout: Duration::from_secs(60),
        }
    }
}

impl StackConfig {
    /// The limits of a platform node, which has thousands of peers that each need one connection for days: 8 connections a
    /// peer, so that a hostile one can make us hold less than 7 MiB, and a receive window of 64 KiB, all of whose memory a
    /// connection has touched after a while (5 Mb/s at 100 ms); the rest as by default.
    #[must_use]
    pub fn for_platform() -> Self {
        Self {
            connections_max: 8,
            half_open_max: 8,
            receive_buffer: 64 * 1024,
            ..Self::default()
        }
    }
}

/// What becomes of a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It opens a connection.
    Accept,
    /// It is dropped: the peer tries again in a second or so.
    Busy,
    /// Nobody listens on its port, and the peer is told so.
    Closed,
}

/// Names a connection within its stack; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub(crate) u64);

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnStatus {
    /// The handshake is not finished.
    Opening,
    /// At least one direction may still carry data.
    Open,
    /// Both directions are closed in order, or will be without our help; what was received can still be read.
    Finished,
    /// It broke; what was received before can still be read.
    Failed(ConnFailure),
}

/// Why a connection broke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnFailure {
    /// Nobody listens there.
    Refused,
    /// The other end cut it.
    Reset,
    /// The other end fell silent.
    TimedOut,
}

/// What a read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadOutcome {
    /// Nothing more now.
    Empty,
    /// Nothing more ever: the other end finished writing.
    End,
}

/// Why a connection cannot be begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer has as many connections as it may.
    #[error("the peer has too many connections")]
    TooMany,
    /// The address pair makes no connection (port 0, families that differ, no free local port).
    #[error("the address cannot be connected to")]
    BadAddress,
}

/// A TCP/IP stack for the packets of one peer.
pub trait NetStack: Send {
    /// Replaces our own addresses; connections from an address that is gone are reset.
    fn set_locals(&mut self, locals: &[IpAddr]);

    /// Takes one packet, already parsed; replies go to `out`. What a SYN to a port does `admits` says.
    fn ingress(
        &mut self,
        packet: (&Header, &[u8]),
        admits: &mut dyn FnMut(u16) -> Admission,
        now: Monotonic,
        out: &mut Packets,
    );

    /// Lets connections time out and writes packets that are due, each connection in its turn, until the batch is full;
    /// returns whether more may be due. A batch that just was not full may get one packet more of every connection.
    fn egress(&mut self, now: Monotonic, out: &mut Packets) -> bool;

    /// Returns when [`NetStack::egress`] is due next if nothing else happens.
    fn next_deadline(&mut self, now: Monotonic) -> Option<Monotonic>;

    /// Begins a connection that must be open by `deadline`.
    fn connect(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        deadline: Monotonic,
    ) -> Result<ConnId, OpenError>;

    /// Returns one connection whose status, data or room may have changed, each once; newly accepted ones too,
    /// released ones never again.
    fn next_touched(&mut self) -> Option<ConnId>;

    /// Makes [`NetStack::next_touched`] return this connection.
    fn touch(&mut self, conn: ConnId);

    /// Returns where a connection stands.
    fn status(&self, conn: ConnId) -> ConnStatus;

    /// Tells whether there is a connection between these two addresses, a local and a remote one.
    fn has(&self, local: SocketAddr, remote: SocketAddr) -> bool;

    /// Returns the local and the remote address of a connection.
    fn addresses(&self, conn: ConnId) -> (SocketAddr, SocketAddr);

    /// Hands received bytes to `take` until it takes less than it is given or none are left.
    fn read(&mut self, conn: ConnId, take: &mut dyn FnMut(&[u8]) -> usize) -> ReadOutcome;

    /// Takes as many bytes as there is room for and returns how many.
    fn write(&mut self, conn: ConnId, bytes: &[u8], now: Monotonic) -> usize;

    /// Finishes writing: everything taken is sent, then FIN. Reading goes on.
    fn shutdown(&mut self, conn: ConnId);

    /// Notes that nobody holds a connection any more that still has data to send: that data must keep getting away.
    fn disown(&mut self, conn: ConnId, now: Monotonic);

    /// Cuts a connection with RST and forgets it.
    fn abort(&mut self, conn: ConnId);

    /// Forgets a connection: it says goodbye by itself, and is cut if the other end still sends.
    fn release(&mut self, conn: ConnId, now: Monotonic);

    /// Tells whether every FIN and RST that was asked for has been sent, and the FINs acknowledged.
    fn is_quiet(&self) -> bool;

    /// Tells whether the stack holds nothing that must be remembered, so that it can be thrown away.
    fn is_idle(&self) -> bool;
}

/// IP packets back to back in one buffer.
#[derive(Debug, Default)]
pub struct Packets {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packets {
    /// Tells whether another packet should wait for the next batch.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ends.len() >= BATCH_PACKETS
    }

    /// Tells whether there is no packet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns how many packets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Appends a packet of `len` bytes that `fill` writes.
    pub fn push_with<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        // Not the buffer's length: a fill that panicked has left bytes that no end covers.
        let start = self.ends.last().copied().unwrap_or(0);
        self.bytes.truncate(start);
        self.bytes.resize(start + len, 0);
        let result = fill(&mut self.bytes[start..]);
        self.ends.push(self.bytes.len());
        result
    }

    /// Appends a packet that `fill` writes into `room` bytes, as long as it says; nothing when it says `None` or fails.
    pub fn push_up_to<E>(
        &mut self,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<Option<usize>, E>,
    ) -> Result<Option<usize>, E> {
        let start = self.ends.last().copied().unwrap_or(0);
        self.bytes.resize(start + room, 0);
        let filled = fill(&mut self.bytes[start..]);
        if let Ok(Some(len)) = filled {
            self.ends.push(start + len.min(room));
        }
        filled
    }

    /// Returns the packet of this number, from 0 on.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn packet(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }

    /// Forgets the packets and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}
