//! An internet of documentation addresses, with sites on it: networks with one host each, behind NATs.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use super::namespace::Namespace;
use super::nat::{Nat, SHORT_TIMEOUT_SECONDS};
use super::router::{self, OpensPorts};

/// The name at which every host of an internet finds the control plane.
pub const CONTROL_HOST: &str = "control.example";

/// The name of the control plane's neighbour, where a relay may run.
pub const RELAY_HOSTS: [&str; 2] = ["relay-one.example", "relay-two.example"];

/// The machine of the control plane has two addresses, so that NATs can be measured from it.
pub const CONTROL_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 3)];

/// The last parts of the addresses of the machines that do not belong to sites.
const SERVERS: [(&str, u16); 3] = [(CONTROL_HOST, 2), (RELAY_HOSTS[0], 4), (RELAY_HOSTS[1], 5)];

/// Everything that is public: a switch to which servers and routers are joined.
#[derive(Debug)]
pub struct Internet {
    /// Keeps the names of several internets of one process apart.
    world: String,
    backbone: Namespace,
    /// The machine of the control plane.
    pub control: Namespace,
    joined: AtomicU32,
}

impl Internet {
    /// Makes an internet with the control plane's machine on it.
    pub fn new() -> Result<Self> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let world = WORLDS.fetch_add(1, Ordering::Relaxed).to_string();
        let backbone = Namespace::new(&world, "net")?;
        backbone.sysctl(&[("net/ipv6/conf/all/forwarding", "1")])?;
        backbone.ip(
            "link add switch type bridge\naddr add 203.0.113.1/24 dev switch\n\
             addr add 2001:db8:1::1/64 dev switch nodad\nlink set switch up\n",
        )?;
        let control = Namespace::new(&world, "control")?;
        let internet = Self {
            world,
            backbone,
            control,
            joined: AtomicU32::new(0),
        };
        internet.join(&internet.control, 2, true)?;
        internet.control.ip("addr add 203.0.113.3/24 dev wan\n")?;
        internet.control.set_hosts(&hosts(true, true))?;
        Ok(internet)
    }

    /// Adds the machine of a relay, the first or the second.
    pub fn relay_machine(&self, number: usize) -> Result<Namespace> {
        let machine = Namespace::new(&self.world, &format!("relay{number}"))?;
        self.join(&machine, SERVERS[1 + number].1, true)?;
        machine.set_hosts(&hosts(true, true))?;
        Ok(machine)
    }

    /// Adds a site; `number` from 1 on tells the sites of one internet apart.
    pub fn site(&self, nat: Nat, number: u16) -> Result<Site> {
        let host = Namespace::new(&self.world, &format!("host{number}"))?;
        host.set_hosts(&hosts(
            nat != Nat::Ipv6Only,
            matches!(nat, Nat::None | Nat::Ipv6Only),
        ))?;
        let mut site = Site {
            host,
            services: Vec::new(),
            routers: Vec::new(),
            nat,
            number,
            inside: 2,
        };
        self.add_uplink(&mut site, Uplink::First)?;
        if nat != Nat::None {
            site.move_to(Uplink::First)?;
        }
        for router in &site.routers {
            router.wait_for_link("lan")?;
        }
        Ok(site)
    }

    /// Adds a host to the network of a site, beside its host; what lies before both stays with that site.
    pub fn neighbour(&self, site: &Site, number: u16) -> Result<Site> {
        let host = Namespace::new(&self.world, &format!("host{number}"))?;
        let is_v6 = site.nat == Nat::Ipv6Only;
        host.set_hosts(&hosts(!is_v6, is_v6))?;
        let router = site.routers.last().context("nothing lies before the site")?;
        plug_inside(router, &host, Uplink::First.link())?;
        let neighbour = Site {
            host,
            services: Vec::new(),
            routers: Vec::new(),
            nat: site.nat,
            number: site.number,
            inside: number.to_le_bytes()[0].saturating_add(1),
        };
        neighbour.move_to(Uplink::First)?;
        Ok(neighbour)
    }

    /// Adds a second way out to a site, behind a NAT of the same kind; the host does not use it yet.
    pub fn add_second_uplink(&self, site: &mut Site) -> Result<()> {
        self.add_uplink(site, Uplink::Second)
    }

    fn add_uplink(&self, site: &mut Site, uplink: Uplink) -> Result<()> {
        let outside = site.outside(uplink);
        if site.nat == Nat::None {
            return self.join(&site.host, outside, true);
        }
        let router = Namespace::new(&self.world, &format!("router{outside}"))?;
        let (link, subnet) = (uplink.link(), uplink.subnet());
        router.ip("link add lan type bridge\n")?;
        // Where this module is loaded, what goes from one port of a switch to another would pass the router's rules.
        if Path::new("/proc/sys/net/bridge").exists() {
            router.sysctl(&[
                ("net/bridge/bridge-nf-call-iptables", "0"),
                ("net/bridge/bridge-nf-call-ip6tables", "0"),
            ])?;
        }
        plug_inside(&router, &site.host, link)?;
        if site.nat == Nat::Ipv6Only {
            self.join_v6_router(&router, outside)?;
        } else {
            router.ip(&format!(
                "addr add 192.168.{subnet}.1/24 dev lan\nlink set lan up\n"
            ))?;
            router.sysctl(&[("net/ipv4/ip_forward", "1")])?;
            if site.nat == Nat::Cgnat {
                site.routers.push(Arc::new(self.carrier(&router, outside)?));
            } else {
                self.join(&router, outside, false)?;
            }
        }
        router.nft(&site.nat.rules())?;
        if site.nat == Nat::ShortTimeouts {
            let seconds = SHORT_TIMEOUT_SECONDS.to_string();
            router.sysctl(&[
                ("net/netfilter/nf_conntrack_udp_timeout", &seconds),
                ("net/netfilter/nf_conntrack_udp_timeout_stream", &seconds),
            ])?;
        }
        let router = Arc::new(router);
        if site.nat.opens_ports() {
            self.backbone.sysctl(&[("net/ipv4/ip_forward", "1")])?;
            self.backbone.ip(&format!(
                "route add {} via 203.0.113.{outside}\n",
                router::outer(outside)
            ))?;
            let service = OpensPorts::start(&router, outside, subnet, site.nat)?;
            site.services.push(service);
        }
        site.routers.push(router);
        Ok(())
    }

    /// The provider's NAT, before the customer's.
    fn carrier(&self, router: &Namespace, outside: u16) -> Result<Namespace> {
        let carrier = Namespace::new(&self.world, &format!("carrier{outside}"))?;
        let name = router.name();
        carrier.ip(&format!(
            "link add lan type veth peer name wan netns {name}\naddr add 100.64.0.1/10 dev lan\nlink set lan up\n"
        ))?;
        router.ip("addr add 100.64.0.2/10 dev wan\nlink set wan up\nroute add default via 100.64.0.1\n")?;
        carrier.sysctl(&[("net/ipv4/ip_forward", "1")])?;
        self.join(&carrier, outside, false)?;
        carrier.nft(&Nat::PortRestricted.rules())?;
        Ok(carrier)
    }

    fn join_v6_router(&self, router: &Namespace, outside: u16) -> Result<()> {
        router.sysctl(&[("net/ipv6/conf/all/forwarding", "1")])?;
        self.plug(router)?;
        router.ip(&format!(
            "addr add 2001:db8:1::{outside:x}/64 dev wan nodad\nlink set wan up\naddr add 2001:db8:{outside:x}::1/64 dev lan nodad\n\
             link set lan up\nroute add default via 2001:db8:1::1\n"
        ))?;
        self.backbone.ip(&format!(
            "route add 2001:db8:{outside:x}::/64 via 2001:db8:1::{outside:x}\n"
        ))
    }

    /// Joins a machine to the switch by a link named `wan`, with public addresses.
    fn join(&self, machine: &Namespace, number: u16, with_v6: bool) -> Result<()> {
        self.plug(machine)?;
        let mut lines = format!("addr add 203.0.113.{number}/24 dev wan\n");
        if with_v6 {
            lines += &format!("addr add 2001:db8:1::{number:x}/64 dev wan nodad\n");
        }
        lines += "link set wan up\nroute add default via 203.0.113.1\n";
        if with_v6 {
            lines += "route add default via 2001:db8:1::1\n";
        }
        machine.ip(&lines)
    }

    fn plug(&self, machine: &Namespace) -> Result<()> {
        let port = self.joined.fetch_add(1, Ordering::Relaxed);
        let name = machine.name();
        self.backbone.ip(&format!(
            "link add port{port} type veth peer name wan netns {name}\nlink set port{port} master switch up\n"
        ))
    }
}

