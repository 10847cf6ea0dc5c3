//! Keys as types that cannot be confused, and whose private halves do not print.
//!
//! A *node key* is an X25519 key and serves WireGuard and the control stream; a *signing key* is Ed25519. All texts are
//! standard base64 with padding: 44 characters for 32 bytes, as WireGuard's tools write them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

/// Why a text or byte string is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not 44 characters of base64.
    #[error("must be 44 characters of base64 (32 bytes), has {0} characters")]
    Length(usize),
    /// The text has the right length, but is no canonical base64 of 32 bytes.
    #[error("is not valid base64 of 32 bytes")]
    Base64,
    /// The bytes name a point of small order: any shared secret with it would be predictable.
    #[error("is a low-order point, which no real private key produces")]
    LowOrder,
    /// The bytes are no point of the Ed25519 curve.
    #[error("is not an Ed25519 public key")]
    NotOnCurve,
}

fn decode32(text: &str) -> Result<[u8; 32], KeyError> {
    if text.len() != 44 {
        return Err(KeyError::Length(text.chars().count()));
    }
    let bytes = STANDARD.decode(text).map_err(|_| KeyError::Base64)?;
    bytes.try_into().map_err(|_| KeyError::Base64)
}

/// The public half of a node key (X25519), the identity of a node. Never a low-order point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePublicKey([u8; 32]);

impl NodePublicKey {
    /// Takes 32 bytes as a public key; refuses low-order points.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        // Multiplying by any clamped scalar maps exactly the low-order points to the identity.
        let probe = x25519_dalek::StaticSecret::from([0x40; 32]);
        let shared = probe.diffie_hellman(&x25519_dalek::PublicKey::from(bytes));
        if shared.was_contributory() {
            Ok(Self(bytes))
        } else {
            Err(KeyError::LowOrder)
        }
    }

    /// Returns the 32 bytes as they stand in WireGuard messages.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for NodePublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(decode32(text)?)
    }
}

/// So that bytes from the wire can be looked up among keys without the cost of checking them.
impl std::borrow::Borrow<[u8; 32]> for NodePublicKey {
    fn borrow(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The private half of a node key. It has no text form but the one `to_base64` makes for the device's own key file.
#[derive(Clone)]
pub struct NodePrivateKey(Zeroizing<[u8; 32]>);

impl NodePrivateKey {
    /// Makes a key from 32 bytes of the operating system's randomness.
    #[must_use]
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads the text that `to_base64` wrote.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        Ok(Self(Zeroizing::new(decode32(text)?)))
    }

    /// Writes the key for the device's own key file (mode 0600) and for nothing else.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    /// Returns the 32 bytes, for the handshake.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Computes the public half.
    #[must_use]
    pub fn public(&self) -> NodePublicKey {
        let secret = x25519_dalek::StaticSecret::from(*self.0);
        NodePublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

/// The public half of a signing key (Ed25519).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SigningPublicKey([u8; 32]);

impl SigningPublicKey {
    /// Takes 32 bytes as a verifying key; refuses what is no point of the curve.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        ed25519_dalek::VerifyingKey::from_bytes(&bytes)
            .map(|_| Self(bytes))
            .map_err(|_| KeyError::NotOnCurve)
    }

    /// Returns the 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Tells whether `signature` is this key's over `message`, by the strict rules (no malleable signatures).
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&self.0) else {
            return false;
        };
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(message, &signature).is_ok()
    }
}

impl FromStr for SigningPublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(decode32(text)?)
    }
}

/// The private half of a signing key.
#[derive(Clone)]
pub struct SigningPrivateKey(Zeroizing<[u8; 32]>);

impl SigningPrivateKey {
    /// Makes a key from 32 bytes of the operating system's randomness.
    #[must_use]
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads the text that `to_base64` wrote.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        Ok(Self(Zeroizing::new(decode32(text)?)))
    }

    /// Writes the key for its owner's own key store and for nothing else.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    /// Computes the public half.
    #[must_use]
    pub fn public(&self) -> SigningPublicKey {
        SigningPublicKey(self.dalek().verifying_key().to_bytes())
    }

    /// Signs `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.dalek().sign(message).to_bytes())
    }

    fn dalek(&self) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&self.0)
    }
}

/// An Ed25519 signature, 64 bytes; as text 88 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Takes 64 bytes as a signature; nothing is checked yet.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Returns the 64 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| KeyError::Base64)?;
        Ok(Self(bytes.try_into().map_err(|_| KeyError::Base64)?))
    }
}

macro_rules! base64_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&STANDARD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

base64_text!(NodePublicKey);
base64_text!(SigningPublicKey);
base64_text!(Signature);

macro_rules! no_print {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

no_print!(NodePrivateKey);
no_print!(SigningPrivateKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text() {
        let key = NodePrivateKey::from_random([7; 32]);
        let text = key.public().to_string();
        assert_eq!(text.len(), 44);
        assert_eq!(text.parse::<NodePublicKey>().expect("own text"), key.public());
        let again = NodePrivateKey::from_base64(&key.to_base64()).expect("own text");
        assert_eq!(again.public(), key.public());
    }

    #[test]
    fn the_public_half_is_the_one_of_rfc_7748() {
        // RFC 7748 section 6.1, Alice.
        let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        let public = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let key = NodePrivateKey::from_base64(private).expect("valid");
        assert_eq!(key.public().to_string(), public);
    }

    #[test]
    fn low_order_points_are_refused() {
        let mut order_8 = [0; 32];
        order_8.copy_from_slice(&[
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
            0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ]);
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one, order_8] {
            assert_eq!(NodePublicKey::from_bytes(point), Err(KeyError::LowOrder));
        }
    }

    #[test]
    fn bad_texts_say_what_is_wrong() {
        let check = |text: &str, expected| {
            assert_eq!(text.parse::<NodePublicKey>(), Err(expected), "{text}");
        };
        check("", KeyError::Length(0));
        check(&"A".repeat(43), KeyError::Length(43));
        check(&"A".repeat(45), KeyError::Length(45));
        check(&"!".repeat(44), KeyError::Base64);
        check(&"A".repeat(44), KeyError::Base64);
        check(&format!("{}=", "A".repeat(43)), KeyError::LowOrder);
        // The last character carries two bits that must be zero.
        check(&format!("{}B=", "B".repeat(42)), KeyError::Base64);
    }

    #[test]
    fn a_signature_is_bound_to_key_and_message() {
        let key = SigningPrivateKey::from_random([9; 32]);
        let signature = key.sign(b"message");
        assert!(key.public().verifies(b"message", &signature));
        assert!(!key.public().verifies(b"messagf", &signature));
        let other = SigningPrivateKey::from_random([8; 32]);
        assert!(!other.public().verifies(b"message", &signature));
        let again: Signature = signature.to_string().parse().expect("own text");
        assert!(key.public().verifies(b"message", &again));
    }

    #[test]
    fn private_keys_do_not_print() {
        let key = NodePrivateKey::from_random([7; 32]);
        assert_eq!(format!("{key:?}"), "NodePrivateKey(…)");
        let key = SigningPrivateKey::from_random([7; 32]);
        assert_eq!(format!("{key:?}"), "SigningPrivateKey(…)");
    }
}
