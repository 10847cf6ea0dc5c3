//! One UDP socket that sends and receives batches: segmentation offload (UDP_SEGMENT, UDP_GRO) where the system has it,
//! one datagram a call where not. Knows nothing of what the datagrams mean.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

/// The socket buffers asked for, in bytes; the system may grant less. A burst of a window of each of several peers fits.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The largest batch the kernel hands over at once: 64 KiB of datagrams from one sender.
const RECEIVE_BYTES: usize = 65_535;

/// The most that one send may carry, however many datagrams it is cut into: the largest payload of UDP over IPv4.
const SEND_BYTES_MAX: usize = 65_507;

/// How many batches one system call may bring, where a burst of a few peers is all that comes.
const RECEIVE_BATCHES: usize = 8;

/// The same, where many senders' single datagrams come: as many as the batch layer asks Linux for at once.
const RECEIVE_BATCHES_MANY: usize = 32;

/// A bound, non-blocking UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    state: UdpSocketState,
    local: SocketAddr,
}

/// Datagrams of one sender, back to back: each `segment_len` bytes, the last may be shorter.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Who sent them; an IPv4 sender is written as IPv4 on a dual-stack socket too.
    pub source: SocketAddr,
    /// The datagrams.
    pub bytes: &'a mut [u8],
    /// The length of each but the last.
    pub segment_len: usize,
}

/// What became of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// The system took all of it.
    Sent,
    /// The socket's buffer is full: try the same again when it is writable.
    Blocked,
    /// The system refused (no route, too large, …): as good as lost on the way.
    Dropped,
}

/// The memory that [`UdpSocket::receive`] fills: about half a mebibyte, of which the system gives what is used.
#[derive(Debug)]
pub struct ReceiveBuffer {
    bytes: Vec<u8>,
    meta: Vec<RecvMeta>,
    count: usize,
}

impl Default for ReceiveBuffer {
    fn default() -> Self {
        Self::for_batches(RECEIVE_BATCHES)
    }
}

impl ReceiveBuffer {
    /// Makes one of two mebibytes, for a socket to which many send at once.
    #[must_use]
    pub fn for_many() -> Self {
        Self::for_batches(RECEIVE_BATCHES_MANY)
    }

    fn for_batches(batches: usize) -> Self {
        Self {
            bytes: vec![0; RECEIVE_BYTES * batches],
            meta: vec![RecvMeta::default(); batches],
            count: 0,
        }
    }

    /// Returns the batches of the last [`UdpSocket::fill`].
    pub fn batches(&mut self) -> impl Iterator<Item = Batch<'_>> {
        let slices = self.bytes.chunks_exact_mut(RECEIVE_BYTES);
        let filled = slices.zip(&self.meta[..self.count]);
        filled
            .filter(|(_, meta)| meta.len > 0)
            .map(|(slice, meta)| Batch {
                source: plain(meta.addr),
                bytes: &mut slice[..meta.len],
                segment_len: meta.stride.clamp(1, meta.len),
            })
    }
}

impl UdpSocket {
    /// Binds to `listen`; port 0 takes a free one. `[::]` takes IPv4 as well, and IPv4 alone on a system without IPv6.
    pub fn bind(listen: SocketAddr) -> io::Result<Self> {
        Self::bind_to(listen).or_else(|error| match without_ipv6(listen, &error) {
            Some(instead) => Self::bind_to(instead),
            None => Err(error),
        })
    }

