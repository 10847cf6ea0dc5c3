//! Pairs of a TURN client and a plain peer at a coturn of its own: RFC 8656 as far as one channel each needs it.
//!
//! The client sends ChannelData; the relay hands the bare datagrams to the peer. That is one header taken off and one socket
//! more than our relay has, and half of what two clients behind TURN would need.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use net::random;
use net::udp::{ReceiveBuffer, UdpSocket};
use sha1::Sha1;

use crate::DATAGRAM_BYTES;
use crate::load::{BATCH, Mode, Relayed};
use crate::server::Server;

const USER: &str = "bench";
const PASSWORD: &str = "bench-password";
const REALM: &str = "bench.invalid";
const START_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

const MAGIC: [u8; 4] = 0x2112_A442_u32.to_be_bytes();
const ALLOCATE: u16 = 0x0003;
const CHANNEL_BIND: u16 = 0x0009;
const SUCCESS: u16 = 0x0100;
const ERROR: u16 = 0x0110;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const CHANNEL_NUMBER: u16 = 0x000c;
const LIFETIME: u16 = 0x000d;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REALM_ATTRIBUTE: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const CHANNEL: u16 = 0x4000;
const CHANNEL_HEADER_LEN: usize = 4;

pub(crate) struct Bench {
    server: Server,
    pairs: Vec<Pair>,
    frames: Vec<u8>,
    buffer: ReceiveBuffer,
}

struct Pair {
    client: UdpSocket,
    peer: UdpSocket,
}

impl Bench {
    pub(crate) fn start(program: &str, pairs: usize) -> anyhow::Result<Self> {
        let server = Server::start(|address| turnserver(program, address))?;
        let pairs = (0..pairs)
            .map(|_| Pair::open(server.address()))
            .collect::<anyhow::Result<_>>()?;
        let frame = [
            CHANNEL.to_be_bytes().as_slice(),
            &(DATAGRAM_BYTES as u16).to_be_bytes(),
            &[7; DATAGRAM_BYTES],
        ]
        .concat();
        Ok(Self {
            server,
            pairs,
            frames: frame.repeat(BATCH as usize),
            buffer: ReceiveBuffer::default(),
        })
    }
}

impl Relayed for Bench {
    fn pairs(&self) -> usize {
        self.pairs.len()
    }

    fn send(&mut self, pair: usize, count: u64, mode: Mode) {
        let frame_len = CHANNEL_HEADER_LEN + DATAGRAM_BYTES;
        let bytes = &self.frames[..frame_len * count as usize];
        let chunk_len = match mode {
            Mode::Batches => bytes.len(),
            Mode::Singly => frame_len,
        };
        for chunk in bytes.chunks(chunk_len) {
            let client = &mut self.pairs[pair].client;
            let _ = client.send(self.server.address(), chunk, frame_len, &mut 0);
        }
    }

    fn receive(&mut self, pair: usize) -> anyhow::Result<u64> {
        self.pairs[pair].peer.fill(&mut self.buffer)?;
        let counts = self
            .buffer
            .batches()
            .map(|batch| batch.bytes.len() / DATAGRAM_BYTES);
        Ok(counts.sum::<usize>() as u64)
    }

    fn tick(&mut self) {}

    fn cpu(&mut self) -> anyhow::Result<Duration> {
        self.server.cpu()
    }
}

/// Makes a coturn with one relay thread of an address.
fn turnserver(program: &str, address: SocketAddr) -> Command {
    let directory = std::env::temp_dir();
    let own = |name: &str| directory.join(format!("relay-throughput-{}.{name}", address.port()));
    let mut command = Command::new(program);
    command
        .args([
            "-n",
            "--no-tls",
            "--no-dtls",
            "--no-tcp",
            "--no-cli",
            "--lt-cred-mech",
        ])
        .args(["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1"])
        .args(["--relay-threads", "1", "--allow-loopback-peers", "--no-rfc5780"])
        .args(["--realm", REALM, "--user", &format!("{USER}:{PASSWORD}")])
        .args([
            "--listening-port",
            &address.port().to_string(),
            "--log-file",
            "stdout",
        ])
        .arg("--pidfile")
        .arg(own("pid"))
        .arg("--userdb")
        .arg(own("db"));
    command
}

