//! Who is shut out, and that it is the control plane that said so.

use types::SignedRelayExpulsion;
use types::relay::{RELAY_TICKET_LIFETIME, RelayExpulsion};

use super::super::handshake::Initiating;
use super::super::sealed::{Message, SealedChannel};
use super::*;

/// Voids the tickets of one that were signed until now.
fn expulsion(bench: &Bench, who: u8, realm: u8) -> RelayExpulsion {
    RelayExpulsion::of_tickets_until(bench.now().wall, key(who).public(), Realm([realm; 16]))
}

fn signed(bench: &Bench, who: u8, realm: u8) -> SignedRelayExpulsion {
    expulsion(bench, who, realm).sign(&authority())
}

fn hand_over(bench: &mut Bench, by: u8, expulsion: SignedRelayExpulsion) {
    bench.client(by, |client, now| client.hand_over(expulsion, now));
}

fn is_here(bench: &Bench, who: u8) -> bool {
    bench.server.has_client(&key(who).public())
}

fn drops(bench: &Bench, reason: RelayDrop) -> u64 {
    bench.server.counters().dropped(reason)
}

/// Has a client begin anew with a ticket that is signed now.
fn begin_anew(bench: &mut Bench, who: u8, realm: u8) {
    let ticket = ticket(who, realm, bench.now().wall + RELAY_TICKET_LIFETIME);
    let client = RelayClient::new(bench.server.id(), key(who), Some(ticket), [who + 50; 32]);
    bench.clients.insert(who, (client, Bench::udp(who)));
    bench.client(who, RelayClient::connect);
}

/// A client that waits for no answer.
struct Hostile {
    source: Source,
    number: frame::ClientNumber,
    channel: SealedChannel,
}

impl Hostile {
    fn at(bench: &mut Bench, who: u8) -> Self {
        let (source, ticket) = (
            Bench::udp(who),
            ticket(who, 1, bench.now().wall + RELAY_TICKET_LIFETIME),
        );
        let mut initiating = Initiating::start(&key(who), bench.server.id(), &ticket, [who; 32]);
        let mut hello = frame::hello(&[0; 16], &initiating.noise);
        let len = hello.len();
        bench.feed_server(source, &mut hello, len);
        let (_, welcome) = bench.server.poll_transmit().expect("a Welcome");
        let (number, _, channel) = initiating.finish(&welcome[4..]).expect("ours");
        Self {
            source,
            number,
            channel,
        }
    }

    fn bring(&mut self, bench: &mut Bench, expulsion: SignedRelayExpulsion) {
        let mut frame = self.channel.seal(self.number, &Message::Expel(expulsion));
        let len = frame.len();
        bench.feed_server(self.source, &mut frame, len);
        bench.settle();
    }

    /// Brings so many that the control plane has not signed, none like another.
    fn bring_forged(&mut self, bench: &mut Bench, count: u64) {
        let base = expulsion(bench, 9, 1);
        for number in 0..count {
            let forged = RelayExpulsion {
                void_until: base.void_until + Duration::from_millis(number),
                ..base
            };
            self.bring(bench, forged.sign(&SigningPrivateKey::from_random([0xbb; 32])));
        }
    }
}

#[test]
fn whom_another_client_hands_over_is_cut_at_once_and_stays_out() {
    let mut bench = pair();
    let expulsion = signed(&bench, 2, 1);
    hand_over(&mut bench, 1, expulsion);
    assert!(!is_here(&bench, 2) && is_here(&bench, 1));
    let confirm = bench.clients[&1].0.poll_timeout().map(|(_, timer)| timer);
    assert_eq!(confirm, Some(ClientTimer::ConfirmDue), "the relay has answered");
    bench.advance(Duration::from_secs(60));
    assert!(!is_here(&bench, 2) && !bench.is_up(2));
    assert!(drops(&bench, RelayDrop::Expelled) > 0);
    assert_eq!(bench.server.counters().expulsions, 1);
}

