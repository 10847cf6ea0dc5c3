//! The run ticket: the orchestrator's signed leave for one node to execute one attempt of one run, exactly as ordered.
//!
//! The signature covers the exact bytes that travel, so no second encoding can disagree with what was signed; the order
//! beside it travels as text ([`SealedOrder`]) whose digest stands in the ticket, so that whatever an order may say is
//! covered, too. A ticket is necessary, not sufficient: the node's own policy always wins.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::{AgentId, OrgId, RunId};
use crate::keys::{NodePublicKey, Signature, SigningPrivateKey, SigningPublicKey};
use crate::run::{Attempt, Fence, RunLimits, RunOrder};
use crate::time::Timestamp;

/// How long a ticket is good for: long enough for a slow offer, short enough that a stolen one is stale.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(120);

/// How far two clocks may disagree before a fresh ticket looks old.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// The longest ticket text that is looked at.
pub const TICKET_LEN_MAX: usize = 4096;

const DOMAIN: &[u8] = b"runmesh run ticket v2\n";

/// What a ticket says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunTicket {
    /// The org that pays and answers for the run.
    pub org_id: OrgId,
    /// The agent.
    pub agent_id: AgentId,
    /// The only node that may execute it.
    pub node_key: NodePublicKey,
    /// The run.
    pub run_id: RunId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The fence of this offer.
    pub fence: Fence,
    /// How far it may go.
    pub limits: RunLimits,
    /// The whole of what is ordered.
    pub order: OrderDigest,
    /// When the leave ends.
    pub expires_at: Timestamp,
}

/// The SHA-256 of an order's text, in base64.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderDigest(String);

/// An order as it travels: the very text that its ticket signs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedOrder(String);

impl SealedOrder {
    /// Writes an order as the text that will travel.
    #[must_use]
    pub fn seal(order: &RunOrder) -> Self {
        Self(serde_json::to_string(order).expect("an order has only string keys"))
    }

    /// Returns what a ticket must say of this text.
    #[must_use]
    pub fn digest(&self) -> OrderDigest {
        OrderDigest(STANDARD.encode(Sha256::digest(self.0.as_bytes())))
    }

    /// Reads the text, whether or not anyone signed it: what may be executed comes from [`RunTicket::admit`].
    pub fn read(&self) -> Result<RunOrder, TicketError> {
        serde_json::from_str(&self.0).map_err(|_| TicketError::UnreadableOrder)
    }
}

/// A ticket as it travels: the signed bytes in base64 and their signature.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedRunTicket {
    payload: String,
    signature: Signature,
}

/// Why a ticket gives no leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not a ticket at all.
    #[error("the run ticket cannot be read")]
    Malformed,
    /// Signed by another key than the org's, or changed on the way.
    #[error("the run ticket is not signed by this org")]
    BadSignature,
    /// Meant for another node.
    #[error("the run ticket is meant for another node")]
    WrongNode,
    /// Meant for another org.
    #[error("the run ticket is meant for another org")]
    WrongOrg,
    /// Meant for another run, attempt or fence than the offer it came with.
    #[error("the run ticket does not belong to this offer")]
    WrongRun,
    /// The order is not the text that was signed.
    #[error("the order is not the one that the run ticket was signed for")]
    WrongOrder,
    /// The order is what was signed, and no order that this build can read.
    #[error("the order cannot be read")]
    UnreadableOrder,
    /// Its time is over (clocks may differ by five minutes).
    #[error("the run ticket expired at {0}; is this device's clock right?")]
    Expired(Timestamp),
}

impl RunTicket {
    /// Signs the ticket with the org's key.
    #[must_use]
    pub fn sign(&self, org_key: &SigningPrivateKey) -> SignedRunTicket {
        let json = serde_json::to_vec(self).expect("a ticket has only string keys");
        SignedRunTicket {
            signature: org_key.sign(&[DOMAIN, &json].concat()),
            payload: STANDARD.encode(&json),
        }
    }

