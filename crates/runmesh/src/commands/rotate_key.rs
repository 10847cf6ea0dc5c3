//! `runmesh rotate-key`: another key for this device's node.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use node::LocalClient;

use super::forward::explained;
use super::up::state_dir;
use crate::output::Output;
use crate::table::Column;

/// What `rotate-key` takes.
#[derive(Args)]
pub(crate) struct RotateKeyArgs {
    /// Where the node keeps its keys and journal
    #[arg(long, value_name = "DIR", env = "RUNMESH_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

const FIELDS: [Column; 2] = [
    ("key", "/publicKey"),
    ("the one before is taken until", "/previousUntil"),
];

/// Has the daemon change the node's key, and shows the new one once it is in force.
pub(crate) async fn rotate(args: RotateKeyArgs, output: Output) -> Result<()> {
    let client = LocalClient::new(&state_dir(args.state_dir)?);
    let rotated = client.rotate_key().await.map_err(explained)?;
    output.record(&rotated, &FIELDS)
}
