//! The host's side of the device: its addresses, and the routes that lead into it. What they should be is a
//! [`Plan`]; here it is done, by rtnetlink on Linux and by `ifconfig` and `route` on macOS.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use if_addrs::IfAddr;
use types::AllowedIp;

use super::plan::{Occupied, Plan, Step};
use super::{Tun, TunError, TunName, system};

/// The addresses of one device and the routes into it. Undone by the kernel when the device goes.
#[derive(Debug)]
pub struct HostNetwork {
    name: TunName,
    done: Plan,
    /// The host refused to have IPv6.
    is_without_ip6: bool,
    hand: imp::Hand,
}

impl HostNetwork {
    /// Takes hold of the device's network, which has neither addresses nor routes yet. Must be called within a runtime.
    pub async fn of(tun: &Tun) -> Result<Self, TunError> {
        let name = tun.name().clone();
        let up = imp::Hand::bring_up(&name).await;
        let hand = up.map_err(system(format!("bring the network device {name} up")))?;
        Ok(Self {
            name,
            done: Plan::default(),
            is_without_ip6: false,
            hand,
        })
    }

    /// Returns what the system calls the device.
    #[must_use]
    pub fn name(&self) -> &TunName {
        &self.name
    }

    /// Returns the addresses that the device has.
    #[must_use]
    pub fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.done.addresses
    }

    /// Makes addresses and routes what `wanted` says. Fails as a whole when a network of the host holds one of our addresses;
    /// a route to a node whose address one holds is left out, and said in the log. After any other failure the next call
    /// goes on where this one stopped.
    pub async fn become_as(&mut self, mut wanted: Plan) -> Result<(), TunError> {
        let occupied = occupied(&self.name).map_err(system("list the networks of this host"))?;
        // What the device has already stays: a host that moves into a network like that goes on as it is.
        let new = Plan {
            addresses: wanted
                .addresses
                .difference(&self.done.addresses)
                .copied()
                .collect(),
            ..Plan::default()
        };
        if let Some((address, at)) = new.clash(&occupied) {
            return Err(TunError::AddressTaken {
                address,
                block: at.block,
                interface: at.interface.clone(),
            });
        }
        for node in wanted.give_way(&occupied) {
            tracing::warn!(%node, "a network of this host has the address of a node, which is not reached from the host");
        }
        for step in wanted.steps_from(&self.done) {
            if !(self.is_without_ip6 && step.is_of_ip6()) {
                self.take(step).await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, step: Step) -> Result<(), TunError> {
        match self.hand.take(step, &self.name).await {
            Ok(()) => {}
            // Somebody else did it, as the end of an interface undoes its routes.
            Err(error) if is_so_already(step, &error) => {}
            // A host without IPv6 is in the mesh over IPv4 alone.
            Err(error) if matches!(step, Step::AddAddress(own) if own.is_ipv6()) => {
                tracing::warn!(%error, "the host has no IPv6, and no IPv6 in the mesh");
                self.is_without_ip6 = true;
                return Ok(());
            }
            Err(error) => return Err(system(what(step, &self.name))(error)),
        }
        self.note(step);
        Ok(())
    }

    fn note(&mut self, step: Step) {
        match step {
            Step::AddAddress(own) => {
                self.done.addresses.insert(own);
            }
            Step::RemoveAddress(own) => {
                self.done.addresses.remove(&own);
            }
            Step::AddRoute { to, .. } => {
                self.done.routes.insert(to);
            }
            Step::RemoveRoute(to) => {
                self.done.routes.remove(&to);
            }
        }
    }
}

fn what(step: Step, name: &TunName) -> String {
    match step {
        Step::AddAddress(own) => format!("give {name} the address {own}"),
        Step::RemoveAddress(own) => format!("take the address {own} from {name}"),
        Step::AddRoute { to, .. } => format!("lead packets for {to} into {name}"),
        Step::RemoveRoute(to) => format!("no longer lead packets for {to} into {name}"),
    }
}

fn is_so_already(step: Step, error: &io::Error) -> bool {
    let expected: &[i32] = match step {
        Step::AddAddress(_) | Step::AddRoute { .. } => &[libc::EEXIST],
        Step::RemoveAddress(_) | Step::RemoveRoute(_) => &[libc::EADDRNOTAVAIL, libc::ESRCH],
    };
    error.raw_os_error().is_some_and(|code| expected.contains(&code))
}

/// Lists the networks of the host that are not the device's.
fn occupied(device: &TunName) -> io::Result<Vec<Occupied>> {
    let interfaces = if_addrs::get_if_addrs()?.into_iter();
    let others = interfaces.filter(|interface| interface.name != device.as_str());
    let places = others.filter_map(|interface| {
        let block = match interface.addr {
            IfAddr::V4(v4) => AllowedIp::covering(v4.ip.into(), v4.prefixlen),
            IfAddr::V6(v6) => AllowedIp::covering(v6.ip.into(), v6.prefixlen),
        };
        Some(Occupied {
            interface: interface.name,
            block: block?,
        })
    });
    Ok(places.collect())
}

#[cfg(target_os = "linux")]
mod imp {
    use std::io;
    use std::net::IpAddr;

    use rtnetlink::packet_route::address::AddressHeaderFlags;
    use rtnetlink::packet_route::route::RouteScope;
    use rtnetlink::{Error, Handle, LinkUnspec, RouteMessageBuilder};
    use types::MESH_MTU;

    use super::{Step, TunName};
    use crate::tun::linux::index_of;

    /// A connection to the kernel, and the device's number.
    #[derive(Debug)]
    pub(super) struct Hand {
        kernel: Handle,
        index: u32,
    }

    impl Hand {
        pub(super) async fn bring_up(name: &TunName) -> io::Result<Self> {
            let (connection, kernel, _) = rtnetlink::new_connection()?;
            // It ends with its last handle.
            tokio::spawn(connection);
            let index = index_of(name)?;
            let hand = Self { kernel, index };
            let mtu = u32::try_from(MESH_MTU).expect("a small number");
            // Without multicast: there is nobody in the mesh whom a group could reach.
            let wanted = LinkUnspec::new_with_index(index).mtu(mtu).multicast(false).up();
            told(hand.kernel.link().set(wanted.build()).execute().await)?;
            Ok(hand)
        }

        pub(super) async fn take(&mut self, step: Step, _: &TunName) -> io::Result<()> {
            let address = |own: IpAddr| {
                let bits = if own.is_ipv4() { 32 } else { 128 };
                let mut request = self.kernel.address().add(self.index, own, bits);
                // Nobody else is on the device who could have it; while the kernel made sure, it would take no route from it.
                if own.is_ipv6() {
                    request.message_mut().header.flags = AddressHeaderFlags::Nodad;
                }
                request
            };
            told(match step {
                Step::AddAddress(own) => address(own).execute().await,
                Step::RemoveAddress(own) => {
                    let message = address(own).message_mut().clone();
                    self.kernel.address().del(message).execute().await
                }
                Step::AddRoute { to, from } => {
                    let route = self.route(to)?.pref_source(from).map_err(io::Error::other)?;
                    self.kernel.route().add(route.build()).execute().await
                }
                Step::RemoveRoute(to) => {
                    let route = self.route(to)?;
                    self.kernel.route().del(route.build()).execute().await
                }
            })
        }

        fn route(&self, to: IpAddr) -> io::Result<RouteMessageBuilder<IpAddr>> {
            let bits = if to.is_ipv4() { 32 } else { 128 };
            let route = RouteMessageBuilder::<IpAddr>::new().output_interface(self.index);
            let route = route.destination_prefix(to, bits).map_err(io::Error::other)?;
            // IPv6 knows one scope only.
            Ok(if to.is_ipv4() {
                route.scope(RouteScope::Link)
            } else {
                route
            })
        }
    }

    fn told(outcome: Result<(), Error>) -> io::Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            // An acknowledgement has the shape of an error without a code.
            Err(Error::NetlinkError(error)) if error.raw_code() == 0 => Ok(()),
            Err(Error::NetlinkError(error)) => Err(error.to_io()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

#[cfg(target_os = "macos")]
mod imp {
    use std::io;

    use tokio::process::Command;

    use super::{Step, TunName};
    use crate::tun::plan::macos_up;

    /// The commands of the system, which are part of every macOS.
    #[derive(Debug)]
    pub(super) struct Hand;

    impl Hand {
        pub(super) async fn bring_up(name: &TunName) -> io::Result<Self> {
            run(&macos_up(name.as_str())).await?;
            Ok(Self)
        }

        pub(super) async fn take(&mut self, step: Step, name: &TunName) -> io::Result<()> {
            run(&step.macos_command(name.as_str())).await
        }
    }

    async fn run(words: &[String]) -> io::Result<()> {
        let (program, arguments) = words.split_first().expect("a command has a name");
        let mut command = Command::new(format!("/sbin/{program}"));
        let output = command.args(arguments).kill_on_drop(true).output().await?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{}: {}", words.join(" "), said.trim())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_of_this_host_are_found_but_not_those_of_the_device() {
        let name: TunName = "lo".parse().expect("a name");
        let of_others = occupied(&name).expect("listed");
        assert!(of_others.iter().all(|place| place.interface != "lo"));
        let all = occupied(&TunName::default()).expect("listed");
        let loopback = "127.0.0.0/8".parse().expect("a block");
        assert!(all.iter().any(|place| place.block == loopback), "{all:?}");
    }
}
