//! Two userspace stacks joined in memory, under a clock that the test moves.

mod pair;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use net::netstack::{
    ConnFailure, ConnId, ConnStatus, Header, NetStack, OpenError, Packets, ReadOutcome, StackConfig,
};
use pair::{PORT, Pair, admits, ip};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr};

#[test]
fn bytes_cross_in_order_over_both_families_and_both_ends_close() {
    for v6 in [false, true] {
        let mut pair = Pair::new(StackConfig::default());
        let (near, far) = pair.open(v6);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|index| (index % 251) as u8).collect();
        let (mut written, mut received) = (0, Vec::new());
        while received.len() < sent.len() {
            written += pair.stacks[0].write(near, &sent[written..], pair.now);
            pair.settle();
            received.extend(pair.read(1, far).0);
            pair.now = pair.now + Duration::from_millis(10);
        }
        assert!(received == sent);

        pair.stacks[0].shutdown(near);
        pair.settle();
        assert_eq!(pair.read(1, far), (Vec::new(), ReadOutcome::End));
        assert_eq!(pair.stacks[1].write(far, b"still open this way", pair.now), 19);
        pair.stacks[1].shutdown(far);
        // The last acknowledgement may be delayed by 10 ms.
        pair.pass(Duration::from_millis(20));
        assert_eq!(
            pair.read(0, near),
            (b"still open this way".to_vec(), ReadOutcome::End)
        );
        assert_eq!(pair.stacks[0].status(near), ConnStatus::Finished);
        assert_eq!(pair.stacks[1].status(far), ConnStatus::Finished);
        assert!(pair.stacks[0].is_quiet() && pair.stacks[1].is_quiet());

        pair.stacks[0].release(near, pair.now);
        pair.stacks[1].release(far, pair.now);
        pair.pass(Duration::from_secs(30));
        assert!(pair.stacks[0].is_idle() && pair.stacks[1].is_idle());
        assert_eq!(pair.stacks[0].next_deadline(pair.now), None);
    }
}

#[test]
fn bytes_survive_loss_doubling_and_disorder() {
    let mut pair = Pair::new(StackConfig::default());
    let (near, far) = pair.open(true);
    pair.one_of = 50;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|index| (index % 241) as u8).collect();
    let (mut written, mut received) = (0, Vec::new());
    for _ in 0..100_000 {
        written += pair.stacks[0].write(near, &sent[written..], pair.now);
        pair.pass(Duration::from_millis(10));
        received.extend(pair.read(1, far).0);
        if received.len() >= sent.len() {
            break;
        }
    }
    assert!(
        received == sent,
        "{} of {} bytes came",
        received.len(),
        sent.len()
    );
}

/// Both ends hold data for each other, both windows close, and packets are lost: what one end acknowledges must reach the
/// other even so.
#[test]
fn an_echo_over_a_bad_line_never_stops_for_good() {
    const HELD_MAX: usize = 65_536;
    for (v6, seed) in [(true, 7), (false, 7), (true, 8), (true, 9)] {
        let mut pair = Pair::new(StackConfig::default());
        let (near, far) = pair.open(v6);
        (pair.one_of, pair.random) = (20, seed);
        let sent: Vec<u8> = (0..4_000_000_u32).map(|index| (index % 241) as u8).collect();
        let (mut written, mut received, mut held) = (0, Vec::new(), Vec::new());
        let mut heard = pair.now;
        while received.len() < sent.len() {
            written += pair.stacks[0].write(near, &sent[written..], pair.now);
            pair.stacks[1].read(far, &mut |chunk| {
                let taken = chunk.len().min(HELD_MAX - held.len());
                held.extend_from_slice(&chunk[..taken]);
                taken
            });
            held.drain(..pair.stacks[1].write(far, &held, pair.now));
            let (bytes, _) = pair.read(0, near);
            if !bytes.is_empty() {
                heard = pair.now;
            }
            received.extend(bytes);
            let silence = pair.now.since(heard);
            assert!(
                silence < Duration::from_secs(100),
                "seed {seed}: {} bytes came",
                received.len()
            );
            pair.pass(Duration::from_millis(10));
        }
        assert!(received == sent);
    }
}

/// Writes an IPv4 packet from the first side to the second.
fn ip4_packet(next_header: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = Ipv4Repr {
        src_addr: Ipv4Addr::new(100, 64, 0, 1),
        dst_addr: Ipv4Addr::new(100, 64, 0, 2),
        next_header,
        payload_len: payload.len(),
        hop_limit: 64,
    };
    let mut packet = vec![0; repr.buffer_len()];
    let checksums = ChecksumCapabilities::default();
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &checksums);
    [packet.as_slice(), payload].concat()
}