#[test]
fn a_relay_told_by_its_own_control_plane_does_the_same() {
    let mut bench = pair();
    let (expulsion, now) = (signed(&bench, 2, 1), bench.now());
    assert_eq!(bench.server.expel(&expulsion, now), Ok(true));
    assert_eq!(bench.server.expel(&expulsion, now), Ok(false));
    assert!(!is_here(&bench, 2));
    assert_eq!(bench.server.counters().expulsions, 1);
}

#[test]
fn a_ticket_signed_after_it_lets_the_node_in_again_and_keeps_it_in() {
    let mut bench = pair();
    let old = signed(&bench, 2, 1);
    hand_over(&mut bench, 1, old);
    begin_anew(&mut bench, 2, 1);
    assert!(!bench.is_up(2), "the ticket was signed in the same millisecond");
    bench.advance(Duration::from_millis(1));
    begin_anew(&mut bench, 2, 1);
    assert!(bench.is_up(2) && is_here(&bench, 2));
    // A relay that starts anew hears of it from both, the node that is in again with its new ticket too.
    let now = bench.now();
    bench.server = Bench::new().server;
    begin_anew(&mut bench, 1, 1);
    begin_anew(&mut bench, 2, 1);
    hand_over(&mut bench, 1, old);
    assert_eq!(bench.server.counters().expulsions, 1);
    assert!(is_here(&bench, 2));
    assert_eq!(bench.server.expel(&signed(&bench, 2, 1), now), Ok(true));
}

#[test]
fn a_handshake_under_way_is_cut_too() {
    let mut bench = pair();
    bench.cut = vec![3];
    let ticket = ticket(3, 1, bench.now().wall + RELAY_TICKET_LIFETIME);
    let mut late = RelayClient::new(bench.server.id(), key(3), Some(ticket), [3; 32]);
    let now = bench.now().mono;
    late.connect(now);
    let mut hello = late.poll_transmit().expect("a Hello");
    let len = hello.len();
    bench.feed_server(Bench::udp(3), &mut hello, len);
    let (_, mut welcome) = bench.server.poll_transmit().expect("a Welcome");
    let expulsion = signed(&bench, 3, 1);
    hand_over(&mut bench, 1, expulsion);
    late.handle_frame(&mut welcome, known, now).expect("a frame");
    let mut confirm = late.poll_transmit().expect("a Confirm");
    let len = confirm.len();
    bench.feed_server(Bench::udp(3), &mut confirm, len);
    assert!(!is_here(&bench, 3));
    assert_eq!(drops(&bench, RelayDrop::Unbound), 1);
}

#[test]
fn one_forged_changed_or_of_another_realm_shuts_nobody_out() {
    let mut bench = pair();
    let forged = expulsion(&bench, 2, 1).sign(&SigningPrivateKey::from_random([0xbb; 32]));
    hand_over(&mut bench, 1, forged);
    let mut bytes = *signed(&bench, 3, 1).as_bytes();
    bytes[..32].copy_from_slice(key(2).public().as_bytes());
    hand_over(&mut bench, 1, SignedRelayExpulsion::from_bytes(bytes));
    let as_ticket = ticket(2, 1, bench.now().wall + RELAY_TICKET_LIFETIME);
    hand_over(
        &mut bench,
        1,
        SignedRelayExpulsion::from_bytes(*as_ticket.as_bytes()),
    );
    assert_eq!(drops(&bench, RelayDrop::BadExpulsion), 3);
    let elsewhere = signed(&bench, 2, 9);
    hand_over(&mut bench, 1, elsewhere);
    assert_eq!(bench.server.counters().expulsions, 1);
    assert!(is_here(&bench, 2));
    bench.send(1, 2, &[b"as before"]);
    assert_eq!(bench.inbox(2).len(), 1);
}

