//! The stack by smoltcp. Its `poll` visits every socket it has, so a stack serves one peer and stays small.
//!
//! smoltcp has no listen backlog and no time limits of the kind needed here: both are added around it. A listening socket
//! exists only while a SYN is being taken in, so a stack that only listens costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IPV6_HEADER_LEN, IpCidr, IpEndpoint, Ipv4Packet, TcpPacket};
use types::Monotonic;

use super::conn::{Conn, Pair};
use super::link::Link;
use super::{
    Admission, ConnFailure, ConnId, ConnStatus, Header, NetStack, OpenError, Packets, ReadOutcome, Segment,
    StackConfig,
};

/// Local ports of outgoing connections. In TUN mode the host has the same addresses, so these are ports that its own TCP does
/// not choose: Linux takes those from 32768 to 60999, macOS the dynamic range of RFC 6335 from 49152 on.
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = if cfg!(target_os = "macos") {
    40_000..=49_151
} else {
    61_000..=65_535
};

/// A [`NetStack`] by smoltcp.
pub struct SmolStack {
    config: StackConfig,
    interface: Interface,
    sockets: SocketSet<'static>,
    conns: BTreeMap<ConnId, Conn>,
    by_pair: BTreeMap<Pair, ConnId>,
    touched: BTreeSet<ConnId>,
    next_id: u64,
    next_port: u16,
}

impl SmolStack {
    /// Makes a stack with these addresses of ours (at most 8 are used); `seed` decides its ports and sequence numbers.
    #[must_use]
    pub fn new(config: StackConfig, locals: &[IpAddr], seed: u64, now: Monotonic) -> Self {
        let mut device = Link::new(config.mtu, None, None);
        let mut settings = Config::new(HardwareAddress::Ip);
        settings.random_seed = seed;
        let mut interface = Interface::new(settings, &mut device, instant(now));
        set_addresses(&mut interface, locals);
        let span = u64::from(DYNAMIC_PORTS.end() - DYNAMIC_PORTS.start());
        Self {
            config,
            interface,
            sockets: SocketSet::new(Vec::new()),
            conns: BTreeMap::new(),
            by_pair: BTreeMap::new(),
            touched: BTreeSet::new(),
            next_id: 0,
            next_port: DYNAMIC_PORTS.start() + u16::try_from((seed >> 32) % span).expect("within the range"),
        }
    }

    fn socket(&self, conn: ConnId) -> Option<(&Conn, &Socket<'static>)> {
        let conn = self.conns.get(&conn)?;
        Some((conn, self.sockets.get(conn.handle)))
    }

    fn socket_mut(&mut self, conn: ConnId) -> Option<(&mut Conn, &mut Socket<'static>)> {
        let conn = self.conns.get_mut(&conn)?;
        let socket = self.sockets.get_mut(conn.handle);
        Some((conn, socket))
    }