#[test]
fn a_udp_packet_is_told_that_nobody_takes_it() {
    let packet = ip4_packet(IpProtocol::Udp, &[0x12, 0x34, 0x1c, 0xfc, 0, 8, 0, 0]);
    let mut pair = Pair::new(StackConfig::default());
    let header = Header::parse(&packet).expect("whole");
    let mut out = Packets::default();
    pair.stacks[1].ingress((&header, &packet), &mut admits, pair.now, &mut out);
    // ICMP's destination unreachable, and of its codes that of the port, which programs take for a refusal.
    assert_eq!(out.packet(0)[20..22], [3, 3]);
}

#[test]
fn an_echo_request_is_answered() {
    let ping = Icmpv4Repr::EchoRequest {
        ident: 7,
        seq_no: 1,
        data: b"are you there",
    };
    let mut payload = vec![0; ping.buffer_len()];
    let checksums = ChecksumCapabilities::default();
    ping.emit(&mut Icmpv4Packet::new_unchecked(&mut payload[..]), &checksums);
    let packet = ip4_packet(IpProtocol::Icmp, &payload);
    let mut pair = Pair::new(StackConfig::default());
    let mut out = Packets::default();
    let header = Header::parse(&packet).expect("whole");
    pair.stacks[1].ingress((&header, &packet), &mut admits, pair.now, &mut out);
    assert_eq!(out.len(), 1);
    let answer = Header::parse(out.packet(0)).expect("whole");
    assert_eq!((answer.source, answer.destination), (ip(2, false), ip(1, false)));
}

#[test]
fn nobody_listening_is_refused_at_once() {
    let mut pair = Pair::new(StackConfig::default());
    let conn = pair.dial(PORT + 1, true);
    pair.settle();
    assert_eq!(
        pair.stacks[0].status(conn),
        ConnStatus::Failed(ConnFailure::Refused)
    );
    assert!(pair.stacks[1].is_idle());
}

#[test]
fn a_silent_peer_times_out_a_connect_and_later_a_transfer() {
    let mut pair = Pair::new(StackConfig::default());
    pair.is_cut = true;
    let conn = pair.dial(PORT, true);
    pair.pass(Duration::from_secs(9));
    assert_eq!(pair.stacks[0].status(conn), ConnStatus::Opening);
    pair.pass(Duration::from_secs(2));
    assert_eq!(
        pair.stacks[0].status(conn),
        ConnStatus::Failed(ConnFailure::TimedOut)
    );

    let mut pair = Pair::new(StackConfig {
        keepalive: None,
        ..StackConfig::default()
    });
    let (near, _) = pair.open(true);
    pair.is_cut = true;
    pair.pass(Duration::from_secs(3600));
    assert_eq!(
        pair.stacks[0].status(near),
        ConnStatus::Open,
        "who asks nothing waits for no answer"
    );
    pair.stacks[0].write(near, b"anyone there?", pair.now);
    pair.pass(Duration::from_secs(74));
    assert_eq!(pair.stacks[0].status(near), ConnStatus::Open);
    pair.pass(Duration::from_secs(2));
    assert_eq!(
        pair.stacks[0].status(near),
        ConnStatus::Failed(ConnFailure::TimedOut)
    );
}

#[test]
fn an_idle_connection_to_a_peer_that_vanished_ends_at_both_ends() {
    let mut pair = Pair::new(StackConfig::default());
    let (near, far) = pair.open(true);
    pair.pass(Duration::from_secs(30));
    pair.is_cut = true;
    pair.pass(Duration::from_secs(54));
    let ends = |pair: &Pair| [pair.stacks[0].status(near), pair.stacks[1].status(far)];
    assert_eq!(ends(&pair), [ConnStatus::Open; 2]);
    pair.pass(Duration::from_secs(22));
    assert_eq!(ends(&pair), [ConnStatus::Failed(ConnFailure::TimedOut); 2]);
    for (side, conn) in [near, far].into_iter().enumerate() {
        pair.stacks[side].release(conn, pair.now);
        pair.pass(Duration::from_secs(1));
        assert!(pair.stacks[side].is_idle());
    }
}

#[test]
fn an_idle_connection_between_two_living_ends_stays_for_a_day_and_costs_little() {
    let mut pair = Pair::new(StackConfig::default());
    let (near, far) = pair.open(false);
    let carried = pair.carried;
    pair.pass(Duration::from_secs(24 * 3600));
    assert_eq!(pair.stacks[0].status(near), ConnStatus::Open);
    assert_eq!(pair.stacks[1].status(far), ConnStatus::Open);
    let spans = 24 * 3600 / 20;
    assert!(
        pair.carried - carried <= 4 * spans,
        "{} packets",
        pair.carried - carried
    );
    assert_eq!(pair.stacks[0].write(near, b"still there", pair.now), 11);
    pair.settle();
    assert_eq!(pair.read(1, far).0, b"still there");
}