#[test]
fn a_client_that_brings_too_many_is_refused_and_the_others_are_not() {
    let mut bench = pair();
    let mut hostile = Hostile::at(&mut bench, 3);
    hostile.bring_forged(&mut bench, 100);
    assert_eq!(drops(&bench, RelayDrop::BadExpulsion), 64);
    assert_eq!(drops(&bench, RelayDrop::TooManyExpulsions), 36);
    let expulsion = signed(&bench, 1, 1);
    hand_over(&mut bench, 2, expulsion);
    assert!(!is_here(&bench, 1));
    bench.advance(Duration::from_secs(1));
    hostile.bring_forged(&mut bench, 10);
    assert_eq!(drops(&bench, RelayDrop::BadExpulsion), 64 + 4);
}

#[test]
fn a_node_that_begins_anew_has_no_more_checked_for_it() {
    let mut bench = pair();
    for _ in 0..10 {
        let mut hostile = Hostile::at(&mut bench, 3);
        hostile.bring_forged(&mut bench, 50);
        bench.advance(Duration::from_millis(20));
    }
    assert_eq!(drops(&bench, RelayDrop::BadExpulsion), 64);
    let expulsion = signed(&bench, 2, 1);
    hand_over(&mut bench, 1, expulsion);
    assert!(!is_here(&bench, 2), "what others bring is checked");
}

#[test]
fn a_client_that_shows_ticket_after_ticket_has_few_of_them_checked() {
    let mut bench = pair();
    let mut hostile = Hostile::at(&mut bench, 3);
    let forger = SigningPrivateKey::from_random([0xbb; 32]);
    let forged = RelayTicket {
        node: key(3).public(),
        realm: Realm([1; 16]),
        expires_at: bench.now().wall + RELAY_TICKET_LIFETIME,
    };
    for _ in 0..100 {
        let renew = Message::Renew(forged.sign(&forger));
        let mut frame = hostile.channel.seal(hostile.number, &renew);
        let len = frame.len();
        bench.feed_server(hostile.source, &mut frame, len);
    }
    assert_eq!(drops(&bench, RelayDrop::BadTicket), 8);
    assert_eq!(drops(&bench, RelayDrop::TooManyTickets), 92);
}

#[test]
fn many_hostile_clients_share_what_is_checked_and_the_platforms_node_gets_through() {
    let mut bench = pair();
    bench.add(4, 0xff);
    for who in 20..30 {
        let mut hostile = Hostile::at(&mut bench, who);
        hostile.bring_forged(&mut bench, 50);
    }
    assert_eq!(drops(&bench, RelayDrop::BadExpulsion), 400);
    assert_eq!(drops(&bench, RelayDrop::TooManyExpulsions), 100);
    let expulsion = signed(&bench, 2, 1);
    hand_over(&mut bench, 1, expulsion);
    assert!(is_here(&bench, 2), "there is no check left");
    hand_over(&mut bench, 4, expulsion);
    assert!(!is_here(&bench, 2));
}

#[test]
fn the_platforms_node_is_not_limited() {
    let mut bench = pair();
    bench.add(4, 0xff);
    for number in 0..500 {
        let at = bench.now().wall + Duration::from_millis(number);
        let expulsion = RelayExpulsion::of_tickets_until(at, key(9).public(), Realm([1; 16]));
        hand_over(&mut bench, 4, expulsion.sign(&authority()));
    }
    assert_eq!(bench.server.counters().expulsions, 500);
    assert_eq!(drops(&bench, RelayDrop::TooManyExpulsions), 0);
}

#[test]
fn a_lost_one_is_sent_again() {
    let mut bench = pair();
    let expulsion = signed(&bench, 2, 1);
    bench.cut = vec![1];
    hand_over(&mut bench, 1, expulsion);
    assert!(is_here(&bench, 2));
    let due = bench.clients[&1].0.poll_timeout().map(|(_, timer)| timer);
    assert_eq!(due, Some(ClientTimer::HandoverTimeout));
    bench.cut.clear();
    bench.advance(Duration::from_millis(500));
    assert!(!is_here(&bench, 2));
}

#[test]
fn a_node_may_bring_its_own() {
    let mut bench = pair();
    let expulsion = signed(&bench, 1, 1);
    hand_over(&mut bench, 1, expulsion);
    assert!(!is_here(&bench, 1) && is_here(&bench, 2));
}
