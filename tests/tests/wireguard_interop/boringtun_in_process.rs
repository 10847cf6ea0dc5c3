//! Against boringtun, whose clock the tests hold.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult};
use mock_instant::MockClock;
use types::{Monotonic, Now, Timestamp};

use crate::ours::{Loop, OUR_IP, Ours, PSK, SECOND, THEIR_IP, icmp_echo, our_key, text, their_key};

fn place(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 51820))
}

struct Pair {
    ours: Ours,
    theirs: Tunn,
    theirs_got: Vec<Vec<u8>>,
    now: Now,
}

impl Pair {
    fn new(psk: Option<[u8; 32]>) -> Self {
        let mono = Monotonic::from_start(1000 * SECOND);
        let now = Now {
            mono,
            wall: Timestamp::from_unix_ms(1_700_000_000_000),
        };
        let private = boringtun::x25519::StaticSecret::from(*their_key().expose());
        let public = boringtun::x25519::PublicKey::from(*our_key().public().as_bytes());
        Self {
            ours: Ours::new(psk, Some(place(2)), now),
            theirs: Tunn::new(private, public, psk, None, 5, None),
            theirs_got: Vec::new(),
            now,
        }
    }

    fn ours_send(&mut self, what: &str) {
        self.ours.send(&text(OUR_IP, THEIR_IP, what), self.now);
    }

    fn theirs_send(&mut self, what: &str) {
        let mut buffer = [0; 2048];
        let packet = text(THEIR_IP, OUR_IP, what);
        if let TunnResult::WriteToNetwork(datagram) = self.theirs.encapsulate(&packet, &mut buffer) {
            let mut datagram = datagram.to_vec();
            self.ours.receive(place(2), &mut datagram, self.now);
        }
    }

    /// Hands boringtun a datagram and returns what it answers.
    fn theirs_receive(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        let mut buffer = [0; 2048];
        let mut input = datagram;
        loop {
            match self.theirs.decapsulate(Some(place(1).ip()), input, &mut buffer) {
                TunnResult::WriteToNetwork(answer) => answers.push(answer.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) => {
                    self.theirs_got.push(packet.to_vec());
                    return answers;
                }
                TunnResult::Done => return answers,
                other => panic!("boringtun refuses {} bytes: {other:?}", datagram.len()),
            }
            input = &[];
        }
    }

    fn settle(&mut self) {
        loop {
            let datagrams = self.ours.datagrams();
            if datagrams.is_empty() {
                return;
            }
            for (_, datagram) in datagrams {
                for mut answer in self.theirs_receive(&datagram) {
                    self.ours.receive(place(2), &mut answer, self.now);
                }
            }
        }
    }

    /// Lets a second pass at both ends.
    fn tick(&mut self) {
        MockClock::advance(SECOND);
        self.now = self.now + SECOND;
        self.ours.tunnel.handle_timeout(self.now);
        let mut buffer = [0; 2048];
        if let TunnResult::WriteToNetwork(datagram) = self.theirs.update_timers(&mut buffer) {
            let mut datagram = datagram.to_vec();
            self.ours.receive(place(2), &mut datagram, self.now);
        }
        self.settle();
    }

    fn check_got(&mut self, ours: &[&str], theirs: &[&str]) {
        let ours: Vec<_> = ours.iter().map(|what| text(THEIR_IP, OUR_IP, what)).collect();
        let theirs: Vec<_> = theirs.iter().map(|what| text(OUR_IP, THEIR_IP, what)).collect();
        assert_eq!(std::mem::take(&mut self.ours.got), ours);
        assert_eq!(std::mem::take(&mut self.theirs_got), theirs);
        assert_eq!(self.ours.dropped(), []);
    }
}

#[test]
fn boringtun_answers_our_handshake() {
    for psk in [None, Some(PSK)] {
        let mut pair = Pair::new(psk);
        pair.ours_send("hello");
        pair.settle();
        pair.check_got(&[], &["hello"]);
        pair.theirs_send("back");
        pair.check_got(&["back"], &[]);
    }
}

#[test]
fn we_answer_boringtuns_handshake() {
    for psk in [None, Some(PSK)] {
        let mut pair = Pair::new(psk);
        pair.theirs_send("hello");
        pair.settle();
        pair.check_got(&["hello"], &[]);
        pair.ours_send("back");
        pair.settle();
        pair.check_got(&[], &["back"]);
    }
}

#[test]
fn ten_minutes_of_rekeys_lose_nothing() {
    for we_start in [true, false] {
        let mut pair = Pair::new(Some(PSK));
        for number in 0..600 {
            let what = number.to_string();
            if we_start {
                pair.ours_send(&what);
                pair.settle();
                pair.theirs_send(&what);
            } else {
                pair.theirs_send(&what);
                pair.settle();
                pair.ours_send(&what);
                pair.settle();
            }
            pair.check_got(&[&what], &[&what]);
            pair.tick();
        }
        let handshakes = pair.ours.tunnel.counters().handshakes;
        assert!((5..=7).contains(&handshakes), "{handshakes}");
    }
}

