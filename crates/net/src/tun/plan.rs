//! What the device's addresses and the host's routes to the mesh should be, and what must be done to get there. No I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;

use types::{AllowedIp, MESH_MTU};

/// Addresses and routes at one moment. A route leads to one address, so that no other network of the host is touched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// The device's own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The nodes that the host reaches through the device.
    pub routes: BTreeSet<IpAddr>,
}

/// One change of the host's network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Gives the device an address of its own.
    AddAddress(IpAddr),
    /// Takes one.
    RemoveAddress(IpAddr),
    /// Leads packets for a node into the device, from our address of that family.
    AddRoute {
        /// The node's address.
        to: IpAddr,
        /// Ours.
        from: IpAddr,
    },
    /// No longer does.
    RemoveRoute(IpAddr),
}

/// An interface of the host other than the device, and a network that it is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Occupied {
    /// The interface.
    pub interface: String,
    /// The network.
    pub block: AllowedIp,
}

impl Plan {
    /// Returns the steps from `before` to this plan, in an order in which each can be taken: what goes first, routes before
    /// addresses; what comes, addresses before routes. Routes of a family without an address are left out.
    #[must_use]
    pub fn steps_from(&self, before: &Self) -> Vec<Step> {
        // A route whose source goes is made anew.
        let stays = |to: &IpAddr| {
            let is_in_both = self.routes.contains(to) && before.routes.contains(to);
            is_in_both && self.source_towards(to) == before.source_towards(to)
        };
        let gone = before.routes.iter().filter(|to| !stays(to));
        let gone = gone.map(|to| Step::RemoveRoute(*to));
        let unused = before.addresses.difference(&self.addresses);
        let new = self.addresses.difference(&before.addresses);
        let come = self.routes.iter().filter(|to| !stays(to));
        let come = come.filter_map(|to| {
            let from = self.source_towards(to)?;
            Some(Step::AddRoute { to: *to, from })
        });
        gone.chain(unused.map(|own| Step::RemoveAddress(*own)))
            .chain(new.map(|own| Step::AddAddress(*own)))
            .chain(come)
            .collect()
    }

    fn source_towards(&self, to: &IpAddr) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter();
        addresses.find(|own| own.is_ipv4() == to.is_ipv4()).copied()
    }

    /// Returns our address that a network of the host holds already, and that network.
    #[must_use]
    pub fn clash<'a>(&self, occupied: &'a [Occupied]) -> Option<(IpAddr, &'a Occupied)> {
        let mut own = self.addresses.iter();
        own.find_map(|address| Some((*address, holder(occupied, *address)?)))
    }

    /// Takes out the routes to nodes whose address a network of the host holds: that network is reached as before, and the
    /// node is not. Returns what was taken out.
    pub fn give_way(&mut self, occupied: &[Occupied]) -> Vec<IpAddr> {
        let is_taken = |to: &IpAddr| holder(occupied, *to).is_some();
        let taken: Vec<IpAddr> = self.routes.iter().copied().filter(is_taken).collect();
        self.routes.retain(|to| !taken.contains(to));
        taken
    }
}

fn holder(occupied: &[Occupied], address: IpAddr) -> Option<&Occupied> {
    // A network of every address is a default route, not a place.
    let mut places = occupied.iter().filter(|place| place.block.prefix_len() > 0);
    places.find(|place| place.block.contains(address))
}

impl Step {
    pub(super) fn is_of_ip6(&self) -> bool {
        match self {
            Self::AddAddress(ip)
            | Self::RemoveAddress(ip)
            | Self::RemoveRoute(ip)
            | Self::AddRoute { to: ip, .. } => ip.is_ipv6(),
        }
    }

    /// Returns the words of the commands of macOS that do this, `ifconfig` or `route`.
    #[must_use]
    pub fn macos_command(&self, device: &str) -> Vec<String> {
        let family = |ip: &IpAddr| if ip.is_ipv4() { "inet" } else { "inet6" };
        let words = |text: String| text.split(' ').map(str::to_owned).collect();
        words(match self {
            // A device between two points wants the address of the other one; it is its own here.
            Self::AddAddress(own @ IpAddr::V4(_)) => {
                format!("ifconfig {device} inet {own} {own} netmask 255.255.255.255 alias")
            }
            Self::AddAddress(own) => format!("ifconfig {device} inet6 {own} prefixlen 128 alias"),
            Self::RemoveAddress(own) => format!("ifconfig {device} {} {own} -alias", family(own)),
            Self::AddRoute { to, .. } => {
                format!("route -q -n add -{} -host {to} -interface {device}", family(to))
            }
            Self::RemoveRoute(to) => {
                format!(
                    "route -q -n delete -{} -host {to} -interface {device}",
                    family(to)
                )
            }
        })
    }
}

