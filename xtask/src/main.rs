//! The tasks of this repository: checks, tests and the demo. Start it as `cargo xtask`.
//!
//! Not part of the product: nothing under `crates/` may depend on it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod agents;
mod check_macos;
mod ci;
mod command;
mod demo;
mod fuzz_api;
mod lab;
mod npm;
mod postgres;
mod sim;
mod test_programs;
mod tidy;
mod tools;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks, tests and the demo of RunMesh")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs the real agents and the sign-in provider that the tests start, under target/.
    Agents,
    /// Checks and lints the program for macOS, on Linux; nothing is linked or run.
    CheckMacos {
        /// Check instead that a mistake in the code for macOS makes it fail
        #[arg(long)]
        prove: bool,
    },
    /// Everything a change must pass: fmt, clippy, check-macos, doc, tidy, deny, OpenAPI drift, test.
    Ci,
    /// Shows the whole way on this machine: link a device, run an agent on it, revoke it.
    Demo {
        /// Print the report as one JSON object on the last line of stdout
        #[arg(long)]
        json: bool,
    },
    /// Checks licences, sources and banned crates of all dependencies by deny.toml.
    Deny,
    /// Fuzzes the API of a running control plane with schemathesis, by its OpenAPI document.
    FuzzApi {
        /// About how many cases; edges are tried besides
        #[arg(long, default_value_t = 3000)]
        cases: u32,
        /// Repeats the cases of one run
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Runs the lab: real programs in network namespaces with NATs between them. Needs root.
    Lab {
        /// Only the cells whose names contain one of these words
        cells: Vec<String>,
        /// Print a list of what each cell did as JSON
        #[arg(long)]
        json: bool,
    },
    /// Writes openapi/runmesh.json anew from the routes.
    Openapi,
    /// Runs seeds of the simulation: for each a random world held against the reference model, and a measured pair of NATs.
    Sim {
        /// How many seeds, from 0 on
        #[arg(long, default_value_t = 100, conflicts_with = "seed")]
        seeds: u64,
        /// Runs this one only
        #[arg(long)]
        seed: Option<u64>,
        /// Print the figures as one JSON object on stdout
        #[arg(long)]
        json: bool,
    },
    /// Checks the rules of ARCHITECTURE.md that a machine can check.
    Tidy,
    /// Installs what the tests need and runs all of them.
    Test,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Agents => {
            agents::install_all();
            tools::install_oidc_provider().map(|_| ())
        }
        Task::CheckMacos { prove: false } => check_macos::run(),
        Task::CheckMacos { prove: true } => check_macos::prove(),
        Task::Ci => ci::run_all(),
        Task::Demo { json } => demo::run(json),
        Task::Deny => ci::deny(),
        Task::FuzzApi { cases, seed } => fuzz_api::run(cases, seed),
        Task::Lab { cells, json } => lab::run(&cells, json),
        Task::Openapi => ci::write_openapi(),
        Task::Sim { seeds, seed, json } => {
            let seeds = seed.map_or(sim::Seeds::First(seeds), sim::Seeds::One);
            sim::run(seeds, json)
        }
        Task::Tidy => tidy::run(),
        Task::Test => ci::test(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
