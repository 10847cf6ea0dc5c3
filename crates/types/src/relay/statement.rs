//! What the control plane signs for relays about one node: 56 bytes and a signature, the same for tickets and expulsions
//! but for the domain, so that neither passes for the other.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Realm;
use crate::keys::{NodePublicKey, Signature, SigningPrivateKey, SigningPublicKey};
use crate::time::Timestamp;

/// Bytes of a signed statement: node key 32, realm 16, time 8, signature 64.
pub(super) const STATEMENT_LEN: usize = SIGNED_LEN + 64;

const SIGNED_LEN: usize = 32 + 16 + 8;

/// A node of a realm, and a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Statement {
    pub(super) node: NodePublicKey,
    pub(super) realm: Realm,
    pub(super) time: Timestamp,
}

/// A statement as it travels; as text, base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct SignedStatement(pub(super) [u8; STATEMENT_LEN]);

/// Bytes or a text that are no statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be read")]
pub(super) struct Malformed;

impl Statement {
    pub(super) fn sign(&self, domain: &[u8], key: &SigningPrivateKey) -> SignedStatement {
        let mut bytes = [0; STATEMENT_LEN];
        bytes[..32].copy_from_slice(self.node.as_bytes());
        bytes[32..48].copy_from_slice(&self.realm.0);
        bytes[48..56].copy_from_slice(&self.time.unix_ms().to_le_bytes());
        let signature = key.sign(&[domain, &bytes[..SIGNED_LEN]].concat());
        bytes[SIGNED_LEN..].copy_from_slice(signature.as_bytes());
        SignedStatement(bytes)
    }
}

impl SignedStatement {
    pub(super) fn is_signed_by(&self, domain: &[u8], key: &SigningPublicKey) -> bool {
        let (signed, signature) = self.0.split_at(SIGNED_LEN);
        let signature = Signature::from_bytes(signature.try_into().expect("64 bytes"));
        key.verifies(&[domain, signed].concat(), &signature)
    }

    /// Reads what it says, whoever signed it.
    pub(super) fn read(&self) -> Result<Statement, Malformed> {
        let (node, realm, time) = self.raw();
        let node = NodePublicKey::from_bytes(node).map_err(|_| Malformed)?;
        Ok(Statement { node, realm, time })
    }

    /// Reads what it says without looking at the key, which costs as much as a signature.
    pub(super) fn raw(&self) -> ([u8; 32], Realm, Timestamp) {
        let time = i64::from_le_bytes(self.0[48..56].try_into().expect("eight bytes"));
        (
            self.0[..32].try_into().expect("32 bytes"),
            Realm(self.0[32..48].try_into().expect("16 bytes")),
            Timestamp::from_unix_ms(time),
        )
    }
}

impl FromStr for SignedStatement {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bytes = STANDARD.decode(text).map_err(|_| Malformed)?;
        bytes.try_into().map(Self).map_err(|_| Malformed)
    }
}

impl fmt::Debug for SignedStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Serialize for SignedStatement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for SignedStatement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}
