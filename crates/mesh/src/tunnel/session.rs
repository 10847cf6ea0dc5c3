//! One session: a pair of transport keys with its counters, and the three sessions a peer can have at a time.

use types::Monotonic;

use super::counters::DropReason;
use super::handshake::TransportKeys;
use super::message::{self, DATA_OVERHEAD};
use super::outbox::{RELAY_HEADROOM, TRANSMIT_BYTES_MAX};
use super::replay::ReplayWindow;
use super::timers::{
    REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_TIMEOUT,
};
use crate::crypto::{Aead, ChaCha20Poly1305};

/// The largest packet that fits into a datagram: UDP's 65,507 bytes without the 32 of a data message and a relay's 8.
pub const PACKET_BYTES_MAX: usize = TRANSMIT_BYTES_MAX - RELAY_HEADROOM - DATA_OVERHEAD;

/// Packets are padded to a multiple of this, so that their lengths tell less.
const PADDING: usize = 16;

/// A pair of transport keys and what was sent and received with them.
pub(crate) struct Session {
    pub(crate) local_index: u32,
    remote_index: u32,
    seal: Box<dyn Aead>,
    open: Box<dyn Aead>,
    /// The counter of the next message sealed.
    next_counter: u64,
    window: ReplayWindow,
    pub(crate) created: Monotonic,
    /// Whether we sent the initiation; the initiator is the one who renews.
    pub(crate) is_initiator: bool,
}

impl Session {
    pub(crate) fn new(
        keys: &TransportKeys,
        indices: (u32, u32),
        is_initiator: bool,
        created: Monotonic,
    ) -> Self {
        let (local_index, remote_index) = indices;
        Self {
            local_index,
            remote_index,
            seal: Box::new(ChaCha20Poly1305::new(&keys.seal)),
            open: Box::new(ChaCha20Poly1305::new(&keys.open)),
            next_counter: 0,
            window: ReplayWindow::default(),
            created,
            is_initiator,
        }
    }

    /// Tells whether the session is too old for anything.
    pub(crate) fn is_expired(&self, now: Monotonic) -> bool {
        now.since(self.created) >= REJECT_AFTER_TIME
    }

    pub(crate) fn can_seal(&self, now: Monotonic) -> bool {
        self.next_counter < REJECT_AFTER_MESSAGES && !self.is_expired(now)
    }

    /// Tells whether the session should be renewed because something was sent on it.
    pub(crate) fn wants_rekey(&self, now: Monotonic) -> bool {
        let is_old = self.is_initiator && now.since(self.created) >= REKEY_AFTER_TIME;
        is_old || self.next_counter > REKEY_AFTER_MESSAGES
    }

    /// Appends a data message with `packet`, padded to `padded` bytes; the caller has asked `can_seal`.
    pub(crate) fn seal_into(&mut self, packet: &[u8], padded: usize, out: &mut Vec<u8>) {
        let counter = self.next_counter;
        self.next_counter += 1;
        out.extend_from_slice(&message::data_header(self.remote_index, counter));
        let start = out.len();
        out.extend_from_slice(packet);
        out.resize(start + padded, 0);
        let tag = self.seal.seal(counter, &mut out[start..]);
        out.extend_from_slice(&tag);
    }

    /// Opens a data message in place and returns the padded packet.
    pub(crate) fn open<'a>(
        &mut self,
        counter: u64,
        sealed: &'a mut [u8],
        now: Monotonic,
    ) -> Result<&'a [u8], DropReason> {
        if counter >= REJECT_AFTER_MESSAGES || self.is_expired(now) {
            return Err(DropReason::SessionExpired);
        }
        // The same question as below, asked first because its answer is cheaper than opening.
        if !self.window.is_fresh(counter) {
            return Err(DropReason::Replayed);
        }
        let len = self.open.open(counter, sealed).ok_or(DropReason::BadData)?;
        if !self.window.accept(counter) {
            return Err(DropReason::Replayed);
        }
        Ok(&sealed[..len])
    }
}

/// Returns the length to which a packet is padded: a multiple of 16, but not over the MTU for the padding's sake.
pub(crate) fn padded_len(len: usize, mtu: usize) -> usize {
    let padded = len.next_multiple_of(PADDING);
    if len <= mtu { padded.min(mtu) } else { len }
}

