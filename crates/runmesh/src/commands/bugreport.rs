//! `runmesh bugreport`: one JSON document for whoever is to find out what is wrong.
//!
//! It is built up field by field from what may be told, and never by leaving out of a whole what may not: what the daemon
//! learns to say of itself one day does not come in by itself. Texts that others may have written into are cleaned.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use node::LocalClient;
use node::link_state::{self, LinkState};
use node::local_api::{Netcheck, PathKind, PathReason, PortList};
use node::local_client::LocalClientError;
use node::ports::{PortState, PortStatus};
use node::status::{Connection, LinkStatus, NetmapCounts, PeerStatus, Status, Traffic};
use serde::Serialize;

use super::forward::explained;
use super::up::state_dir;
use crate::log::clean::{clean, clean_url};
use crate::output::Output;

/// What `bugreport` takes.
#[derive(Args)]
pub(crate) struct BugreportArgs {
    /// Number the nodes instead of naming them; leave out the org, the server and every text that may name them
    #[arg(long)]
    hide_names: bool,
    /// Where the node keeps its keys and journal
    #[arg(long, value_name = "DIR", env = "RUNMESH_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    made_at_unix: u64,
    version: &'static str,
    system: System,
    /// What the disk remembers while no daemon runs.
    link_on_disk: Option<&'static str>,
    daemon: Option<Daemon>,
    netcheck: Option<Netcheck>,
    /// Absent before the device is a node.
    ports: Option<PortCounts>,
    /// The last lines, cleaned; absent where no daemon runs, or where they may name somebody and must not.
    log: Option<Vec<String>>,
}

#[derive(Serialize)]
struct System {
    os: &'static str,
    arch: &'static str,
    kernel: Option<String>,
    distribution: Option<String>,
}

/// What the daemon says of itself, as far as it may be told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Daemon {
    version: String,
    server: Option<String>,
    link: &'static str,
    name: Option<String>,
    org: Option<String>,
    addresses: Vec<String>,
    control: Link,
    sidecar: Link,
    generation: Option<u64>,
    netmap_refused: Option<String>,
    netmaps: NetmapCounts,
    policy_is_in_force: bool,
    mode: String,
    mesh_address: Option<String>,
    proxy_address: Option<String>,
    names_address: Option<String>,
    names_mesh_addresses: Vec<String>,
    home_relay: Option<String>,
    peers: Vec<Peer>,
    traffic: Option<Traffic>,
    runs_under_way: usize,
    journal_runs: usize,
    journal_bytes: u64,
}

/// How many ports are exposed and forwarded.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PortCounts {
    all: usize,
    in_background: usize,
    waiting: usize,
    file_was_set_aside: bool,
}

#[derive(Serialize)]
struct Link {
    connected: bool,
    since: String,
    reason: Option<String>,
}

#[derive(Serialize)]
struct Peer {
    name: String,
    kind: String,
    addresses: Vec<String>,
    path: Option<PathKind>,
    reason: PathReason,
    endpoint: Option<String>,
}

/// Prints the report.
pub(crate) async fn bugreport(args: BugreportArgs) -> Result<()> {
    let dir = state_dir(args.state_dir)?;
    let client = LocalClient::new(&dir);
    let status = match client.status().await {
        Ok(status) => Some(status),
        Err(LocalClientError::NotRunning(_)) => None,
        Err(error) => return Err(explained(error)),
    };
    // Before the device is a node there is nothing to check.
    let netcheck = client.netcheck().await.ok();
    let ports = client.ports().await.ok().map(PortCounts::from);
    let log = if args.hide_names {
        None
    } else {
        client.log().await.ok().map(|log| log.lines)
    };
    let link_on_disk = match &status {
        Some(_) => None,
        None => link_on_disk(&dir)?,
    };
    let report = Report {
        made_at_unix: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs()),
        version: env!("CARGO_PKG_VERSION"),
        system: System::new(),
        link_on_disk,
        daemon: status.map(|status| Daemon::new(status, args.hide_names)),
        netcheck,
        ports,
        log,
    };
    Output::new(true).record(&report, &[])
}

fn link_on_disk(dir: &Path) -> Result<Option<&'static str>> {
    let record = link_state::peek(dir)?;
    Ok(record.map(|record| match record.state {
        LinkState::Pending(_) => "pending",
        LinkState::Linked(_) => "linked",
        LinkState::Revoked => "revoked",
        LinkState::Expired => "expired",
    }))
}

impl System {
    fn new() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let kernel = read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
        let named = |text: String| {
            let mut lines = text.lines();
            let name = lines.find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
            Some(name.trim_matches('"').to_owned())
        };
        Self {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            kernel,
            distribution: read("/etc/os-release").and_then(named),
        }
    }
}

impl Daemon {
    fn new(status: Status, hide_names: bool) -> Self {
        // What names somebody, or may.
        let shown = |text: Option<String>| text.filter(|_| !hide_names);
        let cleaned = |text: Option<String>| shown(text).map(|text| clean(&text));
        let link = |connection: Connection| Link {
            connected: connection.connected,
            since: connection.since.to_string(),
            reason: cleaned(connection.reason),
        };
        let (name, org, addresses) = status.node.map_or_else(Default::default, |node| {
            let names = (Some(node.name.to_string()), Some(node.org_name.to_string()));
            (names.0, names.1, node.addresses)
        });
        let peers = status.peers.into_iter().enumerate();
        Self {
            version: status.version,
            server: shown(status.server_url).map(|url| clean_url(&url)),
            link: match status.link {
                LinkStatus::Unlinked => "unlinked",
                LinkStatus::Pending { .. } => "pending",
                LinkStatus::Linked => "linked",
                LinkStatus::Denied => "denied",
                LinkStatus::Revoked => "revoked",
                LinkStatus::Expired => "expired",
            },
            name: shown(name),
            org: shown(org),
            addresses,
            control: link(status.control),
            sidecar: link(status.sidecar),
            generation: status.generation.map(|generation| generation.0),
            netmap_refused: cleaned(status.netmap_refused),
            netmaps: status.netmaps,
            policy_is_in_force: status.policy_error.is_none(),
            mode: status.mode,
            mesh_address: status.mesh_address,
            proxy_address: status.proxy_address,
            names_address: status.names_address,
            names_mesh_addresses: status.names_mesh_addresses,
            home_relay: status.home_relay,
            peers: peers
                .map(|(number, peer)| Peer::new(peer, number, hide_names))
                .collect(),
            traffic: status.traffic,
            runs_under_way: status.runs.len(),
            journal_runs: status.journal_runs,
            journal_bytes: status.journal_bytes,
        }
    }
}

