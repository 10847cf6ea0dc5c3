//! The control plane's word to its relays that a node is shut out: signed, so that anybody may carry it there.

use serde::{Deserialize, Serialize};

use super::statement::{SignedStatement, Statement};
use super::{RELAY_CLOCK_SKEW_MAX, RELAY_TICKET_LEN, RELAY_TICKET_LIFETIME, Realm, RelayTicket};
use crate::keys::{NodePublicKey, SigningPrivateKey, SigningPublicKey};
use crate::time::Timestamp;

/// Bytes of an expulsion as it travels: as many as of a ticket, and laid out alike.
pub const RELAY_EXPULSION_LEN: usize = RELAY_TICKET_LEN;

const DOMAIN: &[u8] = b"runmesh relay expulsion v1\n";

/// A node is shut out: the tickets that it has are void. A newer one, for a node that was let in again, is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayExpulsion {
    /// Whose tickets.
    pub node: NodePublicKey,
    /// In which realm; its tickets for another one stay good.
    pub realm: Realm,
    /// Tickets that expire at this time or earlier are void: those signed a ticket's life before it, or earlier.
    pub void_until: Timestamp,
}

/// What an expulsion says, whoever signed it: good for telling one from another, not for believing it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayExpulsionClaim {
    /// The bytes of the node's key, which nobody has looked at.
    pub node: [u8; 32],
    /// In which realm.
    pub realm: Realm,
    /// Up to which expiry its tickets are void.
    pub void_until: Timestamp,
}

/// An expulsion as it travels; as text, base64.
///
/// | offset | bytes | what |
/// |---|---|---|
/// | 0 | 32 | the node's key |
/// | 32 | 16 | the realm |
/// | 48 | 8 | up to which expiry its tickets are void, milliseconds since the Unix epoch, little endian |
/// | 56 | 64 | Ed25519 signature over `runmesh relay expulsion v1\n` and the 56 bytes before |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignedRelayExpulsion(SignedStatement);

/// Why an expulsion shuts nobody out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelayExpulsionError {
    /// Not an expulsion at all.
    #[error("the expulsion cannot be read")]
    Malformed,
    /// Signed by another key than the control plane's, or changed on the way.
    #[error("the expulsion is not signed by this relay's control plane")]
    BadSignature,
}

impl RelayExpulsion {
    /// Voids every ticket of a node that was signed until `now`.
    #[must_use]
    pub fn of_tickets_until(now: Timestamp, node: NodePublicKey, realm: Realm) -> Self {
        Self {
            node,
            realm,
            void_until: now + RELAY_TICKET_LIFETIME,
        }
    }

    /// Tells whether it voids a ticket.
    #[must_use]
    pub fn voids(&self, ticket: &RelayTicket) -> bool {
        (self.node, self.realm) == (ticket.node, ticket.realm) && ticket.expires_at <= self.void_until
    }

    /// Signs it with the key that the relays know.
    #[must_use]
    pub fn sign(&self, key: &SigningPrivateKey) -> SignedRelayExpulsion {
        let statement = Statement {
            node: self.node,
            realm: self.realm,
            time: self.void_until,
        };
        SignedRelayExpulsion(statement.sign(DOMAIN, key))
    }
}

impl RelayExpulsionClaim {
    /// Returns from when on it is of no use: whatever it voids has expired, by any clock that is right to a minute.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        self.void_until + RELAY_CLOCK_SKEW_MAX
    }
}

impl SignedRelayExpulsion {
    /// Takes the bytes as they travelled; nothing is checked yet.
    #[must_use]
    pub fn from_bytes(bytes: [u8; RELAY_EXPULSION_LEN]) -> Self {
        Self(SignedStatement(bytes))
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; RELAY_EXPULSION_LEN] {
        &self.0.0
    }

    /// Reads what it says, whoever signed it.
    #[must_use]
    pub fn claim(&self) -> RelayExpulsionClaim {
        let (node, realm, void_until) = self.0.raw();
        RelayExpulsionClaim {
            node,
            realm,
            void_until,
        }
    }

