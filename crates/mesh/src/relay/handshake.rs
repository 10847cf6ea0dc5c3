//! The handshake between client and relay: `Noise_IK_25519_ChaChaPoly_BLAKE2s` with the prologue `runmesh relay v1`.

use std::net::SocketAddr;

use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use types::relay::RELAY_TICKET_LEN;
use types::{NodePrivateKey, NodePublicKey, RelayId, SignedRelayTicket};

use super::PROLOGUE;
use super::frame::{self, ClientNumber, NOISE_ONE_LEN, NOISE_TWO_LEN, WELCOME_LEN};
use super::sealed::SealedChannel;
use crate::control_stream::NOISE_NAME;
use crate::crypto::Resolver;

/// A handshake message that does not open: another key, another version, or a forgery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAuthentic;

/// The client's end, between Hello and Welcome.
pub(super) struct Initiating {
    state: HandshakeState,
    /// What the Hello carries.
    pub(super) noise: [u8; NOISE_ONE_LEN],
}

impl Initiating {
    /// Starts a handshake; `seed` must serve this one only.
    pub(super) fn start(
        private: &NodePrivateKey,
        relay: RelayId,
        ticket: &SignedRelayTicket,
        seed: [u8; 32],
    ) -> Self {
        let mut state = builder(private, seed)
            .remote_public_key(relay.0.as_bytes())
            .and_then(Builder::build_initiator)
            .expect("an initiator with both keys can be built");
        let mut noise = [0; NOISE_ONE_LEN];
        let len = state.write_message(ticket.as_bytes(), &mut noise);
        assert_eq!(
            len,
            Ok(NOISE_ONE_LEN),
            "a key that is no low-order point gives a first message"
        );
        Self { state, noise }
    }

    /// Reads the Welcome: our number, our address as the relay saw it, and the channel.
    ///
    /// After an error the handshake still waits: the Welcome may have been forged.
    pub(super) fn finish(
        &mut self,
        noise: &[u8],
    ) -> Result<(ClientNumber, SocketAddr, SealedChannel), NotAuthentic> {
        let mut payload = [0; WELCOME_LEN];
        let len = self.state.read_message(noise, &mut payload);
        if len != Ok(WELCOME_LEN) {
            return Err(NotAuthentic);
        }
        let (number, address) = payload.split_at(4);
        let number = u32::from_le_bytes(number.try_into().expect("four bytes"));
        let address = frame::parse_address(address.try_into().expect("18 bytes"));
        let (ours, theirs) = self.state.dangerously_get_raw_split();
        let channel = SealedChannel::new(&ours.into(), &theirs.into());
        Ok((ClientNumber(number), address, channel))
    }
}

/// The relay's end: a Hello that opened. Whoever sent it first has the key; who sent it now is not known yet.
pub(super) struct Responding {
    state: HandshakeState,
    pub(super) node: NodePublicKey,
    pub(super) ticket: SignedRelayTicket,
}

impl Responding {
    /// Reads Noise message one; `seed` must serve this handshake only.
    pub(super) fn read(
        private: &NodePrivateKey,
        noise: &[u8; NOISE_ONE_LEN],
        seed: [u8; 32],
    ) -> Result<Self, NotAuthentic> {
        let mut state = builder(private, seed)
            .build_responder()
            .expect("a responder with its own key can be built");
        let mut ticket = [0; RELAY_TICKET_LEN];
        state.read_message(noise, &mut ticket).map_err(|_| NotAuthentic)?;
        let node = state.get_remote_static().and_then(|key| key.try_into().ok());
        let node = NodePublicKey::from_bytes(node.expect("message one of IK carries the static key"));
        Ok(Self {
            state,
            node: node.map_err(|_| NotAuthentic)?,
            ticket: SignedRelayTicket::from_bytes(ticket),
        })
    }

    /// Answers a client that was seen at `observed`.
    pub(super) fn answer(
        mut self,
        number: ClientNumber,
        observed: SocketAddr,
    ) -> Result<([u8; NOISE_TWO_LEN], SealedChannel), NotAuthentic> {
        let mut payload = [0; WELCOME_LEN];
        payload[..4].copy_from_slice(&number.0.to_le_bytes());
        payload[4..].copy_from_slice(&frame::address(observed));
        let mut noise = [0; NOISE_TWO_LEN];
        // Fails when the client's ephemeral key is a low-order point.
        self.state
            .write_message(&payload, &mut noise)
            .map_err(|_| NotAuthentic)?;
        let (theirs, ours) = self.state.dangerously_get_raw_split();
        Ok((noise, SealedChannel::new(&ours.into(), &theirs.into())))
    }
}

fn builder(private: &NodePrivateKey, seed: [u8; 32]) -> Builder<'_> {
    let params: NoiseParams = NOISE_NAME.parse().expect("the name is well formed");
    Builder::with_resolver(params, Box::new(Resolver::new(seed)))
        .local_private_key(private.expose())
        .and_then(|builder| builder.prologue(PROLOGUE))
        .expect("each parameter is set once")
}
