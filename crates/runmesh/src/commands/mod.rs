//! One file per noun: what each command takes, does and prints.

use std::str::FromStr;

use anyhow::{Context, Result};
use api::client::Client;
use tokio::runtime::{Builder, Runtime};

use crate::cli::{Cli, Command, Global};
use crate::failure::hinted;
use crate::log;
use crate::output::Output;

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod auth_keys;
pub(crate) mod bugreport;
pub(crate) mod expose;
pub(crate) mod follow;
pub(crate) mod forward;
pub(crate) mod invitations;
pub(crate) mod keys;
pub(crate) mod links;
pub(crate) mod members;
pub(crate) mod netcheck;
pub(crate) mod nodes;
pub(crate) mod overview;
pub(crate) mod ping;
pub(crate) mod policy;
pub(crate) mod ports;
pub(crate) mod relay;
pub(crate) mod relays;
pub(crate) mod rotate_key;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod serve;
pub(crate) mod sessions;
pub(crate) mod status;
pub(crate) mod thread_text;
pub(crate) mod threads;
pub(crate) mod up;

/// What a command that asks the API needs.
pub(crate) struct Api {
    /// The API, with the caller's credential.
    pub(crate) client: Client,
    /// Where data goes.
    pub(crate) output: Output,
}

/// Reads an id as people pass it; `list` is the command that lists ids of its kind.
pub(crate) fn read_id<T: FromStr>(text: &str, kind: &str, list: &str) -> Result<T> {
    let wrong = |_| {
        hinted(
            format!("`{text}` is no {kind} id"),
            format!("`runmesh {list}` lists them"),
        )
    };
    text.parse().map_err(wrong)
}

/// Runs one command to its end.
pub(crate) fn run(cli: Cli) -> Result<()> {
    // A second provider in the process is the only way to fail, and then one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let output = Output::new(cli.global.json);
    match cli.command {
        Command::Serve(args) => {
            log::to_stderr("info");
            to_the_end(server_runtime()?, serve::serve(args, output))
        }
        Command::Relay(args) => {
            log::to_stderr("info");
            to_the_end(server_runtime()?, relay::relay(args, output))
        }
        Command::Up(args) => {
            let log = log::to_stderr_and_tail("warn");
            to_the_end(
                node::footprint::runtime().context("start the runtime")?,
                up::up(args, log, output),
            )
        }
        Command::Forward(args) => {
            log::to_stderr("warn");
            to_the_end(client_runtime()?, forward::forward(args, output))
        }
        Command::Expose(args) => {
            log::to_stderr("warn");
            to_the_end(client_runtime()?, expose::expose(args, output))
        }
        Command::Ports(args) => {
            log::to_stderr("warn");
            to_the_end(client_runtime()?, ports::ports(args, output))
        }
        Command::Ping(args) => {
            log::to_stderr("warn");
            to_the_end(client_runtime()?, ping::ping(args, output))
        }
        Command::Netcheck(args) => {
            log::to_stderr("warn");
            to_the_end(client_runtime()?, netcheck::netcheck(args, output))
        }
        Command::Bugreport(args) => {
            log::to_stderr("warn");
            to_the_end(client_runtime()?, bugreport::bugreport(args))
        }
        Command::Status(args) => {
            log::to_stderr("warn");
            to_the_end(client_runtime()?, status::status(args, output))
        }
        Command::RotateKey(args) => {
            log::to_stderr("warn");
            to_the_end(client_runtime()?, rotate_key::rotate(args, output))
        }
        command => {
            log::to_stderr("warn");
            to_the_end(client_runtime()?, ask(command, &cli.global, output))
        }
    }
}

fn to_the_end(runtime: Runtime, command: impl Future<Output = Result<()>>) -> Result<()> {
    let ended = runtime.block_on(command);
    // Everything that matters is done; a name that is still being resolved must not keep the process.
    runtime.shutdown_background();
    ended
}

/// Runs a command that only asks the API.
async fn ask(command: Command, global: &Global, output: Output) -> Result<()> {
    let client = Client::new(&global.api_url, global.api_key.clone().map(Into::into))?;
    let api = Api { client, output };
    match command {
        Command::Approve(args) => links::approve(args, &api).await,
        Command::Deny(args) => links::deny(args, &api).await,
        Command::Overview(args) => overview::overview(&args, &api).await,
        Command::Nodes(args) => nodes::list(args, &api).await,
        Command::Node(args) => nodes::show(&args, &api).await,
        Command::Rename(args) => nodes::rename(&args, &api).await,
        Command::Revoke(args) => nodes::revoke(&args, &api).await,
        Command::Config(args) => nodes::config(&args, &api).await,
        Command::Relays => relays::list(&api).await,
        Command::Tag(args) => policy::tag(args, &api).await,
        Command::Policy(command) => policy::policy(command, &api).await,
        Command::Audit(args) => audit::list(args, &api).await,
        Command::Keys(command) => keys::keys(command, &api).await,
        Command::Members(command) => members::members(command, &api).await,
        Command::AuthKeys(command) => auth_keys::auth_keys(command, &api).await,
        Command::Invitations(command) => invitations::invitations(command, &api).await,
        Command::Sessions(command) => sessions::sessions(command, &api).await,
        Command::Agents(command) => agents::agents(command, &api).await,
        Command::Run(args) => run::run(args, &api).await,
        Command::Runs(args) => runs::runs(args, &api).await,
        Command::Cancel(args) => runs::cancel(&args, &api).await,
        Command::Threads(args) => threads::list(args, &api).await,
        Command::Thread(args) => threads::show(args, &api).await,
        Command::Serve(_)
        | Command::Relay(_)
        | Command::Up(_)
        | Command::Forward(_)
        | Command::Expose(_)
        | Command::Ports(_)
        | Command::Ping(_)
        | Command::Netcheck(_)
        | Command::Bugreport(_)
        | Command::Status(_)
        | Command::RotateKey(_) => {
            unreachable!("these commands do not ask the API")
        }
    }
}

fn server_runtime() -> Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

fn client_runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}