/// The sessions of one peer.
///
/// A new session we initiated is current at once. One the peer initiated is *next* until its first message proves that
/// the peer has it too; until then we go on sending with the current one. The one before stays for what is still on its
/// way.
///
/// When both ends renew at the same time there are two new ones, and the *retired* one is what was in use before either:
/// WireGuard's paper has three slots and loses what was on its way then.
#[derive(Default)]
pub(crate) struct Sessions {
    retired: Option<Box<Session>>,
    previous: Option<Box<Session>>,
    pub(crate) current: Option<Box<Session>>,
    next: Option<Box<Session>>,
}

impl Sessions {
    /// Takes a session that we initiated; returns the indices that are free now.
    pub(crate) fn install_initiated(&mut self, session: Session) -> Vec<u32> {
        let replaced = self.current.replace(Box::new(session));
        // The peer may be sending on the unproven session already.
        if let Some(next) = self.next.take() {
            let older = self.previous.replace(next);
            let retired = std::mem::replace(&mut self.retired, replaced);
            return indices([older, retired]);
        }
        self.step_down(replaced)
    }

    /// Takes a session that the peer initiated; returns the indices that are free now.
    pub(crate) fn install_responded(&mut self, session: Session) -> Vec<u32> {
        indices([self.next.replace(Box::new(session))])
    }

    /// Makes the next session current if it is that of `local_index`: its first message came. Returns the indices that
    /// are free now, or `None` when nothing changed.
    pub(crate) fn confirm(&mut self, local_index: u32) -> Option<Vec<u32>> {
        let next = self.next.take_if(|next| next.local_index == local_index)?;
        let replaced = self.current.replace(next);
        Some(self.step_down(replaced))
    }

    /// Keeps the session that was current until now as the previous one; returns the indices that are free now.
    fn step_down(&mut self, replaced: Option<Box<Session>>) -> Vec<u32> {
        let born = |session: &Option<Box<Session>>| session.as_ref().map(|session| session.created);
        let was_short = born(&self.current)
            .zip(born(&replaced))
            .is_some_and(|(new, old)| new.since(old) < REKEY_TIMEOUT);
        let older = std::mem::replace(&mut self.previous, replaced);
        if was_short && older.is_some() {
            return indices([std::mem::replace(&mut self.retired, older)]);
        }
        // On a link in use no timer comes to erase it.
        let now = born(&self.current);
        let retired = self
            .retired
            .take_if(|retired| now.is_some_and(|now| retired.is_expired(now)));
        indices([older, retired])
    }

    /// Notes that the peer uses the session of `local_index`, which was current here before another one.
    ///
    /// When both ends start a handshake at the same time, each ends up with two sessions and its own as the current one.
    /// Both then settle on that of the smaller public key, or both would renew for ever. A session is chosen only after
    /// the peer was seen to use it.
    pub(crate) fn settle(&mut self, local_index: u32, ours_is_smaller: bool) {
        let (Some(current), Some(previous)) = (&mut self.current, &mut self.previous) else {
            return;
        };
        let apart = current
            .created
            .since(previous.created)
            .max(previous.created.since(current.created));
        let is_twin = previous.is_initiator != current.is_initiator && apart < REKEY_TIMEOUT;
        if previous.local_index == local_index && is_twin && previous.is_initiator == ours_is_smaller {
            std::mem::swap(current, previous);
        }
    }

    /// Returns the session that a datagram names.
    pub(crate) fn by_index(&mut self, local_index: u32) -> Option<&mut Session> {
        let all = [
            &mut self.current,
            &mut self.next,
            &mut self.previous,
            &mut self.retired,
        ];
        let mut all = all.into_iter().filter_map(|slot| slot.as_deref_mut());
        all.find(|session| session.local_index == local_index)
    }

    /// Returns the session to seal with.
    pub(crate) fn sealing(&mut self, now: Monotonic) -> Option<&mut Session> {
        self.current
            .as_deref_mut()
            .filter(|session| session.can_seal(now))
    }