    fn new_socket(&self) -> Socket<'static> {
        let buffer = |len| SocketBuffer::new(vec![0; len]);
        let mut socket = Socket::new(
            buffer(self.config.receive_buffer),
            buffer(self.config.send_buffer),
        );
        // Writers hand over whole chunks and wait for answers; holding back the last piece of one helps nobody.
        socket.set_nagle_enabled(false);
        socket.set_keep_alive(self.config.keepalive.map(Into::into));
        socket.set_congestion_control(CongestionControl::Cubic);
        socket
    }

    fn insert(&mut self, socket: Socket<'static>, pair: Pair, open_by: Monotonic, now: Monotonic) -> ConnId {
        let conn = ConnId(self.next_id);
        self.next_id += 1;
        let entry = Conn::new(self.sockets.add(socket), pair, open_by, now);
        self.conns.insert(conn, entry);
        self.by_pair.insert(pair, conn);
        conn
    }

    fn remove(&mut self, conn: ConnId) {
        if let Some(entry) = self.conns.remove(&conn) {
            self.sockets.remove(entry.handle);
            self.touched.remove(&conn);
            if self.by_pair.get(&entry.pair) == Some(&conn) {
                self.by_pair.remove(&entry.pair);
            }
        }
    }

    /// Makes room by forgetting connections that only wait out their last acknowledgement, or to say their last word.
    fn has_room(&mut self) -> bool {
        if self.conns.len() >= self.config.connections_max {
            self.remove_where(|conn, socket| {
                conn.released_at.is_some() && matches!(socket.state(), State::TimeWait | State::Closed)
            });
        }
        self.conns.len() < self.config.connections_max
    }

    fn remove_where(&mut self, doomed: impl Fn(&Conn, &Socket<'_>) -> bool) {
        let conns: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| doomed(conn, self.sockets.get(conn.handle)))
            .map(|(id, _)| *id)
            .collect();
        for conn in conns {
            self.remove(conn);
        }
    }

    /// Puts a listening socket in place for this one SYN, if it may open a connection.
    fn prepare(
        &mut self,
        segment: &Segment,
        admits: &mut dyn FnMut(u16) -> Admission,
        now: Monotonic,
    ) -> Admission {
        let pair = (segment.destination, segment.source);
        if let Some(old) = self.by_pair.get(&pair).copied() {
            let is_over = self.socket(old).is_none_or(|(entry, socket)| {
                entry.released_at.is_some() && matches!(socket.state(), State::TimeWait | State::Closed)
            });
            if !is_over {
                // A SYN sent twice is for the connection that the first one opened.
                return Admission::Accept;
            }
            self.remove(old);
        }
        match admits(pair.0.port()) {
            Admission::Accept if !self.has_room_for_half_open() => Admission::Busy,
            Admission::Accept => {
                let mut socket = self.new_socket();
                if socket.listen(IpEndpoint::from(pair.0)).is_ok() {
                    self.insert(socket, pair, now + self.config.handshake_timeout, now);
                }
                Admission::Accept
            }
            refusal => refusal,
        }
    }

    fn has_room_for_half_open(&mut self) -> bool {
        let half_open = self.conns.values().filter(|conn| conn.open_by.is_some()).count();
        half_open < self.config.half_open_max && self.has_room()
    }

    fn take_in(&mut self, packet: &[u8], now: Monotonic, out: &mut Packets) {
        let mut link = Link::new(self.config.mtu, Some(packet), Some(out));
        let _ = self
            .interface
            .poll_ingress_single(instant(now), &mut link, &mut self.sockets);
    }

    /// Notes what a packet may have changed.
    fn touch_after(&mut self, segment: Option<&Segment>, now: Monotonic) {
        // Anything else, ICMP for one, changes no connection.
        let Some(segment) = segment else {
            return;
        };
        let pair = (segment.destination, segment.source);
        let Some(conn) = self.by_pair.get(&pair).copied() else {
            return;
        };
        let Some((entry, socket)) = self.socket_mut(conn) else {
            return;
        };
        entry.heard_at = now;
        entry.note_progress(socket);
        if socket.is_listening() {
            // The SYN was not to smoltcp's taste, or an RST took it back: the next one gets a socket of its own.
            self.remove(conn);
        } else {
            self.touched.insert(conn);
        }
    }

    /// Cuts what took too long and what still receives though nobody will ever read it.
    fn expire(&mut self, now: Monotonic) {
        for (id, conn) in &mut self.conns {
            let socket = self.sockets.get_mut::<Socket<'_>>(conn.handle);
            conn.note_progress(socket);
            let unread = conn.released_at.is_some() && socket.recv_queue() > 0;
            let late = conn
                .deadline(&self.config)
                .is_some_and(|deadline| now >= deadline);
            if (unread || late) && socket.is_active() {
                conn.failure.get_or_insert(ConnFailure::TimedOut);
                socket.abort();
                self.touched.insert(*id);
            }
        }
    }

    fn reap(&mut self) {
        self.remove_where(Conn::is_over);
    }

    fn free_port(&mut self, local: IpAddr, remote: SocketAddr) -> Option<u16> {
        for _ in DYNAMIC_PORTS {
            let port = self.next_port;
            self.next_port = if port == *DYNAMIC_PORTS.end() {
                *DYNAMIC_PORTS.start()
            } else {
                port + 1
            };
            if !self.by_pair.contains_key(&((local, port).into(), remote)) {
                return Some(port);
            }
        }
        None
    }
}

