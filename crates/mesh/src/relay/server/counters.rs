//! What a relay did, in numbers: all that it keeps of what went through.

/// Why a relay did not pass something on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RelayDrop {
    /// No frame, or none that a client sends.
    BadFrame,
    /// A frame from an address that no client confirmed.
    Unbound,
    /// Its receiver is not here, or not of the sender's realm.
    NotHere,
    /// Its sender used up its quota.
    TooMuch,
    /// A Hello that was answered with a cookie.
    CookieRequired,
    /// A Hello of a source that sends too many, under load.
    TooManyHellos,
    /// A Hello that does not open.
    BadHandshake,
    /// A ticket of another control plane or node, or an old one.
    BadTicket,
    /// A further ticket of a client that shows too many.
    TooManyTickets,
    /// A Hello of a node that was expelled.
    Expelled,
    /// An expulsion that the control plane has not signed.
    BadExpulsion,
    /// An expulsion for whose signature there is no time left.
    TooManyExpulsions,
    /// A Hello beyond the number of clients.
    Full,
    /// A Hello to a relay that is about to stop.
    Draining,
    /// A sealed frame that does not open.
    BadSealed,
    /// A sealed frame that was seen before, or an old Confirm.
    Replayed,
    /// An answer that the caller left no room for.
    AnswersFull,
}

impl RelayDrop {
    /// Every reason, with its name in metrics.
    pub const ALL: [(Self, &str); 17] = [
        (Self::BadFrame, "bad_frame"),
        (Self::Unbound, "unbound"),
        (Self::NotHere, "not_here"),
        (Self::TooMuch, "too_much"),
        (Self::CookieRequired, "cookie_required"),
        (Self::TooManyHellos, "too_many_hellos"),
        (Self::BadHandshake, "bad_handshake"),
        (Self::BadTicket, "bad_ticket"),
        (Self::TooManyTickets, "too_many_tickets"),
        (Self::Expelled, "expelled"),
        (Self::BadExpulsion, "bad_expulsion"),
        (Self::TooManyExpulsions, "too_many_expulsions"),
        (Self::Full, "full"),
        (Self::Draining, "draining"),
        (Self::BadSealed, "bad_sealed"),
        (Self::Replayed, "replayed"),
        (Self::AnswersFull, "answers_full"),
    ];
}

/// What a relay did since it was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RelayCounters {
    dropped: [u64; RelayDrop::ALL.len()],
    /// Datagrams passed on.
    pub datagrams_forwarded: u64,
    /// Bytes in those, frame headers not counted.
    pub bytes_forwarded: u64,
    /// STUN requests answered.
    pub stun_requests: u64,
    /// Expulsions taken, each once.
    pub expulsions: u64,
}

impl RelayCounters {
    /// Returns how many frames were dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: RelayDrop) -> u64 {
        self.dropped[reason as usize]
    }

    pub(super) fn drop_for(&mut self, reason: RelayDrop, frames: usize) {
        self.dropped[reason as usize] += frames as u64;
    }

    pub(super) fn forwarded(&mut self, datagrams: usize, bytes: usize) {
        self.datagrams_forwarded += datagrams as u64;
        self.bytes_forwarded += bytes as u64;
    }
}