#[test]
fn a_reader_that_stalls_for_ten_minutes_and_asks_nothing_itself_keeps_its_connection() {
    let silent = StackConfig {
        keepalive: None,
        ..StackConfig::default()
    };
    let mut pair = Pair::of(StackConfig::default(), silent);
    let (near, far) = pair.open(true);
    while pair.stacks[0].write(near, &[1; 10_000], pair.now) > 0 {
        pair.pass(Duration::from_millis(100));
    }
    pair.pass(Duration::from_secs(600));
    assert_eq!(pair.stacks[0].status(near), ConnStatus::Open);
    let mut received = 0;
    for _ in 0..100 {
        received += pair.read(1, far).0.len();
        pair.pass(Duration::from_secs(2));
    }
    assert!(received > 500_000, "{received}");
}

#[test]
fn a_peer_that_reads_nothing_holds_a_connection_that_nobody_else_holds_for_a_minute_only() {
    let mut pair = Pair::new(StackConfig::default());
    let (near, far) = pair.open(true);
    while pair.stacks[0].write(near, &[1; 10_000], pair.now) > 0 {
        pair.pass(Duration::from_millis(100));
    }
    pair.stacks[0].disown(near, pair.now);
    pair.pass(Duration::from_secs(50));
    assert_eq!(pair.stacks[0].status(near), ConnStatus::Open);
    // As long as something gets away it may take its time.
    pair.read(1, far);
    pair.pass(Duration::from_secs(5));
    assert!(pair.stacks[0].write(near, &[2; 1_000_000], pair.now) > 0);
    pair.pass(Duration::from_secs(59));
    assert_eq!(pair.stacks[0].status(near), ConnStatus::Open);
    pair.pass(Duration::from_secs(2));
    assert_eq!(
        pair.stacks[0].status(near),
        ConnStatus::Failed(ConnFailure::TimedOut)
    );
}

#[test]
fn an_abort_resets_the_other_end_after_what_it_received() {
    let mut pair = Pair::new(StackConfig::default());
    let (near, far) = pair.open(false);
    pair.stacks[0].write(near, b"last words", pair.now);
    pair.settle();
    pair.stacks[0].abort(near);
    pair.settle();
    assert_eq!(pair.stacks[1].status(far), ConnStatus::Failed(ConnFailure::Reset));
    assert_eq!(pair.read(1, far).0, b"last words");
    assert!(
        pair.stacks[0].is_idle(),
        "an aborted connection is forgotten once the RST is out"
    );
}

#[test]
fn a_reader_that_stalls_closes_the_window_and_loses_nothing() {
    let config = StackConfig {
        receive_buffer: 16 * 1024,
        send_buffer: 16 * 1024,
        ..StackConfig::default()
    };
    let mut pair = Pair::new(config);
    let (near, far) = pair.open(true);
    let sent = vec![7; 100_000];
    let mut written = 0;
    for _ in 0..100 {
        written += pair.stacks[0].write(near, &sent[written..], pair.now);
        pair.pass(Duration::from_millis(50));
    }
    assert!(written <= 32 * 1024, "{written} bytes taken with nobody reading");
    let mut received = 0;
    while received < sent.len() {
        received += pair.read(1, far).0.len();
        pair.pass(Duration::from_millis(50));
        written += pair.stacks[0].write(near, &sent[written..], pair.now);
    }
    assert_eq!(received, sent.len());
}

#[test]
fn a_connection_nobody_holds_is_cut_when_the_other_end_still_sends_or_never_closes() {
    let mut pair = Pair::new(StackConfig::default());
    let (near, far) = pair.open(true);
    pair.stacks[1].release(far, pair.now);
    pair.settle();
    pair.stacks[0].write(near, b"hello?", pair.now);
    pair.settle();
    assert_eq!(
        pair.stacks[0].status(near),
        ConnStatus::Failed(ConnFailure::Reset)
    );

    let mut pair = Pair::new(StackConfig::default());
    let (near, far) = pair.open(true);
    pair.stacks[1].release(far, pair.now);
    pair.pass(Duration::from_secs(61));
    assert!(pair.stacks[1].is_idle());
    assert_ne!(pair.stacks[0].status(near), ConnStatus::Open);
}

