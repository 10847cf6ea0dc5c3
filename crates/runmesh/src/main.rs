//! The `runmesh` program: the command line of the control plane, the node and the API.
//!
//! It parses words, calls a library, and prints. Data goes to stdout, talk to stderr; nothing here can do what the API
//! cannot.

use std::process::ExitCode;

mod cli;
mod commands;
mod failure;
mod interrupts;
mod log;
mod output;
mod table;
mod terminal;

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let form = failure::Form::of(cli.global.json);
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, form),
    }
}
