//! How a command ends badly: `error: …`, an empty line, `hint: …` on stderr, and an exit code.
//!
//! 1 means the command was understood and failed, 2 that it was not understood.

use std::fmt;
use std::io;
use std::process::ExitCode;

use api::ErrorCode;
use api::client::ClientError;
use clap::error::ErrorKind;

use crate::output::talk;

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

/// Says what went wrong and what to do, and returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if reader_is_gone(error) {
        return ExitCode::SUCCESS;
    }
    talk(&format!("error: {error:#}\n\nhint: {}", hint(error)));
    ExitCode::FAILURE
}

/// Says what was not understood, in the same shape, and returns the exit code.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Help and version were asked for: they are the data.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let mut text = error.render().to_string();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        text.insert_str(0, "error: a command is needed\n\n");
    }
    let text = text
        .trim_end()
        .trim_end_matches("For more information, try '--help'.")
        .trim_end();
    talk(&format!(
        "{text}\n\nhint: add --help to see what this command takes"
    ));
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
    }
    "run it again with RUST_LOG=debug to see every step".to_owned()
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
