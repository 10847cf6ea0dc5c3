//! Relays as nodes know them: which there are, the ticket that lets a node use them, and the word that shuts one out.
//!
//! What goes over the wire to a relay is `mesh::relay`. A relay learns keys, addresses and amounts; never a name.

mod expulsion;
mod statement;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::expulsion::{
    RELAY_EXPULSION_LEN, RelayExpulsion, RelayExpulsionClaim, RelayExpulsionError, SignedRelayExpulsion,
};
use self::statement::{STATEMENT_LEN, SignedStatement, Statement};
use crate::keys::{KeyError, NodePublicKey, SigningPrivateKey, SigningPublicKey};
use crate::names::NodeName;
use crate::time::Timestamp;

/// How long a relay ticket is good for. A node asks for the next one at half of it; a revoked node gets none.
pub const RELAY_TICKET_LIFETIME: Duration = Duration::from_secs(300);

/// Bytes of a relay ticket as it travels: node key 32, realm 16, expiry 8, signature 64.
pub const RELAY_TICKET_LEN: usize = STATEMENT_LEN;

/// How far the clocks of control plane and relay may disagree.
pub const RELAY_CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

const DOMAIN: &[u8] = b"runmesh relay ticket v1\n";

/// A relay, named by its X25519 key: whoever answers a handshake with this key is the relay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelayId(pub NodePublicKey);

impl FromStr for RelayId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayId({})", self.0)
    }
}

/// Which nodes may reach one another through a relay: 16 bytes that an org's nodes share and that tell nothing of the org.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Realm(pub [u8; 16]);

impl Realm {
    /// The realm of the platform's own node, which every node reaches and which reaches every node.
    pub const PLATFORM: Self = Self([0xff; 16]);

    /// Tells whether nodes of two realms may reach one another.
    #[must_use]
    pub fn reaches(self, other: Self) -> bool {
        self == other || self == Self::PLATFORM || other == Self::PLATFORM
    }
}

/// The most relays one netmap may name.
pub const RELAYS_MAX: usize = 16;

/// A relay that a node may use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayRecord {
    /// Its key.
    pub id: RelayId,
    /// What people call it: a strict DNS label.
    pub name: NodeName,
    /// Where it is reached by UDP: `ip:port` or `host:port`, best first.
    pub endpoints: Vec<String>,
    /// Where it is reached over a WebSocket, `ws://` or `wss://`; absent when it is not.
    pub url: Option<String>,
    /// Where it answers STUN besides: from a second port one can tell whether a NAT maps by destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stun_endpoints: Vec<String>,
}

/// The control plane's leave for one node to use its relays.
///
/// The key in it must be proven by the handshake, so a stolen ticket is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayTicket {
    /// The only node that may use it.
    pub node: NodePublicKey,
    /// Whom the node may reach.
    pub realm: Realm,
    /// When the leave ends.
    pub expires_at: Timestamp,
}

/// A relay ticket as it travels; as text, base64.
///
/// | offset | bytes | what |
/// |---|---|---|
/// | 0 | 32 | the node's key |
/// | 32 | 16 | the realm |
/// | 48 | 8 | expiry, milliseconds since the Unix epoch, little endian |
/// | 56 | 64 | Ed25519 signature over `runmesh relay ticket v1\n` and the 56 bytes before |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignedRelayTicket(SignedStatement);

/// Why a relay ticket gives no leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelayTicketError {
    /// Not a ticket at all.
    #[error("the relay ticket cannot be read")]
    Malformed,
    /// Signed by another key than the control plane's, or changed on the way.
    #[error("the relay ticket is not signed by this relay's control plane")]
    BadSignature,
    /// Its time is over (clocks may differ by a minute).
    #[error("the relay ticket expired")]
    Expired,
}

impl RelayTicket {
    /// Signs the ticket with the key that the relays know.
    #[must_use]
    pub fn sign(&self, key: &SigningPrivateKey) -> SignedRelayTicket {
        let statement = Statement {
            node: self.node,
            realm: self.realm,
            time: self.expires_at,
        };
        SignedRelayTicket(statement.sign(DOMAIN, key))
    }
}

impl SignedRelayTicket {
    /// Takes the bytes as they travelled; nothing is checked yet.
    #[must_use]
    pub fn from_bytes(bytes: [u8; RELAY_TICKET_LEN]) -> Self {
        Self(SignedStatement(bytes))
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; RELAY_TICKET_LEN] {
        &self.0.0
    }

    /// Opens the ticket: signature and time are checked, in this order. Whose it is, the caller compares.
    pub fn open(&self, key: &SigningPublicKey, now: Timestamp) -> Result<RelayTicket, RelayTicketError> {
        if !self.0.is_signed_by(DOMAIN, key) {
            return Err(RelayTicketError::BadSignature);
        }
        let statement = self.0.read().map_err(|_| RelayTicketError::Malformed)?;
        if now > statement.time + RELAY_CLOCK_SKEW_MAX {
            return Err(RelayTicketError::Expired);
        }
        Ok(RelayTicket {
            node: statement.node,
            realm: statement.realm,
            expires_at: statement.time,
        })
    }
}

impl FromStr for SignedRelayTicket {
    type Err = RelayTicketError;

    fn from_str(text: &str) -> Result<Self, RelayTicketError> {
        let statement = text.parse().map_err(|_| RelayTicketError::Malformed)?;
        Ok(Self(statement))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::NodePrivateKey;

    fn ticket() -> RelayTicket {
        RelayTicket {
            node: NodePrivateKey::from_random([1; 32]).public(),
            realm: Realm([2; 16]),
            expires_at: Timestamp::from_unix_ms(1_800_000_000_000),
        }
    }

    #[test]
    fn a_ticket_opens_for_its_control_plane_until_it_expires() {
        let key = SigningPrivateKey::from_random([3; 32]);
        let signed = ticket().sign(&key);
        let text = serde_json::to_string(&signed).expect("serializes");
        let signed: SignedRelayTicket = serde_json::from_str(&text).expect("own text");
        let last = ticket().expires_at + RELAY_CLOCK_SKEW_MAX;
        assert_eq!(signed.open(&key.public(), last), Ok(ticket()));
        let late = last + Duration::from_millis(1);
        assert_eq!(signed.open(&key.public(), late), Err(RelayTicketError::Expired));
        let other = SigningPrivateKey::from_random([4; 32]).public();
        assert_eq!(signed.open(&other, last), Err(RelayTicketError::BadSignature));
    }

    #[test]
    fn a_ticket_that_was_changed_anywhere_opens_nothing() {
        let key = SigningPrivateKey::from_random([3; 32]);
        let signed = ticket().sign(&key);
        for index in 0..RELAY_TICKET_LEN {
            let mut bytes = *signed.as_bytes();
            bytes[index] ^= 1;
            let changed = SignedRelayTicket::from_bytes(bytes);
            let opened = changed.open(&key.public(), ticket().expires_at);
            assert_eq!(opened, Err(RelayTicketError::BadSignature), "{index}");
        }
    }

    #[test]
    fn the_platform_reaches_every_realm_and_other_realms_only_themselves() {
        let (one, other) = (Realm([1; 16]), Realm([2; 16]));
        assert!(one.reaches(one) && !one.reaches(other));
        assert!(one.reaches(Realm::PLATFORM) && Realm::PLATFORM.reaches(other));
    }

    #[test]
    fn texts_of_another_length_are_no_tickets() {
        for text in ["", "AAAA", &"A".repeat(164), "not base64!"] {
            assert_eq!(
                text.parse::<SignedRelayTicket>(),
                Err(RelayTicketError::Malformed)
            );
        }
    }
}
