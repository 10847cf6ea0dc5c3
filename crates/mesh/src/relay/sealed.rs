//! The sealed messages between one client and the relay: who they are, where the client is, and when it ends.
//!
//! | tag | message | from | layout after the tag |
//! |---|---|---|---|
//! | 0 | Confirm | client | nothing: I am where this comes from |
//! | 1 | Confirmed | relay | the address it came from 18 |
//! | 2 | Renew | client | a newer ticket 120 |
//! | 3 | Draining | relay | seconds until it stops 2 |
//! | 4 | Close | client | nothing: I am gone |
//! | 5 | Expel | client | an expulsion that the control plane signed 120 |
//! | 6 | Expelled | relay | the first 16 bytes of the signature of an expulsion that is known now |
//!
//! The text is sealed with ChaCha20-Poly1305 under one key for each direction; the counter travels beside it and is the
//! nonce. Messages with an unknown tag are skipped; bytes after a known layout are ignored.

use std::net::SocketAddr;
use std::time::Duration;

use types::relay::{RELAY_EXPULSION_LEN, RELAY_TICKET_LEN};
use types::{SignedRelayExpulsion, SignedRelayTicket};
use zeroize::Zeroizing;

use super::frame::{self, ADDRESS_LEN, ClientNumber};
use crate::crypto::{Aead, ChaCha20Poly1305};
use crate::tunnel::replay::ReplayWindow;

/// What client and relay say to each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    Confirm,
    Confirmed(SocketAddr),
    Renew(SignedRelayTicket),
    Draining(Duration),
    Close,
    Expel(SignedRelayExpulsion),
    Expelled(ExpulsionEcho),
}

/// Which expulsion an answer means: the first bytes of its signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ExpulsionEcho([u8; 16]);

impl ExpulsionEcho {
    pub(super) fn of(expulsion: &SignedRelayExpulsion) -> Self {
        let signature = expulsion.as_bytes().last_chunk::<64>();
        let echo = signature.and_then(|signature| signature.first_chunk());
        Self(*echo.expect("an expulsion ends with its signature"))
    }
}

/// Why a sealed frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenError {
    /// Forged, changed or meant for another session.
    NotAuthentic,
    /// Its counter was seen before, or lies too far behind.
    Replayed,
    /// Authentic, but nothing that this version knows.
    Unknown,
}

/// One end of the channel between a client and its relay.
pub(super) struct SealedChannel {
    seal: ChaCha20Poly1305,
    open: ChaCha20Poly1305,
    next_counter: u64,
    window: Box<ReplayWindow>,
}

impl SealedChannel {
    pub(super) fn new(seal: &Zeroizing<[u8; 32]>, open: &Zeroizing<[u8; 32]>) -> Self {
        Self {
            seal: ChaCha20Poly1305::new(seal),
            open: ChaCha20Poly1305::new(open),
            next_counter: 0,
            window: Box::default(),
        }
    }

    /// Seals a message into a frame.
    pub(super) fn seal(&mut self, number: ClientNumber, message: &Message) -> Vec<u8> {
        let counter = self.next_counter;
        self.next_counter += 1;
        let mut text = message.encode();
        let tag = self.seal.seal(counter, &mut text);
        text.extend_from_slice(&tag);
        frame::sealed(number, counter, &text)
    }

