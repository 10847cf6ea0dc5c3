//! Our end of every test: a tunnel with one peer, by hand or on a real socket.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use mesh::tunnel::{DropReason, Mobility, PacketSink, PeerConfig, PresharedKey, Received, Transmit, Tunnel};
use types::{AllowedIp, Monotonic, NodePrivateKey, NodePublicKey, Now, Timestamp};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const OUR_IP: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
pub(crate) const THEIR_IP: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
pub(crate) const PSK: [u8; 32] = [42; 32];

pub(crate) fn our_key() -> NodePrivateKey {
    NodePrivateKey::from_random([1; 32])
}

pub(crate) fn their_key() -> NodePrivateKey {
    NodePrivateKey::from_random([2; 32])
}

/// Our end: a tunnel with one peer, and what came out of it.
pub(crate) struct Ours {
    pub(crate) tunnel: Tunnel,
    pub(crate) got: Vec<Vec<u8>>,
}

pub(crate) struct Sink<'a>(&'a mut Vec<Vec<u8>>);

impl PacketSink for Sink<'_> {
    fn packet(&mut self, _: &NodePublicKey, packet: &[u8]) {
        self.0.push(packet.to_vec());
    }
}

impl Ours {
    pub(crate) fn new(psk: Option<[u8; 32]>, endpoint: Option<SocketAddr>, now: Now) -> Self {
        let mut tunnel = Tunnel::new(our_key(), [7; 32]);
        let config = PeerConfig {
            public_key: their_key().public(),
            preshared_key: psk.map(PresharedKey::from_bytes),
            allowed_ips: vec![AllowedIp::host(THEIR_IP.into())],
            endpoint,
            mobility: Mobility::Roams,
            persistent_keepalive: None,
        };
        tunnel.upsert_peer(config, now);
        Self {
            tunnel,
            got: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, packet: &[u8], now: Now) {
        self.tunnel
            .send_packets(&their_key().public(), &[packet], now)
            .expect("the one peer");
    }

    pub(crate) fn receive(&mut self, source: SocketAddr, bytes: &mut [u8], now: Now) {
        let received = Received {
            source: source.into(),
            bytes,
            segment_len: 0,
        };
        self.tunnel
            .handle_received(received, &mut Sink(&mut self.got), now);
    }

    pub(crate) fn datagrams(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let transmits = std::iter::from_fn(|| self.tunnel.poll_transmit());
        let split = |Transmit {
                         destination,
                         segment_len,
                         bytes,
                     }: Transmit| {
            let destination = destination.remote().expect("no relay here");
            let datagrams: Vec<_> = bytes
                .chunks(segment_len)
                .map(|chunk| (destination, chunk.to_vec()))
                .collect();
            datagrams
        };
        transmits.flat_map(split).collect()
    }

    pub(crate) fn dropped(&self) -> Vec<(DropReason, u64)> {
        self.tunnel.counters().drops().collect()
    }
}

/// Makes an ICMP echo packet: type 8 asks, type 0 answers.
pub(crate) fn icmp_echo(source: Ipv4Addr, destination: Ipv4Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut icmp = vec![kind, 0, 0, 0];
    icmp.extend_from_slice(body);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 1, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let len = u16::try_from(packet.len() + icmp.len()).expect("short");
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(icmp);
    packet
}

pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub(crate) fn text(source: Ipv4Addr, destination: Ipv4Addr, text: &str) -> Vec<u8> {
    icmp_echo(source, destination, 8, text.as_bytes())
}

/// What drives a tunnel of ours on a real socket with the real clock, in the test's own thread.
pub(crate) struct Loop {
    pub(crate) ours: Ours,
    pub(crate) socket: UdpSocket,
    start: Instant,
    /// Added to both clocks, so that a test need not wait for a rekey.
    pub(crate) ahead: Duration,
}

impl Loop {
    pub(crate) fn new(
        socket: UdpSocket,
        psk: Option<[u8; 32]>,
        endpoint: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let start = Instant::now();
        let ours = Ours::new(psk, endpoint, clock(start, Duration::ZERO));
        Ok(Self {
            ours,
            socket,
            start,
            ahead: Duration::ZERO,
        })
    }

    pub(crate) fn now(&self) -> Now {
        clock(self.start, self.ahead)
    }

    /// Sends, receives and acts on timers once; answers every echo request.
    pub(crate) fn turn(&mut self) -> anyhow::Result<()> {
        self.ours.tunnel.handle_timeout(self.now());
        for (destination, datagram) in self.ours.datagrams() {
            self.socket.send_to(&datagram, destination)?;
        }
        let mut buffer = [0; 2048];
        if let Ok((len, source)) = self.socket.recv_from(&mut buffer) {
            self.ours.receive(source, &mut buffer[..len], self.now());
        }
        let requests = self
            .ours
            .got
            .extract_if(.., |packet| packet[9] == 1 && packet[20] == 8);
        let answers: Vec<_> = requests
            .map(|packet| icmp_echo(OUR_IP, THEIR_IP, 0, &packet[24..]))
            .collect();
        for answer in answers {
            self.ours.send(&answer, self.now());
        }
        Ok(())
    }

    pub(crate) fn turn_until(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + 15 * SECOND;
        while !done(self)? {
            ensure!(
                Instant::now() < deadline,
                "{what}: nothing in 15 s; dropped: {:?}",
                self.ours.dropped()
            );
            self.turn()?;
        }
        Ok(())
    }

    /// Asks for an echo of `body` and awaits it.
    pub(crate) fn ping(&mut self, body: &[u8]) -> anyhow::Result<()> {
        let request = icmp_echo(OUR_IP, THEIR_IP, 8, body);
        self.ours.send(&request, self.now());
        self.turn_until("an echo from the other end", |this| {
            let answered = this
                .ours
                .got
                .iter()
                .any(|packet| packet[20] == 0 && packet[24..] == *body);
            Ok(answered)
        })
    }
}

pub(crate) fn clock(start: Instant, ahead: Duration) -> Now {
    let wall = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let wall = i64::try_from(wall.as_millis()).expect("before the year 292 million");
    Now {
        mono: Monotonic::from_start(start.elapsed() + ahead),
        wall: Timestamp::from_unix_ms(wall) + ahead,
    }
}
