//! Pairs of clients of our own relay, which runs in this process on its one thread.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mesh::relay::client::RelayClient;
use mesh::relay::frame::{self, DATA_HEADER_LEN};
use net::clock::Clock;
use net::random;
use net::udp::{ReceiveBuffer, UdpSocket};
use relay::{Quota, Relay, RelayOptions};
use tokio::runtime::Runtime;
use types::{NodePrivateKey, NodePublicKey, Realm, RelayTicket, SigningPrivateKey};

use crate::DATAGRAM_BYTES;
use crate::load::{BATCH, Mode, Relayed};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

struct Client {
    key: NodePublicKey,
    client: RelayClient,
    socket: UdpSocket,
}

pub(crate) struct Bench {
    runtime: Runtime,
    relay: Relay,
    pairs: Vec<[Client; 2]>,
    frames: Vec<Vec<u8>>,
    buffer: ReceiveBuffer,
    clock: Clock,
}

impl Bench {
    pub(crate) fn start(pairs: usize) -> anyhow::Result<Self> {
        let authority = SigningPrivateKey::from_random(random::bytes());
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let key = NodePrivateKey::from_random(random::bytes());
        let mut options = RelayOptions::new(listen, key, authority.public());
        options.quota = Quota {
            bytes_per_second: 1 << 40,
            burst_bytes: 1 << 40,
        };
        let relay = Relay::start(options)?;
        let clock = Clock::new();
        let client = || Client::new(&relay, &authority, &clock);
        let pairs = (0..pairs)
            .map(|_| Ok([client()?, client()?]))
            .collect::<anyhow::Result<_>>()?;
        let mut bench = Self {
            runtime: tokio::runtime::Builder::new_current_thread().build()?,
            relay,
            pairs,
            frames: Vec::new(),
            buffer: ReceiveBuffer::default(),
            clock,
        };
        bench.connect()?;
        Ok(bench)
    }

    /// Gets every client in, and lets the first of each pair learn the other's number.
    fn connect(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for pair in 0..self.pairs.len() {
            let numbered = loop {
                ensure!(begun.elapsed() < CONNECT_TIMEOUT, "a client did not get in");
                self.turn(pair)?;
                let [near, far] = &mut self.pairs[pair];
                if !far.client.is_up() {
                    continue;
                }
                match near.client.header(&far.key) {
                    Some(header) if header.as_bytes().len() == DATA_HEADER_LEN => break header,
                    Some(header) => near.send(&self.relay, &[header.as_bytes(), b"hello"].concat()),
                    None => {}
                }
            };
            let frame = [numbered.as_bytes(), &[7; DATAGRAM_BYTES]].concat();
            self.frames.push(frame.repeat(BATCH as usize));
        }
        Ok(())
    }

    fn turn(&mut self, pair: usize) -> anyhow::Result<u64> {
        let mut arrived = 0;
        let [near, far] = &self.pairs[pair];
        let keys = [near.key, far.key];
        for client in &mut self.pairs[pair] {
            arrived += client.turn(&self.relay, &keys, &mut self.buffer, &self.clock)?;
        }
        Ok(arrived)
    }
}

impl Relayed for Bench {
    fn pairs(&self) -> usize {
        self.pairs.len()
    }

    fn send(&mut self, pair: usize, count: u64, mode: Mode) {
        let frame_len = DATA_HEADER_LEN + DATAGRAM_BYTES;
        let bytes = &self.frames[pair][..frame_len * count as usize];
        let socket = &mut self.pairs[pair][0].socket;
        let chunk_len = match mode {
            Mode::Batches => bytes.len(),
            Mode::Singly => frame_len,
        };
        for chunk in bytes.chunks(chunk_len) {
            // What the system has no room for is lost, and counted as such.
            let _ = socket.send(self.relay.local_addr(), chunk, frame_len, &mut 0);
        }
    }

    fn receive(&mut self, pair: usize) -> anyhow::Result<u64> {
        self.turn(pair)
    }

    fn tick(&mut self) {
        let now = self.clock.mono();
        for client in self.pairs.iter_mut().flatten() {
            client.client.handle_timeout(now);
        }
    }

    fn cpu(&mut self) -> anyhow::Result<Duration> {
        let status = self.runtime.block_on(self.relay.status());
        Ok(status.context("the relay is gone")?.cpu)
    }
}

impl Client {
    fn new(relay: &Relay, authority: &SigningPrivateKey, clock: &Clock) -> anyhow::Result<Self> {
        let private = NodePrivateKey::from_random(random::bytes());
        let key = private.public();
        let ticket = RelayTicket {
            node: key,
            realm: Realm([1; 16]),
            expires_at: clock.now().wall + Duration::from_secs(24 * 3600),
        };
        let ticket = Some(ticket.sign(authority));
        let mut client = RelayClient::new(relay.id(), private, ticket, random::bytes());
        client.connect(clock.mono());
        let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self { key, client, socket })
    }

    fn send(&mut self, relay: &Relay, frame: &[u8]) {
        let _ = self.socket.send(relay.local_addr(), frame, frame.len(), &mut 0);
    }

    /// Sends what the protocol wants to and takes what has come: how many datagrams of full length.
    fn turn(
        &mut self,
        relay: &Relay,
        keys: &[NodePublicKey],
        buffer: &mut ReceiveBuffer,
        clock: &Clock,
    ) -> anyhow::Result<u64> {
        let mut arrived = 0;
        while let Some(frame) = self.client.poll_transmit() {
            self.send(relay, &frame);
        }
        while self.client.poll_event().is_some() {}
        self.socket.fill(buffer)?;
        for batch in buffer.batches() {
            for frame in batch.bytes.chunks_mut(batch.segment_len) {
                if frame::is_data(frame) && frame.len() == DATA_HEADER_LEN + DATAGRAM_BYTES {
                    arrived += 1;
                    continue;
                }
                let known = |bytes: &[u8; 32]| keys.iter().copied().find(|key| key.as_bytes() == bytes);
                let _ = self.client.handle_frame(frame, known, clock.mono());
            }
        }
        Ok(arrived)
    }
}