/// A network with one host in it.
#[derive(Debug)]
pub struct Site {
    /// The host.
    pub host: Namespace,
    /// What opens ports on its routers, the first uplink's first; empty where nothing does.
    pub services: Vec<OpensPorts>,
    /// What lies before it, the innermost last.
    pub routers: Vec<Arc<Namespace>>,
    /// Of which kind it is.
    pub nat: Nat,
    number: u16,
    /// The last part of the host's IPv4 address in it.
    inside: u8,
}

/// One of the ways out of a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Uplink {
    /// The one that every site has.
    First,
    /// Another one, if it was added.
    Second,
}

impl Site {
    /// Has the host, which is behind a NAT, use one way out and no other.
    pub fn move_to(&self, uplink: Uplink) -> Result<()> {
        let (link, subnet) = (uplink.link(), uplink.subnet());
        if self.nat == Nat::Ipv6Only {
            let net = format!("2001:db8:{:x}:", self.outside(uplink));
            return self.host.ip(&format!(
                "addr add {net}:{:x}/64 dev {link} nodad\nlink set {link} up\nroute add default via {net}:1\n",
                self.inside
            ));
        }
        let inside = self.inside;
        self.host.ip(&format!(
            "addr add 192.168.{subnet}.{inside}/24 dev {link}\nlink set {link} up\nroute add default via 192.168.{subnet}.1\n"
        ))
    }

