//! Tests of cutting and joining, with checksums that smoltcp computes.

use mesh::ip::folded;
use proptest::prelude::*;
use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};
use types::MESH_MTU;

use super::*;
use crate::netstack::Packets;

const PSH_ACK: u8 = 0x18;
const ACK: u8 = 0x10;

/// A stream from one port, as the kernel hands over a segment of it.
#[derive(Clone, Copy, Debug)]
struct Stream {
    is_6: bool,
    is_udp: bool,
    port: u16,
    options: usize,
}

impl Stream {
    fn ip_len(self) -> usize {
        if self.is_6 { 40 } else { 20 }
    }

    fn headers_len(self) -> usize {
        self.ip_len() + if self.is_udp { 8 } else { 20 + self.options * 4 }
    }

    fn sum_at(self) -> u16 {
        if self.is_udp { 6 } else { 16 }
    }

    /// A packet with a right checksum.
    fn packet(self, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = self.headers_len() + payload.len();
        let mut packet = vec![0; len];
        let protocol = if self.is_udp { 17 } else { 6 };
        if self.is_6 {
            packet[0] = 0x60;
            packet[6] = protocol;
            packet[7] = 64;
            packet[8] = 0xfd;
            packet[24] = 0xfd;
            packet[39] = 1;
        } else {
            packet[0] = 0x45;
            packet[6] = 0x40;
            packet[8] = 64;
            packet[9] = protocol;
            packet[12..20].copy_from_slice(&[100, 64, 0, 1, 100, 64, 0, 2]);
        }
        set_len(&mut packet, len);
        let own = &mut packet[self.ip_len()..];
        own[..2].copy_from_slice(&self.port.to_be_bytes());
        own[3] = 80;
        if self.is_udp {
            own[4..6].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
        } else {
            own[4..8].copy_from_slice(&sequence.to_be_bytes());
            own[12] = ((5 + self.options) << 4) as u8;
            own[13] = flags;
            own[15] = 9;
            own[20..20 + self.options * 4].fill(1);
        }
        packet[self.headers_len()..].copy_from_slice(payload);
        self.fill_sums(&mut packet);
        packet
    }

    fn addresses(self, packet: &[u8]) -> (IpAddress, IpAddress) {
        if self.is_6 {
            let ip = Ipv6Packet::new_unchecked(packet);
            (ip.src_addr().into(), ip.dst_addr().into())
        } else {
            let ip = Ipv4Packet::new_unchecked(packet);
            (ip.src_addr().into(), ip.dst_addr().into())
        }
    }

    fn fill_sums(self, packet: &mut [u8]) {
        let (source, destination) = self.addresses(packet);
        if !self.is_6 {
            Ipv4Packet::new_unchecked(&mut *packet).fill_checksum();
        }
        let own = &mut packet[self.ip_len()..];
        if self.is_udp {
            UdpPacket::new_unchecked(own).fill_checksum(&source, &destination);
        } else {
            TcpPacket::new_unchecked(own).fill_checksum(&source, &destination);
        }
    }

    fn has_right_sums(self, packet: &[u8]) -> bool {
        let (source, destination) = self.addresses(packet);
        let is_ip_right = self.is_6 || Ipv4Packet::new_unchecked(packet).verify_checksum();
        let own = &packet[self.ip_len()..];
        is_ip_right
            && if self.is_udp {
                UdpPacket::new_unchecked(own).verify_checksum(&source, &destination)
            } else {
                TcpPacket::new_unchecked(own).verify_checksum(&source, &destination)
            }
    }

    /// The header with which the kernel hands over a segment.
    fn header(self, piece_len: usize) -> VnetHeader {
        VnetHeader {
            flags: NEEDS_CHECKSUM,
            cut: match (self.is_udp, self.is_6) {
                (true, _) => CUT_UDP,
                (false, false) => CUT_TCP4,
                (false, true) => CUT_TCP6,
            },
            headers_len: self.headers_len() as u16,
            piece_len: piece_len as u16,
            sum_start: self.ip_len() as u16,
            sum_at: self.sum_at(),
        }
    }
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index / 3) as u8).collect()
}

fn tcp(is_6: bool) -> Stream {
    Stream {
        is_6,
        is_udp: false,
        port: 7,
        options: 3,
    }
}

fn all(batch: &Packets) -> Vec<Vec<u8>> {
    (0..batch.len())
        .map(|number| batch.packet(number).to_vec())
        .collect()
}

fn batch_of(packets: &[Vec<u8>]) -> Packets {
    let mut batch = Packets::default();
    for packet in packets {
        batch.push_with(packet.len(), |room| room.copy_from_slice(packet));
    }
    batch
}

