//! Measures a platform whose peers all start at once: how fast they are told to it, how fast all get a session, and what
//! the waiting peers cost in memory.
//!
//! The platform is a whole `MeshNet`; each peer is a tunnel with a UDP socket at an address of its own in 127.0.0.0/8, so
//! that limits per source address act as they would outside. All of them share the process and the machine.
//! Usage: `cargo run --release -p bench --bin many_peers [-- PEERS]`, 10,000 by default; a peer takes one descriptor.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mesh::MeshPeer;
use mesh::tunnel::{Mobility, PacketSink, PeerConfig, Received, Tunnel};
use net::clock::Clock;
use net::netstack::StackConfig;
use net::{MeshNet, MeshNetConfig, random};
use types::{AllowedIp, NodePrivateKey, NodePublicKey};

const PEERS: u32 = 10_000;
const GIVE_UP: Duration = Duration::from_secs(180);
const KEEPALIVE: Duration = Duration::from_secs(25);

struct Client {
    tunnel: Tunnel,
    socket: UdpSocket,
}

struct Nowhere;

impl PacketSink for Nowhere {
    fn packet(&mut self, _: &NodePublicKey, _: &[u8]) {}
}

impl Client {
    fn new(number: u32) -> anyhow::Result<Self> {
        let [_, high, mid, low] = (number + 1).to_be_bytes();
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 100 + high, mid, low), 0))?;
        socket.set_nonblocking(true)?;
        let key = NodePrivateKey::from_random(random::bytes());
        Ok(Self {
            tunnel: Tunnel::new(key, random::bytes()),
            socket,
        })
    }

    /// Lets the tunnel do what is due; returns whether anything came or went.
    fn turn(&mut self, clock: &Clock) -> bool {
        let mut buffer = [0; 2048];
        let mut is_busy = false;
        while let Ok((len, source)) = self.socket.recv_from(&mut buffer) {
            let received = Received {
                source: source.into(),
                bytes: &mut buffer[..len],
                segment_len: 0,
            };
            self.tunnel.handle_received(received, &mut Nowhere, clock.now());
            is_busy = true;
        }
        self.tunnel.handle_timeout(clock.now());
        while let Some(transmit) = self.tunnel.poll_transmit() {
            let destination = transmit.destination.remote().expect("no relay here");
            for datagram in transmit.bytes.chunks(transmit.segment_len) {
                // Lost on the way, if the system has no room.
                let _ = self.socket.send_to(datagram, destination);
            }
            self.tunnel.recycle(transmit.bytes);
            is_busy = true;
        }
        while self.tunnel.poll_event().is_some() {}
        is_busy
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let count = std::env::args().nth(1).map_or(Ok(PEERS), |text| text.parse())?;
    let clients: Vec<Client> = (0..count)
        .map(Client::new)
        .collect::<anyhow::Result<_>>()
        .context("each peer takes a descriptor: see `ulimit -n`")?;
    let private_key = NodePrivateKey::from_random(random::bytes());
    let platform_key = private_key.public();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let platform = MeshNet::start_with(MeshNetConfig { private_key, listen }, StackConfig::for_platform())?;

    let (before, begun) = (resident_kib()?, Instant::now());
    for (number, client) in (0..).zip(&clients) {
        let config = MeshPeer {
            public_key: client.tunnel.public_key(),
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(address(number))],
            endpoints: Vec::new(),
            relays: Vec::new(),
            mobility: Mobility::Roams,
            persistent_keepalive: None,
        };
        platform.upsert_peer(config, vec![address(u32::MAX)]).await;
    }
    let (took, after) = (begun.elapsed(), resident_kib()?);
    let each = (after - before) as f64 / f64::from(count);
    println!("peers told to the platform:    {count} in {took:.2?}, {each:.2} KiB each");
    connect_all(clients, &platform, platform_key).await?;
    println!(
        "process resident:              {} KiB, all peers included",
        resident_kib()?
    );
    Ok(())
}

async fn connect_all(
    mut clients: Vec<Client>,
    platform: &MeshNet,
    platform_key: NodePublicKey,
) -> anyhow::Result<()> {
    let clock = Clock::new();
    let count = clients.len() as u64;
    let config = PeerConfig {
        public_key: platform_key,
        preshared_key: None,
        allowed_ips: vec![AllowedIp::host(address(u32::MAX))],
        endpoint: Some(platform.local_addr()),
        mobility: Mobility::Roams,
        persistent_keepalive: Some(KEEPALIVE),
    };
    let before = resident_kib()?;
    for client in &mut clients {
        client.tunnel.upsert_peer(config.clone(), clock.now());
    }
    let (begun, mut half, mut longest) = (Instant::now(), None, Duration::ZERO);
    loop {
        let mut is_busy = false;
        for client in &mut clients {
            is_busy |= client.turn(&clock);
        }
        let asked = Instant::now();
        let counters = platform.counters().await.tunnel;
        longest = longest.max(asked.elapsed());
        if half.is_none() && counters.handshakes * 2 >= count {
            half = Some(begun.elapsed());
        }
        if counters.handshakes >= count {
            let took = begun.elapsed();
            let rate = count as f64 / took.as_secs_f64();
            let each = (resident_kib()? - before) as f64 / count as f64;
            println!(
                "half of them have a session:   after {:.2?}",
                half.unwrap_or(took)
            );
            println!("all of them have a session:    after {took:.2?}, {rate:.0} a second");
            println!("a session:                     {each:.2} KiB for both ends");
            println!("longest wait for the platform: {longest:.2?}");
            println!("cookies sent:                  {}", counters.cookies_sent);
            println!(
                "dropped at the platform:       {:?}",
                counters.drops().collect::<Vec<_>>()
            );
            return Ok(());
        }
        ensure!(
            begun.elapsed() < GIVE_UP,
            "{} of {count} have a session",
            counters.handshakes
        );
        if !is_busy {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn address(number: u32) -> IpAddr {
    let [high, low] = [(number >> 16) as u16, number as u16];
    Ipv6Addr::new(0xfd00, 6, 6, 0, 0, 0, high, low).into()
}

fn resident_kib() -> anyhow::Result<u64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("resident memory is read from /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line
        .context("VmRSS")?
        .trim()
        .trim_end_matches(" kB")
        .trim()
        .parse()?)
}
