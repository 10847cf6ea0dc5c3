//! What a site's NAT does, measured by plain sockets in the words of RFC 4787, before anybody believes a cell's name.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::namespace::Namespace;
use super::world::{CONTROL_V4, Internet, Site};

/// How long a datagram may take from one end of the lab to the other.
const PATIENCE: Duration = Duration::from_millis(300);

/// Where the machine of the control plane answers, on both of its addresses.
const PORTS: [u16; 2] = [5001, 5002];

/// To what a NAT gives a new outer port (RFC 4787 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// One outer port for one inner one.
    EndpointIndependent,
    /// One for each address that is written to.
    AddressDependent,
    /// One for each address and port that is written to.
    AddressAndPortDependent,
}

/// From whom a NAT lets something in to an inner port that has written to somebody (RFC 4787 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filtering {
    /// From anybody.
    EndpointIndependent,
    /// From the addresses that were written to.
    AddressDependent,
    /// From the addresses and ports that were written to.
    AddressAndPortDependent,
}

/// What a site lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behaviour {
    /// Absent when no datagram has an answer.
    pub udp: Option<(Mapping, Filtering)>,
    /// Whether TCP to port 443 works.
    pub tcp_443: bool,
    /// Whether TCP to another port works.
    pub tcp_other: bool,
}

/// Measures a site with IPv4; nothing else may run at the control plane's machine.
pub fn measure(internet: &Internet, site: &Site) -> Result<Behaviour> {
    let servers = Servers::start(&internet.control)?;
    let udp = match servers.mapping(&site.host)? {
        None => None,
        Some(mapping) => Some((mapping, servers.filtering(&site.host)?)),
    };
    Ok(Behaviour {
        udp,
        tcp_443: tcp_works(&internet.control, &site.host, 443)?,
        tcp_other: tcp_works(&internet.control, &site.host, 8080)?,
    })
}

/// Tells whether a site's NAT leads back inside what is written to one of its outer addresses from there, seen to come from an
/// outer address too (RFC 4787 section 6, "external source address").
pub fn hairpins(internet: &Internet, site: &Site) -> Result<bool> {
    let servers = Servers::start(&internet.control)?;
    let (one, other) = (
        socket(&site.host, Ipv4Addr::UNSPECIFIED, 0)?,
        socket(&site.host, Ipv4Addr::UNSPECIFIED, 0)?,
    );
    let outer = servers.ask(&one, 0, 0)?.context("no datagram comes through")?;
    let writer = servers.ask(&other, 0, 0)?.context("no datagram comes through")?;
    other.send_to(b"neighbour", outer).context("send a datagram")?;
    Ok(receive(&one)? == Some(writer))
}

/// Tells whether an answer still comes in after something happened to a site.
pub fn remembers_through(
    internet: &Internet,
    site: &Site,
    happening: impl FnOnce() -> Result<()>,
) -> Result<bool> {
    let servers = Servers::start(&internet.control)?;
    let client = socket(&site.host, Ipv4Addr::UNSPECIFIED, 0)?;
    let outer = servers.ask(&client, 0, 0)?.context("no datagram comes through")?;
    happening()?;
    servers.say(0, 0, outer)?;
    Ok(receive(&client)?.is_some())
}

/// Sockets at two addresses with two ports each.
struct Servers {
    sockets: [[UdpSocket; 2]; 2],
}

impl Servers {
    fn start(machine: &Namespace) -> Result<Self> {
        let at = |address: usize, port: usize| socket(machine, CONTROL_V4[address], PORTS[port]);
        Ok(Self {
            sockets: [[at(0, 0)?, at(0, 1)?], [at(1, 0)?, at(1, 1)?]],
        })
    }

    /// Writes from a client to one of the sockets; returns as whom the client is seen there.
    fn ask(&self, client: &UdpSocket, address: usize, port: usize) -> Result<Option<SocketAddr>> {
        let to = SocketAddrV4::new(CONTROL_V4[address], PORTS[port]);
        client.send_to(b"who am I?", to).context("send a datagram")?;
        receive(&self.sockets[address][port])
    }

    fn say(&self, address: usize, port: usize, to: SocketAddr) -> Result<()> {
        let sent = self.sockets[address][port].send_to(b"you are heard", to);
        sent.context("send a datagram").map(|_| ())
    }

    fn mapping(&self, site: &Namespace) -> Result<Option<Mapping>> {
        let client = socket(site, Ipv4Addr::UNSPECIFIED, 0)?;
        let Some(first) = self.ask(&client, 0, 0)? else {
            return Ok(None);
        };
        let other_port = self
            .ask(&client, 0, 1)?
            .context("the second port hears nothing")?;
        let other_address = self
            .ask(&client, 1, 0)?
            .context("the second address hears nothing")?;
        Ok(Some(match (other_port == first, other_address == first) {
            (true, true) => Mapping::EndpointIndependent,
            (true, false) => Mapping::AddressDependent,
            (false, _) => Mapping::AddressAndPortDependent,
        }))
    }

    fn filtering(&self, site: &Namespace) -> Result<Filtering> {
        let client = socket(site, Ipv4Addr::UNSPECIFIED, 0)?;
        let outer = self.ask(&client, 0, 0)?.context("no datagram comes through")?;
        // The least likely first: once it is written to, everything may come.
        self.say(1, 0, outer)?;
        if receive(&client)?.is_some() {
            return Ok(Filtering::EndpointIndependent);
        }
        self.say(0, 1, outer)?;
        if receive(&client)?.is_some() {
            return Ok(Filtering::AddressDependent);
        }
        self.say(0, 0, outer)?;
        receive(&client)?.context("not even an answer comes through")?;
        Ok(Filtering::AddressAndPortDependent)
    }
}

fn socket(machine: &Namespace, address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let socket = machine
        .within(|| UdpSocket::bind((address, port)))?
        .context("bind a socket")?;
    socket.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> Result<Option<SocketAddr>> {
    loop {
        return match socket.recv_from(&mut [0; 64]) {
            Ok((_, source)) => Ok(Some(source)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // A wait with an end is not taken up again by itself after the whole system was stopped.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error).context("receive a datagram"),
        };
    }
}

fn tcp_works(server: &Namespace, site: &Namespace, port: u16) -> Result<bool> {
    let listener = server.within(|| TcpListener::bind((CONTROL_V4[0], port)))?;
    let _listener = listener.context("listen")?;
    let address = SocketAddr::new(IpAddr::V4(CONTROL_V4[0]), port);
    site.within(|| TcpStream::connect_timeout(&address, PATIENCE).is_ok())
}