    fn bind_to(listen: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        if listen.is_ipv6() {
            socket.set_only_v6(listen.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        allow_fragments(&socket, listen);
        ask_for_nothing_besides(&socket, listen);
        keep_on_the_link(&socket, listen);
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the bound address is no internet address"))?;
        Ok(Self { socket, state, local })
    }

    /// Returns the address it is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Tells whether the system cuts one send into several datagrams for us.
    #[must_use]
    pub fn has_segmentation(&self) -> bool {
        self.state.max_gso_segments() > 1
    }

    /// Sends what lies in `bytes` from `offset` on, as datagrams of `segment_len` bytes (the last may be shorter).
    ///
    /// `offset` is moved over what was sent or dropped, so that a blocked send can go on where it stopped.
    pub fn send(
        &mut self,
        to: SocketAddr,
        bytes: &[u8],
        segment_len: usize,
        offset: &mut usize,
    ) -> SendOutcome {
        self.send_by((None, to), bytes, segment_len, offset)
    }

    /// Sends one datagram from one of our addresses, which decides by which interface a multicast leaves; the system chooses
    /// where there is none. A multicast goes no further than the link.
    pub fn send_from(&mut self, source: Option<IpAddr>, to: SocketAddr, datagram: &[u8]) -> SendOutcome {
        self.send_by((source, to), datagram, datagram.len(), &mut 0)
    }

    fn send_by(
        &mut self,
        (source, to): (Option<IpAddr>, SocketAddr),
        bytes: &[u8],
        segment_len: usize,
        offset: &mut usize,
    ) -> SendOutcome {
        let destination = self.in_our_family(to);
        let segment_len = segment_len.max(1);
        let (mut outcome, mut is_singly) = (SendOutcome::Sent, false);
        while *offset < bytes.len() {
            let available = self.state.max_gso_segments();
            let segments = if is_singly {
                1
            } else {
                available.min(SEND_BYTES_MAX / segment_len).max(1)
            };
            let left = &bytes[*offset..];
            let chunk = &left[..left.len().min(segment_len.saturating_mul(segments))];
            match self.send_once((source, destination), chunk, segment_len) {
                Ok(()) => *offset += chunk.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return SendOutcome::Blocked,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let has_switched_off = self.state.max_gso_segments() < available;
                    if has_switched_off && error.raw_os_error() == Some(libc::EINVAL) {
                        self.renew_state();
                    }
                    // A segment above the path's MTU is refused although it would be let through alone, in fragments.
                    let is_above_mtu = error.raw_os_error() == Some(libc::EMSGSIZE);
                    // The same bytes now go one by one.
                    if (has_switched_off || is_above_mtu) && chunk.len() > segment_len {
                        is_singly = true;
                        continue;
                    }
                    tracing::debug!(%error, to = %to, "datagram not sent");
                    *offset += chunk.len();
                    outcome = SendOutcome::Dropped;
                }
            }
        }
        outcome
    }

    /// Takes what has arrived, at most a buffer full, and hands each batch to `take`. Returns whether more may wait.
    ///
    /// Errors are those of [`UdpSocket::fill`].
    pub fn receive(&self, buffer: &mut ReceiveBuffer, take: impl FnMut(Batch<'_>)) -> io::Result<bool> {
        let may_have_more = self.fill(buffer)?;
        buffer.batches().for_each(take);
        Ok(may_have_more)
    }

    /// Takes what has arrived, at most a buffer full, into `buffer`, so that the socket is free for sending while
    /// [`ReceiveBuffer::batches`] are looked at. Returns whether more may wait.
    ///
    /// An error that the system reports here is about an earlier send (ICMP) and gone with the report, but for a socket that
    /// is beyond help, which reports one every time.
    pub fn fill(&self, buffer: &mut ReceiveBuffer) -> io::Result<bool> {
        buffer.count = 0;
        let mut slices = buffer.bytes.chunks_exact_mut(RECEIVE_BYTES).map(IoSliceMut::new);
        let batches = buffer.meta.len();
        let mut slices: [IoSliceMut<'_>; RECEIVE_BATCHES_MANY] =
            std::array::from_fn(|_| slices.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        let socket = UdpSockRef::from(&self.socket);
        buffer.count = match self.state.recv(socket, &mut slices[..batches], &mut buffer.meta) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(buffer.count == batches)
    }

    /// Takes back what the batch layer concluded from an EINVAL: that the system cannot do what it did before. The cause is a
    /// single destination (a path below the segment's length, port 0), and all others need not suffer for it.
    fn renew_state(&mut self) {
        if let Ok(state) = UdpSocketState::new(UdpSockRef::from(&self.socket)) {
            self.state = state;
            allow_fragments(&self.socket, self.local);
            ask_for_nothing_besides(&self.socket, self.local);
        }
    }

    fn send_once(
        &self,
        (src_ip, destination): (Option<IpAddr>, SocketAddr),
        chunk: &[u8],
        segment_len: usize,
    ) -> io::Result<()> {
        let transmit = quinn_udp::Transmit {
            destination,
            ecn: None,
            contents: chunk,
            segment_size: (chunk.len() > segment_len).then_some(segment_len),
            src_ip,
        };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    fn in_our_family(&self, to: SocketAddr) -> SocketAddr {
        match (self.local, to) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            _ => to,
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A multicast passes no router. That is what systems do unless they are told otherwise, so that one that refuses to be told
/// does it, too.
fn keep_on_the_link(socket: &Socket, listen: SocketAddr) {
    let _ = socket.set_multicast_ttl_v4(1);
    if listen.is_ipv6() {
        let _ = socket.set_multicast_hops_v6(1);
    }
}

/// The batch layer forbids fragments, as QUIC needs; a tunnel must rather be slow than silent on a path below its MTU.
#[cfg(target_os = "linux")]
fn allow_fragments(socket: &Socket, listen: SocketAddr) {
    use rustix::net::sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    };
    let _ = set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT);
    if listen.is_ipv6() {
        let _ = set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT);
        switch_off(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG);
    }
}

/// The batch layer asks for what congestion control needs: when each datagram came, to which of our addresses and with which
/// mark. Nobody reads it here, and the system would write it beside each datagram.
#[cfg(target_os = "linux")]
fn ask_for_nothing_besides(socket: &Socket, listen: SocketAddr) {
    switch_off(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
    switch_off(socket, libc::IPPROTO_IP, libc::IP_PKTINFO);
    switch_off(socket, libc::IPPROTO_IP, libc::IP_RECVTOS);
    if listen.is_ipv6() {
        switch_off(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO);
        switch_off(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS);
    }
}

/// Switches an option off that neither std, rustix nor socket2 knows. Should it fail, it stays as it was.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn switch_off(socket: &Socket, level: libc::c_int, option: libc::c_int) {
    use std::os::fd::AsRawFd as _;
    let off: libc::c_int = 0;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the whole call, and the option's value is a live integer of the length given.
    let _ = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const off).cast(), len) };
}

#[cfg(not(target_os = "linux"))]
fn allow_fragments(_socket: &Socket, _listen: SocketAddr) {}

#[cfg(not(target_os = "linux"))]
fn ask_for_nothing_besides(_socket: &Socket, _listen: SocketAddr) {}

/// Returns where to bind when `listen` asks for every address and the system has no IPv6.
fn without_ipv6(listen: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let asks_for_all = listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    (asks_for_all && error.raw_os_error() == Some(libc::EAFNOSUPPORT))
        .then(|| (Ipv4Addr::UNSPECIFIED, listen.port()).into())
}

/// Writes an IPv4 sender seen on a dual-stack socket as IPv4, so that one sender has one name. The scope of a link-local
/// sender stays: without it no answer reaches it.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_none() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into()
        }
        _ => SocketAddr::new(address.ip().to_canonical(), address.port()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn receive_all(socket: &UdpSocket, bytes: usize) -> (Vec<u8>, Vec<usize>, SocketAddr) {
        let (mut buffer, mut all, mut lens) = (ReceiveBuffer::default(), Vec::new(), Vec::new());
        let mut source = socket.local_addr();
        let guard = Timespec::try_from(Duration::from_secs(10)).expect("ten seconds");
        while all.len() < bytes {
            let mut fds = [PollFd::new(socket, PollFlags::IN)];
            assert_eq!(poll(&mut fds, Some(&guard)).expect("poll"), 1, "no datagram came");
            let received = socket.receive(&mut buffer, |batch| {
                source = batch.source;
                lens.extend(batch.bytes.chunks(batch.segment_len).map(<[u8]>::len));
                all.extend_from_slice(batch.bytes);
            });
            received.expect("receives");
        }
        (all, lens, source)
    }

    #[test]
    fn a_batch_arrives_as_the_datagrams_it_is_made_of() {
        let [mut near, far] =
            [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0".parse().expect("address")).expect("binds"));
        let sent: Vec<u8> = (0..1000_u32 * 40 + 17).map(|index| (index / 7) as u8).collect();
        let mut offset = 0;
        assert_eq!(
            near.send(far.local_addr(), &sent, 1000, &mut offset),
            SendOutcome::Sent
        );
        assert_eq!(offset, sent.len());
        let (received, lens, source) = receive_all(&far, sent.len());
        assert!(received == sent);
        assert_eq!(source, near.local_addr());
        let mut expected = vec![1000; 40];
        expected.push(17);
        assert_eq!(lens, expected);
    }

    #[test]
    fn more_than_one_send_may_carry_is_cut_and_arrives_whole() {
        let [mut near, far] =
            [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0".parse().expect("address")).expect("binds"));
        let sent: Vec<u8> = (0..1408_u32 * 60).map(|index| (index / 7) as u8).collect();
        let mut offset = 0;
        assert_eq!(
            near.send(far.local_addr(), &sent, 1408, &mut offset),
            SendOutcome::Sent
        );
        let (received, lens, _) = receive_all(&far, sent.len());
        assert!(received == sent);
        assert_eq!(lens, vec![1408; 60]);
    }

    #[test]
    fn a_socket_for_all_addresses_speaks_ipv4_and_names_it_so() {
        let Ok(mut dual) = UdpSocket::bind("[::]:0".parse().expect("address")) else {
            return;
        };
        let mut v4 = UdpSocket::bind("127.0.0.1:0".parse().expect("address")).expect("binds");
        let mut offset = 0;
        assert_eq!(
            dual.send(v4.local_addr(), b"to v4", 5, &mut offset),
            SendOutcome::Sent
        );
        let (bytes, _, source) = receive_all(&v4, 5);
        assert_eq!(bytes, b"to v4");
        let mut offset = 0;
        assert_eq!(v4.send(source, b"back", 4, &mut offset), SendOutcome::Sent);
        let (bytes, _, source) = receive_all(&dual, 4);
        assert_eq!((bytes.as_slice(), source), (b"back".as_slice(), v4.local_addr()));
    }

    #[test]
    fn one_sender_has_one_name_and_a_link_local_one_its_scope() {
        for (seen, name) in [
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("[fe80::1%3]:7", "[fe80::1%3]:7"),
        ] {
            assert_eq!(plain(seen.parse().expect("address")).to_string(), name);
        }
    }

    #[test]
    fn only_a_socket_for_all_addresses_does_without_ipv6() {
        let missing = io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        let taken = io::Error::from_raw_os_error(libc::EADDRINUSE);
        let all: SocketAddr = "[::]:7".parse().expect("address");
        assert_eq!(
            without_ipv6(all, &missing),
            Some("0.0.0.0:7".parse().expect("address"))
        );
        assert_eq!(without_ipv6(all, &taken), None);
        assert_eq!(without_ipv6("[::1]:7".parse().expect("address"), &missing), None);
    }

    #[test]
    fn what_the_system_refuses_is_dropped_and_not_tried_for_ever() {
        let mut socket = UdpSocket::bind("127.0.0.1:0".parse().expect("address")).expect("binds");
        let mut offset = 0;
        let too_long = vec![0; 65_535];
        let outcome = socket.send(socket.local_addr(), &too_long, too_long.len(), &mut offset);
        assert_eq!((outcome, offset), (SendOutcome::Dropped, too_long.len()));
    }

    #[test]
    fn a_destination_that_cannot_be_does_not_slow_down_the_others() {
        let mut socket = UdpSocket::bind("127.0.0.1:0".parse().expect("address")).expect("binds");
        let before = socket.has_segmentation();
        for len in [100, 1000] {
            let mut offset = 0;
            let nowhere = "127.0.0.1:0".parse().expect("address");
            let outcome = socket.send(nowhere, &vec![0; len], 100, &mut offset);
            assert_eq!((outcome, offset), (SendOutcome::Dropped, len));
            assert_eq!(socket.has_segmentation(), before);
        }
    }
}
