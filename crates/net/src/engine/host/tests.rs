//! Two meshes over 127.0.0.1 with hosts in them, each a socket that keeps packets apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh::MeshPeer;
use mesh::tunnel::Mobility;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use socket2::Socket;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use types::{AllowedIp, MESH_MTU, NodePrivateKey, NodePublicKey};

use crate::mesh_net::{NetCounters, Responder};
use crate::tun::offload::HEADER_LEN;
use crate::tun::{Loss, Tun, TunError};
use crate::{MeshNet, MeshNetConfig, random};

const PORT: u16 = 7420;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;

/// A mesh with a host in it, and the host's end of the device.
struct Host {
    mesh: MeshNet,
    key: NodePublicKey,
    number: u8,
    device: Socket,
    loss: Loss,
}

impl Host {
    fn start(number: u8) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let (near, far) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a pair");
        rustix::io::ioctl_fionbio(&near, true).expect("no blocking");
        let private_key = NodePrivateKey::from_random(random::bytes());
        let key = private_key.public();
        let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let config = MeshNetConfig { private_key, listen };
        let (mesh, loss) = MeshNet::start_with_host(config, Tun::of(near)).expect("starts");
        let device = Socket::from(far);
        device
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a guard against a hang");
        Self {
            mesh,
            key,
            number,
            device,
            loss,
        }
    }

    fn v4(&self) -> IpAddr {
        Ipv4Addr::new(100, 64, 0, self.number).into()
    }

    fn v6(&self) -> IpAddr {
        Ipv6Addr::new(0xfd00, 7, 7, 0, 0, 0, 0, u16::from(self.number)).into()
    }

    async fn knows(&self, other: &Self, endpoint: SocketAddr) {
        let peer = MeshPeer {
            public_key: other.key,
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(other.v4()), AllowedIp::host(other.v6())],
            endpoints: vec![endpoint],
            relays: Vec::new(),
            mobility: Mobility::Roams,
            persistent_keepalive: None,
        };
        self.mesh.upsert_peer(peer, vec![self.v4(), self.v6()]).await;
    }

    fn sends(&self, packet: &[u8]) {
        self.hands_over([0; HEADER_LEN], packet);
    }

    /// Hands over a packet with a header before it.
    fn hands_over(&self, header: [u8; HEADER_LEN], packet: &[u8]) {
        let bytes = [&header, packet].concat();
        assert_eq!(self.device.send(&bytes).expect("taken"), bytes.len());
    }

    /// Takes a packet that nothing is to be done to.
    fn receives(&self) -> Vec<u8> {
        let (header, packet) = self.takes_over();
        assert_eq!(header, [0; HEADER_LEN]);
        packet
    }

    fn takes_over(&self) -> ([u8; HEADER_LEN], Vec<u8>) {
        let mut bytes = vec![0; 70_000];
        let len = rustix::io::read(&self.device, &mut bytes).expect("a packet");
        let (header, packet) = bytes[..len].split_first_chunk().expect("a header");
        (*header, packet.to_vec())
    }

    async fn counters(&self) -> NetCounters {
        self.mesh.counters().await.net
    }

    /// Waits until the counters are as wanted.
    async fn until(&self, wanted: impl Fn(&NetCounters) -> bool) {
        let counted = async {
            while !wanted(&self.counters().await) {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), counted).await;
        assert!(in_time.is_ok(), "{:?}", self.counters().await);
    }
}

async fn linked() -> (Host, Host) {
    let (a, b) = (Host::start(1), Host::start(2));
    a.knows(&b, b.mesh.local_addr()).await;
    b.knows(&a, a.mesh.local_addr()).await;
    (a, b)
}

