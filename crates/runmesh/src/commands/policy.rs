//! `runmesh policy`: show, change and try out who may reach what inside the mesh; and `runmesh tag`.

use std::io::Read as _;

use anyhow::{Context, Result};
use api::policy::{ExplainPolicy, PolicyExplained, PutPolicy, TestPolicy};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::Api;
use super::nodes::{FIELDS, resolve, word};
use crate::failure::hinted;
use crate::output::talk;

/// What to do with the policy.
#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show the policy in force
    Get,
    /// Replace the policy; its own tests must hold
    Set(SetArgs),
    /// Check a document and run the tests inside it; changes nothing
    Check(CheckArgs),
    /// Run the tests inside the policy in force, or inside a document
    Test(TestArgs),
    /// Say whether one node may reach a port of another, and by which grant
    Explain(ExplainArgs),
}

/// What `policy set` takes.
#[derive(Args)]
pub(crate) struct SetArgs {
    /// The document, JSON; `-` reads standard input
    file: String,
    /// Only if this version is still in force
    #[arg(long)]
    version: Option<u64>,
}

/// What `policy check` takes.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The document, JSON; `-` reads standard input
    file: String,
}

/// What `policy test` takes.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// The document, JSON; `-` reads standard input; the policy in force when left out
    file: Option<String>,
}

/// What `policy explain` takes.
#[derive(Args)]
pub(crate) struct ExplainArgs {
    /// The name or id of the node that reaches
    src: String,
    /// The name or id of the node that is reached
    dst: String,
    /// The port; none for ICMP
    #[arg(required_unless_present_any = ["proto"], value_parser = clap::value_parser!(u32).range(1..=65_535))]
    port: Option<u32>,
    /// How it is reached
    #[arg(long, value_parser = ["tcp", "udp", "icmp"], default_value_if("port", clap::builder::ArgPredicate::IsPresent, "tcp"))]
    proto: Option<String>,
    /// By this document rather than by the policy in force
    #[arg(long, value_name = "FILE")]
    document: Option<String>,
}

/// What `tag` takes.
#[derive(Args)]
pub(crate) struct TagArgs {
    /// The node's name or id
    node: String,
    /// Its tags from now on; none takes all away
    tags: Vec<String>,
}

/// Runs one of the commands on the policy.
pub(crate) async fn policy(command: PolicyCommand, api: &Api) -> Result<()> {
    match command {
        PolicyCommand::Get => get(api).await,
        PolicyCommand::Set(args) => set(args, api).await,
        PolicyCommand::Check(args) => test(Some(&args.file), api).await,
        PolicyCommand::Test(args) => test(args.file.as_deref(), api).await,
        PolicyCommand::Explain(args) => explain(args, api).await,
    }
}

/// Gives a node other tags.
pub(crate) async fn tag(args: TagArgs, api: &Api) -> Result<()> {
    let node = resolve(&args.node, api).await?;
    let tagged = api.client.tag_node(node.id, args.tags).await?;
    api.output.record(&tagged, &FIELDS)
}

async fn get(api: &Api) -> Result<()> {
    let view = api.client.policy().await?;
    if view.is_standard {
        talk("the standard policy is in force: nothing was said yet");
    } else {
        talk(&format!("version {}", view.version));
    }
    let text = serde_json::to_string_pretty(&view.document).context("write JSON")?;
    api.output.text(&view, &format!("{text}\n"))
}

async fn set(args: SetArgs, api: &Api) -> Result<()> {
    let request = PutPolicy {
        document: read(&args.file)?,
        version: args.version,
    };
    let view = api.client.put_policy(&request).await?;
    api.output
        .text(&view, &format!("version {} is in force\n", view.version))
}

async fn test(file: Option<&str>, api: &Api) -> Result<()> {
    let document = file.map(read).transpose()?;
    let tested = api.client.test_policy(&TestPolicy { document }).await?;
    let mut text = format!("{} grants, {} tests", tested.grants, tested.tests);
    if tested.passed {
        text.push_str(": all hold\n");
        return api.output.text(&tested, &text);
    }
    text.push_str(&format!(": {} fail\n", tested.failures.len()));
    for failure in &tested.failures {
        text.push_str(&format!("{}: {}\n", failure.path, failure.reason));
    }
    api.output.text(&tested, &text)?;
    Err(hinted(
        "tests of the policy fail".to_owned(),
        "`runmesh policy explain` says which grant decides between two nodes",
    ))
}

async fn explain(args: ExplainArgs, api: &Api) -> Result<()> {
    let request = ExplainPolicy {
        src: args.src,
        dst: args.dst,
        port: args.port,
        proto: args.proto.map(word).transpose()?,
        document: args.document.as_deref().map(read).transpose()?,
    };
    let explained = api.client.explain_policy(&request).await?;
    let text = in_words(&explained);
    api.output.text(&explained, &text)
}

fn in_words(explained: &PolicyExplained) -> String {
    let PolicyExplained {
        src, dst, service, ..
    } = explained;
    let verdict = if explained.accepted { "may" } else { "may not" };
    let by = match (explained.grant, &explained.text) {
        (Some(number), Some(grant)) => format!("grants[{number}] says so: {grant}"),
        _ if explained.accepted => "it is built in: work comes that way".to_owned(),
        _ => "no grant says so".to_owned(),
    };
    format!("{src} {verdict} reach {service} of {dst}: {by}\n")
}

fn read(file: &str) -> Result<Value> {
    let text = if file == "-" {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        read.map(|_| text).context("read standard input")?
    } else {
        std::fs::read_to_string(file).with_context(|| format!("read {file}"))?
    };
    serde_json::from_str(&text).with_context(|| format!("{file} is not JSON"))
}

#[cfg(test)]
mod tests {
    use api::policy::DecidedBy;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_decision_is_said_in_one_sentence() {
        let denied = PolicyExplained {
            src: "a".to_owned(),
            dst: "b".to_owned(),
            service: "tcp:22".to_owned(),
            accepted: false,
            by: None,
            grant: None,
            text: None,
        };
        assert_eq!(
            in_words(&denied),
            "a may not reach tcp:22 of b: no grant says so\n"
        );
        let granted = PolicyExplained {
            accepted: true,
            by: Some(DecidedBy::Grant),
            grant: Some(2),
            text: Some(json!({"src": ["*"]})),
            ..denied
        };
        assert_eq!(
            in_words(&granted),
            "a may reach tcp:22 of b: grants[2] says so: {\"src\":[\"*\"]}\n"
        );
    }
}
