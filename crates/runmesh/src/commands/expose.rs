//! `runmesh expose`: a local port offered to the mesh. The daemon carries the bytes; this asks it to, and holds the port open
//! or has the daemon keep it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use node::LocalClient;
use node::local_api::{EndExposure, ExposeRequest, PortEvent};
use serde_json::json;

use super::forward::{explained, explained_end, until_closed};
use super::up::state_dir;
use crate::failure::hinted;
use crate::interrupts::stop_token;
use crate::output::{Output, talk};

/// What `expose` takes.
#[derive(Args)]
pub(crate) struct ExposeArgs {
    /// The port on this device, where a program listens on 127.0.0.1 or ::1
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The port in the mesh; the same when left out
    #[arg(long = "as", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    offered: Option<u16>,
    /// Have the node keep it, also after its restarts, until it is taken back with --off
    #[arg(long)]
    background: bool,
    /// Take back what was kept in the background; without --as, at every port that it has in the mesh
    #[arg(long, conflicts_with = "background")]
    off: bool,
    /// Where the node keeps its keys and journal
    #[arg(long, value_name = "DIR", env = "RUNMESH_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

/// Exposes until it is told to stop, or in the background; or takes back.
pub(crate) async fn expose(args: ExposeArgs, output: Output) -> Result<()> {
    let client = LocalClient::new(&state_dir(args.state_dir)?);
    let (port, offered) = (args.port, args.offered);
    if args.off {
        let ended = client.end_exposure(&EndExposure { port, offered }).await;
        return super::ports::show_ended(&ended.map_err(explained_end)?, output);
    }
    let stop = stop_token()?;
    let background = args.background;
    let request = ExposeRequest {
        port,
        offered,
        background,
    };
    let mut events = client.expose(&request).await.map_err(explained)?;
    let first = events.next().await?;
    let Some(PortEvent::Exposed { name, addresses }) = first else {
        return Err(hinted("the daemon has ended", "start it again with `runmesh up`"));
    };
    let offered = offered.unwrap_or(port);
    let said = json!({ "port": port, "as": offered, "name": name, "addresses": addresses });
    output.stream(&said, &format!("{name}:{offered}\n"))?;
    let until = if background {
        format!("`runmesh expose {port} --as {offered} --off`")
    } else {
        "this ends".to_owned()
    };
    talk(&format!(
        "port {port} of this device is reached at {name}:{offered} by the nodes that may talk to it, until {until}"
    ));
    if background {
        return Ok(());
    }
    tokio::select! {
        ended = until_closed(events) => ended,
        () = stop.cancelled() => Ok(()),
    }
}