    /// Erases what is too old for anything; returns the indices that are free now.
    pub(crate) fn erase_expired(&mut self, now: Monotonic) -> Vec<u32> {
        let all = [
            &mut self.retired,
            &mut self.previous,
            &mut self.current,
            &mut self.next,
        ];
        let gone = all.map(|slot| slot.take_if(|session| session.is_expired(now)));
        indices(gone)
    }

    /// Erases everything; returns the indices that are free now.
    pub(crate) fn erase(&mut self) -> Vec<u32> {
        let Self {
            retired,
            previous,
            current,
            next,
        } = std::mem::take(self);
        indices([retired, previous, current, next])
    }
}

fn indices<const N: usize>(sessions: [Option<Box<Session>>; N]) -> Vec<u32> {
    sessions
        .into_iter()
        .flatten()
        .map(|session| session.local_index)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::super::message::Message;
    use super::*;

    fn at(secs: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(secs))
    }

    fn pair() -> (Session, Session) {
        let keys = |seal, open| TransportKeys {
            seal: Zeroizing::new([seal; 32]),
            open: Zeroizing::new([open; 32]),
        };
        let ours = Session::new(&keys(1, 2), (11, 22), true, at(0));
        let theirs = Session::new(&keys(2, 1), (22, 11), false, at(0));
        (ours, theirs)
    }

    fn seal(session: &mut Session, packet: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        session.seal_into(packet, padded_len(packet.len(), 1420), &mut out);
        out
    }

    fn open(session: &mut Session, mut bytes: Vec<u8>, now: Monotonic) -> Result<Vec<u8>, DropReason> {
        let Ok(Message::Data(data)) = message::parse(&mut bytes) else {
            panic!("data");
        };
        assert_eq!(data.receiver, session.local_index);
        session.open(data.counter, data.sealed, now).map(<[u8]>::to_vec)
    }

    #[test]
    fn what_one_end_seals_the_other_opens_once() {
        let (mut ours, mut theirs) = pair();
        let first = seal(&mut ours, b"hello");
        let second = seal(&mut ours, b"");
        assert_eq!((first.len(), second.len()), (48, 32));
        assert_eq!(open(&mut theirs, second, at(1)), Ok(vec![]));
        let opened = open(&mut theirs, first.clone(), at(1)).expect("own");
        assert_eq!(opened, b"hello\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(open(&mut theirs, first, at(1)), Err(DropReason::Replayed));
    }

    #[test]
    fn the_bytes_of_a_sealed_packet_are_pinned() {
        let (mut ours, _) = pair();
        let hex: String = seal(&mut ours, b"hello")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, PINNED);
    }

    #[test]
    fn a_changed_counter_or_byte_is_refused_and_uses_up_nothing() {
        let (mut ours, mut theirs) = pair();
        let sealed = seal(&mut ours, b"hello");
        for index in 8..sealed.len() {
            let mut forged = sealed.clone();
            forged[index] ^= 1;
            let refused = open(&mut theirs, forged, at(1)).expect_err("forged");
            assert!(
                matches!(refused, DropReason::BadData | DropReason::SessionExpired),
                "{index}"
            );
        }
        assert!(open(&mut theirs, sealed, at(1)).is_ok());
    }

    #[test]
    fn a_session_ends_by_age_and_by_count() {
        let (mut ours, mut theirs) = pair();
        let sealed = seal(&mut ours, b"hello");
        assert!(ours.can_seal(at(179)) && !ours.can_seal(at(180)));
        assert_eq!(
            open(&mut theirs, sealed.clone(), at(180)),
            Err(DropReason::SessionExpired)
        );
        assert!(!ours.wants_rekey(at(119)) && ours.wants_rekey(at(120)));
        assert!(
            !theirs.wants_rekey(at(179)),
            "the responder leaves it to the initiator"
        );
        ours.next_counter = REKEY_AFTER_MESSAGES + 1;
        theirs.next_counter = REKEY_AFTER_MESSAGES + 1;
        assert!(ours.wants_rekey(at(1)) && theirs.wants_rekey(at(1)));
        ours.next_counter = REJECT_AFTER_MESSAGES;
        assert!(!ours.can_seal(at(1)));
        assert_eq!(
            theirs.open(REJECT_AFTER_MESSAGES, &mut [0; 32], at(1)),
            Err(DropReason::SessionExpired)
        );
    }

    #[test]
    fn padding_keeps_to_sixteen_and_to_the_mtu() {
        for (len, padded) in [
            (0, 0),
            (1, 16),
            (16, 16),
            (17, 32),
            (1408, 1408),
            (1409, 1420),
            (1420, 1420),
            (1500, 1500),
        ] {
            assert_eq!(padded_len(len, 1420), padded, "{len}");
        }
    }

    fn session(index: u32, created_secs: u64) -> Session {
        let (mut session, _) = pair();
        session.local_index = index;
        session.created = at(created_secs);
        session
    }

    /// Returns the indices of what is previous, current and next, zero for none.
    fn present(sessions: &Sessions) -> [u32; 3] {
        let all = [&sessions.previous, &sessions.current, &sessions.next];
        all.map(|slot| slot.as_ref().map_or(0, |session| session.local_index))
    }

    #[test]
    fn sessions_move_from_next_to_current_to_previous() {
        let mut sessions = Sessions::default();
        assert!(sessions.install_initiated(session(1, 0)).is_empty());
        assert!(sessions.install_responded(session(2, 120)).is_empty());
        assert_eq!(present(&sessions), [0, 1, 2]);
        assert!(sessions.confirm(1).is_none());
        assert_eq!(sessions.confirm(2), Some(vec![]));
        assert_eq!(present(&sessions), [1, 2, 0]);
        assert_eq!(sessions.install_initiated(session(3, 240)), [1]);
        assert_eq!(present(&sessions), [2, 3, 0]);
        assert!(sessions.install_responded(session(4, 300)).is_empty());
        assert_eq!(sessions.install_responded(session(5, 306)), [4]);
        assert_eq!(present(&sessions), [2, 3, 5]);
        assert_eq!(sessions.confirm(5), Some(vec![2]));
        assert_eq!(present(&sessions), [3, 5, 0]);
        assert_eq!(sessions.erase_expired(at(420)), [3]);
        assert_eq!(sessions.erase_expired(at(486)), [5]);
        assert!(sessions.erase().is_empty());
    }

    #[test]
    fn what_was_in_use_before_two_renewals_at_once_opens_what_is_still_on_its_way() {
        let mut answer_first = Sessions::default();
        answer_first.install_initiated(session(1, 0));
        answer_first.install_initiated(session(2, 120));
        answer_first.install_responded(session(3, 240));
        assert_eq!(answer_first.install_initiated(session(4, 240)), [1]);
        assert_eq!(present(&answer_first), [3, 4, 0]);
        assert!(answer_first.by_index(2).is_some());
        assert_eq!(answer_first.install_initiated(session(5, 299)), [3]);
        assert!(answer_first.by_index(2).is_some());
        assert_eq!(answer_first.install_initiated(session(6, 360)), [4, 2]);

        let mut confirmed_first = Sessions::default();
        confirmed_first.install_initiated(session(1, 0));
        confirmed_first.install_responded(session(2, 120));
        assert_eq!(confirmed_first.confirm(2), Some(vec![]));
        assert!(confirmed_first.install_initiated(session(3, 124)).is_empty());
        assert!(confirmed_first.by_index(1).is_some());
        assert!(confirmed_first.install_initiated(session(4, 128)).contains(&1));
        assert_eq!(confirmed_first.erase(), [2, 3, 4]);
    }

    #[test]
    fn twin_sessions_settle_on_that_of_the_smaller_key() {
        let twins = |apart| {
            let (ours, mut theirs) = pair();
            theirs.created = at(apart);
            let mut sessions = Sessions::default();
            sessions.install_responded(theirs);
            sessions.install_initiated(ours);
            assert_eq!(present(&sessions), [22, 11, 0]);
            sessions
        };
        let mut sessions = twins(1);
        sessions.settle(11, false);
        sessions.settle(22, true);
        assert_eq!(present(&sessions), [22, 11, 0]);
        sessions.settle(22, false);
        assert_eq!(present(&sessions), [11, 22, 0]);
        let mut sessions = twins(5);
        sessions.settle(22, false);
        assert_eq!(present(&sessions), [22, 11, 0], "an old session is no twin");
    }

    const PINNED: &str = "04000000160000000000000000000000\
        694221bd815216c204fb698daea45b529160c8906af3e94e5d485373658dcb00";
}