    /// Opens the text of a sealed frame.
    pub(super) fn open(&mut self, counter: u64, text: &mut [u8]) -> Result<Message, OpenError> {
        if !self.window.is_fresh(counter) {
            return Err(OpenError::Replayed);
        }
        let len = self.open.open(counter, text).ok_or(OpenError::NotAuthentic)?;
        if !self.window.accept(counter) {
            return Err(OpenError::Replayed);
        }
        Message::decode(&text[..len]).ok_or(OpenError::Unknown)
    }
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let tagged = |tag: u8, body: &[u8]| [&[tag], body].concat();
        match self {
            Self::Confirm => tagged(0, &[]),
            Self::Confirmed(address) => tagged(1, &frame::address(*address)),
            Self::Renew(ticket) => tagged(2, ticket.as_bytes()),
            Self::Draining(left) => {
                let secs = u16::try_from(left.as_secs()).unwrap_or(u16::MAX);
                tagged(3, &secs.to_le_bytes())
            }
            Self::Close => tagged(4, &[]),
            Self::Expel(expulsion) => tagged(5, expulsion.as_bytes()),
            Self::Expelled(echo) => tagged(6, &echo.0),
        }
    }

    fn decode(text: &[u8]) -> Option<Self> {
        let (tag, body) = text.split_first()?;
        match tag {
            0 => Some(Self::Confirm),
            1 => {
                let address: &[u8; ADDRESS_LEN] = body.first_chunk()?;
                Some(Self::Confirmed(frame::parse_address(address)))
            }
            2 => {
                let ticket: &[u8; RELAY_TICKET_LEN] = body.first_chunk()?;
                Some(Self::Renew(SignedRelayTicket::from_bytes(*ticket)))
            }
            3 => {
                let secs = u16::from_le_bytes(*body.first_chunk()?);
                Some(Self::Draining(Duration::from_secs(secs.into())))
            }
            4 => Some(Self::Close),
            5 => {
                let expulsion: &[u8; RELAY_EXPULSION_LEN] = body.first_chunk()?;
                Some(Self::Expel(SignedRelayExpulsion::from_bytes(*expulsion)))
            }
            6 => Some(Self::Expelled(ExpulsionEcho(*body.first_chunk()?))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (SealedChannel, SealedChannel) {
        let (a, b) = (Zeroizing::new([1; 32]), Zeroizing::new([2; 32]));
        (SealedChannel::new(&a, &b), SealedChannel::new(&b, &a))
    }

    fn pass(frame: &mut [u8], to: &mut SealedChannel) -> Result<Message, OpenError> {
        let Ok(frame::Frame::Sealed { counter, text, .. }) = frame::parse(frame) else {
            panic!("a sealed frame");
        };
        to.open(counter, text)
    }

    #[test]
    fn messages_arrive_once_and_unchanged() {
        let (mut client, mut relay) = pair();
        let ticket = SignedRelayTicket::from_bytes([7; RELAY_TICKET_LEN]);
        let all = [
            Message::Confirm,
            Message::Confirmed("192.0.2.1:5".parse().expect("address")),
            Message::Confirmed("[2001:db8::1]:5".parse().expect("address")),
            Message::Renew(ticket),
            Message::Draining(Duration::from_secs(9)),
            Message::Close,
            Message::Expel(SignedRelayExpulsion::from_bytes([8; RELAY_EXPULSION_LEN])),
            Message::Expelled(ExpulsionEcho([9; 16])),
        ];
        for message in all {
            let frame = client.seal(ClientNumber(3), &message);
            assert_eq!(pass(&mut frame.clone(), &mut relay), Ok(message));
            assert_eq!(pass(&mut frame.clone(), &mut relay), Err(OpenError::Replayed));
        }
    }

    #[test]
    fn a_changed_frame_does_not_open() {
        let (mut client, mut relay) = pair();
        let frame = client.seal(ClientNumber(3), &Message::Confirm);
        for index in 8..frame.len() {
            let mut forged = frame.clone();
            forged[index] ^= 1;
            assert_eq!(
                pass(&mut forged, &mut relay),
                Err(OpenError::NotAuthentic),
                "{index}"
            );
        }
        assert_eq!(pass(&mut frame.clone(), &mut relay), Ok(Message::Confirm));
    }

    #[test]
    fn the_bytes_of_an_expulsion_and_its_answer_are_pinned() {
        let mut bytes = [0x11; RELAY_EXPULSION_LEN];
        bytes[56..72].copy_from_slice(&[0x22; 16]);
        let expulsion = SignedRelayExpulsion::from_bytes(bytes);
        let expel = Message::Expel(expulsion).encode();
        assert_eq!((expel.len(), expel[0], &expel[1..]), (121, 5, &bytes[..]));
        let echo = Message::Expelled(ExpulsionEcho::of(&expulsion)).encode();
        assert_eq!(echo, [&[6][..], &[0x22; 16]].concat());
    }

    #[test]
    fn unknown_and_cut_messages_are_nothing() {
        for text in [&[][..], &[9], &[1, 0], &[2, 0, 0], &[3, 1], &[5; 120], &[6; 16]] {
            assert_eq!(Message::decode(text), None);
        }
        assert_eq!(Message::decode(&[0, 1, 2]), Some(Message::Confirm));
    }
}
