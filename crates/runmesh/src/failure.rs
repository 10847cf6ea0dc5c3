//! How a command ends badly: `error: …`, an empty line, `hint: …` on stderr, and an exit code. With `--json` the same as
//! one line, the last on stderr: `{"error":{"code":…,"message":…,"hint":…}}`, where the code is the API's if it was the
//! API that said no, else `failed` or `usage`.
//!
//! 1 means the command was understood and failed, 2 that it was not understood.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use api::ErrorCode;
use api::client::ClientError;
use clap::error::ErrorKind;
use control::ServeError;
use node::NodeError;
use node::link::LinkError;
use node::names::host::ResolverError;
use node::names::system::SystemError;
use node::reach::proxy::ProxyError;
use node::state_dir::StateDirError;
use node::tun::TunError;
use serde_json::json;

use crate::output::talk;
use crate::terminal;

/// An error of the command line itself, with the hint that fits it.
#[derive(Debug)]
pub(crate) struct Hinted {
    message: String,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {}

/// Makes an error with its hint.
pub(crate) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    let (message, hint) = (message.into(), hint.into());
    anyhow::Error::new(Hinted { message, hint })
}

/// How a failure is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Form {
    /// JSON when the command line asks for it.
    pub(crate) fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    fn say(self, code: &str, message: &str, hint: &str) {
        match self {
            Self::Text => talk(&format!("error: {message}\n\nhint: {hint}")),
            Self::Json => {
                let error = json!({ "error": { "code": code, "message": message, "hint": hint } });
                talk(&terminal::json(&error.to_string()));
            }
        }
    }
}

/// Says what went wrong and what to do, and returns the exit code.
pub(crate) fn report(error: &anyhow::Error, form: Form) -> ExitCode {
    if reader_is_gone(error) {
        return ExitCode::SUCCESS;
    }
    let client = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ClientError>());
    let code = match client.and_then(ClientError::api) {
        Some(body) => body.code.to_string(),
        None => "failed".to_owned(),
    };
    form.say(&code, &format!("{error:#}"), &hint(error));
    ExitCode::FAILURE
}

/// Says what was not understood, in the same shape, and returns the exit code.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    // The words were not understood, so this one is looked for by itself.
    let form = Form::of(std::env::args_os().any(|word| word == "--json"));
    if !error.use_stderr() {
        // Help and version were asked for: they are the data.
        let printed = error.print().and_then(|()| io::stdout().flush());
        return match printed.context("write to stdout") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => report(&error, form),
        };
    }
    let text = error.render().to_string();
    let text = text
        .trim_end()
        .trim_end_matches("For more information, try '--help'.")
        .trim_end();
    let text = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => format!("a command is needed\n\n{text}"),
        _ => text.trim_start_matches("error: ").to_owned(),
    };
    form.say("usage", &text, "add --help to see what this command takes");
    ExitCode::from(2)
}

/// `runmesh nodes | head -1` closes the pipe early; that is no failure.
fn reader_is_gone(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn hint(error: &anyhow::Error) -> String {
    for cause in error.chain() {
        if let Some(hinted) = cause.downcast_ref::<Hinted>() {
            return hinted.hint.clone();
        }
        if let Some(client) = cause.downcast_ref::<ClientError>() {
            return client_hint(client).to_owned();
        }
        if let Some(node) = cause.downcast_ref::<NodeError>() {
            return node_hint(node).to_owned();
        }
        if let Some(state) = cause.downcast_ref::<StateDirError>() {
            return state_hint(state).to_owned();
        }
        if let Some(serve) = cause.downcast_ref::<ServeError>() {
            return serve_hint(serve).to_owned();
        }
        let io = cause.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::StorageFull) {
            return "there is no room left where this goes: make some, then run it again".to_owned();
        }
    }
    "run it again with RUST_LOG=debug to see every step".to_owned()
}

fn node_hint(error: &NodeError) -> &'static str {
    match error {
        NodeError::State(state) => state_hint(state),
        NodeError::Policy(_) => "docs/operating/policy-file.md shows what may stand in it",
        NodeError::Journal(_) => {
            "it holds events that the control plane may not have yet: move it away only when they may be lost"
        }
        NodeError::Link(LinkError::Refused(client)) => client_hint(client),
        NodeError::Link(LinkError::State(state)) => state_hint(state),
        NodeError::Link(LinkError::Revoked(_)) => {
            "to link this machine again, start with a fresh --state-dir"
        }
        NodeError::Link(_) => "start `runmesh up` again for a new code",
        NodeError::NoServer | NodeError::BadServer => "write it like --server https://mesh.example.com",
        NodeError::OtherServer(_) => "leave out --server to start with the control plane it is linked to",
        NodeError::Socket { .. } => {
            "the path of the state directory may be too long for a socket: choose a shorter one"
        }
        NodeError::Proxy(ProxyError::Open(_)) => {
            "choose an address of 127.0.0.1, or give a password with --proxy-password-file"
        }
        NodeError::Proxy(ProxyError::Listen { .. }) => {
            "another program may have that port: choose another with --proxy"
        }
        NodeError::Tun(tun) => tun_hint(tun),
        NodeError::Resolver(ResolverError::Open(_)) => "choose an address of 127.0.0.1 with --dns-listen",
        NodeError::Resolver(ResolverError::Listen { .. }) => {
            "another program may have that port: choose another with --dns-listen"
        }
        NodeError::System(error) => system_hint(error),
        NodeError::Mesh(_) => "another program may have that port: leave out --listen to take any free one",
    }
}

