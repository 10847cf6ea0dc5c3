//! The run ticket: the orchestrator's signed leave for one node to execute one attempt of one run.
//!
//! The signature covers the exact bytes that travel, so no second encoding can disagree with what was signed. A ticket
//! is necessary, not sufficient: the node's own policy always wins.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, OrgId, RunId};
use crate::keys::{NodePublicKey, Signature, SigningPrivateKey, SigningPublicKey};
use crate::run::{Attempt, Fence, RunLimits};
use crate::time::Timestamp;

/// How long a ticket is good for: long enough for a slow offer, short enough that a stolen one is stale.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(120);

/// How far two clocks may disagree before a fresh ticket looks old.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// The longest ticket text that is looked at.
pub const TICKET_LEN_MAX: usize = 4096;

const DOMAIN: &[u8] = b"runmesh run ticket v1\n";

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
    /// When the leave ends.
    pub expires_at: Timestamp,
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
    use super::*;
    use crate::keys::NodePrivateKey;

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
            expires_at: Timestamp::from_unix_ms(1_000_000_000),
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
}