impl NetStack for SmolStack {
    fn set_locals(&mut self, locals: &[IpAddr]) {
        set_addresses(&mut self.interface, locals);
        self.touched.extend(self.conns.keys().copied());
    }

    fn ingress(
        &mut self,
        (header, packet): (&Header, &[u8]),
        admits: &mut dyn FnMut(u16) -> Admission,
        now: Monotonic,
        out: &mut Packets,
    ) {
        let opening = header.segment.filter(|segment| segment.is_opening);
        if opening.is_some_and(|segment| self.prepare(&segment, admits, now) == Admission::Busy) {
            return;
        }
        let replies = out.len();
        self.take_in(packet, now, out);
        if out.len() == replies + 1
            && let Some(acceptable) = ack_past_closed_window(packet, out.packet(replies))
        {
            self.take_in(&acceptable, now, out);
        }
        self.touch_after(header.segment.as_ref(), now);
    }

    fn egress(&mut self, now: Monotonic, out: &mut Packets) -> bool {
        self.expire(now);
        let mut link = Link::new(self.config.mtu, None, Some(out));
        let mut has_more = true;
        // In each round every connection sends one packet at most, so that none is left out.
        while has_more && !link.is_full() {
            let result = self
                .interface
                .poll_egress(instant(now), &mut link, &mut self.sockets);
            has_more = result != PollResult::None;
        }
        self.reap();
        has_more
    }

