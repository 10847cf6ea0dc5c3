//! What is known of one connection beside its smoltcp socket: its time limits and how far its closing has come.

use std::net::SocketAddr;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use types::Monotonic;

use super::{ConnFailure, ConnStatus, StackConfig};

/// Local and remote end of a connection.
pub(super) type Pair = (SocketAddr, SocketAddr);

pub(super) struct Conn {
    pub(super) handle: SocketHandle,
    pub(super) pair: Pair,
    /// Set until the handshake is finished.
    pub(super) open_by: Option<Monotonic>,
    pub(super) heard_at: Monotonic,
    /// When the oldest data that may be unacknowledged was written.
    pub(super) sending_since: Option<Monotonic>,
    /// Since when nobody holds it while none of its data got away.
    pub(super) stuck_since: Option<Monotonic>,
    pub(super) released_at: Option<Monotonic>,
    pub(super) fin_sent: bool,
    pub(super) fin_seen: bool,
    pub(super) failure: Option<ConnFailure>,
}

impl Conn {
    pub(super) fn new(handle: SocketHandle, pair: Pair, open_by: Monotonic, now: Monotonic) -> Self {
        Self {
            handle,
            pair,
            open_by: Some(open_by),
            heard_at: now,
            sending_since: None,
            stuck_since: None,
            released_at: None,
            fin_sent: false,
            fin_seen: false,
            failure: None,
        }
    }

    pub(super) fn status(&self, socket: &Socket<'_>) -> ConnStatus {
        let is_closed_in_order = self.fin_sent && self.fin_seen && socket.send_queue() == 0;
        match (socket.state(), self.failure) {
            (_, Some(failure)) => ConnStatus::Failed(failure),
            (State::Listen | State::SynSent | State::SynReceived, None) => ConnStatus::Opening,
            (State::TimeWait, None) => ConnStatus::Finished,
            (State::Closed, None) if is_closed_in_order => ConnStatus::Finished,
            (State::Closed, None) if self.open_by.is_some() => ConnStatus::Failed(ConnFailure::Refused),
            (State::Closed, None) => ConnStatus::Failed(ConnFailure::Reset),
            _ => ConnStatus::Open,
        }
    }

    /// Notes what the socket tells after a packet or a timer.
    pub(super) fn note_progress(&mut self, socket: &Socket<'_>) {
        let is_opening = matches!(
            socket.state(),
            State::SynSent | State::SynReceived | State::Listen
        );
        if !is_opening && socket.state() != State::Closed {
            self.open_by = None;
        }
        if socket.send_queue() == 0 {
            self.sending_since = None;
        }
        self.fin_seen |= matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
    }

    /// Tells whether nobody needs it any more. A closed socket that still knows its remote end has an RST to send.
    pub(super) fn is_over(&self, socket: &Socket<'_>) -> bool {
        let is_gone = socket.state() == State::Closed && socket.remote_endpoint().is_none();
        self.released_at.is_some() && is_gone
    }

    /// Returns when the connection has taken too long, whatever it waits for.
    pub(super) fn deadline(&self, config: &StackConfig) -> Option<Monotonic> {
        let asks = config.keepalive.is_some() && self.open_by.is_none();
        let unheard = self
            .sending_since
            .or(asks.then_some(self.heard_at))
            .map(|since| since.max(self.heard_at) + config.silence_timeout);
        let orphan = self.released_at.or(self.stuck_since);
        let orphan = orphan.map(|at| at + config.orphan_timeout);
        [self.open_by, unheard, orphan].into_iter().flatten().min()
    }
}