/// What is written to the kernel.
fn written(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
    let batch = batch_of(packets);
    let mut join = Join::default();
    join.sort(&batch);
    let write = |group: &Group| {
        let (head, members) = join.parts(group, &batch);
        let mut bytes = head.as_bytes().to_vec();
        members.for_each(|member| bytes.extend_from_slice(member));
        let (header, packet) = bytes.split_first_chunk().expect("a header");
        (VnetHeader::read(*header), packet.to_vec())
    };
    join.groups().iter().map(write).collect()
}

/// What a kernel makes of what is written to it.
fn taken(written: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut out = Packets::default();
    for (header, packet) in written {
        split(header, packet, &mut out).expect("in order");
    }
    all(&out)
}

#[test]
fn the_header_is_the_kernels() {
    let header = VnetHeader {
        flags: 1,
        cut: 4,
        headers_len: 0x0102,
        piece_len: 0x0304,
        sum_start: 0x0506,
        sum_at: 0x0708,
    };
    let bytes = header.to_bytes();
    assert_eq!(bytes[..2], [1, 4]);
    assert_eq!(bytes[2..4], 0x0102_u16.to_ne_bytes());
    assert_eq!(VnetHeader::read(bytes), header);
}

#[test]
fn a_checksum_that_the_kernel_left_is_completed() {
    for (is_6, is_udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let stream = Stream { is_udp, ..tcp(is_6) };
        let whole = stream.packet(9, ACK, &payload(101));
        let mut partial = whole.clone();
        let at = stream.ip_len() + usize::from(stream.sum_at());
        let ip = mesh::ip::IpPacket::read(&whole).expect("in order");
        let sum = folded(pseudo_sum(&whole, ip.protocol, ip.payload.len()));
        partial[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let header = VnetHeader {
            cut: CUT_NOTHING,
            ..stream.header(0)
        };
        let mut out = Packets::default();
        split(&header, &partial, &mut out).expect("in order");
        assert_eq!(all(&out), [whole]);
    }
}

#[test]
fn what_ends_a_segment_is_in_its_last_packet_and_what_is_said_once_in_its_first() {
    let stream = tcp(false);
    let packet = stream.packet(u32::MAX - 100, 0x80 | 0x19, &payload(250));
    let mut out = Packets::default();
    split(&stream.header(100), &packet, &mut out).expect("in order");
    let segments = all(&out);
    let flags: Vec<u8> = segments.iter().map(|segment| segment[33]).collect();
    assert_eq!(flags, [0x90, 0x10, 0x19]);
    let sequences: Vec<u32> = segments
        .iter()
        .map(|segment| {
            TcpPacket::new_unchecked(&segment[20..])
                .seq_number()
                .0
                .cast_unsigned()
        })
        .collect();
    assert_eq!(sequences, [u32::MAX - 100, u32::MAX, 99]);
    let numbers: Vec<u8> = segments.iter().map(|segment| segment[5]).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert!(segments.iter().all(|segment| stream.has_right_sums(segment)));
}

/// Refuses a packet, and sends nothing of it.
fn refused(header: VnetHeader, packet: &[u8]) {
    let mut out = Packets::default();
    assert_eq!(split(&header, packet, &mut out), Err(Refused), "{header:?}");
    assert!(out.is_empty());
}

#[test]
fn a_header_that_its_packet_does_not_bear_out_is_refused_and_nothing_of_it_is_sent() {
    let (stream, other) = (tcp(false), tcp(true));
    let packet = stream.packet(1, ACK, &payload(3000));
    let good = stream.header(1000);
    for header in [
        VnetHeader { piece_len: 0, ..good },
        VnetHeader { piece_len: 1, ..good },
        VnetHeader {
            piece_len: 1249,
            ..good
        },
        VnetHeader {
            piece_len: u16::MAX,
            ..good
        },
        VnetHeader { flags: 0, ..good },
        VnetHeader {
            sum_start: 24,
            ..good
        },
        VnetHeader { sum_at: 6, ..good },
        VnetHeader {
            cut: CUT_TCP6,
            ..good
        },
        VnetHeader { cut: CUT_UDP, ..good },
        VnetHeader {
            cut: CUT_TCP4 | 0x80,
            ..good
        },
        VnetHeader { cut: 3, ..good },
        VnetHeader {
            cut: CUT_NOTHING,
            ..good
        },
    ] {
        refused(header, &packet);
    }
    refused(other.header(1000), &packet);
    for len in [0, 1, 19, 20, 39, 40, 52, 2999] {
        refused(good, &packet[..len]);
    }
    refused(good, &[&packet[..], &[0; 5]].concat());
}

#[test]
fn a_packet_that_is_not_what_its_header_says_is_refused() {
    let stream = tcp(false);
    let packet = stream.packet(1, ACK, &payload(3000));
    let good = stream.header(1000);
    let with = |at: usize, value: u8| {
        let mut bad = packet.clone();
        bad[at] = value;
        refused(good, &bad);
    };
    with(0, 0x65);
    with(0, 0x44);
    with(6, 0x20);
    with(7, 0x01);
    with(9, 17);
    with(32, 0x40);
}

#[test]
fn a_checksum_that_would_lie_outside_its_packet_is_refused() {
    let stream = tcp(false);
    let good = stream.header(1000);
    let alone = VnetHeader {
        cut: CUT_NOTHING,
        ..good
    };
    let short = stream.packet(1, ACK, &payload(100));
    for header in [
        VnetHeader {
            sum_start: 19,
            ..alone
        },
        VnetHeader {
            sum_start: u16::MAX,
            ..alone
        },
        VnetHeader {
            sum_at: u16::MAX,
            ..alone
        },
        VnetHeader { sum_at: 131, ..alone },
    ] {
        refused(header, &short);
    }
    refused(VnetHeader::default(), &[]);
    refused(VnetHeader::default(), &[0x45; MESH_MTU + 1]);
}

#[test]
fn packets_of_one_stream_are_one_segment_and_streams_are_kept_apart() {
    let streams: Vec<Stream> = (1..4)
        .map(|port| Stream {
            port,
            ..tcp(port == 2)
        })
        .collect();
    let mut packets = Vec::new();
    for round in 0..10 {
        for stream in &streams {
            packets.push(stream.packet(round * 1000, ACK, &payload(1000)));
        }
    }
    let written = written(&packets);
    assert_eq!(written.len(), 3);
    assert!(written.iter().all(|(header, _)| header.piece_len == 1000));
    let mut in_order: Vec<Vec<u8>> = Vec::new();
    for stream in &streams {
        in_order.extend((0..10).map(|round| stream.packet(round * 1000, ACK, &payload(1000))));
    }
    // The kernel numbers packets that are never cut as it likes: those it would cut.
    let taken: Vec<Vec<u8>> = taken(&written);
    assert!(
        taken
            .iter()
            .zip(&in_order)
            .all(|(one, other)| one[6..10] == other[6..10] && one[20..] == other[20..])
    );
    assert_eq!(taken.len(), in_order.len());
}

#[test]
fn what_is_no_continuation_goes_by_itself_and_nothing_passes_what_came_before_it() {
    let stream = tcp(false);
    let data = |sequence: u32, flags: u8, len: usize| stream.packet(sequence, flags, &payload(len));
    let counts = |packets: &[Vec<u8>]| -> Vec<u64> {
        let batch = batch_of(packets);
        Join::default()
            .sort(&batch)
            .iter()
            .map(|group| group.count)
            .collect()
    };
    let first = data(0, ACK, 500);
    // A gap, a repetition, one that is longer; then one that says something.
    assert_eq!(counts(&[first.clone(), data(600, ACK, 500)]), [1, 1]);
    assert_eq!(counts(&[first.clone(), first.clone()]), [1, 1]);
    assert_eq!(counts(&[first.clone(), data(500, ACK, 501)]), [1, 1]);
    for flags in [0x11, 0x12, 0x14, 0x30, 0x50, 0x90, 0x00] {
        assert_eq!(
            counts(&[first.clone(), data(500, flags, 500)]),
            [1, 1],
            "{flags:#x}"
        );
    }
    // A shorter one and one that is pushed are the last; what carries nothing stays where it was.
    let (short, pushed) = (data(500, ACK, 100), data(500, PSH_ACK, 500));
    assert_eq!(counts(&[first.clone(), short, data(600, ACK, 100)]), [2, 1]);
    assert_eq!(counts(&[first.clone(), pushed, data(1000, ACK, 500)]), [2, 1]);
    assert_eq!(
        counts(&[first.clone(), data(500, ACK, 0), data(500, ACK, 500)]),
        [1, 1, 1]
    );
    let with = |at: usize, value: u8| {
        let mut next = data(500, ACK, 500);
        next[at] = value;
        stream.fill_sums(&mut next);
        counts(&[first.clone(), next])
    };
    // Class of service, fragmentation, hops, acknowledgement, window, an option; a fragment.
    for (at, value) in [(1, 1), (6, 0), (8, 63), (31, 1), (35, 1), (45, 0), (7, 1)] {
        assert_eq!(with(at, value), [1, 1], "{at}");
    }
    let mut wrong = data(500, ACK, 500);
    wrong[100] ^= 1;
    assert_eq!(counts(&[first.clone(), wrong]), [1, 1], "its checksum is wrong");
    assert_eq!(counts(&[first, data(500, ACK, 500)]), [2]);
    let many: Vec<_> = (0..200).map(|number| data(number * 500, ACK, 500)).collect();
    assert_eq!(counts(&many), [64, 64, 64, 8]);
    let long: Vec<_> = (0..60).map(|number| data(number * 1228, ACK, 1228)).collect();
    assert_eq!(counts(&long), [53, 7]);
}

proptest! {
    #[test]
    fn what_is_cut_and_joined_is_as_it_was(
        is_6 in any::<bool>(),
        is_udp in any::<bool>(),
        options in 0_usize..11,
        len in 1_usize..60_000,
        piece_len in 48_usize..1180,
        sequence in any::<u32>(),
    ) {
        let stream = Stream { is_6, is_udp, port: 7, options };
        let bytes = payload(len);
        let whole = stream.packet(sequence, PSH_ACK, &bytes);
        let mut out = Packets::default();
        split(&stream.header(piece_len), &whole, &mut out).expect("in order");
        let pieces = all(&out);
        prop_assert!(pieces.iter().all(|piece| piece.len() <= MESH_MTU && stream.has_right_sums(piece)));
        let carried: Vec<u8> = pieces.iter().flat_map(|piece| piece[stream.headers_len()..].to_vec()).collect();
        prop_assert!(carried == bytes);
        let written = written(&pieces);
        prop_assert!(taken(&written) == pieces);
        if !is_udp && len <= piece_len * 64 {
            let joined = &written[0].1;
            prop_assert_eq!(written.len(), 1);
            let mut joined = joined.clone();
            stream.fill_sums(&mut joined);
            prop_assert!(joined == whole);
        }
    }

    #[test]
    fn any_header_before_any_packet_is_cut_into_packets_of_the_mesh_or_refused(
        header in any::<[u8; HEADER_LEN]>(),
        cut in prop::sample::select(vec![0_u8, 1, 4, 5, 0x81, 3]),
        is_right in any::<bool>(),
        mut bytes in prop::collection::vec(any::<u8>(), 0..3000),
        is_6 in any::<bool>(),
        patched in any::<bool>(),
    ) {
        let stream = Stream { is_udp: cut == 5, ..tcp(is_6) };
        if patched {
            bytes = stream.packet(1, ACK, &bytes);
        } else if let Some(first) = bytes.first_mut() {
            *first = if is_6 { 0x60 } else { 0x45 };
        }
        let mut header = VnetHeader::read(header);
        if is_right {
            header = VnetHeader { cut, ..stream.header(usize::from(header.piece_len)) };
        }
        let mut out = Packets::default();
        let outcome = split(&header, &bytes, &mut out);
        prop_assert_eq!(outcome.is_err(), out.is_empty());
        prop_assert!(out.len() <= SEGMENTS_MAX);
        prop_assert!(all(&out).iter().all(|packet| packet.len() <= MESH_MTU));
    }

    #[test]
    fn whatever_a_peer_sends_is_written_in_full_and_each_stream_in_its_order(
        drawn in prop::collection::vec((0_u16..3, any::<bool>(), 0_u32..6, 0_usize..3, any::<u8>()), 0..60),
    ) {
        let packets: Vec<Vec<u8>> = drawn.iter().map(|(port, is_6, step, len, flags)| {
            let flags = if flags % 4 == 0 { *flags } else { ACK };
            Stream { port: *port, ..tcp(*is_6) }.packet(step * 50, flags, &payload(len * 50))
        }).collect();
        let written = written(&packets);
        let own = |all: &[Vec<u8>], port: u16, is_6: bool| -> Vec<Vec<u8>> {
            let at = if is_6 { 40 } else { 20 };
            let is_own = |packet: &&Vec<u8>| packet[0] >> 4 == if is_6 { 6 } else { 4 } && packet[at + 1] == port as u8;
            let rest = |packet: &Vec<u8>| packet[at..].to_vec();
            all.iter().filter(is_own).map(rest).collect()
        };
        let taken = taken(&written);
        for port in 0..3 {
            for is_6 in [false, true] {
                prop_assert!(own(&taken, port, is_6) == own(&packets, port, is_6));
            }
        }
    }
}