/// Returns the words of the command of macOS that brings the device up.
#[must_use]
pub fn macos_up(device: &str) -> Vec<String> {
    let text = format!("ifconfig {device} mtu {MESH_MTU} up");
    text.split(' ').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> BTreeSet<IpAddr> {
        let words = text.split_whitespace();
        words.map(|word| word.parse().expect("an address")).collect()
    }

    fn plan(addresses: &str, routes: &str) -> Plan {
        Plan {
            addresses: ips(addresses),
            routes: ips(routes),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_come_before_the_routes_that_use_them_and_go_after() {
        let full = plan("100.64.0.1 fd00::1", "100.64.0.2 fd00::2");
        let add = |to: &str, from: &str| Step::AddRoute {
            to: ip(to),
            from: ip(from),
        };
        assert_eq!(
            full.steps_from(&Plan::default()),
            [
                Step::AddAddress(ip("100.64.0.1")),
                Step::AddAddress(ip("fd00::1")),
                add("100.64.0.2", "100.64.0.1"),
                add("fd00::2", "fd00::1"),
            ]
        );
        assert_eq!(full.steps_from(&full), []);
        assert_eq!(
            Plan::default().steps_from(&full),
            [
                Step::RemoveRoute(ip("100.64.0.2")),
                Step::RemoveRoute(ip("fd00::2")),
                Step::RemoveAddress(ip("100.64.0.1")),
                Step::RemoveAddress(ip("fd00::1")),
            ]
        );
    }

    #[test]
    fn a_new_address_makes_the_routes_of_its_family_anew_and_no_others() {
        let before = plan("100.64.0.1 fd00::1", "100.64.0.2 fd00::2");
        let after = plan("100.64.0.9 fd00::1", "100.64.0.2 fd00::2");
        assert_eq!(
            after.steps_from(&before),
            [
                Step::RemoveRoute(ip("100.64.0.2")),
                Step::RemoveAddress(ip("100.64.0.1")),
                Step::AddAddress(ip("100.64.0.9")),
                Step::AddRoute {
                    to: ip("100.64.0.2"),
                    from: ip("100.64.0.9")
                },
            ]
        );
    }

    #[test]
    fn a_family_without_an_address_has_no_routes() {
        let steps = plan("fd00::1", "100.64.0.2").steps_from(&Plan::default());
        assert_eq!(steps, [Step::AddAddress(ip("fd00::1"))]);
    }

    #[test]
    fn what_the_host_has_already_is_left_to_it() {
        let place = |interface: &str, block: &str| Occupied {
            interface: interface.to_owned(),
            block: block.parse().expect("a block"),
        };
        let carrier = [place("lo", "127.0.0.0/8"), place("wan", "100.64.0.0/10")];
        let mut mine = plan("100.64.0.1 fd00::1", "100.64.0.2 fd00::2");
        let (address, at) = mine.clash(&carrier).expect("a clash");
        assert_eq!((address, at), (ip("100.64.0.1"), &carrier[1]));
        let small = [place("lan", "100.64.0.2/31"), place("other", "0.0.0.0/0")];
        assert_eq!(mine.clash(&small), None);
        assert_eq!(mine.give_way(&small), [ip("100.64.0.2")]);
        assert_eq!(mine.routes, ips("fd00::2"));
    }

    #[test]
    fn the_commands_of_macos_are_these() {
        let said = |step: Step| step.macos_command("utun4").join(" ");
        assert_eq!(
            said(Step::AddAddress(ip("100.64.0.1"))),
            "ifconfig utun4 inet 100.64.0.1 100.64.0.1 netmask 255.255.255.255 alias"
        );
        assert_eq!(
            said(Step::AddAddress(ip("fd00::1"))),
            "ifconfig utun4 inet6 fd00::1 prefixlen 128 alias"
        );
        assert_eq!(
            said(Step::RemoveAddress(ip("fd00::1"))),
            "ifconfig utun4 inet6 fd00::1 -alias"
        );
        let route = Step::AddRoute {
            to: ip("fd00::2"),
            from: ip("fd00::1"),
        };
        assert_eq!(
            said(route),
            "route -q -n add -inet6 -host fd00::2 -interface utun4"
        );
        assert_eq!(
            said(Step::RemoveRoute(ip("100.64.0.2"))),
            "route -q -n delete -inet -host 100.64.0.2 -interface utun4"
        );
        assert_eq!(macos_up("utun4").join(" "), "ifconfig utun4 mtu 1280 up");
    }
}