#[test]
fn connections_and_half_open_ones_are_limited() {
    let config = StackConfig {
        connections_max: 8,
        half_open_max: 3,
        ..StackConfig::default()
    };
    let mut pair = Pair::new(config);
    for _ in 0..8 {
        pair.dial(PORT, true);
    }
    let remote = SocketAddr::new(ip(2, true), PORT);
    let over = pair.stacks[0].connect(ip(1, true), remote, pair.now + Duration::from_secs(10));
    assert_eq!(over, Err(OpenError::TooMany));
    // One round of SYNs reaches the other side; without answers only three are held open.
    pair.is_cut = true;
    let mut out = Packets::default();
    while pair.stacks[0].egress(pair.now, &mut out) {}
    let mut answers = Packets::default();
    for index in 0..out.len() {
        let header = Header::parse(out.packet(index)).expect("whole");
        pair.stacks[1].ingress((&header, out.packet(index)), &mut admits, pair.now, &mut answers);
    }
    assert!(
        answers.is_empty(),
        "beyond the limit a SYN is not answered at all"
    );
    while pair.stacks[1].egress(pair.now, &mut answers) {}
    assert_eq!(answers.len(), 3);
    pair.pass(Duration::from_secs(11));
    while let Some(conn) = pair.stacks[1].next_touched() {
        assert_eq!(
            pair.stacks[1].status(conn),
            ConnStatus::Failed(ConnFailure::TimedOut)
        );
        pair.stacks[1].release(conn, pair.now);
    }
    assert!(pair.stacks[1].is_idle(), "half-open connections do not stay");
}

#[test]
fn every_one_of_many_busy_connections_has_its_turn() {
    let mut pair = Pair::new(StackConfig::default());
    let conns: Vec<(ConnId, ConnId)> = (0..200).map(|_| pair.open(true)).collect();
    for (near, _) in &conns {
        assert!(pair.stacks[0].write(*near, &[1; 100_000], pair.now) > 0);
    }
    // A sender that is never idle: one batch, and whatever answer it gets, again and again.
    let mut sent = std::collections::BTreeMap::new();
    for _ in 0..40 {
        let mut out = Packets::default();
        pair.stacks[0].egress(pair.now, &mut out);
        assert!(out.len() < 1000, "{} packets are no batch", out.len());
        let mut answers = Packets::default();
        for index in 0..out.len() {
            let header = Header::parse(out.packet(index)).expect("whole");
            *sent.entry(header.segment.expect("tcp").source).or_insert(0_usize) += 1;
            pair.stacks[1].ingress((&header, out.packet(index)), &mut admits, pair.now, &mut answers);
        }
        for (_, far) in &conns {
            pair.stacks[1].read(*far, &mut |bytes| bytes.len());
        }
        pair.now = pair.now + Duration::from_millis(20);
        let mut has_more = true;
        while has_more {
            for index in 0..answers.len() {
                let (packet, mut none) = (answers.packet(index), Packets::default());
                let header = Header::parse(packet).expect("whole");
                pair.stacks[0].ingress((&header, packet), &mut admits, pair.now, &mut none);
            }
            answers.clear();
            has_more = pair.stacks[1].egress(pair.now, &mut answers) || !answers.is_empty();
        }
        for (near, _) in &conns {
            pair.stacks[0].write(*near, &[1; 100_000], pair.now);
        }
    }
    let (least, most) = (sent.values().min().copied(), sent.values().max().copied());
    assert_eq!(sent.len(), conns.len(), "least {least:?}, most {most:?}");
    assert!(
        most <= least.map(|least| 2 * least + 4),
        "least {least:?}, most {most:?}"
    );
}

#[test]
fn losing_an_own_address_resets_its_connections() {
    let mut pair = Pair::new(StackConfig::default());
    let (near, _) = pair.open(true);
    pair.stacks[0].set_locals(&[ip(1, false)]);
    pair.settle();
    assert!(matches!(pair.stacks[0].status(near), ConnStatus::Failed(_)));
}

#[test]
fn hostile_segments_neither_panic_nor_open_anything() {
    let mut pair = Pair::new(StackConfig::default());
    let (near, far) = pair.open(false);
    let mut out = Packets::default();
    pair.stacks[0].write(near, b"x", pair.now);
    while pair.stacks[0].egress(pair.now, &mut out) {}
    let template = out.packet(0).to_vec();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20_000 {
        let mut packet = template.clone();
        for _ in 0..4 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = 20 + (random >> 33) as usize % (packet.len() - 20);
            packet[at] = (random >> 56) as u8;
        }
        let mut replies = Packets::default();
        if let Ok(header) = Header::parse(&packet) {
            pair.stacks[1].ingress((&header, &packet), &mut admits, pair.now, &mut replies);
            while pair.stacks[1].egress(pair.now, &mut replies) && replies.len() < 1000 {
                replies.clear();
            }
        }
    }
    let _ = pair.stacks[1].status(far);
    pair.pass(Duration::from_secs(20));
}
