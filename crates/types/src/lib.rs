//! The nouns of RunMesh: keys, ids, names, addresses, times, netmaps, runs, threads, events.
//!
//! This crate is the ground floor. It performs no I/O, reads no clock and draws no randomness: random bytes and times are
//! handed to it. It knows neither HTTP (`api`), nor bytes on the wire (`mesh`), nor SQL (`control::store`).

pub mod address;
pub mod control;
pub mod event;
pub mod filter;
pub mod ids;
pub mod keys;
pub mod names;
pub mod netmap;
pub mod node;
pub mod policy;
pub mod relay;
pub mod run;
pub mod secret;
pub mod span;
pub mod thread;
pub mod ticket;
pub mod time;

pub use address::{AllowedIp, MESH_MTU, MeshAddresses};
pub use event::{EventDraft, EventType, LiveEvent, LiveType, ThreadEvent};
pub use filter::{FilterRule, PacketFilter, PortRange, Ports, Protocol, Service};
pub use ids::{
    ActivityId, AgentId, ApiKeyId, AuditId, AuthKeyId, InvitationId, NodeId, OrgId, RequestId, RolloutId,
    RunId, SessionId, ThreadId, UserId,
};
pub use keys::{NodePrivateKey, NodePublicKey, Signature, SigningPrivateKey, SigningPublicKey};
pub use names::{AgentSlug, DisplayText, Label, MeshNameError, NodeName, OrgName};
pub use netmap::{Generation, Netmap, NetmapDelta, PeerRecord};
pub use node::{NodeKind, NodeStatus, PathKind, PathReason};
pub use policy::{Decision, Evaluation, Policy, Subject};
pub use relay::{
    Realm, RelayExpulsion, RelayId, RelayRecord, RelayTicket, SignedRelayExpulsion, SignedRelayTicket,
};
pub use run::{Attempt, ExecutionMode, Fence, RunLimits, RunOrder, RunSettings, RunStatus, RunnerSpec};
pub use secret::SecretString;
pub use ticket::{RunTicket, SealedOrder, SignedRunTicket};
pub use time::{Monotonic, Now, Timestamp};
