//! Pings that somebody asked for: how far the peer is, by the path on which data would go.

use std::collections::VecDeque;
use std::time::Duration;

use types::{Monotonic, PathReason};

use super::{Liveness, PathAction, PeerPaths};
use crate::endpoint::Endpoint;
use crate::probe::{Probe, Transaction};

/// How many such pings may be unanswered; the oldest is forgotten for one more.
const ASKED_MAX: usize = 64;

/// How long an answer counts.
const ASKED_LIFETIME: Duration = Duration::from_secs(30);

/// An answer to a ping that somebody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pong {
    /// Which ping's: what [`PeerPaths::ask`] returned.
    pub transaction: Transaction,
    /// Where it was sent, and came from.
    pub endpoint: Endpoint,
    /// Why it was sent there.
    pub reason: PathReason,
    /// From sending it to its answer; a handshake before is not in it.
    pub rtt: Duration,
}

/// A ping without an answer.
struct Question {
    transaction: Transaction,
    asked: Monotonic,
    /// Where, when and why there; none while it waits for a session.
    sent: Option<(Endpoint, Monotonic, PathReason)>,
}

/// The pings that somebody asked for.
#[derive(Default)]
pub(super) struct Asked {
    questions: VecDeque<Question>,
    last: Option<Monotonic>,
}

impl PeerPaths {
    /// Pings the peer on the path in use, as soon as there is a session: the caller sees to it that one comes. A ping counts as
    /// something sent, so that the search for a path goes on as it would for data. [`PathAction::Answered`] tells the answer.
    pub fn ask(&mut self, now: Monotonic) -> Transaction {
        if self.is_resting() {
            self.wanted(now);
        }
        let questions = &mut self.asked.questions;
        questions.retain(|question| now.since(question.asked) < ASKED_LIFETIME);
        if questions.len() >= ASKED_MAX {
            questions.pop_front();
        }
        let transaction = self.draw();
        self.asked.last = Some(now);
        self.asked.questions.push_back(Question {
            transaction,
            asked: now,
            sent: None,
        });
        self.send_asked(now);
        transaction
    }

    /// Tells whether there is a session, so that a ping goes out at once.
    #[must_use]
    pub fn has_session(&self) -> bool {
        self.has_session
    }

    /// Sends what waited for a session.
    pub(super) fn send_asked(&mut self, now: Monotonic) {
        let Some(to) = self.current.filter(|_| self.has_session) else {
            return;
        };
        for question in &mut self.asked.questions {
            if question.sent.is_none() {
                question.sent = Some((to, now, self.reason));
                let ping = Probe::Ping(question.transaction);
                self.actions.push_back(PathAction::Probe(to, ping));
            }
        }
    }

    /// Takes an answer if somebody asked for it; one from elsewhere than it was sent to says nothing of that path.
    pub(super) fn take_asked(&mut self, source: Endpoint, transaction: Transaction, now: Monotonic) {
        let questions = &mut self.asked.questions;
        let Some(at) = questions
            .iter()
            .position(|question| question.transaction == transaction)
        else {
            return;
        };
        if let Some((endpoint, sent, reason)) = questions[at].sent.filter(|(to, ..)| *to == source) {
            questions.remove(at);
            self.actions.push_back(PathAction::Answered(Pong {
                transaction,
                endpoint,
                reason,
                rtt: now.since(sent),
            }));
        }
    }

    /// Counts pings as something sent.
    pub(super) fn with_asked(&self, liveness: Liveness) -> Liveness {
        Liveness {
            sent: liveness.sent.max(self.asked.last),
            ..liveness
        }
    }
}
