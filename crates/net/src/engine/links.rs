//! The links on which peers are called, and the sockets that hear others call: what a call means is the core's to say.
//!
//! A call leaves from the main socket, so that it is answered there. The groups have sockets of their own, which never send.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket as Ear};
use std::time::Duration;

use mesh::tunnel::{CALL_GROUP_V4, CALL_GROUP_V6, CALL_PORT, PacketSink};
use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use types::{Monotonic, NodePublicKey, Now};

use super::{Engine, contained};
use crate::networks::Link;
use crate::udp::{SendOutcome, plain};

/// How many datagrams are taken from the groups at once.
const DATAGRAMS_AT_ONCE: usize = 64;

/// For how long the groups are left alone after so many: a flood of them costs no more than 6,400 looks a second.
const REST: Duration = Duration::from_millis(10);

/// How long the groups may go unheard while there is always something else to do.
const UNHEARD_MAX: Duration = Duration::from_millis(100);

/// Longer than a call: what is longer is none, and shows by its length.
const DATAGRAM_LEN: usize = 256;

/// Where calls go, and where they come from.
#[derive(Default)]
pub(super) struct Links {
    /// The group, and our address on the link for a family whose groups do not name it.
    targets: Vec<(Option<IpAddr>, SocketAddr)>,
    ears: Vec<Ear>,
    /// Which of them is listened to first.
    first: usize,
    is_ready: bool,
    /// When they were looked at last, and whether no wait has been for them since.
    heard: Monotonic,
    is_unwatched: bool,
    resting: Option<Monotonic>,
}

impl Links {
    /// Takes the links there are; `main` is where our main socket is bound, and what it cannot reach or be answered at is
    /// left out.
    fn new(links: &[Link], main: SocketAddr) -> Self {
        let v4: Vec<_> = links
            .iter()
            .filter_map(|link| Some((link.index, link.v4.filter(|ip| serves(main.ip(), *ip))?)))
            .collect();
        let is_dual = main.is_ipv6() && main.ip().is_unspecified();
        let v6 = links.iter().filter(|link| is_dual && link.has_v6);
        let mut new = Self::default();
        // A copy that comes later is not answered. By its link-local address whoever calls can always be answered; two IPv4
        // addresses of one link need not be of one network.
        for link in v6 {
            let group = SocketAddrV6::new(CALL_GROUP_V6, CALL_PORT, 0, link.index);
            new.targets.push((None, group.into()));
            new.keep(ear_v6(group));
        }
        if !v4.is_empty() {
            let indices = v4.iter().map(|(index, _)| *index);
            new.keep(ear_v4(indices));
        }
        for (_, ip) in v4 {
            let group = SocketAddr::new(CALL_GROUP_V4.into(), CALL_PORT);
            new.targets.push((Some(ip.into()), group));
        }
        new
    }

    fn keep(&mut self, ear: io::Result<Ear>) {
        match ear {
            Ok(ear) => self.ears.push(ear),
            // We can call all the same.
            Err(error) => tracing::debug!(%error, "calls are not heard on a link"),
        }
    }

    pub(super) fn can_hear(&self) -> bool {
        !self.ears.is_empty()
    }

    /// Returns what is waited for; nothing during a rest.
    pub(super) fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let ears = self.ears.iter().filter(|_| self.resting.is_none());
        ears.map(|ear| PollFd::new(ear, PollFlags::IN))
    }

    /// Tells whether the next wait is for the groups, too: the first after each look. A busy node waits for each packet, and
    /// with so many sockets that costs; so it looks at them now and then.
    pub(super) fn is_watch_due(&mut self) -> bool {
        self.can_hear() && std::mem::take(&mut self.is_unwatched)
    }

    /// Returns when the groups are looked at, whatever was waited for.
    pub(super) fn look_due(&self) -> Option<Monotonic> {
        self.can_hear().then(|| self.heard + UNHEARD_MAX)
    }

    /// Notes what became of [`Links::interests`].
    pub(super) fn note_ready(&mut self, ready: &[PollFlags]) {
        self.is_ready |= ready.iter().any(|ready| !ready.is_empty());
    }

    /// Returns when the rest is over.
    pub(super) fn rested_at(&self) -> Option<Monotonic> {
        self.resting
    }

    /// Hands on what was heard since the last time, if it is time to hear.
    fn hear(&mut self, now: Monotonic, mut take: impl FnMut(SocketAddr, &mut [u8])) {
        if self.resting.is_some_and(|until| now < until) {
            return;
        }
        let has_rested = self.resting.take().is_some();
        let is_overdue = now.since(self.heard) >= UNHEARD_MAX;
        if !std::mem::take(&mut self.is_ready) && !has_rested && !is_overdue {
            return;
        }
        self.heard = now;
        self.is_unwatched = true;
        let mut bytes = [0; DATAGRAM_LEN];
        let mut taken = 0;
        let count = self.ears.len();
        for index in (0..count).map(|index| (self.first + index) % count) {
            let ear = &self.ears[index];
            // An error here is no reason to ask again at once: the next wait says whether there is something.
            while let Ok((len, source)) = ear.recv_from(&mut bytes) {
                take(plain(source), &mut bytes[..len]);
                taken += 1;
                if taken >= DATAGRAMS_AT_ONCE {
                    self.resting = Some(now + REST);
                    // Whoever floods one group is not heard before all others.
                    self.first = index + 1;
                    return;
                }
            }
        }
    }
}

