//! WireGuard's handshake, `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`, in its two messages. MACs and cookies are not here.

use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use types::{NodePrivateKey, NodePublicKey};
use zeroize::Zeroizing;

use super::config::PresharedKey;
use super::cookie::MacKeys;
use super::message::{self, INITIATION_LEN, Initiation, RESPONSE_LEN, Response};
use super::tai64n::Tai64n;
use crate::crypto::Resolver;

/// The paper calls this the construction.
const NOISE_NAME: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// The paper calls this the identifier; it is the prologue.
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Which of the pattern's preshared keys WireGuard uses.
const PSK_POSITION: usize = 2;

/// Our own keys.
pub(crate) struct Identity {
    private: NodePrivateKey,
    pub(crate) public: NodePublicKey,
    pub(crate) mac_keys: MacKeys,
}

impl Identity {
    pub(crate) fn new(private: NodePrivateKey) -> Self {
        let public = private.public();
        let mac_keys = MacKeys::of(&public);
        Self {
            private,
            public,
            mac_keys,
        }
    }

    fn builder(&self, seed: [u8; 32]) -> Builder<'_> {
        let params: NoiseParams = NOISE_NAME.parse().expect("the name is well formed");
        Builder::with_resolver(params, Box::new(Resolver::new(seed)))
            .local_private_key(self.private.expose())
            .and_then(|builder| builder.prologue(IDENTIFIER))
            .expect("each parameter is set once")
    }
}

/// What a handshake is for: one key for each direction.
pub(crate) struct TransportKeys {
    pub(crate) seal: Zeroizing<[u8; 32]>,
    pub(crate) open: Zeroizing<[u8; 32]>,
}

/// A handshake message that is no handshake message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

/// A handshake of ours that waits for its answer.
pub(crate) struct Initiating {
    state: HandshakeState,
    /// Our index, in the initiation and in the session that follows.
    pub(crate) index: u32,
}

impl Initiating {
    /// Starts a handshake; returns the initiation, its MACs still zero. `seed` must serve this handshake only.
    pub(crate) fn start(
        identity: &Identity,
        peer: &NodePublicKey,
        index: u32,
        stamp: Tai64n,
        seed: [u8; 32],
    ) -> (Self, [u8; INITIATION_LEN]) {
        let mut state = identity
            .builder(seed)
            .remote_public_key(peer.as_bytes())
            .and_then(Builder::build_initiator)
            .expect("an initiator with both keys can be built");
        let mut noise = [0; 108];
        let len = state.write_message(stamp.as_bytes(), &mut noise);
        assert_eq!(
            len,
            Ok(noise.len()),
            "a public key that is no low-order point gives an initiation"
        );
        (Self { state, index }, message::initiation(index, &noise))
    }

    /// Reads the answer. After an error the handshake still waits: the answer may have been forged.
    pub(crate) fn finish(
        &mut self,
        psk: Option<&PresharedKey>,
        response: Response<'_>,
    ) -> Result<TransportKeys, NotAuthentic> {
        set_psk(&mut self.state, psk);
        self.state
            .read_message(response.noise(), &mut [])
            .map_err(|_| NotAuthentic)?;
        let (ours, theirs) = self.state.dangerously_get_raw_split();
        Ok(TransportKeys {
            seal: Zeroizing::new(ours),
            open: Zeroizing::new(theirs),
        })
    }
}

/// A peer's initiation that opened: it comes from whoever holds the private key of `peer`, perhaps replayed.
pub(crate) struct Responding {
    state: HandshakeState,
    pub(crate) peer: NodePublicKey,
    pub(crate) stamp: Tai64n,
    remote_index: u32,
}

impl Responding {
    /// Reads an initiation. `seed` must serve this handshake only.
    pub(crate) fn read(
        identity: &Identity,
        initiation: Initiation<'_>,
        seed: [u8; 32],
    ) -> Result<Self, NotAuthentic> {
        let mut state = identity
            .builder(seed)
            .build_responder()
            .expect("a responder with its own key can be built");
        let mut stamp = [0; 12];
        state
            .read_message(initiation.noise(), &mut stamp)
            .map_err(|_| NotAuthentic)?;
        let peer = state.get_remote_static().and_then(|key| key.try_into().ok());
        let peer = NodePublicKey::from_bytes(peer.expect("an initiation carries the static key"));
        Ok(Self {
            state,
            peer: peer.map_err(|_| NotAuthentic)?,
            stamp: Tai64n::from_bytes(stamp),
            remote_index: initiation.sender(),
        })
    }

