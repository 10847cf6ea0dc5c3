//! `runmesh ports`: what of this device is exposed and forwarded now, by whom, and whether it is open.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use node::LocalClient;
use node::local_api::PortsEnded;
use node::ports::{Port, PortStatus};
use serde_json::{Value, json};

use super::forward::explained;
use super::up::state_dir;
use crate::output::{Output, talk};
use crate::table::{Column, table};

/// What `ports` takes.
#[derive(Args)]
pub(crate) struct PortsArgs {
    /// Where the node keeps its keys and journal
    #[arg(long, value_name = "DIR", env = "RUNMESH_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

const COLUMNS: [Column; 7] = [
    ("KIND", "/kind"),
    ("HERE", "/here"),
    ("MESH", "/mesh"),
    ("UNTIL", "/until"),
    ("STATE", "/state"),
    ("BECAUSE", "/reason"),
    ("LAST FAILED", "/lastFailed/reason"),
];

/// Lists them.
pub(crate) async fn ports(args: PortsArgs, output: Output) -> Result<()> {
    let client = LocalClient::new(&state_dir(args.state_dir)?);
    let list = client.ports().await.map_err(explained)?;
    let rows = list.ports.iter().map(row).collect::<Result<Vec<_>>>()?;
    output.text(&list, &table(&rows, &COLUMNS))?;
    if let Some(why) = &list.set_aside {
        talk(why);
    }
    Ok(())
}

/// A port as a row: the same columns for what leads in and what leads out.
fn row(status: &PortStatus) -> Result<Value> {
    let mut row = serde_json::to_value(status).context("write JSON")?;
    (row["here"], row["mesh"]) = match &status.port {
        Port::Exposed { port, offered } => (json!(port), json!(offered)),
        Port::Forwarded { local, target } => (json!(local), json!(target.to_string())),
    };
    row["until"] = json!(if status.background {
        "taken back"
    } else {
        "its command ends"
    });
    Ok(row)
}

/// Shows which ports were taken back.
pub(super) fn show_ended(ended: &PortsEnded, output: Output) -> Result<()> {
    let lines = ended.ended.iter().map(|port| match port {
        Port::Exposed { port, offered } => {
            format!("port {port} of this device is not port {offered} in the mesh any more\n")
        }
        Port::Forwarded { local, target } => format!("{local} does not lead to {target} any more\n"),
    });
    output.text(ended, &lines.collect::<String>())
}
