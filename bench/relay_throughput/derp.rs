//! Pairs of clients at a derper of its own: as much of DERP, version 2, as sending packets needs.
//!
//! Its connections are plain TCP here, without the TLS that a derper on port 443 has: that spares it work which a public one
//! does. A client is a connection; a packet is a frame with the key of whom it goes to, and comes out with that of the sender.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use crypto_box::aead::Aead as _;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use net::random;

use crate::DATAGRAM_BYTES;
use crate::load::{BATCH, Mode, Relayed, WINDOW};
use crate::server::Server;

const START_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const MAGIC: &[u8] = "DERP🔑".as_bytes();
const SERVER_KEY: u8 = 0x01;
const CLIENT_INFO: u8 = 0x02;
const SERVER_INFO: u8 = 0x03;
const SEND_PACKET: u8 = 0x04;
const RECEIVED_PACKET: u8 = 0x05;
const HEADER_LEN: usize = 1 + 4;
const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 24;
const READ_LEN: usize = 256 * 1024;

pub(crate) struct Bench {
    server: Server,
    pairs: Vec<Pair>,
    _directory: tempfile::TempDir,
}

struct Pair {
    near: Client,
    far: Client,
    frames: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    key: PublicKey,
    /// What was read and is not a whole frame yet.
    unread: Vec<u8>,
}

impl Bench {
    pub(crate) fn start(program: &str, pairs: usize) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("derper.key");
        let server = Server::start(|address| {
            let mut command = Command::new(program);
            command
                .args(["-a", &address.to_string(), "-http-port", "-1", "-stun=false"])
                .arg("-c")
                .arg(config)
                // It drops what is beyond 32 packets for one client, which would measure drops.
                .env("TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH", WINDOW.to_string());
            command
        })?;
        let pairs = (0..pairs)
            .map(|_| Pair::open(server.address()))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            server,
            pairs,
            _directory: directory,
        })
    }
}

impl Relayed for Bench {
    fn pairs(&self) -> usize {
        self.pairs.len()
    }

    fn send(&mut self, pair: usize, count: u64, mode: Mode) {
        let Pair { near, frames, .. } = &mut self.pairs[pair];
        let frame_len = HEADER_LEN + KEY_LEN + DATAGRAM_BYTES;
        let bytes = &frames[..frame_len * count as usize];
        let chunk_len = match mode {
            Mode::Batches => bytes.len(),
            Mode::Singly => frame_len,
        };
        for chunk in bytes.chunks(chunk_len) {
            near.write(chunk);
        }
    }

    fn receive(&mut self, pair: usize) -> anyhow::Result<u64> {
        // What the relay says to the sender must be read, too.
        self.pairs[pair].near.packets()?;
        self.pairs[pair].far.packets()
    }

    fn tick(&mut self) {}

    fn cpu(&mut self) -> anyhow::Result<Duration> {
        self.server.cpu()
    }
}

impl Pair {
    fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let (near, far) = (Client::open(server)?, Client::open(server)?);
        let body = [far.key.as_bytes().as_slice(), &[7; DATAGRAM_BYTES]].concat();
        let frames = frame(SEND_PACKET, &body).repeat(BATCH as usize);
        Ok(Self { near, far, frames })
    }
}

impl Client {
    fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(
            b"GET /derp HTTP/1.1\r\nHost: bench\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n",
        )?;
        let secret = SecretKey::from_bytes(random::bytes());
        let key = secret.public_key();
        let greeting = expect(&mut stream, SERVER_KEY)?;
        let server_key = greeting.strip_prefix(MAGIC).context("this is no DERP")?;
        let server_key = server_key
            .first_chunk::<KEY_LEN>()
            .context("no key of the server")?;
        let sealing = SalsaBox::new(&PublicKey::from_bytes(*server_key), &secret);
        let nonce: [u8; NONCE_LEN] = random::bytes();
        let info = sealing.encrypt(&nonce.into(), br#"{"version":2}"#.as_slice());
        let info = info.map_err(|_| anyhow::anyhow!("cannot seal the client's info"))?;
        let body = [key.as_bytes().as_slice(), &nonce, &info].concat();
        stream.write_all(&frame(CLIENT_INFO, &body))?;
        expect(&mut stream, SERVER_INFO)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            key,
            unread: Vec::new(),
        })
    }

    /// Writes all of it; the window is smaller than what the system's buffers hold, so that this hardly ever waits.
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(_) => return,
            }
        }
    }

    /// Takes what has come: how many packets.
    fn packets(&mut self) -> anyhow::Result<u64> {
        let begin = self.unread.len();
        self.unread.resize(begin + READ_LEN, 0);
        let count = match self.stream.read(&mut self.unread[begin..]) {
            Ok(0) => bail!("derper has closed a connection"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        self.unread.truncate(begin + count);
        let (mut packets, mut taken) = (0, 0);
        while let Some((kind, len)) = header(&self.unread[taken..])
            && self.unread.len() - taken >= HEADER_LEN + len
        {
            packets += u64::from(kind == RECEIVED_PACKET && len == KEY_LEN + DATAGRAM_BYTES);
            taken += HEADER_LEN + len;
        }
        self.unread.drain(..taken);
        Ok(packets)
    }
}

fn connect(server: SocketAddr) -> anyhow::Result<TcpStream> {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(server) {
            Ok(stream) => return Ok(stream),
            Err(error) => ensure!(begun.elapsed() < START_TIMEOUT, "derper does not answer: {error}"),
        }
        std::thread::yield_now();
    }
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], (body.len() as u32).to_be_bytes().as_slice(), body].concat()
}

fn header(bytes: &[u8]) -> Option<(u8, usize)> {
    let (kind, rest) = bytes.split_first()?;
    Some((*kind, u32::from_be_bytes(*rest.first_chunk()?) as usize))
}

/// Reads a frame that must be of this kind.
fn expect(stream: &mut TcpStream, kind: u8) -> anyhow::Result<Vec<u8>> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head)?;
    let (found, len) = header(&head).context("a header of five bytes")?;
    ensure!(
        found == kind && len < 1 << 16,
        "frame {found} of {len} bytes instead of {kind}"
    );
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    Ok(body)
}
