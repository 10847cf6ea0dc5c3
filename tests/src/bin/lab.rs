//! The lab as a program: `lab [CELL] [--json]`. `cargo xtask lab` builds what it needs and starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let (flags, cells): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word.starts_with("--"));
    let json = flags.iter().any(|flag| flag == "--json");
    match e2e::lab::run(&cells, json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
