//! Which way a peer is reached: the relay first, a direct path once it is proven, and why it is the one it is.
//!
//! [`PeerPaths`] does this for one peer and `mesh::Mesh` has one for each; [`OwnCandidates`] is what we say of ourselves.
//! Nothing here seals or sends: probes and choices come out as [`PathAction`]s.

mod own;
mod peer;
mod table;

#[cfg(test)]
mod tests;

pub use self::own::OwnCandidates;
pub use self::peer::{Liveness, PathAction, PathTimer, PathView, PeerPaths};

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
pub const SILENCE_MAX: Duration = Duration::from_secs(1);

/// How long nothing may come through a relay while we send, before it is asked; three questions later it counts as lost.
pub const RELAY_SILENCE_MAX: Duration = Duration::from_millis(300);

/// How long it may take to answer, each time it is asked.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);

/// How many questions in a row may stay unanswered before the path counts as lost: within two seconds of silence.
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
