//! The encryption of the control stream: a Noise_IK session between a node and the control plane, and its fragments.
//!
//! Pure and transport-agnostic: every `Vec<u8>` made here travels as one message of a reliable, ordered transport (a
//! binary WebSocket frame), and is handed to the other end whole. What the messages *say* is `types::control`.
//!
//! The handshake is `Noise_IK_25519_ChaChaPoly_BLAKE2s` with the prologue `runmesh control v1`; both payloads are empty.
//!
//! | message | bytes | layout |
//! |---|---|---|
//! | first (node → control) | 96 | ephemeral key 32, sealed static key 32 + 16, sealed empty payload 16 |
//! | second (control → node) | 48 | ephemeral key 32, sealed empty payload 16 |
//! | transport | 17 to 65,535 | sealed fragment: plaintext and 16 bytes of tag |
//!
//! A message longer than one Noise message is cut into fragments. The plaintext of a fragment is
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | 0: the last fragment of its message; 1: more follow |
//! | 1 | 0 to 65,518 | the piece; exactly 65,518 bytes when more follow |
//!
//! The first handshake message can be replayed by whoever saw it; the second cannot be answered without the node's
//! private key. So the control plane treats a node as present only after the first transport message that opens.

use snow::params::NoiseParams;
use snow::{Builder, HandshakeState, TransportState};
use types::control::MESSAGE_BYTES_MAX;
use types::{NodePrivateKey, NodePublicKey};

use crate::crypto::{Resolver, TAG_LEN};

/// The protocol name of the handshake.
pub const NOISE_NAME: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";

/// What both ends mix in first: a session of another purpose or version with the same keys fails.
pub const PROLOGUE: &[u8] = b"runmesh control v1";

/// Bytes of the first handshake message.
pub const FIRST_MESSAGE_LEN: usize = 96;

/// Bytes of the second handshake message.
pub const SECOND_MESSAGE_LEN: usize = 48;

/// The largest Noise message (Noise specification, section 3).
pub const NOISE_MESSAGE_MAX: usize = 65_535;

/// The largest piece of a message in one fragment.
pub const PIECE_MAX: usize = NOISE_MESSAGE_MAX - TAG_LEN - 1;

const LAST: u8 = 0;
const MORE: u8 = 1;

/// Why a handshake failed; the connection is closed without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The message does not have the one length it can have.
    #[error("the handshake message has {0} bytes")]
    Length(usize),
    /// The message does not open: another server key, another prologue, a low-order point or a forgery.
    #[error("the handshake message is not authentic, or meant for another key")]
    NotAuthentic,
}

/// Why a message was not sealed or opened; the channel is of no use after any of them but `TooLong` from `seal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The message is over [`MESSAGE_BYTES_MAX`].
    #[error("a message of {0} bytes is over the limit")]
    TooLong(usize),
    /// The Noise message was changed, repeated, reordered or cut on its way.
    #[error("the message is not authentic")]
    NotAuthentic,
    /// The fragment's header or length breaks the rules.
    #[error("the fragment is malformed")]
    Malformed,
    /// 2^64 - 1 messages went one way.
    #[error("the channel's message numbers are used up")]
    Exhausted,
    /// An earlier message broke the channel.
    #[error("the channel is broken")]
    Broken,
}

/// The node's end of a handshake.
///
/// Send [`Initiator::message`], hand the answer to [`Initiator::finish`].
pub struct Initiator {
    state: HandshakeState,
    message: Vec<u8>,
}

impl Initiator {
    /// Starts a handshake with the control plane of the pinned key `control_public`.
    ///
    /// `seed` is 32 bytes of the operating system's randomness that serve this handshake only.
    #[must_use]
    pub fn new(node_private: &NodePrivateKey, control_public: &NodePublicKey, seed: [u8; 32]) -> Self {
        let mut state = builder(node_private, seed)
            .remote_public_key(control_public.as_bytes())
            .and_then(Builder::build_initiator)
            .expect("an initiator with both keys can be built");
        let mut message = vec![0; FIRST_MESSAGE_LEN];
        let len = state
            .write_message(&[], &mut message)
            .expect("a public key that is no low-order point gives a first message");
        debug_assert_eq!(len, FIRST_MESSAGE_LEN);
        Self { state, message }
    }

    /// Returns the first handshake message.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        self.message.clone()
    }

    /// Reads the second handshake message; from then on the control plane is authenticated.
    pub fn finish(mut self, second: &[u8]) -> Result<Channel, HandshakeError> {
        read_empty(&mut self.state, second, SECOND_MESSAGE_LEN)?;
        Ok(Channel::new(self.state))
    }
}

/// What a responder makes of a first message.
pub struct Accepted {
    /// The node that claims to be there; proven only when the first message opens on `channel`.
    pub node: NodePublicKey,
    /// The second handshake message.
    pub message: Vec<u8>,
    /// The channel, ready as soon as `message` is sent.
    pub channel: Channel,
}

/// The control plane's end of a handshake.
pub struct Responder {
    state: HandshakeState,
}

