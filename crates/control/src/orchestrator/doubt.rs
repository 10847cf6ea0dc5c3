//! Whether a sidecar is still there when the control stream of its node has ended.
//!
//! A process that is killed takes both of its connections with it, but only the control stream says so at once: TCP
//! inside the mesh hears nothing, and would wait half a minute. The reverse proves nothing: a proxy may drop the control
//! stream alone. So the rule is:
//!
//! - A control stream that ends, and that no newer stream has replaced, puts the dispatch session of its node in doubt.
//! - A session in doubt is offered nothing: new runs are `queued`. All else goes on, so that nothing is lost: what it
//!   sends is stored, and its offers stay out.
//! - The sidecar is pinged. Its `Pong` with that number ends the doubt, and what waited is offered. Nothing else does,
//!   since anything else may have been on its way when the process died.
//! - Without an answer within [`ANSWER_TIMEOUT`] the session is closed like any that broke: offers go back to the queue,
//!   runs that were taken are suspended. Should the sidecar live, it comes back, and its `Hello` says what it holds.

use std::sync::Arc;
use std::time::Duration;

use runs::protocol::ToSidecar;
use types::NodeId;

use super::{Orchestrator, SessionId};

/// How long a sidecar may take to answer: a round trip through a relay, and a lost packet sent again. One that is given up
/// wrongly loses no more than a reconnect.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// The control stream of a node has ended: its dispatch session, if it has one, must prove itself.
pub(crate) fn begin(orchestrator: &Arc<Orchestrator>, node: NodeId) {
    let Some(number) = orchestrator.doubt(node) else {
        return;
    };
    let orchestrator = Arc::clone(orchestrator);
    tokio::spawn(async move {
        tokio::time::sleep(ANSWER_TIMEOUT).await;
        orchestrator.give_up(node, number);
    });
}

impl Orchestrator {
    /// Puts a node's session in doubt and pings it; `None` when it has none, or one that is in doubt already.
    fn doubt(&self, node: NodeId) -> Option<u64> {
        let number = self.next_number();
        {
            let mut sessions = self.lock();
            let entry = sessions.get_mut(&node).filter(|entry| entry.doubt.is_none())?;
            entry.doubt = Some(number);
        }
        self.send(node, ToSidecar::Ping { number });
        Some(number)
    }

    /// Takes a sidecar's answer; true when it ends the doubt.
    pub(super) fn trust(&self, node: NodeId, session: SessionId, number: u64) -> bool {
        let mut sessions = self.lock();
        let entry = sessions
            .get_mut(&node)
            .filter(|entry| entry.session == session && entry.doubt == Some(number));
        entry.map(|entry| entry.doubt = None).is_some()
    }

    /// Closes a session whose doubt was not ended.
    fn give_up(&self, node: NodeId, number: u64) {
        let sessions = self.lock();
        if let Some(entry) = sessions.get(&node).filter(|entry| entry.doubt == Some(number)) {
            tracing::info!(%node, "a sidecar went with its control stream; closing its session");
            entry.close.cancel();
        }
    }
}
