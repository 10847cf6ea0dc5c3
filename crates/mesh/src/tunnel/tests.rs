//! Two tunnels side by side, datagrams carried by hand. Long and lossy runs are in the crate `sim`.

mod calls;
mod hostile;
mod keys;
mod managed;
mod timing;
mod traffic;

use std::net::SocketAddr;
use std::time::Duration;

use types::{AllowedIp, Timestamp};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct End {
    tunnel: Tunnel,
    place: Endpoint,
    ip: IpAddr,
    got: Vec<(NodePublicKey, Vec<u8>)>,
    events: Vec<TunnelEvent>,
    probes: Vec<(NodePublicKey, Endpoint, Vec<u8>)>,
}

struct Sink<'a>(
    &'a mut Vec<(NodePublicKey, Vec<u8>)>,
    &'a mut Vec<(NodePublicKey, Endpoint, Vec<u8>)>,
);

impl PacketSink for Sink<'_> {
    fn packet(&mut self, from: &NodePublicKey, packet: &[u8]) {
        self.0.push((*from, packet.to_vec()));
    }

    fn probe(&mut self, from: &NodePublicKey, source: Endpoint, probe: &[u8]) {
        self.1.push((*from, source, probe.to_vec()));
    }
}

impl End {
    fn new(number: u8) -> Self {
        let private = NodePrivateKey::from_random([number; 32]);
        Self {
            tunnel: Tunnel::new(private, [number; 32]),
            place: SocketAddr::from(([192, 0, 2, number], 51820)).into(),
            ip: IpAddr::from([100, 64, 0, number]),
            got: Vec::new(),
            events: Vec::new(),
            probes: Vec::new(),
        }
    }

    fn key(&self) -> NodePublicKey {
        self.tunnel.public_key()
    }

    fn config_for(&self) -> PeerConfig {
        PeerConfig {
            public_key: self.key(),
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(self.ip)],
            endpoint: self.place.remote(),
            mobility: Mobility::Roams,
            persistent_keepalive: None,
        }
    }

    fn receive(&mut self, source: Endpoint, mut bytes: Vec<u8>, segment_len: usize, now: Now) {
        let received = Received {
            source,
            bytes: &mut bytes,
            segment_len,
        };
        self.tunnel
            .handle_received(received, &mut Sink(&mut self.got, &mut self.probes), now);
        self.collect_events();
    }

    fn collect_events(&mut self) {
        self.events
            .extend(std::iter::from_fn(|| self.tunnel.poll_event()));
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.tunnel.counters().dropped(reason)
    }

    fn transmits(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.tunnel.poll_transmit()).collect()
    }

    fn send(&mut self, to: &End, text: &str, now: Now) {
        let packet = packet(self.ip, to.ip, text.as_bytes());
        self.tunnel
            .send_packets(&to.key(), &[&packet], now)
            .expect("a peer");
    }

    fn texts(&mut self) -> Vec<String> {
        let texts = self
            .got
            .iter()
            .map(|(_, packet)| String::from_utf8_lossy(&packet[20..]).into_owned());
        let texts = texts.collect();
        self.got.clear();
        texts
    }

    fn status_of(&self, peer: &End) -> PeerStatus {
        self.tunnel.peer_status(&peer.key()).expect("a peer")
    }
}

fn packet(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
        panic!("IPv4");
    };
    let len = u16::try_from(20 + payload.len()).expect("short");
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet.extend_from_slice(payload);
    packet
}

fn start() -> Now {
    Now {
        mono: Monotonic::from_start(1000 * SECOND),
        wall: Timestamp::from_unix_ms(1_700_000_000_000),
    }
}

fn pair() -> (End, End) {
    let (mut a, mut b) = (End::new(1), End::new(2));
    a.tunnel.upsert_peer(b.config_for(), start());
    b.tunnel.upsert_peer(a.config_for(), start());
    (a, b)
}

/// Carries what `from` has to send to `to`, and says how many datagrams that was.
fn carry(from: &mut End, to: &mut End, now: Now) -> usize {
    let transmits = from.transmits();
    let count = transmits
        .iter()
        .map(|transmit| transmit.bytes.len().div_ceil(transmit.segment_len))
        .sum();
    for transmit in transmits {
        to.receive(from.place, transmit.bytes, transmit.segment_len, now);
    }
    from.collect_events();
    count
}

fn settle(a: &mut End, b: &mut End, now: Now) {
    while carry(a, b, now) + carry(b, a, now) > 0 {}
}

fn connected() -> (End, End) {
    let (mut a, mut b) = pair();
    a.send(&b, "first", start());
    settle(&mut a, &mut b, start());
    assert_eq!(b.texts(), ["first"]);
    (a, b)
}

/// Lets time pass for both ends, timer by timer, carrying everything; returns the timers that fired.
fn pass(a: &mut End, b: &mut End, from: Now, span: Duration) -> Vec<Timer> {
    let mut fired = Vec::new();
    let end = from.mono + span;
    loop {
        let next = [a.tunnel.poll_timeout(), b.tunnel.poll_timeout()]
            .into_iter()
            .flatten()
            .min();
        let Some((due, timer)) = next.filter(|(due, _)| *due <= end) else {
            return fired;
        };
        let now = from + due.since(from.mono);
        fired.push(timer);
        a.tunnel.handle_timeout(now);
        b.tunnel.handle_timeout(now);
        settle(a, b, now);
    }
}
