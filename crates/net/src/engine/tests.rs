//! An engine whose core has asked for another socket, over 127.0.0.1.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mesh::tunnel::Mobility;
use mesh::{Endpoint, MeshPeer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use types::{AllowedIp, NodePrivateKey};

use super::*;
use crate::random;
use crate::{MeshNet, MeshNetConfig};

const NUMBER: SocketNumber = SocketNumber(5);
const PORT: u16 = 7420;
/// More than a socket's buffer, so that sends are held up.
const BYTES: usize = 16 * 1024 * 1024;

fn ip(host: u8) -> IpAddr {
    Ipv4Addr::new(100, 64, 0, host).into()
}

fn loopback() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)
}

fn peer(key: NodePublicKey, host: u8, endpoints: Vec<SocketAddr>) -> MeshPeer {
    MeshPeer {
        public_key: key,
        preshared_key: None,
        allowed_ips: vec![AllowedIp::host(ip(host))],
        endpoints,
        relays: Vec::new(),
        mobility: Mobility::Roams,
        persistent_keepalive: None,
    }
}

/// An engine that does not run yet, and the way to command it.
fn engine(key: NodePrivateKey) -> (Engine, mpsc::Sender<Command>, broadcast::Receiver<MeshEvent>) {
    let (sender, commands) = mpsc::channel(16);
    let doorbell = Arc::new(Doorbell::new().expect("bell"));
    let events = broadcast::Sender::new(64);
    let heard = events.subscribe();
    let engine = Engine::new(Parts {
        socket: UdpSocket::bind(loopback()).expect("binds"),
        alarm: Alarm::new().expect("alarm"),
        mesh: Mesh::new(key, random::bytes()),
        relay_streams: RelayStreams::new(sender.downgrade(), doorbell.clone()),
        host: None,
        stack: StackConfig::default(),
        commands,
        doorbell,
        events,
        stop: Arc::default(),
    });
    (engine, sender, heard)
}

fn open(engine: &mut Engine) -> SocketAddr {
    assert_eq!(engine.carry_out(Output::OpenSocket(NUMBER)), None);
    engine.extra.get_mut(NUMBER).expect("it is open").local_addr()
}

#[tokio::test]
async fn a_peer_that_comes_through_another_socket_is_answered_through_it() {
    let [key, other] = [0; 2].map(|_| NodePrivateKey::from_random(random::bytes()));
    let (mut engine, commands, mut events) = engine(key.clone());
    let extra = open(&mut engine);
    let config = MeshNetConfig {
        private_key: other.clone(),
        listen: loopback(),
    };
    let far = MeshNet::start(config).expect("starts");
    far.upsert_peer(peer(key.public(), 1, vec![extra]), vec![ip(2)])
        .await;
    engine.upsert(peer(other.public(), 2, vec![]), vec![ip(1)], engine.clock.now());
    let mut listener = engine.listen(PORT).expect("listens");
    let doorbell = engine.doorbell.clone();
    let thread = std::thread::spawn(move || engine.run());

    let mut stream = far
        .connect(key.public(), (ip(1), PORT).into())
        .await
        .expect("connects");
    let mut accepted = listener.recv().await.expect("accepts");
    let sent: Vec<u8> = (0..BYTES).map(|index| (index / 251) as u8).collect();
    let mut received = vec![0; BYTES];
    let writing = async { accepted.write_all(&sent).await.expect("writes") };
    let reading = async { stream.read_exact(&mut received).await.expect("reads") };
    tokio::join!(writing, reading);
    assert!(received == sent);

    let roamed = loop {
        if let MeshEvent::Roamed(_, endpoint) = events.recv().await.expect("an event") {
            break endpoint;
        }
    };
    let remote = far.local_addr();
    assert_eq!(
        roamed,
        Endpoint::Direct {
            socket: NUMBER,
            remote
        }
    );
    let (reply, done) = oneshot::channel();
    let grace = Duration::ZERO;
    commands
        .send(Command::Shutdown { grace, reply })
        .await
        .expect("runs");
    doorbell.bell.ring();
    done.await.expect("stops");
    thread.join().expect("no panic");
}

#[test]
fn a_socket_that_the_core_closes_is_gone_and_what_it_should_send_is_dropped() {
    let (mut engine, _commands, _events) = engine(NodePrivateKey::from_random(random::bytes()));
    let address = open(&mut engine);
    assert_ne!(address.port(), engine.socket.local_addr().port());
    engine.carry_out(Output::CloseSocket(NUMBER));
    std::net::UdpSocket::bind(address).expect("the port is free again");
    let rest = Datagrams {
        socket: NUMBER,
        to: address,
        segment_len: 4,
        bytes: vec![0; 4],
    };
    engine.blocked = Some((rest, 0));
    engine.transmit();
    assert_eq!(engine.peers.counters.sends_refused, 1);
    assert!(engine.blocked.is_none());
}