#[test]
fn a_packet_of_every_length_up_to_the_mtu_passes() {
    let mut pair = Pair::new(None);
    for len in (0..=1396).step_by(7).chain([1390, 1395, 1396]) {
        let what = "x".repeat(len);
        pair.ours_send(&what);
        pair.settle();
        pair.theirs_send(&what);
        pair.settle();
        pair.check_got(&[&what], &[&what]);
    }
}

#[test]
fn we_satisfy_boringtun_when_it_demands_a_cookie() {
    let mut pair = Pair::new(Some(PSK));
    pair.ours_send("wait");
    // It takes ten handshakes a second, and its clock stands still here; its answers are lost.
    for _ in 0..10 {
        for (_, datagram) in pair.ours.datagrams() {
            assert_eq!(pair.theirs_receive(&datagram)[0].len(), 92);
        }
        pair.now = pair.now + 6 * SECOND;
        pair.ours.tunnel.handle_timeout(pair.now);
    }
    let (_, datagram) = pair.ours.datagrams().remove(0);
    let mut cookie = pair.theirs_receive(&datagram).remove(0);
    assert_eq!(cookie.len(), 64);
    pair.ours.receive(place(2), &mut cookie, pair.now);
    pair.now = pair.now + 6 * SECOND;
    pair.ours.tunnel.handle_timeout(pair.now);
    pair.settle();
    pair.check_got(&[], &["wait"]);
}

#[test]
fn boringtun_satisfies_us_when_we_demand_a_cookie() {
    let mut pair = Pair::new(None);
    let mut buffer = [0; 2048];
    let packet = text(THEIR_IP, OUR_IP, "hello");
    let TunnResult::WriteToNetwork(initiation) = pair.theirs.encapsulate(&packet, &mut buffer) else {
        panic!("an initiation");
    };
    let initiation = initiation.to_vec();
    let flood = |pair: &mut Pair, initiation: &[u8]| {
        for _ in 0..=mesh::load::LOAD_PER_SECOND {
            pair.ours.receive(place(2), &mut initiation.to_vec(), pair.now);
        }
        let datagrams = pair.ours.datagrams();
        datagrams
            .into_iter()
            .map(|(_, datagram)| datagram)
            .find(|datagram| datagram.len() == 64)
    };
    // The answers to the flood are lost, but for the one cookie.
    let cookie = flood(&mut pair, &initiation).expect("a cookie reply");
    assert!(pair.theirs_receive(&cookie).is_empty());
    MockClock::advance(6 * SECOND);
    pair.now = pair.now + 6 * SECOND;
    assert!(flood(&mut pair, &initiation).is_some());
    let TunnResult::WriteToNetwork(second) = pair.theirs.update_timers(&mut buffer) else {
        panic!("a second initiation");
    };
    let mut second = second.to_vec();
    pair.ours.receive(place(2), &mut second, pair.now);
    pair.settle();
    assert_eq!(pair.ours.got, [packet]);
}

#[test]
fn boringtun_over_real_sockets_passes_data_both_ways() -> anyhow::Result<()> {
    let (socket, theirs) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    let (our_place, their_place) = (socket.local_addr()?, theirs.local_addr()?);
    theirs.set_read_timeout(Some(Duration::from_millis(20)))?;
    let private = boringtun::x25519::StaticSecret::from(*their_key().expose());
    let public = boringtun::x25519::PublicKey::from(*our_key().public().as_bytes());
    let mut tunn = Tunn::new(private, public, Some(PSK), None, 5, None);
    let mut ours = Loop::new(socket, Some(PSK), Some(their_place))?;
    ours.ours
        .send(&icmp_echo(OUR_IP, THEIR_IP, 8, b"over sockets"), ours.now());
    let (mut input, mut buffer, mut answer) = ([0; 2048], [0; 2048], [0; 2048]);
    ours.turn_until("an echo from boringtun", |this| {
        if let Ok((len, _)) = theirs.recv_from(&mut input) {
            let mut result = tunn.decapsulate(Some(our_place.ip()), &input[..len], &mut buffer);
            if let TunnResult::WriteToTunnelV4(packet, _) = &result {
                let packet = icmp_echo(THEIR_IP, OUR_IP, 0, &packet[24..]);
                result = tunn.encapsulate(&packet, &mut answer);
            }
            if let TunnResult::WriteToNetwork(datagram) = result {
                theirs.send_to(datagram, our_place)?;
            }
        }
        Ok(this
            .ours
            .got
            .iter()
            .any(|packet| packet[24..] == *b"over sockets"))
    })
}