impl From<PortList> for PortCounts {
    fn from(list: PortList) -> Self {
        let count = |counts: fn(&PortStatus) -> bool| list.ports.iter().filter(|port| counts(port)).count();
        Self {
            all: list.ports.len(),
            in_background: count(|port| port.background),
            waiting: count(|port| port.state == PortState::Waiting),
            file_was_set_aside: list.set_aside.is_some(),
        }
    }
}

impl Peer {
    fn new(peer: PeerStatus, number: usize, hide_names: bool) -> Self {
        Self {
            name: if hide_names {
                format!("node-{}", number + 1)
            } else {
                peer.name.to_string()
            },
            kind: format!("{:?}", peer.kind).to_lowercase(),
            addresses: peer.addresses,
            path: peer.path,
            reason: peer.reason,
            endpoint: peer.endpoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    const SECRETS: [&str; 8] = [
        "K7Q2MX",
        "83",
        "hunter2",
        "rt_live_abcdefghijklmnop",
        "sesame",
        "yAnz5TF+lXXJte14tji3zlMNftTLVKQlFWOZrPFT4V0=",
        "TOKEN=abc",
        "tell nobody",
    ];

    /// A status in which secrets stand wherever they could get.
    fn status() -> Status {
        let [code, digits, password, token, short, key, variable, prompt] = SECRETS;
        let reason = format!("https://me:{password}@api.example.com/x?key={short} said {token} of {key}");
        let down = json!({ "connected": false, "since": "2026-01-31T12:00:00.000Z", "reason": reason });
        let public = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        serde_json::from_value(json!({
            "version": "0.1.0",
            "serverUrl": format!("https://me:{password}@api.example.com/{token}?key={short}"),
            "link": {
                "state": "pending", "code": code, "matchNumber": digits,
                "url": format!("https://api.example.com/link?code={code}"),
                "expiresAt": "2026-01-31T12:00:00.000Z",
            },
            "publicKey": public,
            "node": null, "control": down, "generation": null, "netmapRefused": reason,
            "meshAddress": "127.0.0.1:5000",
            "peers": [{
                "id": "00000000-0000-4000-8000-000000000001", "name": "adas-laptop", "kind": "device",
                "publicKey": public, "addresses": ["100.64.0.2"], "path": null, "reason": "idle", "endpoint": null,
            }],
            "sidecar": down, "runs": [], "journalRuns": 0, "journalBytes": 0,
            "policyError": format!("line 3: {variable}: {prompt}"),
        }))
        .expect("a status")
    }

    fn report(hide_names: bool) -> String {
        serde_json::to_string(&Daemon::new(status(), hide_names)).expect("JSON")
    }

    #[test]
    fn no_secret_gets_in_and_what_is_told_stays_readable() {
        let whole = serde_json::to_string(&status()).expect("JSON");
        let report = report(false);
        for secret in SECRETS {
            assert!(whole.contains(secret), "{secret} is in what it is made of");
            assert!(!report.contains(secret), "{secret}: {report}");
        }
        for told in [
            "https://api.example.com",
            "adas-laptop",
            " said ",
            "pending",
            "idle",
        ] {
            assert!(report.contains(told), "{told}: {report}");
        }
    }

    #[test]
    fn names_are_numbers_when_they_are_to_be_hidden() {
        let report = report(true);
        for name in ["adas-laptop", "example.com", "said"] {
            assert!(!report.contains(name), "{name}: {report}");
        }
        assert!(report.contains("\"node-1\""), "{report}");
    }

    #[test]
    fn ports_are_counted_and_not_named() {
        let list: PortList = serde_json::from_value(json!({
            "ports": [
                { "kind": "exposed", "port": 3000, "as": 80, "background": true, "state": "open" },
                {
                    "kind": "forwarded", "local": "127.0.0.1:3000", "target": "adas-laptop:80", "background": true,
                    "state": "waiting", "reason": "no node adas-laptop is known here",
                },
                { "kind": "exposed", "port": 22, "as": 22, "background": false, "state": "open" },
            ],
            "setAside": "ports.json was moved",
        }))
        .expect("a list");
        let counts = serde_json::to_value(PortCounts::from(list)).expect("JSON");
        let wanted = json!({ "all": 3, "inBackground": 2, "waiting": 1, "fileWasSetAside": true });
        assert_eq!(counts, wanted);
    }

    #[test]
    fn every_number_of_the_traffic_is_told() {
        let mut status = status();
        let dropped = BTreeMap::from([("replayed".to_owned(), 7)]);
        status.traffic = Some(Traffic {
            dropped,
            ..Traffic::default()
        });
        let report = serde_json::to_value(Daemon::new(status, true)).expect("JSON");
        assert_eq!(report["traffic"]["dropped"]["replayed"], 7);
    }
}