impl Pair {
    /// Gets an allocation and binds a channel to the peer.
    fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let peer = UdpSocket::bind(loopback)?;
        // The handshake by blocking calls; the same port is then taken over by the socket that loads.
        let socket = StdUdpSocket::bind(loopback)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        socket.connect(server)?;
        let transport = [17, 0, 0, 0];
        let lifetime = 3600_u32.to_be_bytes();
        let wanted = [(REQUESTED_TRANSPORT, &transport[..]), (LIFETIME, &lifetime)];
        let refused = ask(&socket, ALLOCATE, &wanted, None)?;
        ensure!(
            refused.kind == ALLOCATE | ERROR,
            "an allocation without credentials"
        );
        let nonce = refused.attribute(NONCE).context("a challenge has a nonce")?;
        let granted = ask(&socket, ALLOCATE, &wanted, Some(nonce))?;
        ensure!(granted.kind == ALLOCATE | SUCCESS, "no allocation: {granted:?}");
        let channel = [CHANNEL.to_be_bytes(), [0; 2]].concat();
        let address = xor_address(peer.local_addr())?;
        let wanted = [(CHANNEL_NUMBER, &channel[..]), (XOR_PEER_ADDRESS, &address)];
        let bound = ask(&socket, CHANNEL_BIND, &wanted, Some(nonce))?;
        ensure!(bound.kind == CHANNEL_BIND | SUCCESS, "no channel: {bound:?}");
        let local = socket.local_addr()?;
        drop(socket);
        let client = UdpSocket::bind(local)?;
        Ok(Self { client, peer })
    }
}

#[derive(Debug)]
struct Answer {
    kind: u16,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Answer {
    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        let found = self.attributes.iter().find(|(of, _)| *of == kind);
        found.map(|(_, value)| value.as_slice())
    }
}

/// Asks until there is an answer.
fn ask(
    socket: &StdUdpSocket,
    kind: u16,
    attributes: &[(u16, &[u8])],
    nonce: Option<&[u8]>,
) -> anyhow::Result<Answer> {
    let transaction: [u8; 12] = random::bytes();
    let mut request = request(kind, transaction, attributes);
    if let Some(nonce) = nonce {
        attribute(&mut request, USERNAME, USER.as_bytes());
        attribute(&mut request, REALM_ATTRIBUTE, REALM.as_bytes());
        attribute(&mut request, NONCE, nonce);
        sign(&mut request)?;
    }
    let (begun, mut buffer) = (Instant::now(), [0; 2048]);
    while begun.elapsed() < START_TIMEOUT {
        // A server that is still starting refuses the port.
        if socket.send(&request).is_err() {
            continue;
        }
        match socket.recv(&mut buffer) {
            Ok(len) if len >= 20 && buffer[8..20] == transaction => return parse(&buffer[..len]),
            Ok(_) => {}
            Err(_) => std::thread::yield_now(),
        }
    }
    bail!("the TURN server does not answer")
}

fn request(kind: u16, transaction: [u8; 12], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = [&kind.to_be_bytes()[..], &[0, 0], &MAGIC, &transaction].concat();
    for (kind, value) in attributes {
        attribute(&mut message, *kind, value);
    }
    message
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    let len = message.len() - 20;
    set_len(message, len);
}

/// Appends MESSAGE-INTEGRITY: over all before it, with a length that counts it already.
fn sign(message: &mut Vec<u8>) -> anyhow::Result<()> {
    let len = message.len() - 20 + 24;
    set_len(message, len);
    let key = Md5::digest(format!("{USER}:{REALM}:{PASSWORD}"));
    let mut mac = Hmac::<Sha1>::new_from_slice(&key)?;
    mac.update(message);
    let code = mac.finalize().into_bytes();
    attribute(message, MESSAGE_INTEGRITY, &code);
    Ok(())
}

fn set_len(message: &mut [u8], len: usize) {
    message[2..4].copy_from_slice(&(len as u16).to_be_bytes());
}

fn xor_address(address: SocketAddr) -> anyhow::Result<[u8; 8]> {
    let IpAddr::V4(ip) = address.ip() else {
        bail!("this load is IPv4 only");
    };
    let mut value = [0, 1, 0, 0, 0, 0, 0, 0];
    value[2..4].copy_from_slice(&address.port().to_be_bytes());
    value[4..].copy_from_slice(&ip.octets());
    for (byte, mask) in value[2..]
        .iter_mut()
        .zip([MAGIC[0], MAGIC[1]].iter().chain(&MAGIC))
    {
        *byte ^= mask;
    }
    Ok(value)
}

fn parse(message: &[u8]) -> anyhow::Result<Answer> {
    let u16_at = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut attributes = Vec::new();
    let mut rest = &message[20..];
    while rest.len() >= 4 {
        let len = usize::from(u16_at(rest, 2));
        let value = rest.get(4..4 + len).context("a cut attribute")?;
        attributes.push((u16_at(rest, 0), value.to_vec()));
        rest = rest.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Answer {
        kind: u16_at(message, 0),
        attributes,
    })
}
