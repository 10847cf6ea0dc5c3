//! An order that came with a ticket, and the one way to what it says.

use runs::protocol::OfferRefusal;
use types::ticket::TicketError;
use types::{Attempt, Fence, NodePublicKey, RunId, RunOrder, SealedOrder, SignedRunTicket, Timestamp};

use crate::link_state::Pinned;
use crate::policy::Refusal;

/// An order with the leave to execute it, not looked at yet.
pub(crate) struct Offer {
    pub(crate) order: SealedOrder,
    pub(crate) attempt: Attempt,
    pub(crate) fence: Fence,
    pub(crate) ticket: SignedRunTicket,
}

impl Offer {
    /// Returns the order that the ticket beside it was signed for, by the org that was pinned when this node was linked:
    /// nothing else is ever executed.
    pub(super) fn admit(
        &self,
        run_id: RunId,
        pinned: &Pinned,
        own_key: &NodePublicKey,
        now: Timestamp,
    ) -> Result<RunOrder, Refusal> {
        let opened = self
            .ticket
            .open(&pinned.org_signing_key, pinned.org_id, own_key, now);
        let admitted = opened.and_then(|ticket| ticket.admit(&self.order, self.attempt, self.fence));
        let own = admitted.and_then(|order| match order.run_id == run_id {
            true => Ok(order),
            false => Err(TicketError::WrongRun),
        });
        own.map_err(|error| Refusal {
            reason: OfferRefusal::BadTicket,
            message: error.to_string(),
        })
    }
}
