//! Pings of another node: probes inside its WireGuard session, on the path that data takes.
//!
//! The answer is one [`PingEvent`] after another, each a line of JSON. A node that is idle is woken. The packet filter is not
//! asked: whoever may talk to a node at all may ping it.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use mesh::Endpoint;
use mesh::paths::Pong;
use mesh::proxy::Host;
use net::PingError;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use types::{NodeName, PathKind, PathReason, PeerRecord};

use super::lines::lines;
use super::{Body, LocalState, reach, refuse, refuse_target, refuse_unlinked};
use crate::reach::Reach;

/// The most pings of one request.
pub const COUNT_MAX: u32 = 10_000;

/// How far one ping is from the next at least.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// How long the first answer is waited for: a handshake may come first, and its first message may be lost.
pub const FIRST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long every further answer is waited for.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks for pings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PingRequest {
    /// The node's name, full name or mesh address.
    pub node: String,
    /// How many, from 1 to [`COUNT_MAX`].
    pub count: u32,
}

/// What there is to tell of pings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum PingEvent {
    /// The node is known.
    Pinging {
        /// What it is called.
        node: NodeName,
    },
    /// It answered.
    Answer {
        /// Which ping, from 1.
        seq: u32,
        /// From sending the ping to its answer, in milliseconds; a handshake before is not in it.
        rtt_ms: f64,
        /// How the ping went.
        path: PathKind,
        /// Where to, when it went directly.
        endpoint: Option<SocketAddr>,
        /// Through which relay, when it went through one.
        relay: Option<String>,
        /// Why it went this way.
        reason: PathReason,
    },
    /// It did not answer in time.
    NoAnswer {
        /// Which ping, from 1.
        seq: u32,
        /// Whether there is a session with it: then it, or the path to it, has just gone, or it is a plain WireGuard, which
        /// answers no ping.
        has_session: bool,
        /// How it is reached now, or why not.
        reason: PathReason,
    },
    /// No more pings are possible.
    Ended {
        /// Why.
        reason: String,
    },
}

/// Pings a node.
pub(super) async fn ping(State(state): State<LocalState>, Body(request): Body<PingRequest>) -> Response {
    let Some(reach) = reach(&state) else {
        return refuse_unlinked();
    };
    let bad = |message: &str| refuse("bad_request", message);
    let Ok(host) = request.node.parse::<Host>() else {
        return bad("a node is named by its name, its full name or a mesh address");
    };
    let count = request.count;
    if !(1..=COUNT_MAX).contains(&count) {
        return bad(&format!("the count must be from 1 to {COUNT_MAX}"));
    }
    match reach.peer(&host) {
        Ok(peer) => {
            let pinging = PingEvent::Pinging {
                node: peer.name.clone(),
            };
            lines(pinging, &state.shutdown, |events| {
                ping_each(reach, peer, count, events)
            })
        }
        Err(error) => refuse_target(&error),
    }
}

async fn ping_each(reach: Reach, peer: PeerRecord, count: u32, events: mpsc::Sender<PingEvent>) {
    let mut pace = interval(INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for seq in 1..=count {
        pace.tick().await;
        let timeout = if seq == 1 { FIRST_TIMEOUT } else { TIMEOUT };
        let event = match reach.ping(peer.public_key, timeout).await {
            Ok(pong) => answer(&reach, seq, &pong),
            Err(PingError::NoAnswer) => no_answer(&reach, &peer, seq).await,
            Err(error) => PingEvent::Ended {
                reason: error.to_string(),
            },
        };
        let is_end = matches!(event, PingEvent::Ended { .. });
        if events.send(event).await.is_err() || is_end {
            return;
        }
    }
}

fn answer(reach: &Reach, seq: u32, pong: &Pong) -> PingEvent {
    let (path, relay) = match pong.endpoint {
        Endpoint::Direct { .. } => (PathKind::Direct, None),
        Endpoint::Relayed { relay, .. } => (PathKind::Relay, Some(reach.relay_name(relay))),
    };
    PingEvent::Answer {
        seq,
        rtt_ms: super::in_ms(pong.rtt),
        path,
        endpoint: pong.endpoint.remote(),
        relay,
        reason: pong.reason,
    }
}

async fn no_answer(reach: &Reach, peer: &PeerRecord, seq: u32) -> PingEvent {
    let path = reach.path(peer.public_key).await;
    PingEvent::NoAnswer {
        seq,
        has_session: path.is_some_and(|path| path.kind.is_some()),
        reason: path.map_or(PathReason::NoCandidate, |path| path.reason),
    }
}