impl Responder {
    /// Awaits a node; `seed` is 32 bytes of the operating system's randomness that serve this handshake only.
    #[must_use]
    pub fn new(control_private: &NodePrivateKey, seed: [u8; 32]) -> Self {
        let state = builder(control_private, seed)
            .build_responder()
            .expect("a responder with its own key can be built");
        Self { state }
    }

    /// Reads the first handshake message and answers it.
    ///
    /// A caller that does not know the node drops the result and closes the connection without an answer.
    pub fn accept(mut self, first: &[u8]) -> Result<Accepted, HandshakeError> {
        read_empty(&mut self.state, first, FIRST_MESSAGE_LEN)?;
        let node = self.state.get_remote_static().and_then(|key| key.try_into().ok());
        let node = NodePublicKey::from_bytes(node.expect("message one of IK carries the static key"))
            .map_err(|_| HandshakeError::NotAuthentic)?;
        let mut message = vec![0; SECOND_MESSAGE_LEN];
        // A node may send a low-order ephemeral key; the exchange with it fails here.
        self.state
            .write_message(&[], &mut message)
            .map_err(|_| HandshakeError::NotAuthentic)?;
        let channel = Channel::new(self.state);
        Ok(Accepted {
            node,
            message,
            channel,
        })
    }
}

/// An established session: seals and opens messages of up to [`MESSAGE_BYTES_MAX`] bytes.
pub struct Channel {
    transport: TransportState,
    /// The pieces of a message whose last fragment has not come.
    partial: Vec<u8>,
    broken: bool,
}

impl Channel {
    fn new(state: HandshakeState) -> Self {
        let transport = state
            .into_transport_mode()
            .expect("both handshake messages are through");
        Self {
            transport,
            partial: Vec::new(),
            broken: false,
        }
    }

    /// Seals a message into Noise messages that must be sent in this order, all of them.
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>, ChannelError> {
        if self.broken {
            return Err(ChannelError::Broken);
        }
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(ChannelError::TooLong(message.len()));
        }
        let mut sealed = Vec::with_capacity(message.len() / PIECE_MAX + 1);
        let mut rest = message;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(PIECE_MAX));
            let header = if after.is_empty() { LAST } else { MORE };
            sealed.push(self.seal_fragment(header, piece)?);
            rest = after;
            if rest.is_empty() {
                return Ok(sealed);
            }
        }
    }

    /// Opens one Noise message; returns a whole message when this was its last fragment.
    ///
    /// The first error breaks the channel: the transport is reliable, so whatever does not open was tampered with.
    pub fn open(&mut self, sealed: &[u8]) -> Result<Option<Vec<u8>>, ChannelError> {
        if self.broken {
            return Err(ChannelError::Broken);
        }
        let opened = self.open_fragment(sealed);
        if opened.is_err() {
            self.broken = true;
            self.partial = Vec::new();
        }
        opened
    }

    fn seal_fragment(&mut self, header: u8, piece: &[u8]) -> Result<Vec<u8>, ChannelError> {
        let mut plaintext = Vec::with_capacity(1 + piece.len());
        plaintext.push(header);
        plaintext.extend_from_slice(piece);
        let mut sealed = vec![0; plaintext.len() + TAG_LEN];
        let written = self.transport.write_message(&plaintext, &mut sealed);
        if written != Ok(sealed.len()) {
            self.broken = true;
            return Err(ChannelError::Exhausted);
        }
        Ok(sealed)
    }

    fn open_fragment(&mut self, sealed: &[u8]) -> Result<Option<Vec<u8>>, ChannelError> {
        if sealed.len() > NOISE_MESSAGE_MAX || sealed.len() < TAG_LEN {
            return Err(ChannelError::NotAuthentic);
        }
        let mut plaintext = vec![0; sealed.len() - TAG_LEN];
        self.transport
            .read_message(sealed, &mut plaintext)
            .map_err(|_| ChannelError::NotAuthentic)?;
        let (&header, piece) = plaintext.split_first().ok_or(ChannelError::Malformed)?;
        let whole = self.partial.len() + piece.len();
        if whole > MESSAGE_BYTES_MAX {
            return Err(ChannelError::TooLong(whole));
        }
        match header {
            MORE if piece.len() == PIECE_MAX => {
                self.partial.extend_from_slice(piece);
                Ok(None)
            }
            LAST if self.partial.is_empty() => {
                plaintext.remove(0);
                Ok(Some(plaintext))
            }
            LAST => {
                self.partial.extend_from_slice(piece);
                Ok(Some(std::mem::take(&mut self.partial)))
            }
            _ => Err(ChannelError::Malformed),
        }
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

fn builder(private: &NodePrivateKey, seed: [u8; 32]) -> Builder<'_> {
    let params: NoiseParams = NOISE_NAME.parse().expect("the name is well formed");
    Builder::with_resolver(params, Box::new(Resolver::new(seed)))
        .local_private_key(private.expose())
        .and_then(|builder| builder.prologue(PROLOGUE))
        .expect("each parameter is set once")
}

fn read_empty(state: &mut HandshakeState, message: &[u8], len: usize) -> Result<(), HandshakeError> {
    if message.len() != len {
        return Err(HandshakeError::Length(message.len()));
    }
    state
        .read_message(message, &mut [])
        .map_err(|_| HandshakeError::NotAuthentic)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
}
