//! Which networks this host is in: the addresses of its interfaces, and word of when they may have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use if_addrs::Interface;

/// The address of interfaces that lead nowhere (RFC 7600): that of the link by which a system's resolver is told of names.
pub const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// How many links count at most: hosts of many containers have hundreds, and a call goes to each.
pub const LINKS_MAX: usize = 16;

/// A link that this host shares with others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Link {
    /// The system's number for its interface.
    pub index: u32,
    /// Our address on it by IPv4, the first of several.
    pub v4: Option<Ipv4Addr>,
    /// Whether we have a link-local IPv6 address on it.
    pub has_v6: bool,
}

/// The networks at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Networks {
    /// The addresses of all interfaces that are up, without loopback and IPv6 link-local ones.
    pub addresses: BTreeSet<IpAddr>,
    /// From which address packets to the internet leave, for each family; `None` where no route leads there.
    pub outward: [Option<IpAddr>; 2],
    /// The links that are up, without loopback and those to a single other end, as our own device is; at most [`LINKS_MAX`],
    /// those with an IPv4 address first.
    pub links: Vec<Link>,
}

impl Networks {
    /// Asks the operating system.
    pub fn now() -> io::Result<Self> {
        let interfaces = if_addrs::get_if_addrs()?;
        let links = links(&interfaces);
        let addresses = interfaces.into_iter().map(|interface| interface.ip());
        // Documentation addresses (RFC 5737, RFC 3849): routed like any other, and nobody's.
        let far: [IpAddr; 2] = [
            Ipv4Addr::new(192, 0, 2, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ];
        Ok(Self {
            addresses: addresses.filter(|ip| is_of_a_network(*ip)).collect(),
            outward: far.map(|ip| source_toward(SocketAddr::new(ip, 9))),
            links,
        })
    }

    /// Tells whether sockets that worked in `before` may have lost their way: an address is gone, or packets to the internet
    /// leave from another one. An address that only came is no reason for doubt.
    #[must_use]
    pub fn are_others_than(&self, before: &Self) -> bool {
        self.outward != before.outward || !self.addresses.is_superset(&before.addresses)
    }
}

/// Gathers the addresses of each interface.
fn links(interfaces: &[Interface]) -> Vec<Link> {
    let mut links: BTreeMap<u32, Link> = BTreeMap::new();
    let shared = interfaces
        .iter()
        .filter(|interface| interface.is_oper_up() && !interface.is_p2p() && !interface.is_loopback());
    for interface in shared {
        let Some(index) = interface.index else {
            continue;
        };
        let link = links.entry(index).or_insert(Link {
            index,
            v4: None,
            has_v6: false,
        });
        match interface.ip() {
            IpAddr::V4(ip) if ip != DUMMY && !ip.is_unspecified() => {
                link.v4 = Some(link.v4.map_or(ip, |before| before.min(ip)));
            }
            IpAddr::V4(_) => {}
            IpAddr::V6(ip) => link.has_v6 |= ip.is_unicast_link_local(),
        }
    }
    let mut links: Vec<_> = links.into_values().collect();
    links.retain(|link| link.v4.is_some() || link.has_v6);
    links.sort_by_key(|link| link.v4.is_none());
    links.truncate(LINKS_MAX);
    links
}

fn is_of_a_network(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified() && ip != DUMMY,
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}

/// Returns the address from which packets to `remote` leave; nothing is sent to learn it.
#[must_use]
pub fn source_toward(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

pub use imp::Changes;

/// The kernel says so itself.
#[cfg(target_os = "linux")]
mod imp {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{self, AddressFamily, RecvFlags, SocketFlags, SocketType};
    use tokio::io::unix::AsyncFd;

    /// Groups of rtnetlink(7): links, addresses and routes of both families.
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

    /// What belongs together comes within this time: an address and its routes.
    const SETTLED: Duration = Duration::from_millis(100);

    /// Word of changes.
    #[derive(Debug)]
    pub struct Changes(AsyncFd<OwnedFd>);

    impl Changes {
        /// Begins to listen.
        #[allow(unsafe_code)]
        pub fn listen() -> io::Result<Self> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            // Protocol 0 of netlink is NETLINK_ROUTE.
            let socket = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            // SAFETY: an `OwnedFd` is open as long as it lives, and always the same descriptor.
            let socket = unsafe { AsyncFd::register(socket) }?;
            Ok(Self(socket))
        }

        /// Returns when something may have changed since the last call. Can be dropped at any await.
        pub async fn next(&mut self) -> io::Result<()> {
            self.drained().await?;
            tokio::time::sleep(SETTLED).await;
            Ok(())
        }

        /// Waits for messages and throws them away: what there is now is asked for anew.
        async fn drained(&mut self) -> io::Result<()> {
            let mut ready = self.0.readable().await?;
            let mut message = [0; 8192];
            loop {
                match net::recv(self.0.get_ref(), &mut message, RecvFlags::empty()) {
                    // Too many at once (ENOBUFS) is word of a change as well.
                    Ok(_) | Err(rustix::io::Errno::NOBUFS) => {}
                    Err(rustix::io::Errno::AGAIN) => {
                        ready.clear_ready();
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Elsewhere it is looked for.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::io;
    use std::time::Duration;

    /// How often.
    const EVERY: Duration = Duration::from_secs(2);

    /// Word of changes.
    #[derive(Debug)]
    pub struct Changes(());

    impl Changes {
        /// Begins to listen.
        pub fn listen() -> io::Result<Self> {
            Ok(Self(()))
        }

        /// Returns when something may have changed since the last call. Can be dropped at any await.
        pub async fn next(&mut self) -> io::Result<()> {
            tokio::time::sleep(EVERY).await;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use if_addrs::{IfAddr, IfOperStatus, Ifv4Addr, Ifv6Addr};

    use super::*;

    fn networks(addresses: &[&str], outward: Option<&str>) -> Networks {
        let ip = |text: &&str| text.parse().expect("an address");
        Networks {
            addresses: addresses.iter().map(ip).collect(),
            outward: [outward.as_ref().map(ip), None],
            links: Vec::new(),
        }
    }

    #[test]
    fn a_lost_address_or_another_way_out_is_another_network_and_one_more_address_is_not() {
        let before = networks(&["192.0.2.7"], Some("192.0.2.7"));
        assert!(!before.are_others_than(&before));
        assert!(!networks(&["192.0.2.7", "10.0.0.1"], Some("192.0.2.7")).are_others_than(&before));
        assert!(networks(&["10.0.0.1"], Some("192.0.2.7")).are_others_than(&before));
        assert!(networks(&["192.0.2.7", "10.0.0.1"], Some("10.0.0.1")).are_others_than(&before));
        assert!(networks(&["192.0.2.7"], None).are_others_than(&before));
    }

    fn interface(index: u32, address: &str, is_p2p: bool) -> Interface {
        let addr = match address.parse().expect("an address") {
            IpAddr::V4(ip) => IfAddr::V4(Ifv4Addr {
                ip,
                netmask: Ipv4Addr::new(255, 255, 255, 0),
                prefixlen: 24,
                broadcast: None,
            }),
            IpAddr::V6(ip) => IfAddr::V6(Ifv6Addr {
                ip,
                netmask: Ipv6Addr::UNSPECIFIED,
                prefixlen: 64,
                broadcast: None,
            }),
        };
        Interface {
            name: format!("link{index}"),
            addr,
            index: Some(index),
            oper_status: IfOperStatus::Up,
            is_p2p,
        }
    }

    #[test]
    fn a_link_is_what_is_shared_with_others_and_up() {
        let mut interfaces = vec![
            interface(1, "127.0.0.1", false),
            interface(2, "fe80::2", false),
            interface(3, "192.168.1.9", false),
            interface(3, "192.168.1.7", false),
            interface(3, "2001:db8::7", false),
            interface(4, "100.64.0.1", true),
            interface(5, "192.0.0.8", false),
            interface(6, "2001:db8::6", false),
            interface(7, "192.168.2.1", false),
        ];
        interfaces[8].oper_status = IfOperStatus::Down;
        let expected = [(3, Some([192, 168, 1, 7]), false), (2, None, true)];
        let expected = expected.map(|(index, v4, has_v6)| Link {
            index,
            v4: v4.map(Ipv4Addr::from),
            has_v6,
        });
        assert_eq!(links(&interfaces), expected);
        let many: Vec<_> = (1..100)
            .map(|index| interface(index, "fe80::1", false))
            .chain([interface(100, "192.168.1.7", false)])
            .collect();
        let links = links(&many);
        assert_eq!((links.len(), links[0].index), (LINKS_MAX, 100));
    }

    #[test]
    fn this_host_is_asked_and_no_loopback_address_is_named() {
        let now = Networks::now().expect("the system answers");
        assert!(now.addresses.iter().all(|ip| !ip.is_loopback()));
        let loopback = source_toward(([127, 0, 0, 1], 9).into());
        assert_eq!(loopback, Some(Ipv4Addr::LOCALHOST.into()));
    }
}
