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

mod channel;

use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use types::{NodePrivateKey, NodePublicKey};

use crate::crypto::Resolver;

pub use channel::{Channel, ChannelError, PIECE_MAX};

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
mod tests;
