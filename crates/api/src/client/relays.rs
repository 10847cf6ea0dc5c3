//! Client methods for relays.

use super::{Client, ClientError, NO_QUERY, data};
use crate::relays::Relays;

impl Client {
    /// Returns every relay that nodes are given.
    pub async fn relays(&self) -> Result<Relays, ClientError> {
        self.get("v1/runmesh/relays", NO_QUERY).await.map(data)
    }
}
