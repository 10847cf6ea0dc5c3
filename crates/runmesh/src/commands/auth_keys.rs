//! `runmesh auth-keys`: keys by which servers and sandboxes join without an approval.

use anyhow::Result;
use api::auth_keys::CreateAuthKey;
use api::page::PageQuery;
use clap::{Args, Subcommand};

use super::{Api, read_id};
use crate::output::talk;
use crate::table::Column;

/// What to do with auth keys.
#[derive(Subcommand)]
pub(crate) enum AuthKeysCommand {
    /// Make a key; it is shown once
    Create(CreateArgs),
    /// List keys, spent ones too
    List(ListArgs),
    /// Revoke a key; nodes that joined by it stay
    Delete(DeleteArgs),
}

/// What `auth-keys create` takes.
#[derive(Args)]
pub(crate) struct CreateArgs {
    /// What to call it
    name: String,
    /// Let in more than one node
    #[arg(long)]
    reusable: bool,
    /// Nodes that join by it vanish a minute after they have gone
    #[arg(long)]
    ephemeral: bool,
    /// A tag of the nodes that join by it; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// How long it lives, in seconds, at most 7776000; one hour when left out
    #[arg(long, value_name = "SECONDS")]
    expires_in: Option<u32>,
}

/// What `auth-keys list` takes.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// How many rows, 1 to 100
    #[arg(long)]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

/// What `auth-keys delete` takes.
#[derive(Args)]
pub(crate) struct DeleteArgs {
    /// The key's id
    id: String,
}

const COLUMNS: [Column; 8] = [
    ("NAME", "/name"),
    ("KEY", "/prefix"),
    ("REUSABLE", "/reusable"),
    ("EPHEMERAL", "/ephemeral"),
    ("USES", "/uses"),
    ("EXPIRES", "/expiresAt"),
    ("REVOKED", "/revokedAt"),
    ("ID", "/id"),
];

const FIELDS: [Column; 9] = [
    ("key", "/key"),
    ("id", "/id"),
    ("name", "/name"),
    ("reusable", "/reusable"),
    ("ephemeral", "/ephemeral"),
    ("tags", "/tags"),
    ("uses", "/uses"),
    ("expires", "/expiresAt"),
    ("revoked", "/revokedAt"),
];

/// Runs one of the commands on auth keys.
pub(crate) async fn auth_keys(command: AuthKeysCommand, api: &Api) -> Result<()> {
    match command {
        AuthKeysCommand::Create(args) => create(args, api).await,
        AuthKeysCommand::List(args) => {
            let query = PageQuery {
                limit: args.limit,
                cursor: args.cursor,
            };
            api.output.page(&api.client.auth_keys(&query).await?, &COLUMNS)
        }
        AuthKeysCommand::Delete(args) => {
            let id = read_id(&args.id, "auth key's", "auth-keys list")?;
            api.output.record(&api.client.revoke_auth_key(id).await?, &FIELDS)
        }
    }
}

async fn create(args: CreateArgs, api: &Api) -> Result<()> {
    let request = CreateAuthKey {
        name: args.name,
        reusable: args.reusable,
        ephemeral: args.ephemeral,
        tags: (!args.tags.is_empty()).then_some(args.tags),
        expires_in_seconds: args.expires_in,
    };
    let created = api.client.create_auth_key(&request).await?;
    talk("this is the only time the key is shown; give it to `runmesh up` as RUNMESH_AUTH_KEY");
    api.output.record(&created, &FIELDS)
}