    fn next_deadline(&mut self, now: Monotonic) -> Option<Monotonic> {
        let by_tcp = self.interface.poll_at(instant(now), &self.sockets).map(|at| {
            Monotonic::from_start(std::time::Duration::from_micros(
                u64::try_from(at.total_micros()).unwrap_or(0),
            ))
        });
        let by_us = self
            .conns
            .values()
            .filter(|conn| self.sockets.get::<Socket<'_>>(conn.handle).is_active())
            .filter_map(|conn| conn.deadline(&self.config))
            .min();
        by_tcp.into_iter().chain(by_us).min()
    }

    fn connect(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        deadline: Monotonic,
    ) -> Result<ConnId, OpenError> {
        if !self.has_room() {
            return Err(OpenError::TooMany);
        }
        let port = self.free_port(local, remote).ok_or(OpenError::BadAddress)?;
        let local = SocketAddr::new(local, port);
        let mut socket = self.new_socket();
        socket
            .connect(
                self.interface.context(),
                IpEndpoint::from(remote),
                IpEndpoint::from(local),
            )
            .map_err(|_| OpenError::BadAddress)?;
        Ok(self.insert(socket, (local, remote), deadline, deadline))
    }

    fn next_touched(&mut self) -> Option<ConnId> {
        loop {
            let conn = self.touched.pop_first()?;
            if self
                .conns
                .get(&conn)
                .is_some_and(|entry| entry.released_at.is_none())
            {
                return Some(conn);
            }
        }
    }

    fn touch(&mut self, conn: ConnId) {
        if self.conns.contains_key(&conn) {
            self.touched.insert(conn);
        }
    }

    fn status(&self, conn: ConnId) -> ConnStatus {
        let known = self.socket(conn);
        known.map_or(ConnStatus::Finished, |(entry, socket)| entry.status(socket))
    }

    fn has(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.by_pair.contains_key(&(local, remote))
    }

    fn addresses(&self, conn: ConnId) -> (SocketAddr, SocketAddr) {
        self.conns.get(&conn).expect("asked of a live connection").pair
    }

    fn read(&mut self, conn: ConnId, take: &mut dyn FnMut(&[u8]) -> usize) -> ReadOutcome {
        let Some((_, socket)) = self.socket_mut(conn) else {
            return ReadOutcome::End;
        };
        loop {
            let taken = socket.recv(|bytes| {
                let taken = if bytes.is_empty() { 0 } else { take(bytes) };
                (taken, (taken, bytes.len()))
            });
            match taken {
                Ok((taken, offered)) if taken > 0 && taken == offered => {}
                Ok(_) | Err(RecvError::InvalidState) => return ReadOutcome::Empty,
                Err(RecvError::Finished) => return ReadOutcome::End,
            }
        }
    }

    fn write(&mut self, conn: ConnId, bytes: &[u8], now: Monotonic) -> usize {
        let Some((entry, socket)) = self.socket_mut(conn) else {
            return 0;
        };
        let taken = socket.send_slice(bytes).unwrap_or(0);
        if taken > 0 {
            entry.sending_since.get_or_insert(now);
            entry.stuck_since = entry.stuck_since.map(|_| now);
        }
        taken
    }

    fn shutdown(&mut self, conn: ConnId) {
        if let Some((entry, socket)) = self.socket_mut(conn) {
            entry.fin_sent = true;
            socket.close();
        }
    }

    fn disown(&mut self, conn: ConnId, now: Monotonic) {
        if let Some((entry, _)) = self.socket_mut(conn) {
            entry.stuck_since.get_or_insert(now);
        }
    }

    fn abort(&mut self, conn: ConnId) {
        if let Some((entry, socket)) = self.socket_mut(conn) {
            socket.abort();
            entry.released_at.get_or_insert(Monotonic::ZERO);
        }
    }

    fn release(&mut self, conn: ConnId, now: Monotonic) {
        if let Some((entry, socket)) = self.socket_mut(conn) {
            entry.fin_sent = true;
            socket.close();
            entry.released_at.get_or_insert(now);
            if entry.is_over(socket) {
                self.remove(conn);
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.conns.values().all(|conn| {
            let socket = self.sockets.get::<Socket<'_>>(conn.handle);
            match socket.state() {
                State::Closed => socket.remote_endpoint().is_none(),
                State::FinWait2 | State::TimeWait => true,
                _ => false,
            }
        })
    }

    fn is_idle(&self) -> bool {
        self.conns.is_empty()
    }
}

/// Takes the first few of our addresses; more than there is room for has no use here.
fn set_addresses(interface: &mut Interface, locals: &[IpAddr]) {
    interface.update_ip_addrs(|addresses| {
        addresses.clear();
        for local in locals {
            let _ = addresses.push(IpCidr::new(
                (*local).into(),
                if local.is_ipv4() { 32 } else { 128 },
            ));
        }
    });
}

/// Returns an acknowledgement as smoltcp takes it, when it refused it for standing behind a window that is closed.
///
/// RFC 9293 section 3.10.7.4 wants valid acknowledgements taken while the window is zero. smoltcp does not, and counts its own
/// probes of a closed window as sent: after a few of them every acknowledgement stands behind the other end's window. When
/// both ends hold data, one lost segment then stops both for ever. `reply` is what smoltcp answered, which says what it
/// expects.
fn ack_past_closed_window(packet: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
    let is_plain = |tcp: &TcpPacket<&[u8]>| {
        tcp.ack() && !tcp.syn() && !tcp.fin() && !tcp.rst() && tcp.payload().is_empty()
    };
    let (at, ack) = segment_of(packet)?;
    let (_, refusal) = segment_of(reply)?;
    let is_behind = refusal.window_len() == 0 && ack.seq_number() > refusal.ack_number();
    if !is_plain(&ack) || !is_plain(&refusal) || !is_behind {
        return None;
    }
    let mut acceptable = packet.to_vec();
    // No checksum of TCP is looked at on the way in.
    TcpPacket::new_unchecked(&mut acceptable[at..]).set_seq_number(refusal.ack_number());
    Some(acceptable)
}

/// Returns where the TCP segment of a packet begins, and the segment.
fn segment_of(packet: &[u8]) -> Option<(usize, TcpPacket<&[u8]>)> {
    let at = match packet.first()? >> 4 {
        4 => usize::from(Ipv4Packet::new_checked(packet).ok()?.header_len()),
        _ => IPV6_HEADER_LEN,
    };
    let is_tcp = Header::parse(packet).ok()?.segment.is_some();
    let segment = TcpPacket::new_checked(packet.get(at..)?).ok()?;
    is_tcp.then_some((at, segment))
}

fn instant(at: Monotonic) -> Instant {
    Instant::from_micros(i64::try_from(at.since_start().as_micros()).unwrap_or(i64::MAX))
}
