//! `runmesh invitations`: invite people who sign in at the provider, list invitations and take them back.

use anyhow::Result;
use api::invitations::CreateInvitation;
use api::page::PageQuery;
use clap::{Args, Subcommand};

use super::nodes::word;
use super::{Api, read_id};
use crate::output::talk;
use crate::table::Column;

/// What to do with invitations.
#[derive(Subcommand)]
pub(crate) enum InvitationsCommand {
    /// Invite a person; the link is shown once
    Create(CreateArgs),
    /// List invitations, spent ones too
    List(ListArgs),
    /// Take an invitation back
    Delete(DeleteArgs),
}

/// What `invitations create` takes.
#[derive(Args)]
pub(crate) struct CreateArgs {
    /// What the person is to be
    #[arg(long, value_parser = ["member", "admin"], default_value = "member")]
    role: String,
    /// Only for who has this address, verified by the provider; whoever holds the link when left out
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// How long it lives
    #[arg(long, value_parser = ["1d", "7d", "30d"], default_value = "7d")]
    expires_in: String,
}

/// What `invitations list` takes.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// How many rows, 1 to 100
    #[arg(long)]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

/// What `invitations delete` takes.
#[derive(Args)]
pub(crate) struct DeleteArgs {
    /// The invitation's id
    id: String,
}

const COLUMNS: [Column; 6] = [
    ("ROLE", "/role"),
    ("EMAIL", "/email"),
    ("EXPIRES", "/expiresAt"),
    ("ACCEPTED", "/acceptedAt"),
    ("REVOKED", "/revokedAt"),
    ("ID", "/id"),
];

const FIELDS: [Column; 7] = [
    ("link", "/url"),
    ("id", "/id"),
    ("role", "/role"),
    ("email", "/email"),
    ("expires", "/expiresAt"),
    ("accepted", "/acceptedAt"),
    ("revoked", "/revokedAt"),
];

/// Runs one of the commands on invitations.
pub(crate) async fn invitations(command: InvitationsCommand, api: &Api) -> Result<()> {
    match command {
        InvitationsCommand::Create(args) => create(args, api).await,
        InvitationsCommand::List(args) => {
            let query = PageQuery {
                limit: args.limit,
                cursor: args.cursor,
            };
            api.output.page(&api.client.invitations(&query).await?, &COLUMNS)
        }
        InvitationsCommand::Delete(args) => {
            let id = read_id(&args.id, "invitation", "invitations list")?;
            api.output
                .record(&api.client.revoke_invitation(id).await?, &FIELDS)
        }
    }
}

async fn create(args: CreateArgs, api: &Api) -> Result<()> {
    let request = CreateInvitation {
        role: word(args.role)?,
        email: args.email,
        expires_in: Some(word(args.expires_in)?),
    };
    let created = api.client.create_invitation(&request).await?;
    talk("this is the only time the link is shown; the first who uses it joins");
    api.output.record(&created, &FIELDS)
}
