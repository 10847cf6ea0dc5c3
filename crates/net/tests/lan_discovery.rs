//! Peers that nobody knows where to find, on a link in network namespaces: they are called by multicast.
//!
//! Needs root and `ip` of the Debian package `iproute2`. Where they are missing the tests print `SKIPPED` with the reason, and
//! fail instead when `RUNMESH_REQUIRE_LAB=1`.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Node, guarded, serve_echo};
use mesh::MeshPeer;
use mesh::tunnel::{CALL_GROUP_V4, CALL_GROUP_V6, CALL_PORT, DropReason, Mobility};
use net::networks::Networks;
use net::random;
use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use types::NodePrivateKey;

/// Two hosts on one link, a network namespace each; dropping it takes them down.
struct Hosts([String; 2]);

impl Hosts {
    /// Makes them, with these addresses beside the link-local ones; `None` where that is not possible.
    fn new(addresses: [&[&str]; 2]) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| format!("runmesh-lan-{}-{number}{end}", std::process::id());
        let hosts = Self([name("a"), name("b")]);
        match hosts.prepare(addresses) {
            Ok(()) => Some(hosts),
            Err(reason) => {
                let is_required = std::env::var_os("RUNMESH_REQUIRE_LAB").is_some_and(|value| value == "1");
                assert!(
                    !is_required,
                    "namespaces are required and cannot be made: {reason}"
                );
                println!("SKIPPED: {reason}");
                None
            }
        }
    }

    fn prepare(&self, addresses: [&[&str]; 2]) -> Result<(), String> {
        let [a, b] = &self.0;
        for host in [a, b] {
            ip(&format!("netns add {host}"))?;
            ip(&format!("-n {host} link set lo up"))?;
        }
        ip(&format!("-n {a} link add lan type veth peer name lan netns {b}"))?;
        for (host, addresses) in self.0.iter().zip(addresses) {
            for address in addresses {
                ip(&format!("-n {host} addr add {address} dev lan"))?;
            }
            ip(&format!("-n {host} link set lan up"))?;
        }
        Ok(())
    }

    /// Does `work` on one of them, on a thread of its own.
    fn on<T: Send>(&self, host: usize, work: impl FnOnce() -> T + Send) -> T {
        let place = std::fs::File::open(format!("/run/netns/{}", self.0[host])).expect("the namespace");
        let runtime = tokio::runtime::Handle::current();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).expect("enters");
                let _context = runtime.enter();
                work()
            });
            inside.join().expect("no panic inside")
        })
    }

    fn start(&self, host: usize, number: u8) -> Node {
        let key = NodePrivateKey::from_random(random::bytes());
        let listen = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        self.on(host, || Node::start_as(number, key, listen))
    }

    async fn look_around(&self, host: usize, node: &Node) {
        let links = self.on(host, || {
            loop {
                // The system says some time after it was set up that a link carries packets.
                let links = Networks::now().expect("the system answers").links;
                if !links.is_empty() {
                    return links;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert_eq!(links.len(), 1, "{links:?}");
        node.mesh.set_links(links).await;
    }

    /// Tells whether somebody hears the IPv4 group there.
    fn is_heard(&self, host: usize) -> bool {
        self.on(host, || {
            std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CALL_PORT)).is_err()
        })
    }

    /// Returns when the link-local addresses are in use: the kernel makes sure first that nobody else has them.
    fn wait_for_link_local(&self) {
        let is_tentative = |host: &String| {
            let shown = Command::new("ip")
                .args(["-n", host, "-6", "addr", "show", "tentative"])
                .output();
            !shown.expect("ip").stdout.is_empty()
        };
        while self.0.iter().any(is_tentative) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in &self.0 {
            let _ = ip(&format!("netns del {host}"));
        }
    }
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(said)
}

/// A peer of which nothing is known but its key.
fn somewhere(node: &Node) -> MeshPeer {
    MeshPeer {
        endpoints: Vec::new(),
        mobility: Mobility::Managed,
        ..node.as_peer()
    }
}

async fn introduce(a: &Node, b: &Node) {
    a.mesh.upsert_peer(somewhere(b), a.locals()).await;
    b.mesh.upsert_peer(somewhere(a), b.locals()).await;
    serve_echo(b).await;
}

/// Opens a stream that is echoed, and returns where the peer was found.
async fn find(a: &Node, b: &Node) -> SocketAddr {
    let mut stream = guarded(a.stream_to(b)).await;
    let mut back = [0; 5];
    guarded(async {
        stream.write_all(b"hello").await.expect("writes");
        stream.read_exact(&mut back).await.expect("reads");
    })
    .await;
    assert_eq!(&back, b"hello");
    let (_, path) = a.mesh.peer_status(b.public()).await.expect("a peer");
    let endpoint = path.expect("managed").endpoint.expect("it is reached");
    let remote = endpoint.remote().expect("directly");
    assert_eq!(remote.port(), b.mesh.local_addr().port(), "at its main socket");
    remote
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_of_a_link_find_each_other_by_ipv4() {
    let Some(hosts) = Hosts::new([&["192.168.7.1/24"], &["192.168.7.2/24"]]) else {
        return;
    };
    let (a, b) = (hosts.start(0, 1), hosts.start(1, 2));
    introduce(&a, &b).await;
    hosts.look_around(0, &a).await;
    hosts.look_around(1, &b).await;
    let found = find(&a, &b).await.ip();
    let expected: IpAddr = [192, 168, 7, 2].into();
    let is_link_local = matches!(found, IpAddr::V6(ip) if ip.is_unicast_link_local());
    assert!(found == expected || is_link_local, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn link_local_addresses_are_enough() {
    let Some(hosts) = Hosts::new([&[], &[]]) else {
        return;
    };
    hosts.wait_for_link_local();
    let (a, b) = (hosts.start(0, 1), hosts.start(1, 2));
    introduce(&a, &b).await;
    hosts.look_around(0, &a).await;
    hosts.look_around(1, &b).await;
    let found = find(&a, &b).await;
    assert!(matches!(found, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() != 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_of_one_host_find_each_other() {
    let Some(hosts) = Hosts::new([&["192.168.7.1/24"], &[]]) else {
        return;
    };
    let (a, b) = (hosts.start(0, 1), hosts.start(0, 2));
    introduce(&a, &b).await;
    hosts.look_around(0, &a).await;
    hosts.look_around(0, &b).await;
    find(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_of_no_link_has_no_socket_there() {
    let Some(hosts) = Hosts::new([&["192.168.7.1/24"], &[]]) else {
        return;
    };
    let a = hosts.start(0, 1);
    a.mesh.counters().await;
    assert!(!hosts.is_heard(0));
    hosts.look_around(0, &a).await;
    a.mesh.counters().await;
    assert!(hosts.is_heard(0));
    a.mesh.set_links(Vec::new()).await;
    a.mesh.counters().await;
    assert!(!hosts.is_heard(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_nonsense_to_the_groups_is_dropped_and_peers_are_found_after_it() {
    let Some(hosts) = Hosts::new([&["192.168.7.1/24"], &["192.168.7.2/24"]]) else {
        return;
    };
    hosts.wait_for_link_local();
    let (a, b) = (hosts.start(0, 1), hosts.start(1, 2));
    introduce(&a, &b).await;
    hosts.look_around(0, &a).await;
    hosts.look_around(1, &b).await;
    b.mesh.counters().await;
    hosts.on(0, flood);
    let counters = b.mesh.counters().await;
    let dropped = |reason| counters.tunnel.dropped(reason);
    assert!(dropped(DropReason::NoCall) > 0 && dropped(DropReason::CallForOthers) > 0);
    assert_eq!(counters.tunnel.packets_sent + counters.tunnel.cookies_sent, 0);
    assert_eq!(counters.net.batches_broken, 0);
    find(&a, &b).await;
}

/// Sends datagrams of every type and of many lengths to both groups.
fn flood() {
    let index = Networks::now().expect("the system answers").links[0].index;
    let v4 = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    v4.set_multicast_if_v4(&Ipv4Addr::new(192, 168, 7, 1))
        .expect("sets");
    let v6 = Socket::new(Domain::IPV6, Type::DGRAM, None).expect("a socket");
    v6.set_multicast_if_v6(index).expect("sets");
    let groups = [
        (v4, SocketAddr::new(CALL_GROUP_V4.into(), CALL_PORT)),
        (v6, SocketAddr::new(CALL_GROUP_V6.into(), CALL_PORT)),
    ];
    for number in 0..5000_usize {
        let lens = [0, 1, 4, 32, 92, 147, 148, 149, 1400];
        let mut datagram = vec![number as u8; lens[number % lens.len()]];
        for (slot, byte) in datagram.iter_mut().zip([1 + (number / 7 % 4) as u8, 0, 0, 0]) {
            *slot = byte;
        }
        for (socket, group) in &groups {
            let _ = socket.send_to(&datagram, &(*group).into());
        }
    }
}
