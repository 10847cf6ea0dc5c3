//! The demo as a program; `cargo xtask demo` prepares what it needs and starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let json = std::env::args().any(|argument| argument == "--json");
    match e2e::demo::run(json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
