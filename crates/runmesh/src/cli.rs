//! The words of the command line. What each command takes stands in the command's own file.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    agents, audit, auth_keys, bugreport, expose, forward, invitations, keys, links, members, netcheck, nodes,
    overview, ping, policy, ports, relay, rotate_key, run, runs, serve, sessions, status, threads, up,
};
use crate::failure;

/// Where the control plane listens unless told otherwise.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:7420";
/// The same as an address for clients.
const DEFAULT_API_URL: &str = "http://127.0.0.1:7420";

/// Where help shows what every command takes, so that a command's own words stand together.
const HEADING: &str = "For every command";

/// A private network for machines and AI agents, in one binary.
#[derive(Parser)]
#[command(name = "runmesh", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args)]
pub(crate) struct Global {
    /// Print one JSON document (JSON lines where output follows something) instead of tables
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
    /// The control plane's address
    #[arg(
        long,
        global = true,
        env = "RUNTOOLS_API_URL",
        default_value = DEFAULT_API_URL,
        value_name = "URL",
        help_heading = HEADING
    )]
    pub(crate) api_url: String,
    /// The API key; better in the environment, where other users of this machine cannot read it
    #[arg(
        long,
        global = true,
        env = "RUNTOOLS_API_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = HEADING
    )]
    pub(crate) api_key: Option<String>,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the control plane
    Serve(serve::ServeArgs),
    /// Run a relay by itself, for a control plane elsewhere
    Relay(relay::RelayArgs),
    /// Run this device's node; links it first when it is not linked yet
    Up(up::UpArgs),
    /// Reach a port of another node at a local port, as long as this runs or in the background
    Forward(forward::ForwardArgs),
    /// Offer a local port to the mesh, as long as this runs or in the background
    Expose(expose::ExposeArgs),
    /// List what of this device is exposed and forwarded
    Ports(ports::PortsArgs),
    /// Ask another node whether it is there: how far it is, by which path, and why by that one
    Ping(ping::PingArgs),
    /// Show what the networks around this device let through
    Netcheck(netcheck::NetcheckArgs),
    /// Print one JSON document for whoever is to find out what is wrong; no secrets are in it
    Bugreport(bugreport::BugreportArgs),
    /// Show this device's node, as it sees itself
    Status(status::StatusArgs),
    /// Give this device's node another key; it stays the same node, and nothing that it does is cut off
    RotateKey(rotate_key::RotateKeyArgs),
    /// Admit the device that shows a code
    Approve(links::ApproveArgs),
    /// Refuse the device that shows a code
    Deny(links::DenyArgs),
    /// Count nodes
    Overview(overview::OverviewArgs),
    /// List nodes
    Nodes(nodes::NodesArgs),
    /// Show one node
    Node(nodes::NodeArgs),
    /// Give a node another name
    Rename(nodes::RenameArgs),
    /// Shut a node out for ever
    Revoke(nodes::NodeArgs),
    /// Show a node's configuration
    Config(nodes::ConfigArgs),
    /// List the relays that nodes are given
    Relays,
    /// Give a node tags, which the policy speaks of
    Tag(policy::TagArgs),
    /// Show, change and try out who may reach what inside the mesh
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Show who did what
    Audit(audit::AuditArgs),
    /// List the people of the org, add one, or take one out
    #[command(subcommand)]
    Members(members::MembersCommand),
    /// Make, list and delete API keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Make, list and delete keys by which servers and sandboxes join
    #[command(subcommand)]
    AuthKeys(auth_keys::AuthKeysCommand),
    /// Invite people who sign in at the provider; list and take back invitations
    #[command(subcommand)]
    Invitations(invitations::InvitationsCommand),
    /// List signed-in browsers, or sign one out
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// Make, list, show and delete agents
    #[command(subcommand)]
    Agents(agents::AgentsCommand),
    /// Give an agent work and watch it to the end
    Run(run::RunArgs),
    /// List runs, or show one
    Runs(runs::RunsArgs),
    /// Cancel a run
    Cancel(runs::CancelArgs),
    /// List threads
    Threads(threads::ThreadsArgs),
    /// Show a thread's events
    Thread(threads::ThreadArgs),
}

/// Reads the command line; on words that make no sense, says so and returns the exit code.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| failure::report_usage(&error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_words_may_stand_after_the_command() {
        let cli =
            Cli::try_parse_from(["runmesh", "nodes", "--json", "--api-url", "http://a"]).expect("parses");
        assert!(cli.global.json);
        assert_eq!(cli.global.api_url, "http://a");
    }
}
