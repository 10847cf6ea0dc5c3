//! `runmesh keys`: make, list and delete API keys.

use anyhow::Result;
use api::api_keys::{ApiKeysQuery, CreateApiKey};
use clap::{Args, Subcommand};

use super::nodes::word;
use super::{Api, read_id};
use crate::output::talk;
use crate::table::Column;

/// What to do with keys.
#[derive(Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key; it is shown once
    Create(CreateArgs),
    /// List keys
    List(ListArgs),
    /// Delete a key: it stops working at once
    Delete(DeleteArgs),
}

/// What `keys create` takes.
#[derive(Args)]
pub(crate) struct CreateArgs {
    /// What to call it
    name: String,
    /// A scope, such as `runmesh:read`; may be given several times; all that the caller has by default
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// How long it lives; for ever by default
    #[arg(long, value_parser = ["30d", "90d", "1y"])]
    expires_in: Option<String>,
    /// Make a test key (`rt_test_…`)
    #[arg(long)]
    test: bool,
}

/// What `keys list` takes.
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

/// What `keys delete` takes.
#[derive(Args)]
pub(crate) struct DeleteArgs {
    /// The key's id
    id: String,
}

const COLUMNS: [Column; 6] = [
    ("NAME", "/name"),
    ("PREFIX", "/prefix"),
    ("SCOPES", "/scopes"),
    ("EXPIRES", "/expiresAt"),
    ("REVOKED", "/revokedAt"),
    ("ID", "/id"),
];

const FIELDS: [Column; 7] = [
    ("key", "/key"),
    ("name", "/name"),
    ("id", "/id"),
    ("scopes", "/scopes"),
    ("created", "/createdAt"),
    ("expires", "/expiresAt"),
    ("revoked", "/revokedAt"),
];

/// Runs one of the commands on keys.
pub(crate) async fn keys(command: KeysCommand, api: &Api) -> Result<()> {
    match command {
        KeysCommand::Create(args) => create(args, api).await,
        KeysCommand::List(args) => list(args, api).await,
        KeysCommand::Delete(args) => {
            let id = read_id(&args.id, "key", "keys list")?;
            api.output.record(&api.client.revoke_api_key(id).await?, &FIELDS)
        }
    }
}

async fn create(args: CreateArgs, api: &Api) -> Result<()> {
    let scopes = args.scopes.into_iter().map(word).collect::<Result<Vec<_>>>()?;
    let request = CreateApiKey {
        name: args.name,
        scopes: (!scopes.is_empty()).then_some(scopes),
        expires_in: args.expires_in.map(word).transpose()?,
        is_test: args.test,
    };
    let created = api.client.create_api_key(&request).await?;
    talk("this is the only time the key is shown");
    api.output.record(&created, &FIELDS)
}

async fn list(args: ListArgs, api: &Api) -> Result<()> {
    let query = ApiKeysQuery {
        all: args.all.then_some(true),
        limit: args.limit,
        cursor: args.cursor,
    };
    api.output.page(&api.client.api_keys(&query).await?, &COLUMNS)
}