    /// Answers; returns the response, its MACs still zero, the keys and the peer's index.
    pub(crate) fn answer(
        mut self,
        psk: Option<&PresharedKey>,
        index: u32,
    ) -> Result<([u8; RESPONSE_LEN], TransportKeys, u32), NotAuthentic> {
        set_psk(&mut self.state, psk);
        let mut noise = [0; 48];
        // Fails when the peer's ephemeral key is a low-order point.
        self.state
            .write_message(&[], &mut noise)
            .map_err(|_| NotAuthentic)?;
        let (theirs, ours) = self.state.dangerously_get_raw_split();
        let keys = TransportKeys {
            seal: Zeroizing::new(ours),
            open: Zeroizing::new(theirs),
        };
        Ok((
            message::response(index, self.remote_index, &noise),
            keys,
            self.remote_index,
        ))
    }
}

fn set_psk(state: &mut HandshakeState, psk: Option<&PresharedKey>) {
    // Without a preshared key WireGuard mixes in zeros.
    let key = psk.map_or(&[0; 32], PresharedKey::expose);
    state
        .set_psk(PSK_POSITION, key)
        .expect("32 bytes at a position of the pattern");
}

#[cfg(test)]
mod tests {
    use types::Timestamp;

    use super::super::message::Message;
    use super::*;

    fn identity(byte: u8) -> Identity {
        Identity::new(NodePrivateKey::from_random([byte; 32]))
    }

    fn stamp() -> Tai64n {
        Tai64n::next(None, Timestamp::from_unix_ms(1_700_000_000_000))
    }

    fn start(to: &Identity) -> (Initiating, [u8; INITIATION_LEN]) {
        Initiating::start(&identity(1), &to.public, 11, stamp(), [3; 32])
    }

    fn read(at: &Identity, mut message: [u8; INITIATION_LEN]) -> Result<Responding, NotAuthentic> {
        let Ok(Message::Initiation(message)) = message::parse(&mut message) else {
            panic!("an initiation");
        };
        Responding::read(at, message, [4; 32])
    }

    fn finish(
        initiating: &mut Initiating,
        psk: Option<&PresharedKey>,
        mut message: [u8; RESPONSE_LEN],
    ) -> Result<TransportKeys, NotAuthentic> {
        let Ok(Message::Response(message)) = message::parse(&mut message) else {
            panic!("a response");
        };
        initiating.finish(psk, message)
    }

    #[test]
    fn both_ends_get_the_same_keys() {
        let psk = PresharedKey::from_bytes([5; 32]);
        for psk in [None, Some(&psk)] {
            let server = identity(2);
            let (mut initiating, message) = start(&server);
            let responding = read(&server, message).expect("own");
            assert_eq!((responding.peer, responding.stamp), (identity(1).public, stamp()));
            let (response, theirs, index) = responding.answer(psk, 22).expect("own");
            assert_eq!(index, 11);
            let ours = finish(&mut initiating, psk, response).expect("own");
            assert_eq!((&ours.seal, &ours.open), (&theirs.open, &theirs.seal));
            assert_ne!(ours.seal, ours.open);
        }
    }

    #[test]
    fn another_preshared_key_fails_at_the_response_and_the_handshake_still_waits() {
        let server = identity(2);
        let (mut initiating, message) = start(&server);
        let psk = PresharedKey::from_bytes([5; 32]);
        let (response, ..) = read(&server, message)
            .expect("own")
            .answer(Some(&psk), 22)
            .expect("own");
        assert!(finish(&mut initiating, None, response).is_err());
        let mut forged = response;
        forged[20] ^= 1;
        assert!(finish(&mut initiating, Some(&psk), forged).is_err());
        assert!(finish(&mut initiating, Some(&psk), response).is_ok());
    }

    #[test]
    fn an_initiation_to_another_key_or_changed_is_refused() {
        let server = identity(2);
        let (_, message) = start(&server);
        assert!(read(&identity(9), message).is_err());
        for index in 8..116 {
            let mut forged = message;
            forged[index] ^= 1;
            assert!(read(&server, forged).is_err(), "{index}");
        }
        let mut low_order = message;
        low_order[8..40].fill(0);
        assert!(read(&server, low_order).is_err());
    }

    #[test]
    fn a_seed_decides_every_byte() {
        let server = identity(2);
        assert_eq!(start(&server).1, start(&server).1);
        let other = Initiating::start(&identity(1), &server.public, 11, stamp(), [9; 32]).1;
        assert_ne!(start(&server).1, other);
    }
}
