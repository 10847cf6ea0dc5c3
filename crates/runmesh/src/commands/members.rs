//! `runmesh members`: list the people of the org, add one, take one out.

use anyhow::Result;
use api::orgs::CreateMember;
use api::page::PageQuery;
use clap::{Args, Subcommand};

use super::nodes::word;
use super::{Api, read_id};
use crate::output::talk;
use crate::table::Column;

/// What to do with members.
#[derive(Subcommand)]
pub(crate) enum MembersCommand {
    /// Add a person; their first key is shown once
    Create(CreateArgs),
    /// List the people of the org
    List(ListArgs),
    /// Take a person out: their keys and sessions stop working, their devices are shut out for ever
    Delete(DeleteArgs),
}

/// What `members create` takes.
#[derive(Args)]
pub(crate) struct CreateArgs {
    /// What to call them
    name: String,
    /// What they are to be
    #[arg(long, value_parser = ["member", "admin"], default_value = "member")]
    role: String,
}

/// What `members list` takes.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// How many rows, 1 to 100
    #[arg(long)]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

/// What `members delete` takes.
#[derive(Args)]
pub(crate) struct DeleteArgs {
    /// The person's id
    id: String,
}

const COLUMNS: [Column; 4] = [
    ("NAME", "/name"),
    ("ROLE", "/role"),
    ("SINCE", "/createdAt"),
    ("ID", "/userId"),
];

const FIELDS: [Column; 4] = [
    ("name", "/name"),
    ("role", "/role"),
    ("since", "/createdAt"),
    ("id", "/userId"),
];

const CREATED: [Column; 4] = [
    ("key", "/apiKey/key"),
    ("name", "/member/name"),
    ("role", "/member/role"),
    ("id", "/member/userId"),
];

/// Runs one of the commands on members.
pub(crate) async fn members(command: MembersCommand, api: &Api) -> Result<()> {
    let org = api.client.current_organization().await?.id;
    match command {
        MembersCommand::Create(args) => {
            let request = CreateMember {
                name: args.name,
                role: word(args.role)?,
            };
            let created = api.client.create_member(org, &request).await?;
            talk("this is the only time the key is shown; whoever has it is this person");
            api.output.record(&created, &CREATED)
        }
        MembersCommand::List(args) => {
            let query = PageQuery {
                limit: args.limit,
                cursor: args.cursor,
            };
            api.output.page(&api.client.members(org, &query).await?, &COLUMNS)
        }
        MembersCommand::Delete(args) => {
            let id = read_id(&args.id, "user", "members list")?;
            api.output
                .record(&api.client.remove_member(org, id).await?, &FIELDS)
        }
    }
}