    /// Opens it: the signature is checked. Whether it is of use still, the caller decides.
    pub fn open(&self, key: &SigningPublicKey) -> Result<RelayExpulsion, RelayExpulsionError> {
        if !self.0.is_signed_by(DOMAIN, key) {
            return Err(RelayExpulsionError::BadSignature);
        }
        let statement = self.0.read().map_err(|_| RelayExpulsionError::Malformed)?;
        Ok(RelayExpulsion {
            node: statement.node,
            realm: statement.realm,
            void_until: statement.time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::NodePrivateKey;
    use crate::relay::SignedRelayTicket;
    use std::time::Duration;

    fn now() -> Timestamp {
        Timestamp::from_unix_ms(1_800_000_000_000)
    }

    fn authority() -> SigningPrivateKey {
        SigningPrivateKey::from_random([3; 32])
    }

    fn expulsion() -> RelayExpulsion {
        let node = NodePrivateKey::from_random([1; 32]).public();
        RelayExpulsion::of_tickets_until(now(), node, Realm([2; 16]))
    }

    #[test]
    fn it_voids_the_tickets_of_before_in_its_realm_and_no_others() {
        let ticket = |signed_at: Timestamp, realm: u8| RelayTicket {
            node: expulsion().node,
            realm: Realm([realm; 16]),
            expires_at: signed_at + RELAY_TICKET_LIFETIME,
        };
        assert!(expulsion().voids(&ticket(now() - Duration::from_secs(299), 2)));
        assert!(expulsion().voids(&ticket(now(), 2)));
        assert!(!expulsion().voids(&ticket(now() + Duration::from_millis(1), 2)));
        assert!(!expulsion().voids(&ticket(now(), 3)));
        let other = NodePrivateKey::from_random([9; 32]).public();
        let of_another = RelayTicket {
            node: other,
            ..ticket(now(), 2)
        };
        assert!(!expulsion().voids(&of_another));
    }

    #[test]
    fn it_opens_for_its_control_plane_only_and_unchanged() {
        let signed = expulsion().sign(&authority());
        let text = serde_json::to_string(&signed).expect("serializes");
        let signed: SignedRelayExpulsion = serde_json::from_str(&text).expect("own text");
        assert_eq!(signed.open(&authority().public()), Ok(expulsion()));
        let claim = signed.claim();
        assert_eq!(&claim.node, expulsion().node.as_bytes());
        assert_eq!(claim.ends_at(), now() + Duration::from_secs(360));
        let other = SigningPrivateKey::from_random([4; 32]).public();
        assert_eq!(signed.open(&other), Err(RelayExpulsionError::BadSignature));
        for index in 0..RELAY_EXPULSION_LEN {
            let mut bytes = *signed.as_bytes();
            bytes[index] ^= 1;
            let changed = SignedRelayExpulsion::from_bytes(bytes);
            let opened = changed.open(&authority().public());
            assert_eq!(opened, Err(RelayExpulsionError::BadSignature), "{index}");
        }
    }

    #[test]
    fn a_ticket_is_no_expulsion_and_an_expulsion_no_ticket() {
        let expulsion = expulsion();
        let ticket = RelayTicket {
            node: expulsion.node,
            realm: expulsion.realm,
            expires_at: expulsion.void_until,
        };
        let (ticket, expulsion) = (ticket.sign(&authority()), expulsion.sign(&authority()));
        assert_eq!(ticket.as_bytes()[..56], expulsion.as_bytes()[..56]);
        let key = authority().public();
        assert!(
            SignedRelayTicket::from_bytes(*expulsion.as_bytes())
                .open(&key, now())
                .is_err()
        );
        assert!(
            SignedRelayExpulsion::from_bytes(*ticket.as_bytes())
                .open(&key)
                .is_err()
        );
    }
}