    /// Returns the order that this ticket gives leave for; any other text, attempt or fence is refused.
    pub fn admit(
        &self,
        order: &SealedOrder,
        attempt: Attempt,
        fence: Fence,
    ) -> Result<RunOrder, TicketError> {
        if order.digest() != self.order {
            return Err(TicketError::WrongOrder);
        }
        let order = order.read()?;
        let fits = self.run_id == order.run_id
            && self.agent_id == order.agent_id
            && self.limits == order.limits
            && (self.attempt, self.fence) == (attempt, fence);
        if fits {
            Ok(order)
        } else {
            Err(TicketError::WrongRun)
        }
    }
}

impl SignedRunTicket {
    /// Opens the ticket: signature, org, node and time are checked, in this order.
    pub fn open(
        &self,
        org_key: &SigningPublicKey,
        org: OrgId,
        own_key: &NodePublicKey,
        now: Timestamp,
    ) -> Result<RunTicket, TicketError> {
        if self.payload.len() > TICKET_LEN_MAX {
            return Err(TicketError::Malformed);
        }
        let json = STANDARD
            .decode(&self.payload)
            .map_err(|_| TicketError::Malformed)?;
        if !org_key.verifies(&[DOMAIN, &json].concat(), &self.signature) {
            return Err(TicketError::BadSignature);
        }
        let ticket: RunTicket = serde_json::from_slice(&json).map_err(|_| TicketError::Malformed)?;
        if ticket.org_id != org {
            return Err(TicketError::WrongOrg);
        }
        if ticket.node_key != *own_key {
            return Err(TicketError::WrongNode);
        }
        if now > ticket.expires_at + CLOCK_SKEW_MAX {
            return Err(TicketError::Expired(ticket.expires_at));
        }
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::{RolloutId, ThreadId};
    use crate::keys::NodePrivateKey;
    use crate::run::{RunSettings, RunnerSpec};

    fn node_key(seed: u8) -> NodePublicKey {
        NodePrivateKey::from_random([seed; 32]).public()
    }

    fn ticket() -> RunTicket {
        RunTicket {
            org_id: OrgId::from_random([1; 16]),
            agent_id: AgentId::from_random([2; 16]),
            node_key: node_key(3),
            run_id: RunId::from_random([4; 16]),
            attempt: Attempt(1),
            fence: Fence(7),
            limits: RunLimits::default(),
            order: SealedOrder::seal(&order()).digest(),
            expires_at: Timestamp::from_unix_ms(1_000_000_000),
        }
    }

    fn order() -> RunOrder {
        RunOrder {
            run_id: RunId::from_random([4; 16]),
            thread_id: ThreadId::from_random([6; 16]),
            rollout_id: RolloutId::from_random([7; 16]),
            agent_id: AgentId::from_random([2; 16]),
            agent_slug: "inspector".parse().expect("a slug"),
            runner: Some(RunnerSpec::Command {
                name: "sh".to_owned(),
            }),
            system_prompt: Some("Be brief.".to_owned()),
            prompt: "Inspect".to_owned(),
            folder_hint: Some("~/code".to_owned()),
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            limits: RunLimits::default(),
            model: Some("big".to_owned()),
            temperature: Some(0.5),
            settings: RunSettings {
                top_k: Some(3),
                ..RunSettings::default()
            },
            history: Some("User: hello".to_owned()),
            created_at: Timestamp::from_unix_ms(7),
        }
    }

    fn org_key() -> SigningPrivateKey {
        SigningPrivateKey::from_random([5; 32])
    }

    fn open(signed: &SignedRunTicket, now: Timestamp) -> Result<RunTicket, TicketError> {
        signed.open(&org_key().public(), ticket().org_id, &node_key(3), now)
    }

    #[test]
    fn a_ticket_opens_for_its_node_until_it_expires() {
        let signed = ticket().sign(&org_key());
        let text = serde_json::to_string(&signed).expect("serializes");
        let signed: SignedRunTicket = serde_json::from_str(&text).expect("own text");
        let end = ticket().expires_at;
        assert_eq!(open(&signed, end), Ok(ticket()));
        assert_eq!(open(&signed, end + CLOCK_SKEW_MAX), Ok(ticket()));
        let late = end + CLOCK_SKEW_MAX + Duration::from_millis(1);
        assert_eq!(open(&signed, late), Err(TicketError::Expired(end)));
    }

    #[test]
    fn a_ticket_for_others_or_changed_is_refused() {
        let now = ticket().expires_at;
        let forged = ticket().sign(&SigningPrivateKey::from_random([6; 32]));
        assert_eq!(open(&forged, now), Err(TicketError::BadSignature));

        let other = RunTicket {
            node_key: node_key(9),
            ..ticket()
        }
        .sign(&org_key());
        assert_eq!(open(&other, now), Err(TicketError::WrongNode));

        let org_id = OrgId::from_random([9; 16]);
        let other = RunTicket { org_id, ..ticket() }.sign(&org_key());
        assert_eq!(open(&other, now), Err(TicketError::WrongOrg));

        let mut changed = ticket().sign(&org_key());
        changed.payload = RunTicket {
            fence: Fence(8),
            ..ticket()
        }
        .sign(&org_key())
        .payload;
        assert_eq!(open(&changed, now), Err(TicketError::BadSignature));

        let mut long = ticket().sign(&org_key());
        long.payload = "A".repeat(TICKET_LEN_MAX + 1);
        assert_eq!(open(&long, now), Err(TicketError::Malformed));
        long.payload = "*".to_owned();
        assert_eq!(open(&long, now), Err(TicketError::Malformed));
    }

    #[test]
    fn an_order_is_admitted_as_it_was_signed_and_under_its_own_attempt_and_fence() {
        let text = serde_json::to_string(&SealedOrder::seal(&order())).expect("serializes");
        let travelled: SealedOrder = serde_json::from_str(&text).expect("own text");
        let admit = |attempt, fence| ticket().admit(&travelled, Attempt(attempt), Fence(fence));
        assert_eq!(admit(1, 7), Ok(order()));
        assert_eq!(admit(2, 7), Err(TicketError::WrongRun));
        assert_eq!(admit(1, 8), Err(TicketError::WrongRun));
    }

    #[test]
    fn whatever_is_changed_in_an_order_it_is_not_admitted() {
        let value = serde_json::to_value(order()).expect("serializes");
        let fields = value.as_object().expect("an object");
        let mut changed: Vec<serde_json::Map<_, _>> = Vec::new();
        for name in fields.keys() {
            for other in [serde_json::json!("other"), serde_json::Value::Null] {
                let mut copy = fields.clone();
                copy.insert(name.clone(), other);
                changed.push(copy);
            }
        }
        let mut more = fields.clone();
        more.insert("unknownYet".to_owned(), serde_json::json!(true));
        changed.push(more);
        assert!(changed.len() > 2 * 14);
        for fields in changed {
            let text = serde_json::Value::Object(fields).to_string();
            let admitted = ticket().admit(&SealedOrder(text.clone()), Attempt(1), Fence(7));
            assert_eq!(admitted, Err(TicketError::WrongOrder), "{text}");
        }
    }

    #[test]
    fn a_signed_text_that_is_no_order_or_another_runs_is_refused() {
        let rubbish = SealedOrder("{}".to_owned());
        let signed = RunTicket {
            order: rubbish.digest(),
            ..ticket()
        };
        let admitted = signed.admit(&rubbish, Attempt(1), Fence(7));
        assert_eq!(admitted, Err(TicketError::UnreadableOrder));
        let others = SealedOrder::seal(&RunOrder {
            run_id: RunId::from_random([9; 16]),
            ..order()
        });
        let signed = RunTicket {
            order: others.digest(),
            ..ticket()
        };
        assert_eq!(
            signed.admit(&others, Attempt(1), Fence(7)),
            Err(TicketError::WrongRun)
        );
    }
}
