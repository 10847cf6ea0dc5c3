//! Tests of putting datagrams together, against a cutter that shares no line with it.

use proptest::prelude::*;
use types::{NodePrivateKey, PacketFilter};

use super::*;
use crate::filter::{Filter, FilterDrop};

const FRAGMENT: Result<Option<Vec<u8>>, FilterDrop> = Err(FilterDrop::Fragment);

fn peer(number: u8) -> NodePublicKey {
    NodePrivateKey::from_random([number; 32]).public()
}

fn at(millis: u64) -> Monotonic {
    Monotonic::from_start(Duration::from_millis(millis))
}

/// A UDP datagram to port 53 as one packet.
fn whole(is_6: bool, payload: usize) -> Vec<u8> {
    let mut udp = vec![0, 9, 0, 53];
    udp.extend(u16::try_from(payload + 8).expect("short").to_be_bytes());
    udp.extend([0, 0]);
    udp.extend((0..payload).map(|index| (index / 3) as u8));
    if is_6 {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
        packet[4..6].copy_from_slice(&u16::try_from(udp.len()).expect("short").to_be_bytes());
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend(udp);
        return packet;
    }
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 100, 64, 0, 2, 100, 64, 0, 1,
    ];
    packet[2..4].copy_from_slice(&u16::try_from(udp.len() + 20).expect("short").to_be_bytes());
    packet.extend(udp);
    named(&packet, 1)
}

/// The same packet with another identification, which over IPv6 only fragments have.
fn named(packet: &[u8], identification: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[5] = identification;
        packet[10..12].fill(0);
        let words = packet[..20].chunks(2);
        let mut sum: u32 = words
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    packet
}

/// One fragment: bytes `range` of what follows the header.
fn piece(packet: &[u8], identification: u8, range: Range<usize>, has_more: bool) -> Vec<u8> {
    let is_6 = packet[0] >> 4 == 6;
    let header_len = if is_6 { 40 } else { 20 };
    let bytes = &packet[header_len..][range.clone()];
    let mut cut = packet[..header_len].to_vec();
    let offset = u16::try_from(range.start).expect("short");
    if is_6 {
        cut[6] = 44;
        cut[4..6].copy_from_slice(&u16::try_from(8 + bytes.len()).expect("short").to_be_bytes());
        cut.extend([17, 0]);
        cut.extend((offset | u16::from(has_more)).to_be_bytes());
        cut.extend([0, 0, 0, identification]);
    } else {
        cut[2..4].copy_from_slice(&u16::try_from(20 + bytes.len()).expect("short").to_be_bytes());
        cut[6..8].copy_from_slice(&((offset / 8) | (u16::from(has_more) << 13)).to_be_bytes());
        cut = named(&cut, identification);
    }
    cut.extend(bytes);
    cut
}

/// All fragments of at most `most` bytes each.
fn cut(packet: &[u8], identification: u8, most: usize) -> Vec<Vec<u8>> {
    let len = packet.len() - if packet[0] >> 4 == 6 { 40 } else { 20 };
    let starts = (0..len).step_by(most);
    let one = |start: usize| {
        let end = (start + most).min(len);
        piece(packet, identification, start..end, end < len)
    };
    starts.map(one).collect()
}

fn open(ports: &str) -> Filter {
    let mut filter = Filter::default();
    filter.set(Some(&PacketFilter::everybody(ports.parse().expect("ports"))));
    filter
}

fn take(filter: &mut Filter, from: u8, packet: &[u8], now: Monotonic) -> Result<Option<Vec<u8>>, FilterDrop> {
    let taken = filter.take_in(&peer(from), packet, now)?;
    Ok(taken.map(<[u8]>::to_vec))
}

fn lost(filter: &Filter) -> u64 {
    filter.counters().dropped(FilterDrop::Fragment)
}

#[test]
fn pieces_in_order_and_backwards_are_one_packet_as_it_was() {
    for is_6 in [false, true] {
        let packet = whole(is_6, 8000);
        let mut pieces = cut(&packet, 1, 1232);
        for _ in 0..2 {
            let mut filter = open("udp:53");
            let (last, before) = pieces.split_last().expect("some");
            for piece in before {
                assert_eq!(take(&mut filter, 1, piece, at(0)), Ok(None));
            }
            assert_eq!(take(&mut filter, 1, last, at(0)), Ok(Some(packet.clone())));
            assert_eq!((filter.counters().passed, lost(&filter)), (1, 0));
            pieces.reverse();
        }
    }
}

