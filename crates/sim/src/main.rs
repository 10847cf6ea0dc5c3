//! Runs many seeds, each a random world and a measured pair: `cargo xtask sim`, which builds it as it should be.
//!
//! `sim [--seeds N | --seed S] [--json] [--commit HASH]`: text on stderr, with `--json` one object on stdout.

use std::panic::{catch_unwind, set_hook, take_hook};
use std::process::ExitCode;

use sim::report::{Failure, Report};
use sim::{Dice, figures, scenario};

/// How many seeds run unless it is said.
const SEEDS: u64 = 100;

struct Arguments {
    seeds: std::ops::Range<u64>,
    is_json: bool,
    commit: String,
}

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("error: {error}\n\nhint: sim [--seeds N | --seed S] [--json] [--commit HASH]");
            return ExitCode::from(2);
        }
    };
    let report = run(&arguments);
    eprint!("{}", report.text());
    if arguments.is_json {
        println!("{}", report.json());
    }
    ExitCode::from(u8::from(!report.failures.is_empty()))
}

fn run(arguments: &Arguments) -> Report {
    let mut report = Report::default();
    for seed in arguments.seeds.clone() {
        report.seeds += 1;
        // A failure is told once, below, and whole.
        let hook = take_hook();
        set_hook(Box::new(|_| ()));
        let outcome = catch_unwind(|| (figures::measure(seed), scenario::run(seed, Dice::new(seed, 3))));
        set_hook(hook);
        match outcome {
            Ok((figures, outcome)) => report.add(&figures, outcome),
            Err(panic) => {
                let error = panic
                    .downcast::<String>()
                    .map_or_else(|_| "it panicked without a word".to_owned(), |text| *text);
                eprintln!("FAILED: seed {seed} at commit {}: {error}", arguments.commit);
                eprintln!("again: cargo xtask sim --seed {seed}");
                report.failures.push(Failure { seed, error });
            }
        }
    }
    report
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            seeds: 0..SEEDS,
            is_json: false,
            commit: "unknown".to_owned(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
            match word.as_str() {
                "--json" => arguments.is_json = true,
                "--commit" => arguments.commit = value()?,
                "--seeds" => arguments.seeds = 0..number(value()?)?,
                "--seed" => {
                    let seed = number(value()?)?;
                    arguments.seeds = seed..seed.saturating_add(1);
                }
                _ => return Err(format!("{word} is not known")),
            }
        }
        Ok(arguments)
    }
}
