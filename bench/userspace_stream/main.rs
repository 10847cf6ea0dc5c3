//! Measures userspace mode: one TCP stream between two meshes of one process over UDP on 127.0.0.1, the round trip of one
//! byte, the memory of a mesh and of a peer, and what an idle mesh costs.
//!
//! Both ends, their tunnels and their TCP stacks share the machine, so the CPU figure is that of everything together.
//! Usage: `cargo run --release -p bench --bin userspace_stream [-- SECONDS]`, 5 by default.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mesh::MeshPeer;
use mesh::tunnel::Mobility;
use net::{MeshListener, MeshNet, MeshNetConfig, MeshStream, random};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use types::{AllowedIp, NodePrivateKey, NodePublicKey};

const PORT: u16 = 5001;
const PEERS: u32 = 10_000;
const STREAMS: u32 = 200;
const IDLE: Duration = Duration::from_secs(2);
const ROUND_TRIPS: usize = 5000;
const CHUNK: usize = 128 * 1024;

struct Node {
    mesh: MeshNet,
    key: NodePublicKey,
    address: IpAddr,
}

impl Node {
    fn start(number: u16) -> anyhow::Result<Self> {
        let private_key = NodePrivateKey::from_random(random::bytes());
        let key = private_key.public();
        let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        Ok(Self {
            mesh: MeshNet::start(MeshNetConfig { private_key, listen })?,
            key,
            address: Ipv6Addr::new(0xfd00, 5, 5, 0, 0, 0, 0, number).into(),
        })
    }

    async fn know(&self, other: &Self) {
        let config = MeshPeer {
            public_key: other.key,
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(other.address)],
            endpoints: vec![other.mesh.local_addr()],
            relays: Vec::new(),
            mobility: Mobility::Roams,
            persistent_keepalive: None,
        };
        self.mesh.upsert_peer(config, vec![self.address]).await;
    }
}

fn main() -> anyhow::Result<()> {
    let seconds: u64 = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure(Duration::from_secs(seconds)))
}

async fn measure(span: Duration) -> anyhow::Result<()> {
    let bare = resident_kib()?;
    let near = Node::start(1)?;
    let one = resident_kib()?;
    let far = Node::start(2)?;
    near.know(&far).await;
    far.know(&near).await;
    let mut listener = far.mesh.listen(PORT).await?;
    let mut client = near.mesh.connect(far.key, (far.address, PORT).into()).await?;
    let mut server = listener.accept().await?;
    println!("process resident, no mesh:      {bare:>8} KiB");
    println!("process resident, one mesh:     {one:>8} KiB");
    println!("process resident, two meshes,");
    println!("  one session, one idle stream: {:>8} KiB", resident_kib()?);

    idle().await;
    round_trips(&mut client, &mut server).await?;
    throughput(client, server, span).await?;
    println!("process resident afterwards:    {:>8} KiB", resident_kib()?);
    let counters = (near.mesh.counters().await, far.mesh.counters().await);
    let dropped = counters.0.tunnel.dropped_total() + counters.1.tunnel.dropped_total();
    println!("datagrams or packets dropped:   {dropped:>8}");
    many_streams(&near, &far, &mut listener).await?;
    many_peers(&near).await?;
    near.mesh.shutdown().await;
    far.mesh.shutdown().await;
    Ok(())
}

async fn idle() {
    let cpu = cpu_seconds();
    tokio::time::sleep(IDLE).await;
    let share = (cpu_seconds() - cpu) / IDLE.as_secs_f64() * 100.0;
    println!("idle, one stream open:           {share:.2} % of a core");
}

async fn many_streams(node: &Node, to: &Node, listener: &mut MeshListener) -> anyhow::Result<()> {
    let before = resident_kib()?;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut near = node.mesh.connect(to.key, (to.address, PORT).into()).await?;
        let mut far = listener.accept().await?;
        near.write_all(&[1]).await?;
        far.read_exact(&mut [0]).await?;
        far.write_all(&[1]).await?;
        near.read_exact(&mut [0]).await?;
        streams.push((near, far));
    }
    let each = (resident_kib()? - before) as f64 / f64::from(STREAMS);
    println!("a stream that said little:       {each:.1} KiB for both ends, of {STREAMS}");
    Ok(())
}

async fn many_peers(node: &Node) -> anyhow::Result<()> {
    let before = resident_kib()?;
    for number in 0..PEERS {
        let [high, low] = [(number >> 16) as u16, number as u16];
        let config = MeshPeer {
            public_key: NodePrivateKey::from_random(random::bytes()).public(),
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(
                Ipv6Addr::new(0xfd00, 6, 6, 0, 0, 0, high, low).into(),
            )],
            endpoints: Vec::new(),
            relays: Vec::new(),
            mobility: Mobility::Roams,
            persistent_keepalive: None,
        };
        node.mesh.upsert_peer(config, vec![node.address]).await;
    }
    let each = (resident_kib()? - before) as f64 / f64::from(PEERS);
    println!("a peer without a session:        {each:.2} KiB each, of {PEERS}");
    Ok(())
}

async fn round_trips(client: &mut MeshStream, server: &mut MeshStream) -> anyhow::Result<()> {
    let echo = async {
        let mut byte = [0];
        for _ in 0..ROUND_TRIPS {
            server.read_exact(&mut byte).await?;
            server.write_all(&byte).await?;
        }
        anyhow::Ok(())
    };
    let ask = async {
        let mut spans = Vec::with_capacity(ROUND_TRIPS);
        let mut byte = [7];
        for _ in 0..ROUND_TRIPS {
            let begun = Instant::now();
            client.write_all(&byte).await?;
            client.read_exact(&mut byte).await?;
            spans.push(begun.elapsed());
        }
        anyhow::Ok(spans)
    };
    let (echoed, spans) = tokio::join!(echo, ask);
    echoed?;
    let mut spans = spans?;
    spans.sort_unstable();
    let micros = |share: usize| spans[spans.len() * share / 100].as_secs_f64() * 1e6;
    println!(
        "round trip of one byte:          p50 {:.0} µs, p99 {:.0} µs",
        micros(50),
        micros(99)
    );
    Ok(())
}

async fn throughput(mut client: MeshStream, mut server: MeshStream, span: Duration) -> anyhow::Result<()> {
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let writer = tokio::spawn(async move {
        let chunk = vec![0x5a; CHUNK];
        while begun.elapsed() < span {
            client.write_all(&chunk).await?;
        }
        client.shutdown().await?;
        // Kept until the other end is done: dropping it with data on the way would do as well.
        client.read(&mut [0]).await
    });
    let mut buffer = vec![0; CHUNK];
    let mut total = 0_u64;
    loop {
        let count = server.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        total += count as u64;
    }
    let (took, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    drop(server);
    writer.await??;
    let gigabytes = total as f64 / 1e9;
    println!(
        "one stream:                      {:.2} Gb/s, {:.2} CPU-s/GB for both ends, {:.2} GB in {took:.1} s",
        gigabytes * 8.0 / took,
        cpu / gigabytes,
        gigabytes,
    );
    Ok(())
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident_kib() -> anyhow::Result<u64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("resident memory is read from /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let text = line.context("VmRSS")?.trim().trim_end_matches(" kB");
    Ok(text.trim().parse()?)
}