#[test]
fn without_rules_pieces_are_put_together_too() {
    let packet = whole(true, 2000);
    let pieces = cut(&packet, 1, 1232);
    let mut filter = Filter::default();
    assert_eq!(take(&mut filter, 1, &pieces[0], at(0)), Ok(None));
    assert_eq!(take(&mut filter, 1, &pieces[1], at(0)), Ok(Some(packet)));
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let packet = whole(true, 100);
    let atomic = piece(&packet, 1, 0..108, false);
    assert_eq!(take(&mut open("udp:53"), 1, &atomic, at(0)), Ok(Some(packet)));
    assert_eq!(
        take(&mut open("udp:54"), 1, &atomic, at(0)),
        Err(FilterDrop::Denied)
    );
}

#[test]
fn what_is_denied_is_denied_whole_however_it_is_cut() {
    for is_6 in [false, true] {
        let packet = whole(is_6, 200);
        // The ports alone, or not even all of them with their datagram's length.
        for most in [8, 16, 104] {
            let mut filter = open("udp:54");
            let pieces = cut(&packet, 1, most);
            let (last, before) = pieces.split_last().expect("some");
            for piece in before {
                assert_eq!(take(&mut filter, 1, piece, at(0)), Ok(None));
            }
            assert_eq!(take(&mut filter, 1, last, at(0)), Err(FilterDrop::Denied));
            assert_eq!(filter.counters().passed, 0);
        }
    }
}

#[test]
fn pieces_that_contradict_one_another_end_their_datagram() {
    for is_6 in [false, true] {
        let packet = whole(is_6, 200);
        let first = piece(&packet, 1, 0..104, true);
        for contradiction in [
            // The ports once more, one piece over another, its end before or behind what was said.
            piece(&packet, 1, 0..8, true),
            piece(&packet, 1, 0..104, true),
            piece(&packet, 1, 96..208, false),
            piece(&packet, 1, 8..16, false),
            piece(&packet, 1, 104..104, true),
            piece(&packet, 1, 104..109, true),
        ] {
            let mut filter = open("*");
            assert_eq!(take(&mut filter, 1, &first, at(0)), Ok(None));
            assert_eq!(take(&mut filter, 1, &contradiction, at(0)), FRAGMENT);
            assert_eq!(lost(&filter), 2);
            let rest = piece(&packet, 1, 104..208, false);
            assert_eq!(
                take(&mut filter, 1, &rest, at(0)),
                Ok(None),
                "it never gets whole"
            );
        }
        let mut filter = open("*");
        let last = piece(&packet, 1, 104..160, false);
        assert_eq!(take(&mut filter, 1, &last, at(0)), Ok(None));
        let behind = piece(&packet, 1, 160..168, true);
        assert_eq!(take(&mut filter, 1, &behind, at(0)), FRAGMENT);
    }
}

#[test]
fn a_datagram_longer_than_any_is_refused() {
    for is_6 in [false, true] {
        let packet = whole(is_6, 1000);
        let mut last = piece(&packet, 1, 0..1000, false);
        let field = if is_6 { 42 } else { 6 };
        let offset: u16 = if is_6 { 64_800 } else { 64_800 / 8 };
        last[field..field + 2].copy_from_slice(&offset.to_be_bytes());
        assert_eq!(take(&mut open("*"), 1, &last, at(0)), FRAGMENT);
    }
}

#[test]
fn a_first_piece_with_longer_headers_than_the_rest_may_make_too_much_and_that_is_counted() {
    let mut pieces = cut(&whole(false, 65_480), 1, 1480);
    let first = &mut pieces[0];
    // Options that do nothing, 40 bytes of them.
    first.splice(20..20, [1; 40]);
    first[0] = 0x4f;
    let len = u16::try_from(first.len()).expect("short");
    first[2..4].copy_from_slice(&len.to_be_bytes());
    renew_header_sum(&mut first[..60]);
    let mut filter = open("*");
    let (last, others) = pieces.split_last().expect("many");
    for piece in others {
        assert_eq!(take(&mut filter, 1, piece, at(0)), Ok(None));
    }
    assert_eq!(take(&mut filter, 1, last, at(0)), FRAGMENT);
    assert_eq!(lost(&filter), pieces.len() as u64);
}

