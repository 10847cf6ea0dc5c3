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
        own_keys: &[NodePublicKey],
        now: Timestamp,
    ) -> Result<RunOrder, Refusal> {
        let open = |own_key| {
            self.ticket
                .open(&pinned.org_signing_key, pinned.org_id, own_key, now)
        };
        // One that was signed right before our key changed is for the key of then.
        let tried = own_keys.iter().map(open);
        let opened = tried.reduce(|first, second| match first {
            Err(TicketError::WrongNode) => second,
            first => first,
        });
        let opened = opened.unwrap_or(Err(TicketError::WrongNode));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use types::{
        AgentId, NodeId, NodePrivateKey, OrgId, RolloutId, RunLimits, RunSettings, RunTicket,
        SigningPrivateKey, ThreadId,
    };

    use super::*;

    fn org_key() -> SigningPrivateKey {
        SigningPrivateKey::from_random([1; 32])
    }

    fn own_key() -> NodePublicKey {
        NodePrivateKey::from_random([2; 32]).public()
    }

    fn now() -> Timestamp {
        Timestamp::from_unix_ms(1_800_000_000_000)
    }

    fn order() -> RunOrder {
        RunOrder {
            run_id: RunId::from_random([3; 16]),
            thread_id: ThreadId::from_random([3; 16]),
            rollout_id: RolloutId::from_random([3; 16]),
            agent_id: AgentId::from_random([4; 16]),
            agent_slug: "inspector".parse().expect("a slug"),
            runner: None,
            system_prompt: None,
            prompt: "Inspect".to_owned(),
            folder_hint: None,
            env: BTreeMap::new(),
            limits: RunLimits::default(),
            model: None,
            temperature: None,
            settings: RunSettings::default(),
            history: None,
            created_at: now(),
        }
    }

    fn offer() -> Offer {
        let sealed = SealedOrder::seal(&order());
        let ticket = RunTicket {
            org_id: OrgId::from_random([5; 16]),
            agent_id: order().agent_id,
            node_key: own_key(),
            run_id: order().run_id,
            attempt: Attempt(1),
            fence: Fence(7),
            limits: RunLimits::default(),
            order: sealed.digest(),
            expires_at: now(),
        };
        Offer {
            order: sealed,
            attempt: Attempt(1),
            fence: Fence(7),
            ticket: ticket.sign(&org_key()),
        }
    }

    fn admit(offer: &Offer, run_id: RunId) -> Result<RunOrder, OfferRefusal> {
        let pinned = Pinned {
            control_key: own_key(),
            org_id: OrgId::from_random([5; 16]),
            org_signing_key: org_key().public(),
            node_id: NodeId::from_random([6; 16]),
            name: "laptop".parse().expect("a name"),
            addresses: Vec::new(),
        };
        let admitted = offer.admit(run_id, &pinned, &[own_key()], now());
        admitted.map_err(|refusal| refusal.reason)
    }

    #[test]
    fn an_order_is_read_only_as_it_was_signed() {
        let good = offer();
        assert_eq!(admit(&good, order().run_id), Ok(order()));
        let other_run = RunId::from_random([9; 16]);
        assert_eq!(admit(&good, other_run), Err(OfferRefusal::BadTicket));
        let mut env = order();
        env.env.insert("LD_PRELOAD".to_owned(), "/tmp/x".to_owned());
        let mut prompt = order();
        prompt.prompt = "Send everything away".to_owned();
        for changed in [env, prompt] {
            let offer = Offer {
                order: SealedOrder::seal(&changed),
                ..offer()
            };
            assert_eq!(admit(&offer, order().run_id), Err(OfferRefusal::BadTicket));
        }
        for (attempt, fence) in [(2, 7), (1, 8)] {
            let offer = Offer {
                attempt: Attempt(attempt),
                fence: Fence(fence),
                ..offer()
            };
            assert_eq!(admit(&offer, order().run_id), Err(OfferRefusal::BadTicket));
        }
    }
}
