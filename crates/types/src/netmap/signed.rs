//! Signatures of peer records: what is signed, byte by byte, and who must have signed it.
//!
//! Today the org's key, which the control plane holds, signs every record. The list has room for more signers, so that a
//! device which the org trusts can sign, too.
//!
//! The signed bytes are `runmesh node record v1\n` and then
//!
//! | bytes | what |
//! |---|---|
//! | 16 | the org's id |
//! | 16 | the node's id |
//! | 1 | its kind: 1 device, 2 sandbox, 3 platform |
//! | 32 | its public key |
//! | 1 + n | its name: length, then ASCII |
//! | 1 | how many allowed IPs follow |
//! | 6 or 18 each | 4 or 6, the length of the prefix, the address |
//!
//! Everything by which a node is known is in it; where it may be reached is not: that changes all the time, and whoever
//! answers there must have the key anyway.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::PeerRecord;
use crate::ids::OrgId;
use crate::keys::{Signature, SigningPrivateKey, SigningPublicKey};
use crate::node::NodeKind;

/// The most signatures of one record.
pub const SIGNATURES_MAX: usize = 8;

const DOMAIN: &[u8] = b"runmesh node record v1\n";

/// One signature of a peer record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordSignature {
    /// Whose it is.
    pub key: SigningPublicKey,
    /// Ed25519, over the bytes that stand at the top of this module.
    pub sig: Signature,
}

impl PeerRecord {
    /// Signs the record for an org; a signature that `key` made before is replaced.
    pub fn sign(&mut self, org: OrgId, key: &SigningPrivateKey) {
        let signature = RecordSignature {
            key: key.public(),
            sig: key.sign(&self.signed_bytes(org)),
        };
        self.signatures.retain(|other| other.key != signature.key);
        self.signatures.push(signature);
    }

    /// Tells whether `key` has signed the record for an org.
    #[must_use]
    pub fn is_signed(&self, org: OrgId, key: &SigningPublicKey) -> bool {
        let bytes = self.signed_bytes(org);
        let by_key = self.signatures.iter().filter(|signature| signature.key == *key);
        by_key
            .take(SIGNATURES_MAX)
            .any(|signature| key.verifies(&bytes, &signature.sig))
    }

    /// Tells whether a signature of `other` is one of this record as well.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let known_by = |record: &Self| (record.id, record.kind, record.public_key);
        known_by(self) == known_by(other) && self.name == other.name && self.allowed_ips == other.allowed_ips
    }

    fn signed_bytes(&self, org: OrgId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(DOMAIN);
        bytes.extend(org.as_bytes());
        bytes.extend(self.id.as_bytes());
        bytes.push(match self.kind {
            NodeKind::Device => 1,
            NodeKind::Sandbox => 2,
            NodeKind::Platform => 3,
        });
        bytes.extend(self.public_key.as_bytes());
        // A label has at most 63 bytes, and a record that passes has at most 16 allowed IPs; of one that does not, nobody
        // asks who signed it.
        bytes.push(self.name.as_str().len() as u8);
        bytes.extend(self.name.as_str().as_bytes());
        bytes.push(self.allowed_ips.len() as u8);
        for block in &self.allowed_ips {
            match block.address() {
                IpAddr::V4(address) => {
                    bytes.extend([4, block.prefix_len()]);
                    bytes.extend(address.octets());
                }
                IpAddr::V6(address) => {
                    bytes.extend([6, block.prefix_len()]);
                    bytes.extend(address.octets());
                }
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use crate::keys::NodePrivateKey;

    fn record() -> PeerRecord {
        PeerRecord {
            id: NodeId::from_random([2; 16]),
            name: "laptop".parse().expect("a label"),
            kind: NodeKind::Device,
            public_key: NodePrivateKey::from_random([3; 32]).public(),
            allowed_ips: ["100.64.0.7/32", "fd00::7/128"]
                .map(|block| block.parse().expect("a block"))
                .to_vec(),
            endpoints: Vec::new(),
            home_relay: None,
            signatures: Vec::new(),
        }
    }

    fn org() -> OrgId {
        OrgId::from_random([1; 16])
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_is_signed_and_the_signature_are_pinned() {
        let expected = concat!(
            "72756e6d657368206e6f6465207265636f72642076310a",
            "01010101010141018101010101010101",
            "02020202020242028202020202020202",
            "01",
            "5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22",
            "066c6170746f70",
            "02",
            "042064400007",
            "0680fd000000000000000000000000000007",
        );
        assert_eq!(hex(&record().signed_bytes(org())), expected);
        let mut signed = record();
        signed.sign(org(), &SigningPrivateKey::from_random([4; 32]));
        let text = serde_json::to_string(&signed.signatures).expect("serializes");
        let expected = concat!(
            r#"[{"key":"ypOsFwUYcHHWe4PH/w7+gQjo7EUwV113JoeTM9vavnw=","#,
            r#""sig":"LSlrLjgKc9J7s/N55W29aOzsUF+CL6SE+TuHxhV6ag9XprKhse1YPyF89eXkYalCgoxrGS+42yG/ZvH6IO77Aw=="}]"#,
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_signature_counts_for_one_key_one_org_and_what_was_signed() {
        let (key, other) = (
            SigningPrivateKey::from_random([4; 32]),
            SigningPrivateKey::from_random([5; 32]),
        );
        let mut signed = record();
        signed.sign(org(), &other);
        assert!(!signed.is_signed(org(), &key.public()));
        signed.sign(org(), &key);
        signed.sign(org(), &key);
        assert_eq!(signed.signatures.len(), 2, "one of each");
        for key in [&key, &other] {
            assert!(signed.is_signed(org(), &key.public()));
            assert!(!signed.is_signed(OrgId::from_random([9; 16]), &key.public()));
        }
        let mut moved = signed.clone();
        moved.endpoints = vec!["192.0.2.1:1".to_owned()];
        assert!(moved.is_signed(org(), &key.public()) && moved.says_the_same(&signed));
        let changes: [&dyn Fn(&mut PeerRecord); 5] = [
            &|record| record.id = NodeId::from_random([7; 16]),
            &|record| record.name = "desktop".parse().expect("a label"),
            &|record| record.kind = NodeKind::Sandbox,
            &|record| record.public_key = NodePrivateKey::from_random([8; 32]).public(),
            &|record| record.allowed_ips.truncate(1),
        ];
        for change in changes {
            let mut changed = signed.clone();
            change(&mut changed);
            assert!(!changed.is_signed(org(), &key.public()) && !changed.says_the_same(&signed));
        }
    }
}
