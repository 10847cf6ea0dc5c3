//! The relays that nodes are given.

use serde::{Deserialize, Serialize};
use types::SigningPublicKey;
use utoipa::ToSchema;

use crate::nodes::RelayConfig;
use crate::schema;

/// Every relay, and the key by which one more can be set up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Relays {
    /// The key that signs relay tickets: what `runmesh relay --authority` wants.
    #[schema(value_type = schema::PublicKey)]
    pub authority: SigningPublicKey,
    /// The relays, in the order in which netmaps name them.
    pub relays: Vec<RelayConfig>,
}
