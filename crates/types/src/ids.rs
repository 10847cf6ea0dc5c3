//! Ids typed by what they name, so that one cannot be passed for another.
//!
//! Nodes, agents, orgs, users, keys and rows are UUIDs; runs, threads, rollouts and requests carry a prefix before 32
//! hexadecimal digits. Every id is made from 16 random bytes that the caller draws.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::{Builder, Uuid};

/// A text that is no id of the kind asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not {expected}")]
pub struct IdError {
    expected: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The text before the digits.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an id from 16 random bytes.
            #[must_use]
            pub fn from_random(bytes: [u8; 16]) -> Self {
                Self(Builder::from_random_bytes(bytes).into_uuid())
            }

            /// Returns the 16 bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if $prefix.is_empty() {
                    write!(f, "{}", self.0.hyphenated())
                } else {
                    write!(f, concat!($prefix, "{}"), self.0.simple())
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let error = IdError { expected: $expected };
                let digits = text.strip_prefix($prefix).ok_or(error)?;
                let id = Self(Uuid::try_parse(digits).map_err(|_| error)?);
                // One id has one text: no upper case, braces or missing hyphens.
                if id.to_string() == text { Ok(id) } else { Err(error) }
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

id!(/** A tenant. */ OrgId, "", "an org id");
id!(/** A person. */ UserId, "", "a user id");
id!(/** A key that an org admitted. */ NodeId, "", "a node id");
id!(/** An agent of an org. */ AgentId, "", "an agent id");
id!(/** An API key (its record, not the key). */ ApiKeyId, "", "an API key id");
id!(/** A key by which nodes join without an approval (its record, not the key). */ AuthKeyId, "", "an auth key id");
id!(/** An invitation to an org (its record, not its token). */ InvitationId, "", "an invitation id");
id!(/** A signed-in browser (its record, not its token). */ SessionId, "", "a session id");
id!(/** One row of the audit log. */ AuditId, "", "an audit id");
id!(/** One row of the activity list. */ ActivityId, "", "an activity id");
id!(/** One piece of dispatched work. */ RunId, "run_", "a run id (run_…)");
id!(/** A durable, numbered list of events. */ ThreadId, "thr_", "a thread id (thr_…)");
id!(/** The part of a thread between two compactions. */ RolloutId, "rol_", "a rollout id (rol_…)");
id!(/** One HTTP request. */ RequestId, "req_", "a request id (req_…)");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let run = RunId::from_random([0xab; 16]);
        assert_eq!(run.to_string().parse::<RunId>(), Ok(run));
        assert!(run.to_string().starts_with("run_"));
        assert_eq!(run.to_string().len(), 36);
        let node = NodeId::from_random([0xab; 16]);
        assert_eq!(node.to_string().parse::<NodeId>(), Ok(node));
        assert_eq!(node.to_string().len(), 36);
    }

    #[test]
    fn ids_of_other_kinds_and_odd_spellings_are_refused() {
        let run = RunId::from_random([0xab; 16]).to_string();
        assert!(run.parse::<ThreadId>().is_err());
        assert!(run.parse::<NodeId>().is_err());
        assert!(run.to_uppercase().parse::<RunId>().is_err());
        let node = NodeId::from_random([0xab; 16]).to_string();
        assert!(node.to_uppercase().parse::<NodeId>().is_err());
        assert!(node.replace('-', "").parse::<NodeId>().is_err());
        assert!(format!("{{{node}}}").parse::<NodeId>().is_err());
        assert!("".parse::<NodeId>().is_err());
    }
}