#[test]
fn peers_identifications_and_protocols_are_kept_apart() {
    let (one, other) = (whole(false, 200), {
        let mut other = whole(false, 200);
        other[28..].fill(7);
        other
    });
    let mut filter = open("*");
    let (first, last) = (0..104, 104..208);
    take(&mut filter, 1, &piece(&one, 1, first.clone(), true), at(0)).expect("waits");
    for (from, packet) in [
        (2, piece(&other, 1, last.clone(), false)),
        (1, piece(&other, 2, last.clone(), false)),
    ] {
        assert_eq!(take(&mut filter, from, &packet, at(0)), Ok(None));
    }
    let mut protocol = piece(&other, 1, last.clone(), false);
    protocol[9] = 47;
    assert_eq!(take(&mut filter, 1, &protocol, at(0)), Ok(None));
    assert_eq!(
        take(&mut filter, 1, &piece(&one, 1, last, false), at(0)),
        Ok(Some(one))
    );
}

#[test]
fn what_is_not_whole_in_time_is_given_up_and_counted() {
    let packet = whole(false, 200);
    let [first, last] = [
        piece(&packet, 1, 0..104, true),
        piece(&packet, 1, 104..208, false),
    ];
    let limit = u64::try_from(PIECES_TIME.as_millis()).expect("short");
    let mut filter = open("*");
    take(&mut filter, 1, &first, at(0)).expect("waits");
    assert_eq!(
        take(&mut filter, 1, &last, at(limit - 1)),
        Ok(Some(packet.clone()))
    );
    take(&mut filter, 1, &first, at(0)).expect("waits");
    assert_eq!(take(&mut filter, 1, &last, at(limit)), Ok(None));
    assert_eq!(lost(&filter), 1);
}

#[test]
fn a_peer_has_room_for_so_many_datagrams_and_the_one_that_waits_longest_goes() {
    let packet = whole(false, 200);
    let mut filter = open("*");
    for number in 0..=DATAGRAMS_MAX {
        let first = piece(&packet, number as u8, 0..104, true);
        assert_eq!(take(&mut filter, 1, &first, at(0)), Ok(None));
    }
    assert_eq!(lost(&filter), 1);
    let last = |number: usize| piece(&packet, number as u8, 104..208, false);
    assert_eq!(take(&mut filter, 1, &last(1), at(0)), Ok(Some(packet.clone())));
    assert_eq!(take(&mut filter, 1, &last(0), at(0)), Ok(None));
}

#[test]
fn a_peer_has_so_many_bytes_and_all_peers_together_have() {
    let packet = whole(false, 60_000);
    let long = |number: u8| piece(&packet, number, 0..59_992, true);
    let per_peer = PIECES_BYTES_PEER_MAX / (59_992 + COST + 20);
    let mut filter = open("*");
    for number in 0..=per_peer {
        take(&mut filter, 1, &long(number as u8), at(0)).expect("waits");
    }
    assert_eq!(lost(&filter), 1, "its own oldest");
    let mut filter = open("*");
    let in_all = PIECES_BYTES_MAX / (59_992 + COST + 20);
    for number in 0..in_all {
        let (from, which) = (number / per_peer, number % per_peer);
        assert_eq!(
            take(&mut filter, from as u8 + 1, &long(which as u8), at(0)),
            Ok(None)
        );
    }
    assert_eq!(lost(&filter), 0);
    assert_eq!(
        take(&mut filter, 200, &long(0), at(0)),
        FRAGMENT,
        "who has nothing is refused"
    );
    assert_eq!(
        take(&mut filter, 1, &long(9), at(0)),
        Ok(None),
        "who has something gives it up"
    );
    assert_eq!(lost(&filter), 2);
    let late = at(u64::try_from(PIECES_TIME.as_millis()).expect("short"));
    assert_eq!(
        take(&mut filter, 200, &long(0), late),
        Ok(None),
        "all others were late"
    );
}

#[test]
fn too_many_gaps_end_a_datagram() {
    let packet = whole(false, 2000);
    let mut filter = open("*");
    for number in 0..STRETCHES_MAX {
        let piece = piece(&packet, 1, number * 16..number * 16 + 8, true);
        assert_eq!(take(&mut filter, 1, &piece, at(0)), Ok(None));
    }
    let one_more = piece(&packet, 1, 1600..1608, true);
    assert_eq!(take(&mut filter, 1, &one_more, at(0)), FRAGMENT);
    assert_eq!(lost(&filter), STRETCHES_MAX as u64 + 1);
}

