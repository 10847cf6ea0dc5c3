//! The handshake and the channel against each other, forgeries and pinned bytes.

use proptest::prelude::*;
use snow::Builder;
use types::control::MESSAGE_BYTES_MAX;

use super::channel::MORE;
use super::*;
use crate::crypto::TAG_LEN;

fn private(byte: u8) -> NodePrivateKey {
    NodePrivateKey::from_random([byte; 32])
}

fn channels() -> (Channel, Channel) {
    let initiator = Initiator::new(&private(1), &private(2).public(), [3; 32]);
    let accepted = Responder::new(&private(2), [4; 32])
        .accept(&initiator.message())
        .expect("own");
    assert_eq!(accepted.node, private(1).public());
    (
        initiator.finish(&accepted.message).expect("own"),
        accepted.channel,
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pass(from: &mut Channel, to: &mut Channel, message: &[u8]) -> Vec<u8> {
    let sealed = from.seal(message).expect("within the limit");
    let (last, first) = sealed.split_last().expect("at least one");
    for fragment in first {
        assert_eq!(to.open(fragment).expect("own"), None);
    }
    to.open(last).expect("own").expect("the last fragment")
}

#[test]
fn messages_of_every_size_pass_both_ways() {
    let (mut node, mut control) = channels();
    for len in [
        0,
        1,
        100,
        PIECE_MAX - 1,
        PIECE_MAX,
        PIECE_MAX + 1,
        3 * PIECE_MAX,
        1_000_000,
    ] {
        let message: Vec<u8> = (0..len).map(|at| at as u8).collect();
        assert_eq!(pass(&mut node, &mut control, &message), message);
        assert_eq!(pass(&mut control, &mut node, &message), message);
    }
}

#[test]
fn the_bytes_are_pinned() {
    let initiator = Initiator::new(&private(1), &private(2).public(), [3; 32]);
    let first = initiator.message();
    let accepted = Responder::new(&private(2), [4; 32]).accept(&first).expect("own");
    let mut node = initiator.finish(&accepted.message).expect("own");
    let transport = node.seal(b"hello").expect("short").remove(0);
    let pinned = [PINNED_FIRST, PINNED_SECOND, PINNED_TRANSPORT];
    assert_eq!(
        [first, accepted.message, transport].map(|bytes| hex(&bytes)),
        pinned
    );
    let long = node.seal(&[b'x'; PIECE_MAX + 1]).expect("short");
    assert_eq!(long.iter().map(Vec::len).collect::<Vec<_>>(), [65_535, 18]);
}

#[test]
fn a_fragment_starts_with_its_header() {
    let (mut node, mut control) = channels();
    for fragment in node.seal(&[b'x'; PIECE_MAX + 2]).expect("short") {
        let mut plaintext = vec![0; fragment.len()];
        let len = control
            .transport
            .read_message(&fragment, &mut plaintext)
            .expect("own");
        let more = len == PIECE_MAX + 1;
        assert_eq!(plaintext[0], u8::from(more));
        assert!(more || len == 3);
    }
}

#[test]
fn another_server_key_fails_the_handshake() {
    let initiator = Initiator::new(&private(1), &private(2).public(), [3; 32]);
    let wrong = Responder::new(&private(5), [4; 32]).accept(&initiator.message());
    assert_eq!(wrong.err(), Some(HandshakeError::NotAuthentic));
}

#[test]
fn another_prologue_fails_the_handshake() {
    let key = private(2);
    let state = Builder::with_resolver(
        NOISE_NAME.parse().expect("name"),
        Box::new(Resolver::new([4; 32])),
    )
    .local_private_key(key.expose())
    .and_then(|builder| builder.prologue(b"runmesh control v2"))
    .and_then(Builder::build_responder)
    .expect("built");
    let initiator = Initiator::new(&private(1), &key.public(), [3; 32]);
    let wrong = Responder { state }.accept(&initiator.message());
    assert_eq!(wrong.err(), Some(HandshakeError::NotAuthentic));
}

#[test]
fn an_ephemeral_key_of_low_order_fails_the_handshake() {
    let mut message = Initiator::new(&private(1), &private(2).public(), [3; 32]).message();
    message[..32].fill(0);
    let refused = Responder::new(&private(2), [4; 32]).accept(&message);
    assert_eq!(refused.err(), Some(HandshakeError::NotAuthentic));
}

#[test]
fn a_replayed_first_message_gives_a_channel_that_opens_nothing_old() {
    let initiator = Initiator::new(&private(1), &private(2).public(), [3; 32]);
    let first = initiator.message();
    let accepted = Responder::new(&private(2), [4; 32]).accept(&first).expect("own");
    let hello = initiator
        .finish(&accepted.message)
        .expect("own")
        .seal(b"hello")
        .expect("short");
    let mut replayed = Responder::new(&private(2), [6; 32])
        .accept(&first)
        .expect("replays pass")
        .channel;
    assert_eq!(replayed.open(&hello[0]), Err(ChannelError::NotAuthentic));
}

#[test]
fn a_repeated_or_skipped_message_breaks_the_channel() {
    let (mut node, mut control) = channels();
    let one = node.seal(b"one").expect("short").remove(0);
    let two = node.seal(b"two").expect("short").remove(0);
    let three = node.seal(b"three").expect("short").remove(0);
    assert_eq!(control.open(&one), Ok(Some(b"one".to_vec())));
    assert_eq!(control.open(&three), Err(ChannelError::NotAuthentic));
    assert_eq!(control.open(&two), Err(ChannelError::Broken));
    assert_eq!(control.seal(b"x"), Err(ChannelError::Broken));
    let (mut node, mut control) = channels();
    let one = node.seal(b"one").expect("short").remove(0);
    assert_eq!(control.open(&one), Ok(Some(b"one".to_vec())));
    assert_eq!(control.open(&one), Err(ChannelError::NotAuthentic));
}

#[test]
fn a_malformed_fragment_breaks_the_channel() {
    for (header, len) in [
        (MORE, 0),
        (MORE, 100),
        (MORE, PIECE_MAX - 1),
        (2, 10),
        (0xff, PIECE_MAX),
    ] {
        let (mut node, mut control) = channels();
        let sealed = node.seal_fragment(header, &vec![0; len]).expect("sealed");
        assert_eq!(
            control.open(&sealed),
            Err(ChannelError::Malformed),
            "{header} {len}"
        );
    }
    let (mut node, mut control) = channels();
    let mut empty = [0; TAG_LEN];
    node.transport.write_message(&[], &mut empty).expect("sealed");
    assert_eq!(control.open(&empty), Err(ChannelError::Malformed));
}

#[test]
fn a_message_over_the_limit_is_refused_at_both_ends() {
    let (mut node, mut control) = channels();
    let too_long = vec![0; MESSAGE_BYTES_MAX + 1];
    assert_eq!(node.seal(&too_long), Err(ChannelError::TooLong(too_long.len())));
    let piece = vec![0; PIECE_MAX];
    for _ in 0..MESSAGE_BYTES_MAX / PIECE_MAX {
        let sealed = node.seal_fragment(MORE, &piece).expect("sealed");
        assert_eq!(control.open(&sealed), Ok(None));
    }
    let sealed = node.seal_fragment(MORE, &piece).expect("sealed");
    assert!(matches!(control.open(&sealed), Err(ChannelError::TooLong(_))));
    assert_eq!(control.partial.capacity(), 0);
}

#[test]
fn a_handshake_message_of_the_wrong_length_is_refused() {
    let initiator = Initiator::new(&private(1), &private(2).public(), [3; 32]);
    let first = initiator.message();
    for len in [0, 1, 95] {
        let refused = Responder::new(&private(2), [4; 32]).accept(&first[..len]);
        assert_eq!(refused.err(), Some(HandshakeError::Length(len)));
    }
    let longer = [first.as_slice(), &[0]].concat();
    let refused = Responder::new(&private(2), [4; 32]).accept(&longer);
    assert_eq!(refused.err(), Some(HandshakeError::Length(97)));
    assert_eq!(initiator.finish(&[0; 47]).err(), Some(HandshakeError::Length(47)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_handshake_never_passes(at in 0_usize..FIRST_MESSAGE_LEN, bit in 0_u8..8) {
        let initiator = Initiator::new(&private(1), &private(2).public(), [3; 32]);
        let mut first = initiator.message();
        first[at] ^= 1 << bit;
        // X25519 ignores the top bit of a public key, but the hash of the transcript does not.
        prop_assert!(Responder::new(&private(2), [4; 32]).accept(&first).is_err());
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Responder::new(&private(2), [4; 32]).accept(&bytes).is_err());
        let initiator = Initiator::new(&private(1), &private(2).public(), [3; 32]);
        prop_assert!(initiator.finish(&bytes).is_err());
        let (mut node, _) = channels();
        prop_assert_eq!(node.open(&bytes), Err(ChannelError::NotAuthentic));
    }

    #[test]
    fn any_authentic_fragment_is_taken_or_refused(
        fragments in prop::collection::vec((0_u8..4, prop::sample::select(vec![0, 1, PIECE_MAX - 1, PIECE_MAX])), 1..6),
    ) {
        let (mut node, mut control) = channels();
        let mut expected = 0;
        for (header, len) in fragments {
            let sealed = node.seal_fragment(header, &vec![0; len]).expect("sealed");
            match control.open(&sealed) {
                Ok(None) => { prop_assert!(header == MORE && len == PIECE_MAX); expected += len; }
                Ok(Some(message)) => { prop_assert_eq!(message.len(), expected + len); expected = 0; }
                Err(_) => { prop_assert!(header > 1 || (header == MORE && len < PIECE_MAX)); break; }
            }
        }
    }
}

const PINNED_FIRST: &str = "403e5376b7e466f103572da5ac47cab01c7226109925ffb2b20e12c3f3476a56a4237ab4a31936a615a442d282b6c483\
    453183d0d28d245858fd5a29d65638d3c413627d9ea576ab8071696890fbe3efef8000812de2588904c922dc55ba0ecb";
const PINNED_SECOND: &str =
    "325420fcc13cc3a0f84d673c85f59c6c2764afa49e256068c04025fb1855ef173defbbb03f8f1fe62287f557759e2477";
const PINNED_TRANSPORT: &str = "a04a9ccc8e17e1c10566581a887b63c385cc3162c621";