    /// Takes a way out from the host.
    pub fn leave(&self, uplink: Uplink) -> Result<()> {
        let link = uplink.link();
        self.host
            .ip(&format!("addr flush dev {link}\nlink set {link} down\n"))
    }

    /// Gives the host, which is behind a NAT, another address in its network, as a router does that hands them out anew.
    pub fn renumber(&mut self, inside: u8) -> Result<()> {
        self.leave(Uplink::First)?;
        self.inside = inside;
        self.move_to(Uplink::First)
    }

    /// Cuts the network off from everything outside.
    pub fn cut(&self) -> Result<()> {
        self.outermost()?.ip("link set wan down\n")
    }

    /// Lets no UDP out or in any more, or lets it again.
    pub fn block_udp(&self, is_blocked: bool) -> Result<()> {
        self.outermost()?.nft(if is_blocked {
            BLOCK_UDP
        } else {
            "delete table ip outage\n"
        })
    }

    /// Restarts the NAT of a site that has one: it forgets every flow, and the provider gives it another address.
    pub fn reboot_nat(&self) -> Result<()> {
        let router = self.outermost()?;
        let (before, after) = (self.outside(Uplink::First), self.outside(Uplink::First) + 5);
        // The kernel forgets the flows that it translated for a link when that goes down; sets and maps go with the rules.
        router.ip("link set wan down\n")?;
        router.nft(&format!("flush ruleset\n{}", self.nat.rules()))?;
        router.ip(&format!(
            "addr del 203.0.113.{before}/24 dev wan\naddr add 203.0.113.{after}/24 dev wan\nlink set wan up\n\
             route add default via 203.0.113.1\n"
        ))?;
        router.wait_for_link("wan")
    }

    /// Sets the longest packet that the site's link to the internet takes, out and in.
    pub fn set_outer_mtu(&self, bytes: u16) -> Result<()> {
        let outermost = self.routers.first().map_or(&self.host, |router| router);
        outermost.ip(&format!("link set wan mtu {bytes}\n"))
    }

    fn outermost(&self) -> Result<&Namespace> {
        let outermost = self.routers.first();
        Ok(outermost.context("nothing lies before the site")?)
    }

    /// The last part of the public address of a way out.
    fn outside(&self, uplink: Uplink) -> u16 {
        10 * self.number + uplink.subnet() - 1
    }
}

impl Uplink {
    fn link(self) -> &'static str {
        match self {
            Self::First => "lan",
            Self::Second => "alt",
        }
    }

    /// Every first network is the same one, as it is where people buy the same router.
    fn subnet(self) -> u16 {
        match self {
            Self::First => 1,
            Self::Second => 2,
        }
    }
}

/// Drops UDP before anything else is asked.
const BLOCK_UDP: &str = "table ip outage {\n  chain passing {\n    type filter hook forward priority -10\n\
                         meta l4proto udp drop\n  }\n}\n";

/// Joins a host to the network inside a router by a link of its own.
fn plug_inside(router: &Namespace, host: &Namespace, link: &str) -> Result<()> {
    let (host, port) = (host.name(), host.name().rsplit('-').next().unwrap_or_default());
    router.ip(&format!(
        "link add {port} type veth peer name {link} netns {host}\nlink set {port} master lan up\n"
    ))
}

/// What `/etc/hosts` says on a machine with these families.
fn hosts(has_v4: bool, has_v6: bool) -> String {
    let mut lines = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for (name, number) in SERVERS {
        let v4 = IpAddr::from([203, 0, 113, number.to_le_bytes()[0]]);
        let v6 = IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, number]);
        for (address, has) in [(v4, has_v4), (v6, has_v6)] {
            if has {
                lines += &format!("{address} {name}\n");
            }
        }
    }
    lines
}
