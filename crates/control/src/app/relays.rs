//! The relays that nodes are given: the same for every org.

use api::nodes::RelayConfig;
use api::relays::Relays;
use types::RelayRecord;

use super::{App, Caller};

/// Lists the relays. Nothing of them is an org's own, so everybody who is in sees the same.
pub(crate) fn list(app: &App, _caller: &Caller) -> Relays {
    let records = app.relays.records().iter().cloned();
    Relays {
        authority: app.relays.authority(),
        relays: records.map(config).collect(),
    }
}

/// Says what the API shows of a relay.
pub(crate) fn config(relay: RelayRecord) -> RelayConfig {
    RelayConfig {
        id: relay.id.to_string(),
        name: relay.name.to_string(),
        endpoints: relay.endpoints,
        url: relay.url,
    }
}
