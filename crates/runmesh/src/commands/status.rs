//! `runmesh status`: this device's node, as it sees itself; when its daemon is not running, as its disk remembers it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use node::LocalClient;
use node::link_state;
use node::local_api::PathReason;
use node::local_client::LocalClientError;
use serde_json::{Value, json};

use super::up::state_dir;
use crate::failure::hinted;
use crate::output::{Output, talk};
use crate::table::{Column, table};

/// What `status` takes.
#[derive(Args)]
pub(crate) struct StatusArgs {
    /// Where the node keeps its keys and journal
    #[arg(long, value_name = "DIR", env = "RUNMESH_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

const FIELDS: [Column; 27] = [
    ("running", "/running"),
    ("version", "/version"),
    ("server", "/serverUrl"),
    ("link", "/link/state"),
    ("code", "/link/code"),
    ("match", "/link/matchNumber"),
    ("name", "/node/name"),
    ("org", "/node/orgName"),
    ("addresses", "/node/addresses"),
    ("public key", "/publicKey"),
    ("key expires", "/keyLife/expiresAt"),
    ("mode", "/mode"),
    ("mesh socket", "/meshAddress"),
    ("home relay", "/homeRelay"),
    ("proxy", "/proxyAddress"),
    ("names", "/namesAddress"),
    ("names (mesh)", "/namesMeshAddresses"),
    ("packets sent", "/traffic/packetsSent"),
    ("packets received", "/traffic/packetsReceived"),
    ("handshakes", "/traffic/handshakes"),
    ("control", "/control/connected"),
    ("control reason", "/control/reason"),
    ("generation", "/generation"),
    ("netmap refused", "/netmapRefused"),
    ("sidecar", "/sidecar/connected"),
    ("sidecar reason", "/sidecar/reason"),
    ("policy error", "/policyError"),
];

const PEERS: [Column; 6] = [
    ("PEER", "/name"),
    ("KIND", "/kind"),
    ("PATH", "/path"),
    ("ENDPOINT", "/endpoint"),
    ("ADDRESSES", "/addresses"),
    ("BECAUSE", "/reason"),
];

const DROPPED: [Column; 2] = [("DROPPED BECAUSE OF", "/reason"), ("COUNT", "/count")];

const RUNS: [Column; 4] = [
    ("RUN", "/runId"),
    ("STATUS", "/status"),
    ("RUNNER", "/runner"),
    ("THREAD", "/threadId"),
];

/// Shows the node of this machine.
pub(crate) async fn status(args: StatusArgs, output: Output) -> Result<()> {
    let dir = state_dir(args.state_dir)?;
    let status = match LocalClient::new(&dir).status().await {
        Ok(status) => {
            let mut status = serde_json::to_value(status).context("write JSON")?;
            status["running"] = json!(true);
            status
        }
        Err(LocalClientError::NotRunning(_)) => remembered(&dir)?,
        Err(error) => return Err(error.into()),
    };
    output.record(&status, &FIELDS)?;
    if output.is_json() {
        return Ok(());
    }
    if status["keyInDanger"] == true {
        talk("the key expires soon, and this node has not been able to change it: see `runmesh rotate-key`");
    }
    show_table(&peers(&status), &PEERS, output)?;
    show_table(&dropped(&status), &DROPPED, output)?;
    show_table(&rows(&status, "runs"), &RUNS, output)
}

fn rows(status: &Value, list: &str) -> Vec<Value> {
    status[list].as_array().cloned().unwrap_or_default()
}

/// The peers, with the reasons of their paths in words.
fn peers(status: &Value) -> Vec<Value> {
    let mut rows = rows(status, "peers");
    for row in &mut rows {
        // A daemon of another version may have a word that this one does not know.
        if let Ok(reason) = serde_json::from_value::<PathReason>(row["reason"].clone()) {
            row["reason"] = json!(reason.as_words());
        }
    }
    rows
}

/// Why datagrams and packets went no further, the most frequent first.
fn dropped(status: &Value) -> Vec<Value> {
    let counts = status["traffic"]["dropped"].as_object().into_iter().flatten();
    let mut rows: Vec<Value> = counts
        .map(|(reason, count)| json!({ "reason": reason, "count": count }))
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row["count"].as_u64()));
    rows
}

/// Shows a table under what was shown before, unless it is empty.
pub(super) fn show_table(rows: &[Value], columns: &[Column], output: Output) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    output.text(&(), &format!("\n{}", table(rows, columns)))
}

/// Reads what the last daemon left on disk.
fn remembered(dir: &Path) -> Result<Value> {
    let never = || {
        hinted(
            format!("no node was ever started with {}", dir.display()),
            "start one with `runmesh up --server URL`, or say where it is with --state-dir",
        )
    };
    let record = link_state::peek(dir)?.ok_or_else(never)?;
    Ok(json!({ "running": false, "serverUrl": record.server_url, "link": record.state }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_path_is_said_in_words_and_an_unknown_one_as_it_is() {
        let status = json!({ "peers": [{ "reason": "udp_blocked" }, { "reason": "newer" }] });
        let reasons: Vec<_> = peers(&status).iter().map(|row| row["reason"].clone()).collect();
        assert_eq!(reasons, ["no UDP reaches this network", "newer"]);
    }

    #[test]
    fn the_most_frequent_reason_stands_first() {
        let status = json!({ "traffic": { "dropped": { "a": 2, "b": 7 } } });
        let rows = dropped(&status);
        assert_eq!(
            (&rows[0]["reason"], &rows[1]["reason"]),
            (&json!("b"), &json!("a"))
        );
        assert!(dropped(&json!({ "running": false })).is_empty());
    }
}
