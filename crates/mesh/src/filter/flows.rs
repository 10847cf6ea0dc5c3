//! The flows that live: who talks with whom, begun by one end, until nothing was said for a while.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use types::Monotonic;

use super::packet::{Content, Packet};

/// How many flows of ours are remembered, and how many of theirs: some 2 MiB each at most.
pub const FLOWS_MAX: usize = 16_384;

/// How often room is looked for when there is none.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How long a flow lives when nothing goes through it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FlowTimer {
    /// A TCP connection that is not open yet: 4 minutes (RFC 5382, REQ-5).
    TcpOpening,
    /// An open TCP connection: 2 hours and 4 minutes, so that the usual keepalives of 2 hours keep it (RFC 5382, REQ-5).
    TcpOpen,
    /// A TCP connection of which one end has said goodbye: 4 minutes (RFC 5382, REQ-5).
    TcpClosing,
    /// UDP: 5 minutes (RFC 4787, REQ-5).
    Udp,
    /// Echo requests and replies of one identifier: 60 seconds (RFC 5508, REQ-2).
    Echo,
}

impl FlowTimer {
    /// Returns how long it is.
    #[must_use]
    pub fn lifetime(self) -> Duration {
        match self {
            Self::TcpOpening | Self::TcpClosing => Duration::from_mins(4),
            Self::TcpOpen => Duration::from_mins(124),
            Self::Udp => Duration::from_mins(5),
            Self::Echo => Duration::from_mins(1),
        }
    }

    /// The timer after another packet of the flow.
    fn after(self, content: &Content) -> Self {
        let Content::Tcp { flags, .. } = content else {
            return self;
        };
        match (flags, self) {
            (flags, _) if flags.fin || flags.rst => Self::TcpClosing,
            (flags, _) if flags.syn => Self::TcpOpening,
            (_, Self::TcpOpening) => Self::TcpOpen,
            (_, timer) => timer,
        }
    }

    fn first_of(content: &Content) -> Self {
        match content {
            Content::Tcp { .. } => Self::TcpOpening,
            Content::EchoRequest { .. } | Content::EchoReply { .. } => Self::Echo,
            Content::Udp { .. } | Content::Error { .. } | Content::Icmp | Content::Other => Self::Udp,
        }
    }
}

/// One flow as seen from this node, whichever way the packet goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    ports: u64,
    remote: u128,
    local: u128,
}

const TCP: u64 = 6;
const UDP: u64 = 17;
const ECHO: u64 = 1;
const NOTHING: u64 = 0;

impl Key {
    /// The flow of a packet that leaves.
    pub(super) fn outgoing(packet: &Packet) -> Self {
        let (protocol, source, destination) = ports(&packet.content, true);
        Self::new(
            (packet.source, source),
            (packet.destination, destination),
            protocol,
        )
    }

    /// The flow of a packet that comes.
    pub(super) fn incoming(packet: &Packet) -> Self {
        let (protocol, source, destination) = ports(&packet.content, false);
        Self::new(
            (packet.destination, destination),
            (packet.source, source),
            protocol,
        )
    }

    fn new((local, local_port): (IpAddr, u16), (remote, remote_port): (IpAddr, u16), protocol: u64) -> Self {
        Self {
            ports: protocol << 32 | u64::from(local_port) << 16 | u64::from(remote_port),
            remote: bits(remote),
            local: bits(local),
        }
    }
}

/// Both ends of an echo have the identifier, so that a request of ours and its reply are one flow. A request of theirs and
/// our reply are none: a rule lets the one in, and nothing comes back for the other.
fn ports(content: &Content, is_leaving: bool) -> (u64, u16, u16) {
    match *content {
        Content::Tcp {
            source, destination, ..
        } => (TCP, source, destination),
        Content::Udp { source, destination } => (UDP, source, destination),
        Content::EchoRequest { identifier } if is_leaving => (ECHO, identifier, identifier),
        Content::EchoReply { identifier } if !is_leaving => (ECHO, identifier, identifier),
        Content::EchoRequest { .. }
        | Content::EchoReply { .. }
        | Content::Error { .. }
        | Content::Icmp
        | Content::Other => (NOTHING, 0, 0),
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    timer: FlowTimer,
    until: Monotonic,
}

/// The flows that one side began.
#[derive(Debug, Default)]
pub(super) struct Flows {
    living: BTreeMap<Key, Flow>,
    swept: Option<Monotonic>,
}

impl Flows {
    /// Tells whether a flow lives.
    pub(super) fn has(&self, key: &Key, now: Monotonic) -> bool {
        self.living.get(key).is_some_and(|flow| now < flow.until)
    }

    /// Lets the flow of a packet live on; tells whether it lives.
    pub(super) fn refresh(&mut self, key: &Key, content: &Content, now: Monotonic) -> bool {
        let Some(flow) = self.living.get_mut(key).filter(|flow| now < flow.until) else {
            return false;
        };
        flow.timer = flow.timer.after(content);
        flow.until = now + flow.timer.lifetime();
        true
    }

    /// Begins the flow of a packet; `false` when there is no room for it.
    pub(super) fn begin(&mut self, key: Key, content: &Content, now: Monotonic) -> bool {
        if self.living.len() >= FLOWS_MAX && !self.living.contains_key(&key) && !self.sweep(now) {
            return false;
        }
        let timer = FlowTimer::first_of(content);
        let until = now + timer.lifetime();
        self.living.insert(key, Flow { timer, until });
        true
    }

    /// Forgets the flows whose time is over; tells whether there is room. Looking at all of them is not done for every
    /// packet of a flood.
    fn sweep(&mut self, now: Monotonic) -> bool {
        if self.swept.is_some_and(|swept| now.since(swept) < SWEEP_EVERY) {
            return false;
        }
        self.swept = Some(now);
        self.living.retain(|_, flow| now < flow.until);
        self.living.len() < FLOWS_MAX
    }
}