fn tun_hint(error: &TunError) -> &'static str {
    match error {
        TunError::NotPermitted(_) => {
            "start it as root, or give it the capability: setcap cap_net_admin+ep /path/to/runmesh; without --tun it needs neither"
        }
        TunError::NotThere(_) => {
            "load the kernel's module (modprobe tun) or give the container /dev/net/tun; without --tun none is needed"
        }
        TunError::NameTaken(_) => "another node may run with it: choose another name with --tun-name",
        TunError::NameNotPossible(_) => "leave out --tun-name to take any free one, or choose one like utun7",
        TunError::AddressTaken { .. } => {
            "leave that network (a carrier's, or another VPN's), or start without --tun: then the host needs no mesh address"
        }
        TunError::Lost(_) => {
            "start it again for a new device; whoever removed the last one may remove that, too"
        }
        TunError::System { .. } => "run it again with RUST_LOG=debug to see every step, or without --tun",
    }
}

fn system_hint(error: &SystemError) -> &'static str {
    match error {
        SystemError::NotRoot => {
            "start it as root, or give --dns-listen alone and ask that address: nothing of the system is changed then"
        }
        SystemError::NoResolver(_) => {
            "start systemd-resolved, or give --dns-listen alone and lead the names there yourself: docs/concepts/names.md"
        }
        SystemError::Command { .. } | SystemError::File { .. } | SystemError::Foreign(_) => {
            "give --dns-listen alone to leave the system as it is"
        }
    }
}

fn serve_hint(error: &ServeError) -> &'static str {
    match error {
        ServeError::DataDir { .. } => {
            "check that the directory can be written to, or choose another --data-dir"
        }
        ServeError::InUse { .. } => "stop it, or choose another --data-dir",
        ServeError::Provider(_) => "check the --oidc-… options: docs/operating/sign-in.md says what each is",
        ServeError::Database(_) => "the data directory or --database-url says which database it is",
        ServeError::Mesh(_) => "another program may have that UDP port: choose another with --mesh-listen",
        ServeError::Relay(_) => {
            "another program may have that UDP port: choose another with --relay-listen, or none with --no-relay"
        }
        ServeError::Listen { .. } => "another program may have that port: choose another with --listen",
    }
}

fn state_hint(error: &StateDirError) -> &'static str {
    match error {
        StateDirError::InUse(_) => "`runmesh status` shows the node that is running there",
        StateDirError::ForeignOwner(_) => {
            "start it as the user who owns the directory, or choose another --state-dir"
        }
        StateDirError::Io { .. } => {
            "check that the directory can be written to, or choose another --state-dir"
        }
        StateDirError::BadKey { .. } => "without that key this device is another node to its org",
        StateDirError::BadJson { .. } => {
            "the file is written whole or not at all, so something else changed it"
        }
    }
}

fn client_hint(error: &ClientError) -> &'static str {
    match error {
        ClientError::Api(body) => code_hint(body.code),
        ClientError::NotOurs { .. } => "check RUNTOOLS_API_URL: something else listens there",
        ClientError::TooLarge => "ask for less with --limit",
        ClientError::BadUrl => "write RUNTOOLS_API_URL like http://127.0.0.1:7420",
        _ => "is `runmesh serve` running? RUNTOOLS_API_URL or --api-url says where",
    }
}

fn code_hint(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest => "add --help to see what this command takes",
        ErrorCode::Unauthorized => {
            "set RUNTOOLS_API_KEY, or pass --api-key; the first start of `runmesh serve` prints one"
        }
        ErrorCode::InvalidToken => {
            "check RUNTOOLS_API_KEY: this server does not know the key, or it was deleted"
        }
        ErrorCode::TokenExpired => "make a new key with `runmesh keys create`",
        ErrorCode::Forbidden => "the key lacks a scope or a role; `runmesh keys list` shows what it may do",
        ErrorCode::NotFound => {
            "look with `runmesh nodes`, `agents list`, `runs` or `threads`; the key decides the org"
        }
        ErrorCode::Conflict => "look at how things stand now, then decide again",
        ErrorCode::DeviceOffline => "start `runmesh up` on the device, or let the run wait for it",
        ErrorCode::DeviceRevoked => "a revoked device never comes back: link it again with a new key",
        ErrorCode::Gone => "start `runmesh up` again on the device for a new code",
        ErrorCode::PayloadTooLarge => "send less at once",
        ErrorCode::RateLimited => "wait a moment and try again",
        ErrorCode::InternalError => "the request id above stands in the server's log, with the reason",
        _ => "this server may be newer than this program",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_of_the_cause_is_found_under_context() {
        let error = hinted("no such folder", "make it first").context("start the node");
        assert_eq!(hint(&error), "make it first");
        assert_eq!(format!("{error:#}"), "start the node: no such folder");
    }

    #[test]
    fn every_error_has_a_hint() {
        assert!(!hint(&anyhow::anyhow!("anything")).is_empty());
        for code in ErrorCode::ALL {
            assert!(!code_hint(*code).is_empty());
        }
    }
}
