//! `runmesh relays`: where packets go that find no direct way.

use anyhow::Result;

use super::Api;
use crate::table::{Column, table};

const FIELDS: [Column; 1] = [("authority", "/authority")];

const RELAYS: [Column; 4] = [
    ("RELAY", "/name"),
    ("ENDPOINTS", "/endpoints"),
    ("WEBSOCKET", "/url"),
    ("KEY", "/id"),
];

/// Lists the relays that nodes are given.
pub(crate) async fn list(api: &Api) -> Result<()> {
    let relays = api.client.relays().await?;
    let rows = relays.relays.iter().map(serde_json::to_value);
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let head = crate::table::record(&serde_json::to_value(&relays)?, &FIELDS);
    api.output
        .text(&relays, &format!("{head}\n{}", table(&rows, &RELAYS)))
}