impl Engine {
    /// Takes the links there are; an empty list ends calling and hearing.
    pub(super) fn set_links(&mut self, links: &[Link], now: Now) {
        self.links = Links::new(links, self.socket.local_addr());
        self.mesh.set_on_link(!self.links.targets.is_empty(), now);
    }

    /// Sends a call to everybody on every link, where there is room for it.
    pub(super) fn call(&mut self, call: &[u8]) {
        for (source, group) in &self.links.targets {
            if self.socket.send_from(*source, *group, call) != SendOutcome::Sent {
                self.peers.counters.sends_refused += 1;
            }
        }
    }

    /// Takes what others called on our links.
    pub(super) fn hear_calls(&mut self, now: Now) {
        if !self.links.can_hear() {
            return;
        }
        let (mesh, mut broken) = (&mut self.mesh, 0);
        self.links.hear(now.mono, |source, bytes| {
            broken += contained(|| mesh.handle_call(source, bytes, &mut Nowhere, now));
        });
        self.peers.counters.batches_broken += broken;
    }
}

/// Where packets in calls go: there are none.
struct Nowhere;

impl PacketSink for Nowhere {
    fn packet(&mut self, _from: &NodePublicKey, _packet: &[u8]) {}
}

/// Tells whether a socket bound to `main` sends from an address of ours, and is answered there.
fn serves(main: IpAddr, own: Ipv4Addr) -> bool {
    main.is_unspecified() || main == IpAddr::V4(own)
}

/// Hears the IPv4 group on these interfaces, as far as it can be joined there.
fn ear_v4(interfaces: impl Iterator<Item = u32>) -> io::Result<Ear> {
    let group = SocketAddr::new(CALL_GROUP_V4.into(), CALL_PORT);
    let socket = bound(Domain::IPV4, group)?;
    for index in interfaces {
        let interface = InterfaceIndexOrAddress::Index(index);
        if let Err(error) = socket.join_multicast_v4_n(&CALL_GROUP_V4, &interface) {
            tracing::debug!(%error, index, "calls are not heard on a link");
        }
    }
    Ok(socket.into())
}

/// Hears the IPv6 group on the interface that its address names.
fn ear_v6(group: SocketAddrV6) -> io::Result<Ear> {
    let socket = bound(Domain::IPV6, group.into())?;
    socket.join_multicast_v6(group.ip(), group.scope_id())?;
    Ok(socket.into())
}

/// Binds to a group, so that nothing but what is for the group comes in; several nodes of one host can.
fn bound(domain: Domain, group: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&group.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(main: &str) -> Vec<(Option<IpAddr>, SocketAddr)> {
        let links = [(3, Some(Ipv4Addr::new(192, 0, 2, 7)), true), (4, None, true)];
        let links = links.map(|(index, v4, has_v6)| Link { index, v4, has_v6 });
        Links::new(&links, main.parse().expect("an address")).targets
    }

    #[test]
    fn a_call_goes_by_every_family_by_which_the_main_socket_is_answered() {
        let own: Option<IpAddr> = Some([192, 0, 2, 7].into());
        let v4 = (own, "239.255.83.65:21313".parse().expect("an address"));
        let v6 = |index| (None, SocketAddrV6::new(CALL_GROUP_V6, CALL_PORT, 0, index).into());
        assert_eq!(targets("[::]:41641"), [v6(3), v6(4), v4]);
        assert_eq!(targets("0.0.0.0:41641"), [v4]);
        assert_eq!(targets("192.0.2.7:41641"), [v4]);
        for elsewhere in [
            "127.0.0.1:41641",
            "[::1]:41641",
            "192.0.2.8:41641",
            "[2001:db8::7]:1",
        ] {
            assert_eq!(targets(elsewhere), [], "{elsewhere}");
        }
    }

    #[test]
    fn after_many_datagrams_the_groups_are_left_alone_for_a_moment_and_are_heard_though_nobody_waits() {
        let at = |ms| Monotonic::from_start(Duration::from_millis(ms));
        let loopback = (Ipv4Addr::LOCALHOST, 0);
        let ear = Ear::bind(loopback).expect("binds");
        ear.set_nonblocking(true).expect("sets");
        let far = Ear::bind(loopback).expect("binds");
        for _ in 0..DATAGRAMS_AT_ONCE + 5 {
            far.send_to(&[7; 1000], ear.local_addr().expect("bound"))
                .expect("sends");
        }
        let other = Ear::bind(loopback).expect("binds");
        other.set_nonblocking(true).expect("sets");
        far.send_to(&[8; 148], other.local_addr().expect("bound"))
            .expect("sends");
        let mut links = Links {
            ears: vec![ear, other],
            ..Links::default()
        };
        let hear = |links: &mut Links, now| {
            let mut heard = 0;
            links.hear(now, |_, bytes| {
                assert!(bytes.len() < 1000, "what is longer than a call is cut");
                heard += 1;
            });
            heard
        };
        assert_eq!(hear(&mut links, at(50)), 0, "nobody said that there is something");
        assert_eq!(hear(&mut links, at(100)), DATAGRAMS_AT_ONCE);
        assert_eq!(links.interests().count(), 0);
        assert_eq!(hear(&mut links, at(109)), 0);
        // The other group comes first now: nobody is kept from being heard by a flood elsewhere.
        let mut first = None;
        links.hear(at(110), |_, bytes| {
            first.get_or_insert(bytes[0]);
        });
        assert_eq!(first, Some(8));
        assert_eq!(hear(&mut links, at(210)), 0);
        assert_eq!(links.interests().count(), 2);
    }
}
