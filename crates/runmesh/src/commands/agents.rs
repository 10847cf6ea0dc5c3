//! `runmesh agents`: make, list, show and delete agents.

use anyhow::{Context, Result};
use api::agents::{AgentSettings, AgentsQuery, PutAgent};
use clap::{Args, Subcommand};
use serde_json::json;

use super::Api;
use super::nodes::{resolve, word};
use crate::failure::hinted;
use crate::table::Column;

/// What to do with agents.
#[derive(Subcommand)]
pub(crate) enum AgentsCommand {
    /// Make an agent, or replace its settings
    Create(Box<CreateArgs>),
    /// List agents
    List(ListArgs),
    /// Show an agent
    Show(AgentArgs),
    /// Delete an agent; its threads stay
    Delete(AgentArgs),
}

/// What `agents create` takes.
#[derive(Args)]
pub(crate) struct CreateArgs {
    /// Its name in addresses: lower-case letters, digits and inner hyphens
    slug: String,
    /// The device that executes its runs: a node's name or id
    #[arg(long, value_name = "NODE")]
    device: Option<String>,
    /// Where its runs are executed; `local-mac` (any device) when --device is given
    #[arg(long, value_parser = ["local-mac", "in_sandbox", "managed"])]
    mode: Option<String>,
    /// Which program of the device executes it: NAME or acp:NAME for an agent program, command:NAME for any other
    #[arg(long, value_name = "RUNNER")]
    runner: Option<String>,
    /// The folder on the device that it works in; the device's policy decides
    #[arg(long, value_name = "DIR")]
    folder: Option<String>,
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// The model
    #[arg(long)]
    model: Option<String>,
    /// What it is told about itself
    #[arg(long)]
    system_prompt: Option<String>,
    /// The most turns of one run, 1 to 100
    #[arg(long)]
    max_iterations: Option<u32>,
    /// The most tokens of one run, 1 to 128000
    #[arg(long)]
    max_tokens: Option<u32>,
    /// A variable for the runner, NAME=VALUE; may be given several times; the device's policy decides
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
}

/// What `agents list` takes.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// Those of everyone in the org (admins only)
    #[arg(long)]
    all: bool,
    /// How many rows, 1 to 100
    #[arg(long)]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

/// What `agents show` and `agents delete` take.
#[derive(Args)]
pub(crate) struct AgentArgs {
    /// The agent's slug
    slug: String,
}

const COLUMNS: [Column; 6] = [
    ("SLUG", "/slug"),
    ("MODE", "/executionMode"),
    ("DEVICE", "/targetDeviceId"),
    ("RUNNER", "/runner/name"),
    ("VERSION", "/version"),
    ("UPDATED", "/updatedAt"),
];

const FIELDS: [Column; 16] = [
    ("slug", "/slug"),
    ("id", "/id"),
    ("action", "/action"),
    ("name", "/name"),
    ("description", "/description"),
    ("mode", "/executionMode"),
    ("device", "/targetDeviceId"),
    ("runner", "/runner"),
    ("folder", "/defaultFolderHint"),
    ("model", "/model"),
    ("max iterations", "/maxIterations"),
    ("max tokens", "/maxTokens"),
    ("version", "/version"),
    ("endpoint", "/endpoint"),
    ("created", "/createdAt"),
    ("updated", "/updatedAt"),
];

/// Runs one of the commands on agents.
pub(crate) async fn agents(command: AgentsCommand, api: &Api) -> Result<()> {
    match command {
        AgentsCommand::Create(args) => create(*args, api).await,
        AgentsCommand::List(args) => {
            let query = AgentsQuery {
                all: args.all.then_some(true),
                limit: args.limit,
                cursor: args.cursor,
            };
            api.output.page(&api.client.agents(&query).await?, &COLUMNS)
        }
        AgentsCommand::Show(args) => {
            let slug = args.slug.parse().context("read the slug")?;
            api.output.record(&api.client.agent(&slug).await?, &FIELDS)
        }
        AgentsCommand::Delete(args) => {
            let slug = args.slug.parse().context("read the slug")?;
            api.client.delete_agent(&slug).await?;
            let answer = json!({ "slug": args.slug, "deleted": true });
            api.output
                .record(&answer, &[("slug", "/slug"), ("deleted", "/deleted")])
        }
    }
}

async fn create(args: CreateArgs, api: &Api) -> Result<()> {
    let device = match &args.device {
        Some(device) => Some(resolve(device, api).await?.id),
        None => None,
    };
    let implied = if device.is_some() {
        "local-mac"
    } else {
        "in_sandbox"
    };
    let runner = args.runner.as_deref().map(|text| {
        let (runner_type, name) = text.split_once(':').unwrap_or(("acp", text));
        let spec = serde_json::from_value(json!({ "type": runner_type, "name": name }));
        spec.map_err(|_| {
            hinted(
                format!("`{text}` is no runner"),
                "write it like goose, acp:goose or command:NAME",
            )
        })
    });
    let pairs = args.env.iter().map(|pair| match pair.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(hinted(
            format!("`{pair}` is no variable"),
            "write it like NAME=VALUE",
        )),
    });
    let request = PutAgent {
        slug: args.slug.parse().context("read the slug")?,
        settings: AgentSettings {
            execution_mode: word(args.mode.unwrap_or_else(|| implied.to_owned()))?,
            env: pairs.collect::<Result<_>>()?,
            runner: runner.transpose()?,
            target_device_id: device,
            default_folder_hint: args.folder,
            name: args.name,
            description: args.description,
            model: args.model,
            system_prompt: args.system_prompt,
            max_iterations: args.max_iterations,
            max_tokens: args.max_tokens,
            ..AgentSettings::default()
        },
    };
    api.output.record(&api.client.put_agent(&request).await?, &FIELDS)
}