#[test]
fn headers_before_and_behind_the_cut_stay_where_they_were() {
    // Destination options before the fragment header, and others behind it, before UDP.
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let plain = whole(true, 400);
    let mut packet = plain[..40].to_vec();
    packet[6] = 60;
    packet.extend(options(60));
    packet.extend(options(17));
    packet.extend(&plain[40..]);
    let len = u16::try_from(packet.len() - 40).expect("short");
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    let part = |range: Range<usize>, has_more: bool| {
        let mut cut = packet[..48].to_vec();
        cut[40] = 44;
        cut.extend([60, 0]);
        let offset = u16::try_from(range.start).expect("short");
        cut.extend((offset | u16::from(has_more)).to_be_bytes());
        cut.extend([0, 0, 0, 1]);
        cut.extend(&packet[48..][range]);
        let len = u16::try_from(cut.len() - 40).expect("short");
        cut[4..6].copy_from_slice(&len.to_be_bytes());
        cut
    };
    let len = packet.len() - 48;
    for (ports, expected) in [
        ("udp:53", Ok(Some(packet.clone()))),
        ("udp:54", Err(FilterDrop::Denied)),
    ] {
        let mut filter = open(ports);
        assert_eq!(take(&mut filter, 1, &part(0..200, true), at(0)), Ok(None));
        assert_eq!(take(&mut filter, 1, &part(200..len, false), at(0)), expected);
    }
}

#[test]
fn the_answer_to_a_datagram_of_ours_that_left_in_pieces_passes() {
    let question = whole(false, 3000);
    let mut ours = question.clone();
    ours[12..20].copy_from_slice(&[100, 64, 0, 1, 100, 64, 0, 2]);
    let mut filter = Filter::default();
    filter.set(Some(&PacketFilter::default()));
    for piece in cut(&ours, 9, 1256) {
        filter.outgoing(&piece, at(0));
    }
    let mut answer = question;
    answer[20..24].copy_from_slice(&[0, 53, 0, 9]);
    let pieces = cut(&answer, 1, 1256);
    let (last, before) = pieces.split_last().expect("some");
    for piece in before {
        assert_eq!(take(&mut filter, 1, piece, at(1)), Ok(None));
    }
    assert_eq!(take(&mut filter, 1, last, at(1)), Ok(Some(answer)));
}

proptest! {
    #[test]
    fn any_cut_in_any_order_beside_any_other_is_as_it_was(
        is_6 in any::<bool>(),
        payload in 1_usize..3000,
        units in 1_usize..40,
        seed in any::<u64>(),
    ) {
        let most = (units * 8).max(payload.div_ceil(STRETCHES_MAX).next_multiple_of(8));
        let (packet, other) = (whole(is_6, payload), whole(is_6, payload + 1));
        let mut pieces = cut(&packet, 1, most);
        pieces.extend(cut(&other, 2, most.next_multiple_of(16)));
        let mut state = seed | 1;
        for index in (1..pieces.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(index, (state >> 33) as usize % (index + 1));
        }
        let mut filter = open("udp:53");
        let mut got = Vec::new();
        for piece in &pieces {
            got.extend(take(&mut filter, 1, piece, at(0)).expect("taken"));
        }
        got.sort_by_key(Vec::len);
        prop_assert!(got == vec![packet, named(&other, 2)]);
        prop_assert_eq!(lost(&filter), 0);
    }

    #[test]
    fn whatever_pieces_come_nothing_passes_that_no_rule_allows_and_the_limits_hold(
        drawn in prop::collection::vec((any::<bool>(), 0_u8..4, 0_usize..30, 0_usize..30, any::<bool>(), 0_u64..2000), 1..200),
    ) {
        // Every packet says port 53 in its first piece, and port 54 is open.
        let mut filter = open("udp:54");
        let mut now = 0;
        for (is_6, identification, start, units, has_more, later) in drawn {
            now += later;
            let packet = whole(is_6, 512);
            let end = (start * 8 + units * 8).min(520);
            let piece = piece(&packet, identification, (start * 8).min(end)..end, has_more);
            let taken = take(&mut filter, 1, &piece, at(now));
            prop_assert!(!matches!(taken, Ok(Some(_))), "{:?}", taken);
            let held: usize = filter.pieces.waiting.values().flatten().map(Datagram::cost).sum();
            prop_assert_eq!(held, filter.pieces.bytes);
            prop_assert!(held <= PIECES_BYTES_PEER_MAX);
        }
    }
}
