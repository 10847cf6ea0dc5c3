//! `runmesh forward`: a local port that leads to a port of another node. The daemon carries the bytes; this asks it to, and
//! holds the port open or has the daemon keep it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Error, Result};
use clap::Args;
use node::LocalClient;
use node::local_api::{EndForward, ForwardRequest, PortEvent};
use node::local_client::{LocalClientError, PortEvents};
use serde_json::json;

use super::up::state_dir;
use crate::failure::hinted;
use crate::interrupts::stop_token;
use crate::output::{Output, talk};

/// What `forward` takes.
#[derive(Args)]
pub(crate) struct ForwardArgs {
    /// Where to listen: a port of 127.0.0.1, or ADDRESS:PORT; port 0 takes a free one
    #[arg(value_name = "LOCAL", value_parser = local)]
    local: SocketAddr,
    /// The node's name, full name or mesh address, and its port
    #[arg(value_name = "NODE:PORT", required_unless_present = "off")]
    target: Option<String>,
    /// Have the node keep it, also after its restarts, until it is taken back with --off
    #[arg(long)]
    background: bool,
    /// Take back what was kept in the background
    #[arg(long, conflicts_with = "background")]
    off: bool,
    /// Where the node keeps its keys and journal
    #[arg(long, value_name = "DIR", env = "RUNMESH_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

fn local(text: &str) -> Result<SocketAddr, String> {
    let port = text
        .parse()
        .map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    port.or_else(|_| text.parse())
        .map_err(|_| "must be a port, or an address and a port such as 127.0.0.1:8080".to_owned())
}

/// Forwards until it is told to stop, or in the background; or takes back.
pub(crate) async fn forward(args: ForwardArgs, output: Output) -> Result<()> {
    let client = LocalClient::new(&state_dir(args.state_dir)?);
    let local = args.local;
    let (target, background) = match (args.target, args.off) {
        (Some(target), false) => (target, args.background),
        (target, _) => {
            let ended = client.end_forward(&EndForward { local, target }).await;
            return super::ports::show_ended(&ended.map_err(explained_end)?, output);
        }
    };
    let stop = stop_token()?;
    let request = ForwardRequest {
        local,
        target,
        background,
    };
    let mut events = client.forward(&request).await.map_err(explained)?;
    let address = listening(&request, events.next().await?, output)?;
    if !address.ip().is_loopback() {
        talk("whoever reaches that address reaches the node through this device");
    }
    if background {
        return Ok(());
    }
    tokio::select! {
        ended = until_closed(events) => ended,
        () = stop.cancelled() => Ok(()),
    }
}

/// Tells where the port listens, and until when.
fn listening(request: &ForwardRequest, first: Option<PortEvent>, output: Output) -> Result<SocketAddr> {
    let Some(PortEvent::Listening {
        address,
        node,
        target,
    }) = first
    else {
        return Err(closed());
    };
    let said = json!({ "listening": address, "node": node, "target": target });
    output.stream(&said, &format!("{address}\n"))?;
    let until = if request.background {
        format!("`runmesh forward {address} --off`")
    } else {
        "this ends".to_owned()
    };
    talk(&format!("{address} leads to {} until {until}", request.target));
    Ok(address)
}

/// Tells what led nowhere, until the daemon closes the port.
pub(super) async fn until_closed(mut events: PortEvents) -> Result<()> {
    while let Some(event) = events.next().await? {
        if let PortEvent::Failed { from, reason } = event {
            talk(&format!("a connection from {from} led nowhere: {reason}"));
        }
    }
    Err(closed())
}

/// The daemon's no, with what to do about it.
pub(super) fn explained(error: LocalClientError) -> Error {
    let hint = match &error {
        LocalClientError::NotRunning(_) => "start it with `runmesh up`, or say where it is with --state-dir",
        LocalClientError::Denied(_) => "run this as the user whose daemon it is",
        LocalClientError::Refused(refused) => match refused.code.as_str() {
            "not_found" => "`runmesh status` lists the nodes that this one may talk to",
            "conflict" => "choose another port, or end what has it: `runmesh ports` lists them",
            "internal_error" => "check that the state directory can be written to",
            "device_offline" => "`runmesh status` shows how far the device is",
            _ => "write it like laptop:8080, laptop.home.mesh.internal:8080 or 100.64.0.2:8080",
        },
        LocalClientError::Broken(_) | LocalClientError::TimedOut => {
            "the daemon may be of another version: start it again"
        }
    };
    hinted(error.to_string(), hint)
}

/// Why nothing was taken back, with what to do about it.
pub(super) fn explained_end(error: LocalClientError) -> Error {
    let hint = match &error {
        LocalClientError::Refused(refused) => match refused.code.as_str() {
            "not_found" => Some("`runmesh ports` lists what is there"),
            "conflict" => Some("end that command, with ctrl-C where it runs"),
            _ => None,
        },
        _ => None,
    };
    match hint {
        Some(hint) => hinted(error.to_string(), hint),
        None => explained(error),
    }
}

fn closed() -> Error {
    hinted(
        "the daemon has ended, and with it the port",
        "start it again with `runmesh up`, then this",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_place_is_a_port_of_loopback_or_an_address_with_one() {
        for (text, wanted) in [
            ("8080", "127.0.0.1:8080"),
            ("0", "127.0.0.1:0"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(
                local(text).map(|address| address.to_string()).as_deref(),
                Ok(wanted)
            );
        }
        for text in ["", "65536", "-1", "localhost:80", "127.0.0.1", ":80"] {
            assert!(local(text).is_err(), "{text}");
        }
    }
}
