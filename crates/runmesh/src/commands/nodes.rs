//! `runmesh nodes`, `node`, `rename`, `revoke` and `config`.

use anyhow::{Context, Result};
use api::nodes::{CutOff, Node, NodesQuery};
use clap::{Args, ValueEnum};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Api;
use crate::failure::hinted;
use crate::output::talk;
use crate::table::Column;

/// What `nodes` takes.
#[derive(Args)]
pub(crate) struct NodesArgs {
    /// Every node of the org (admins only)
    #[arg(long)]
    all: bool,
    /// Only this kind
    #[arg(long, value_parser = ["device", "sandbox", "platform"])]
    kind: Option<String>,
    /// Only this status
    #[arg(long, value_parser = ["online", "offline", "revoked"])]
    status: Option<String>,
    /// Only this owner: a user id, or `me`
    #[arg(long)]
    owner: Option<String>,
    /// Only names, labels and host names that contain this
    #[arg(long)]
    q: Option<String>,
    /// How many rows, 1 to 100
    #[arg(long)]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

/// What `node` and `revoke` take.
#[derive(Args)]
pub(crate) struct NodeArgs {
    /// The node's name or id
    node: String,
}

/// What `rename` takes.
#[derive(Args)]
pub(crate) struct RenameArgs {
    /// The node's name or id
    node: String,
    /// Its new name, a DNS label
    name: String,
}

/// What `config` takes.
#[derive(Args)]
pub(crate) struct ConfigArgs {
    /// The node's name or id
    node: String,
    /// How it is written
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

/// How a configuration is written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON
    Json,
    /// A file for `wg-quick`; the private key is left for the device to fill in
    WgQuick,
}

const COLUMNS: [Column; 9] = [
    ("NAME", "/name"),
    ("KIND", "/kind"),
    ("STATUS", "/status"),
    ("ADDRESS", "/meshIp4"),
    ("PATH", "/path"),
    ("OS", "/os"),
    ("LAST SEEN", "/lastSeenAt"),
    ("KEY EXPIRES", "/keyExpiresAt"),
    ("ID", "/id"),
];

/// The lines of one node.
pub(crate) const FIELDS: [Column; 20] = [
    ("name", "/name"),
    ("dns name", "/dnsName"),
    ("id", "/id"),
    ("kind", "/kind"),
    ("status", "/status"),
    ("path", "/path"),
    ("path reason", "/pathReason"),
    ("home relay", "/homeRelay"),
    ("label", "/deviceLabel"),
    ("os", "/os"),
    ("hostname", "/hostname"),
    ("mesh ip4", "/meshIp4"),
    ("mesh ip6", "/meshIp6"),
    ("public key", "/publicKey"),
    ("key expires", "/keyExpiresAt"),
    ("tags", "/tags"),
    ("owner", "/ownerUserId"),
    ("last seen", "/lastSeenAt"),
    ("created", "/createdAt"),
    ("revoked", "/revokedAt"),
];

/// How many pages are searched for a name: the filter leaves only nodes that contain it.
const NAME_PAGES_MAX: usize = 20;

/// Lists nodes.
pub(crate) async fn list(args: NodesArgs, api: &Api) -> Result<()> {
    let query = NodesQuery {
        all: args.all.then_some(true),
        kind: args.kind.map(word).transpose()?,
        status: args.status.map(word).transpose()?,
        owner: args.owner,
        q: args.q,
        limit: args.limit,
        cursor: args.cursor,
    };
    api.output.page(&api.client.nodes(&query).await?, &COLUMNS)
}

/// Shows one node.
pub(crate) async fn show(args: &NodeArgs, api: &Api) -> Result<()> {
    show_with_cut_off(&resolve(&args.node, api).await?, api)
}

/// Renames a node.
pub(crate) async fn rename(args: &RenameArgs, api: &Api) -> Result<()> {
    let node = resolve(&args.node, api).await?;
    api.output
        .record(&api.client.rename_node(node.id, &args.name).await?, &FIELDS)
}

/// Revokes a node.
pub(crate) async fn revoke(args: &NodeArgs, api: &Api) -> Result<()> {
    let node = resolve(&args.node, api).await?;
    show_with_cut_off(&api.client.revoke_node(node.id).await?, api)
}

fn show_with_cut_off(node: &Node, api: &Api) -> Result<()> {
    api.output.record(node, &FIELDS)?;
    if let Some(cut_off) = node.cut_off.filter(|_| !api.output.is_json()) {
        talk(&words(&cut_off));
    }
    Ok(())
}

/// Says how far a revocation has come.
fn words(cut_off: &CutOff) -> String {
    let CutOff {
        nodes,
        confirmed,
        offline,
        elapsed_ms,
    } = *cut_off;
    let took = match elapsed_ms {
        0..100 => format!("{elapsed_ms} ms"),
        _ => format!("{:.1} s", elapsed_ms as f64 / 1000.0),
    };
    let mut text = format!("cut off at {confirmed} of {nodes} nodes in {took}");
    if offline > 0 {
        text.push_str(&format!("; offline and told first thing on return: {offline}"));
    }
    let silent = nodes.saturating_sub(confirmed + offline);
    if silent > 0 {
        text.push_str(&format!("; there but without an answer yet: {silent}"));
    }
    text
}

/// Shows a node's configuration.
pub(crate) async fn config(args: &ConfigArgs, api: &Api) -> Result<()> {
    let node = resolve(&args.node, api).await?;
    if args.format == Format::WgQuick {
        let text = api.client.node_config_wg_quick(node.id).await?;
        return api
            .output
            .text(&json!({ "format": "wg-quick", "config": text }), &text);
    }
    let config = api.client.node_config(node.id).await?;
    let text = serde_json::to_string_pretty(&config).context("write JSON")?;
    api.output.text(&config, &format!("{text}\n"))
}

/// Finds a node by id, or by its exact name among the nodes that the caller can see.
pub(crate) async fn resolve(node: &str, api: &Api) -> Result<Node> {
    if let Ok(id) = node.parse() {
        return Ok(api.client.node(id).await?);
    }
    for all in [None, Some(true)] {
        match find(node, all, api).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            // A member may not search the whole org, so what is left is what they can see.
            Err(_) if all.is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Err(hinted(
        format!("no node is called `{node}`"),
        "`runmesh nodes` lists the nodes that this key can see",
    ))
}

async fn find(name: &str, all: Option<bool>, api: &Api) -> Result<Option<Node>> {
    let mut query = NodesQuery {
        all,
        q: Some(name.to_owned()),
        ..NodesQuery::default()
    };
    for _ in 0..NAME_PAGES_MAX {
        let page = api.client.nodes(&query).await?;
        if let Some(node) = page.data.into_iter().find(|node| node.name == name) {
            return Ok(Some(node));
        }
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => break,
        }
    }
    Ok(None)
}

/// Reads one of the contract's words, such as `online`.
pub(crate) fn word<T: DeserializeOwned>(text: String) -> Result<T> {
    serde_json::from_value(Value::String(text.clone())).with_context(|| format!("`{text}` is not known"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::table;

    #[test]
    fn a_list_says_when_a_key_expires_if_it_does() {
        let rows = [
            json!({"name": "laptop", "keyExpiresAt": "2026-12-24T18:00:00.000Z"}),
            json!({"name": "desk", "keyExpiresAt": null}),
        ];
        let text = table(&rows, &COLUMNS);
        let lines: Vec<_> = text.lines().collect();
        let at = lines[0].find("KEY EXPIRES").expect("a column");
        assert!(lines[1][at..].starts_with("2026-12-24T18:00:00.000Z "), "{text}");
        assert!(lines[2][at..].starts_with("- "), "{text}");
    }

    #[test]
    fn a_revocation_says_how_far_it_has_come() {
        let said = |nodes, confirmed, offline, elapsed_ms| {
            words(&CutOff {
                nodes,
                confirmed,
                offline,
                elapsed_ms,
            })
        };
        assert_eq!(said(12, 12, 0, 312), "cut off at 12 of 12 nodes in 0.3 s");
        assert_eq!(
            said(12, 9, 2, 16),
            "cut off at 9 of 12 nodes in 16 ms; offline and told first thing on return: 2; there but without an answer yet: 1"
        );
    }
}
