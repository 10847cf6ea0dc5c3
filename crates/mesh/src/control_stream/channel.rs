//! The transport after the handshake: messages cut into fragments, each sealed as one Noise message.

use snow::{HandshakeState, TransportState};
use types::control::MESSAGE_BYTES_MAX;

use super::NOISE_MESSAGE_MAX;
use crate::crypto::TAG_LEN;

/// The largest piece of a message in one fragment.
pub const PIECE_MAX: usize = NOISE_MESSAGE_MAX - TAG_LEN - 1;

const LAST: u8 = 0;
pub(super) const MORE: u8 = 1;

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

/// An established session: seals and opens messages of up to [`MESSAGE_BYTES_MAX`] bytes.
pub struct Channel {
    pub(super) transport: TransportState,
    /// The pieces of a message whose last fragment has not come.
    pub(super) partial: Vec<u8>,
    broken: bool,
}

impl Channel {
    pub(super) fn new(state: HandshakeState) -> Self {
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

    pub(super) fn seal_fragment(&mut self, header: u8, piece: &[u8]) -> Result<Vec<u8>, ChannelError> {
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
