//! The fuzzing of the API as a program: `fuzz-api SCHEMATHESIS CASES SECONDS SEED`; `cargo xtask fuzz-api` prepares what it
//! needs and starts it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::fuzz::{Plan, run};

fn main() -> ExitCode {
    match plan().and_then(|plan| run(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn plan() -> Result<Plan> {
    let mut words = std::env::args().skip(1);
    let mut next = |what: &str| words.next().with_context(|| format!("{what} is missing"));
    Ok(Plan {
        schemathesis: next("the program of schemathesis")?.into(),
        cases: next("the number of cases")?
            .parse()
            .context("read the number of cases")?,
        time: Duration::from_secs(next("the time")?.parse().context("read the time")?),
        seed: next("the seed")?.parse().context("read the seed")?,
    })
}