/// A packet with the ports first in what it carries, as in TCP and UDP, and the flags of TCP.
fn packet(protocol: u8, from: SocketAddr, to: SocketAddr, flags: u8) -> Vec<u8> {
    let mut payload = vec![0; 28];
    payload[..2].copy_from_slice(&from.port().to_be_bytes());
    payload[2..4].copy_from_slice(&to.port().to_be_bytes());
    if protocol == TCP {
        payload[12] = 5 << 4;
        payload[13] = flags;
        // A window, so that a SYN is answered by one that can be sent to.
        payload[14] = 0x10;
    } else {
        payload[5] = 28;
    }
    let mut packet = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 48, 0, 0, 0, 0, 64, protocol, 0, 0];
            header.extend([from.octets(), to.octets()].concat());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 28, protocol, 64];
            header.extend([from.octets(), to.octets()].concat());
            header
        }
        _ => panic!("two families"),
    };
    packet.append(&mut payload);
    packet
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    (ip, port).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_of_hosts_come_as_they_went_in_both_families_and_directions() {
    let (a, b) = linked().await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        for (source, destination) in [(from.v4(), to.v4()), (from.v6(), to.v6())] {
            for protocol in [TCP, UDP] {
                let sent = packet(protocol, at(source, 1234), at(destination, 80), SYN);
                from.sends(&sent);
                assert_eq!(to.receives(), sent);
            }
        }
    }
    let (from_host, to_host) = (a.counters().await, b.counters().await);
    assert_eq!((from_host.packets_from_host, to_host.packets_to_host), (4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_extension_headers_is_the_hosts_and_nothing_that_the_node_holds_hides_behind_them() {
    let (a, b) = linked().await;
    let _listener = b.mesh.listen(PORT).await.expect("listens");
    // Destination options before what the packet carries.
    let extended = |packet: &[u8]| {
        let mut extended = packet[..40].to_vec();
        extended[5] += 8;
        extended[6] = 60;
        extended.extend([packet[6], 0, 1, 4, 0, 0, 0, 0]);
        extended.extend(&packet[40..]);
        extended
    };
    let for_the_node = packet(TCP, at(a.v6(), 1234), at(b.v6(), PORT), SYN);
    a.sends(&extended(&for_the_node));
    b.until(|counters| counters.packets_malformed == 1).await;
    for protocol in [TCP, UDP] {
        let sent = extended(&packet(protocol, at(a.v6(), 1234), at(b.v6(), 80), SYN));
        a.sends(&sent);
        assert_eq!(b.receives(), sent);
    }
    let mut routed = extended(&packet(UDP, at(a.v6(), 1234), at(b.v6(), 80), 0));
    (routed[6], routed[43]) = (43, 1);
    a.sends(&routed);
    a.until(|counters| counters.host_malformed == 1).await;
}

/// A header as the kernel puts it before a segment of TCP over IPv4 that is to be cut.
fn to_be_cut(piece_len: u16) -> [u8; HEADER_LEN] {
    let [low, high] = piece_len.to_ne_bytes();
    let [start, start_high] = 20_u16.to_ne_bytes();
    let [at, at_high] = 16_u16.to_ne_bytes();
    [1, 1, 0, 0, low, high, start, start_high, at, at_high]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_a_host_is_cut_for_the_way_and_the_other_host_is_given_what_it_carried() {
    let (a, b) = linked().await;
    let payload: Vec<u8> = (0..60_000).map(|index: usize| (index / 7) as u8).collect();
    let mut segment = packet(TCP, at(a.v4(), 1234), at(b.v4(), 80), 0x10);
    segment.truncate(40);
    segment.extend(&payload);
    let len = u16::try_from(segment.len()).expect("short").to_be_bytes();
    segment[2..4].copy_from_slice(&len);
    a.hands_over(to_be_cut(1240), &segment);
    // In one piece, unless the loopback device parted them.
    let (mut got, mut count) = (Vec::new(), 0);
    while got.len() < payload.len() {
        let (header, packet) = b.takes_over();
        let is_joined = packet.len() > MESH_MTU;
        assert_eq!(header[..2], if is_joined { [1, 1] } else { [0, 0] });
        got.extend_from_slice(&packet[40..]);
        count += 1;
    }
    assert!(got == payload && count < 49, "{count}");
    assert_eq!(b.counters().await.packets_to_host, 49);
    assert_eq!(a.counters().await.packets_from_host, 49);
    // What its header does not bear out is not sent, and what follows is.
    for piece_len in [0, 1, 1241, u16::MAX] {
        a.hands_over(to_be_cut(piece_len), &segment);
    }
    a.until(|counters| counters.host_malformed == 4).await;
    let good = packet(UDP, at(a.v4(), 1), at(b.v4(), 2), 0);
    a.sends(&good);
    assert_eq!(b.receives(), good);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_must_not_send_is_dropped_and_counted_and_the_rest_goes_on() {
    let (a, b) = linked().await;
    let good = packet(UDP, at(a.v4(), 1), at(b.v4(), 2), 0);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        a.sends(&bad);
    };
    // Another address of the mesh, one of the world, and that of the peer itself.
    for source in [[100, 64, 0, 9], [192, 0, 2, 1], [100, 64, 0, 2]] {
        with(&|packet| packet[12..16].copy_from_slice(&source));
    }
    with(&|packet| packet[16..20].copy_from_slice(&[100, 64, 0, 9]));
    with(&|packet| packet[16..20].copy_from_slice(&[224, 0, 0, 22]));
    with(&|packet| packet[0] = 0x75);
    with(&|packet| packet.truncate(30));
    with(&|packet| packet.resize(MESH_MTU + 1, 0));
    a.until(|counters| {
        let drops = [
            counters.host_spoofed,
            counters.host_unrouted,
            counters.host_malformed,
        ];
        drops == [3, 2, 3]
    })
    .await;
    with(&|packet| {
        packet.resize(MESH_MTU, 7);
        packet[2..4].copy_from_slice(&1280_u16.to_be_bytes());
    });
    assert_eq!(b.receives().len(), MESH_MTU);
    a.sends(&good);
    assert_eq!(b.receives(), good);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_has_the_ports_at_which_it_listens_and_the_host_all_others() {
    let (a, b) = linked().await;
    let mut listener = b.mesh.listen(PORT).await.expect("listens");
    // A host opens a connection to the other node's own service: its stack answers, and that host hears nothing.
    a.sends(&packet(TCP, at(a.v6(), 1234), at(b.v6(), PORT), SYN));
    let answer = a.receives();
    assert_eq!(
        (answer[40..42].to_vec(), answer[53] & 0x12),
        (PORT.to_be_bytes().to_vec(), 0x12)
    );
    assert_eq!(b.counters().await.packets_to_host, 0);
    // UDP of the same number, and a segment of no connection of the node's, are the host's.
    for (protocol, flags) in [(UDP, 0), (TCP, 0x10)] {
        let sent = packet(protocol, at(a.v6(), 1235), at(b.v6(), PORT), flags);
        a.sends(&sent);
        assert_eq!(b.receives(), sent);
    }
    // Between the nodes themselves all is as it was, and the same port is the host's once nobody listens.
    let stream = a.mesh.connect(b.key, at(b.v4(), PORT)).await;
    let (mut near, mut far) = (
        stream.expect("connects"),
        listener.accept().await.expect("accepts"),
    );
    near.write_all(b"word").await.expect("written");
    let mut word = [0; 4];
    far.read_exact(&mut word).await.expect("read");
    assert_eq!(&word, b"word");
    drop(listener);
    let sent = packet(TCP, at(a.v6(), 1236), at(b.v6(), PORT), SYN);
    a.sends(&sent);
    assert_eq!(b.receives(), sent);
    assert_eq!(a.counters().await.packets_to_host, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_the_node_that_answers_datagrams_has_its_port_and_the_host_hears_nothing_of_it() {
    let (a, b) = linked().await;
    let echo: Responder = Arc::new(|_, question| Some(question.to_vec()));
    b.mesh.respond(53, echo).await;
    // Commands are carried out in their order: when this is answered, the port is taken.
    assert_eq!(b.counters().await.packets_to_host, 0);
    a.sends(&packet(UDP, at(a.v6(), 1234), at(b.v6(), 53), 0));
    let answer = a.receives();
    assert_eq!((answer.len(), &answer[40..44]), (68, &[0, 53, 0x04, 0xd2][..]));
    assert_eq!(b.counters().await.packets_to_host, 0);
    let sent = packet(UDP, at(a.v6(), 1234), at(b.v6(), 54), 0);
    a.sends(&sent);
    assert_eq!(b.receives(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_cannot_speak_in_a_connection_of_the_nodes_own() {
    let (a, b) = linked().await;
    let mut listener = b.mesh.listen(PORT).await.expect("listens");
    let stream = a.mesh.connect(b.key, at(b.v4(), PORT)).await.expect("connects");
    let _far = listener.accept().await.expect("accepts");
    a.sends(&packet(TCP, stream.local_addr(), at(b.v4(), PORT), 0x04));
    a.until(|counters| counters.host_port_taken == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_it_is_reached_inside_the_mesh_gets_nothing_there() {
    let (a, b) = (Host::start(1), Host::start(2));
    a.knows(&b, at(b.v4(), 4500)).await;
    a.sends(&packet(UDP, at(a.v4(), 1), at(b.v4(), 2), 0));
    a.until(|counters| counters.sends_refused > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_a_device_is_told_and_the_node_goes_on() {
    let (a, b) = linked().await;
    let mut listener = b.mesh.listen(PORT).await.expect("listens");
    drop(a.device);
    assert!(matches!(a.loss.happened().await, TunError::Lost(_)));
    let stream = a
        .mesh
        .connect(b.key, (Ipv4Addr::new(100, 64, 0, 2), PORT).into())
        .await;
    stream.expect("connects");
    listener.accept().await.expect("accepts");
    // A mesh that stops takes its device along.
    let loss = b.loss;
    b.mesh.shutdown().await;
    loss.happened().await;
}
