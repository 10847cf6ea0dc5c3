//! Which way a peer is reached: the relay first, a direct path once it is proven, and why it is the one it is.
//!
//! [`PeerPaths`] does this for one peer and `mesh::Mesh` has one for each; [`OwnCandidates`] is what we say of ourselves.
//! Nothing here seals or sends: probes and choices come out as [`PathAction`]s.

mod guess;
mod own;
mod peer;
mod table;

#[cfg(test)]
mod tests;

pub use self::own::OwnCandidates;
pub use self::peer::{Liveness, PathAction, PathTimer, PathView, PeerPaths, Pong};

use std::time::Duration;

/// When each ping of a candidate is due after the one before; after the last it waits for the next round.
pub const PING_DELAYS: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(150),
    Duration::from_millis(250),
    Duration::from_millis(400),
    Duration::from_millis(700),
    Duration::from_secs(1),
    Duration::from_secs(1),
];

/// How long after its start a round still counts as under way: until the last ping had time to be answered.
pub const ROUND: Duration = Duration::from_secs(5);

/// How long a proof is good for choosing a path.
pub const PROOF_LIFETIME: Duration = Duration::from_secs(10);

/// How long the path in use may be silent while we send, before it is asked.
pub const SILENCE_MAX: Duration = Duration::from_millis(500);

/// How long after a packet we count as sending: TCP that has no answer sends again a second or two later.
pub const SENDING_FOR: Duration = Duration::from_secs(2);

/// How long nothing may come through a relay while we send, before it is asked; three questions later it counts as lost. As
/// long as a round trip took, where that is longer.
pub const RELAY_SILENCE_MAX: Duration = Duration::from_millis(300);

/// How long it may take to answer, each time it is asked; as long as a round trip took, where that is longer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);

/// The longest that an answer is waited for, however far the peer was last: more than a path over two satellites takes.
pub const ANSWER_TIMEOUT_MAX: Duration = Duration::from_millis(1500);

/// How many questions in a row may stay unanswered before the path counts as lost: 1.4 seconds of silence on most.
pub const UNANSWERED_MAX: u32 = 3;

/// How often an unused direct path is pinged so that NATs remember it.
pub const KEEP_OPEN: Duration = Duration::from_secs(20);

/// How long after the last packet either way a direct path is kept open.
pub const KEEP_OPEN_FOR: Duration = Duration::from_secs(300);

/// The first wait between two rounds while a relay carries; doubled each time.
pub const RETRY_MIN: Duration = Duration::from_secs(5);

/// The longest wait between two rounds.
pub const RETRY_MAX: Duration = Duration::from_secs(300);

/// The most direct endpoints of one peer that are tried at a time.
pub const ENDPOINTS_MAX: usize = 32;

/// How many sockets the end whose NAT maps by destination opens towards the other to have one of their ports guessed. With
/// [`GUESS_PROBES`] of the 64,512 ports from 1024 on, one is met in 90 of 100 attempts: 1 − (1 − 144 ÷ 64,512)^1024.
pub const GUESS_SOCKETS: usize = 144;

/// How many ports the other end tries in one attempt, each once: some 90 kB, and as many entries in its own NAT.
pub const GUESS_PROBES: usize = 1024;

/// How often the next few sockets or ports are tried.
pub const GUESS_TICK: Duration = Duration::from_millis(50);

/// How many each time: 160 datagrams a second at most, from either end.
pub const GUESS_BURST: usize = 8;

/// How long the sockets of an attempt that met nothing stay open.
pub const GUESS_TIME: Duration = Duration::from_secs(10);

/// How often every such socket sends, so that its NAT remembers it: fewer than three times in an attempt.
pub const GUESS_PASS: Duration = Duration::from_secs(4);

/// How often the other end is asked to guess while the sockets are open: the question may be lost.
pub const GUESS_OFFER_EVERY: Duration = Duration::from_secs(1);

/// How long after the last port was tried an answer is waited for.
pub const GUESS_PATIENCE: Duration = Duration::from_secs(2);

/// How long every socket that was met stays open after the first answered, until both ends have settled on one.
pub const GUESS_SETTLE: Duration = Duration::from_secs(12);

/// How long nothing is guessed after each failure in a row with one peer; after the last of these, that long each time. What
/// failed before says little of another network, and is forgotten there.
pub const GUESS_RESTS: [Duration; 3] = [
    Duration::from_secs(300),
    Duration::from_secs(1800),
    Duration::from_secs(4 * 3600),
];

/// The least time between the beginnings of two attempts with one peer, whatever was forgotten: it is the peer who says in
/// which network it is.
pub const GUESS_GAP: Duration = Duration::from_secs(120);

/// How long ago the last packet of either may be at most: a pair that says nothing guesses nothing.
pub const GUESS_DEMAND: Duration = Duration::from_secs(30);

/// How far beyond the ports that relays saw the next ones are looked for first when these lie close together.
pub const GUESS_AHEAD: u16 = 192;

/// The same, below.
pub const GUESS_BEHIND: u16 = 64;

/// How far apart two such ports may lie at most for a NAT that counts.
pub const GUESS_STRIDE_MAX: u16 = 16;

/// How long what is asked directly may take to answer before a peer is called on our links.
pub const CALL_PATIENCE: Duration = Duration::from_millis(250);

/// The least time between two calls of one peer, and the first wait between them; doubled each time.
pub const CALL_WAIT_MIN: Duration = Duration::from_secs(1);

/// The longest wait between two calls of one peer.
pub const CALL_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long ago the last packet to a peer with a session may be at most when it is called: who wants nothing of it calls
/// nobody.
pub const CALL_DEMAND: Duration = Duration::from_secs(30);

/// How many calls a node makes in a second at most, whomever they are for; others wait a second.
pub const CALLS_PER_SECOND: u32 = 8;

/// How many endpoints met by guessing are tried beyond [`ENDPOINTS_MAX`].
pub const GUESSED_MAX: usize = 8;
