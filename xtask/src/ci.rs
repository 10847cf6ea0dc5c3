//! `cargo xtask ci` and its parts: what every change must pass, in the order in which failing is cheapest.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::postgres::Postgres;
use crate::{agents, check_macos, command, demo, fuzz_api, sim, test_programs, tidy, tools};

/// A check: its name and what it does.
type Part = (&'static str, fn() -> Result<()>);

/// Runs every check, stops at the first that fails, and says how long each took.
pub(crate) fn run_all() -> Result<()> {
    // What the tests need comes over the network while the compiler is at work. `test` asks for it once more, and says then
    // what could not be had.
    let fetching = std::thread::spawn(fetch);
    let before: [Part; 4] = [
        ("fmt", fmt),
        ("tidy", tidy::run),
        ("deny", deny),
        ("clippy", clippy),
    ];
    run_parts(&before)?;
    // The next one fetches packages, too, and apt lets nobody else in.
    let _ = fetching.join();
    let after: [Part; 4] = [
        ("check-macos", check_macos::run_in_ci),
        ("doc", doc),
        ("openapi", openapi),
        ("test", test),
    ];
    run_parts(&after)
}

fn run_parts(parts: &[Part]) -> Result<()> {
    for (name, part) in parts {
        let start = Instant::now();
        part().with_context(|| (*name).to_owned())?;
        eprintln!("ci: {name} passed in {} s", start.elapsed().as_secs());
    }
    Ok(())
}

/// Fetches what the tests start and nobody has to compile.
fn fetch() {
    let fetched = [
        tools::install_debian(),
        tools::unpack_resolved(),
        tools::install_oidc_provider().map(drop),
        tools::install_schemathesis().map(drop),
    ];
    agents::install_all();
    for error in fetched.into_iter().filter_map(Result::err) {
        eprintln!("note: not fetched ahead: {error:#}");
    }
}

fn fmt() -> Result<()> {
    command::run(&mut command::cargo(&["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    command::run(&mut command::cargo(&arguments))
}

fn doc() -> Result<()> {
    let mut doc = command::cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--quiet",
    ]);
    command::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Checks licences, banned crates and sources. The advisory database lies outside the package registries.
pub(crate) fn deny() -> Result<()> {
    let program = tools::install_deny()?;
    let mut check = Command::new(program);
    check.current_dir(command::root());
    command::run(check.args(["--log-level", "error", "check", "licenses", "bans", "sources"]))
}

/// With all packages selected, as in `test`: another selection would build the dependencies with other features.
const OPENAPI_TEST: [&str; 5] = ["test", "--quiet", "--workspace", "--test", "openapi"];

/// The committed OpenAPI document must be the one that the routes make.
fn openapi() -> Result<()> {
    command::run(&mut command::cargo(&OPENAPI_TEST))
}

/// Writes the OpenAPI document anew; its difference is an API change, and reviewed as one.
pub(crate) fn write_openapi() -> Result<()> {
    command::run(command::cargo(&OPENAPI_TEST).env("UPDATE_OPENAPI", "1"))
}

/// Installs what the tests need, runs all of them, and closes with one line of counts.
pub(crate) fn test() -> Result<()> {
    tools::install_debian()?;
    agents::install_all();
    let goose = agents::install_goose();
    if let Err(error) = tools::install_oidc_provider() {
        eprintln!("WARNING: oidc-provider cannot be had here, and its tests are skipped: {error:#}");
    }
    if let Err(error) = tools::install_foreign() {
        eprintln!("WARNING: foreign WireGuards cannot be built here, and their tests are skipped: {error:#}");
    }
    if let Err(error) = tools::unpack_resolved() {
        eprintln!("WARNING: systemd-resolved cannot be had here, and its test is skipped: {error:#}");
    }
    let skipped = Skipped::start()?;
    let mut counts = Counts::default();
    let everything = test_everything(&skipped, &mut counts);
    let simulated = test_by_simulating(&mut counts);
    let again = test_on_postgres(&mut counts);
    let demo = test_demo(goose.as_deref().ok(), &mut counts);
    let fuzzed = test_by_fuzzing(&mut counts, &skipped);
    let skipped = skipped.lines()?;
    println!("\n{}", skipped.concat());
    println!(
        "{} passed, {} failed, {} skipped",
        // To cargo a test that cannot run here has passed.
        counts
            .of("passed")
            .saturating_sub(u32::try_from(skipped.len()).unwrap_or(0)),
        counts.of("failed"),
        skipped.len()
    );
    everything?;
    simulated?;
    again?;
    demo?;
    fuzzed?;
    if counts.of("passed") == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// Every test program of the workspace, and the examples in its documentation.
fn test_everything(skipped: &Skipped, counts: &mut Counts) -> Result<()> {
    let programs = test_programs::build(&mut test_command(&[]))?;
    let prepare = |program: &mut Command| {
        set_up(program);
        program.env("RUNMESH_SKIPPED", &skipped.file);
    };
    let ran = test_programs::run(programs, prepare, |line| counts.read_line(line));
    counted(&mut test_command(&["--doc", "--no-fail-fast"]), counts).and(ran)
}

/// The control plane's tests once more, on the other engine.
fn test_on_postgres(counts: &mut Counts) -> Result<()> {
    let Some(postgres) = Postgres::start().context("start PostgreSQL")? else {
        eprintln!("note: PostgreSQL is not installed; the control plane was tested on SQLite only");
        return Ok(());
    };
    let tests = command::root().join("crates/control/tests");
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(tests).context("list the control plane's tests")? {
        let path = entry.context("list the control plane's tests")?.path();
        if let (Some("rs"), Some(name)) = (path.extension().and_then(OsStr::to_str), path.file_stem()) {
            targets.extend(["--test".to_owned(), name.to_string_lossy().into_owned()]);
        }
    }
    eprintln!("the control plane's tests once more, on PostgreSQL");
    let over_http: Vec<&str> = targets.iter().map(String::as_str).collect();
    // All packages stay selected: another selection would build the dependencies with other features, once more.
    let in_store = ["--lib", "--", "store::"];
    for arguments in [&over_http[..], &in_store] {
        let mut tests = test_command(arguments);
        tests
            .env("RUNMESH_TEST_POSTGRES_URL", postgres.url())
            .env("RUNMESH_TEST_POSTGRES_TLS_URL", postgres.tls_url())
            .env("RUNMESH_TEST_POSTGRES_CERT", postgres.certificate());
        counted(&mut tests, counts)?;
    }
    Ok(())
}

/// The first command of the README, with the programs that the tests have built; it counts as one test.
fn test_demo(goose: Option<&Path>, counts: &mut Counts) -> Result<()> {
    let ran = command::run(demo::built(goose).arg("--json"));
    counts.add(if ran.is_ok() { "passed" } else { "failed" }, 1);
    ran
}

/// A thousand seeds of the simulation; they count as one test.
fn test_by_simulating(counts: &mut Counts) -> Result<()> {
    let ran = sim::run(sim::Seeds::First(sim::SEEDS_OF_TEST), false);
    counts.add(if ran.is_ok() { "passed" } else { "failed" }, 1);
    ran
}

/// A short fuzzing of the API; it counts as one test.
fn test_by_fuzzing(counts: &mut Counts, skipped: &Skipped) -> Result<()> {
    let ran = match tools::install_schemathesis() {
        Ok(schemathesis) => fuzz_api::run_short(&schemathesis),
        Err(error) => skipped.add(&format!("fuzz-api: schemathesis cannot be had here: {error:#}")),
    };
    counts.add(if ran.is_ok() { "passed" } else { "failed" }, 1);
    ran
}

fn test_command(arguments: &[&str]) -> Command {
    let mut tests = command::cargo(&["test", "--workspace"]);
    set_up(tests.args(arguments));
    tests
}

/// Tells tests where the programs are that they start.
fn set_up(tests: &mut Command) {
    tests
        .env("RUNMESH_BIN", command::target_dir().join("debug/runmesh"))
        .env("RUNMESH_AGENTS", agents::dir());
    if command::is_root() {
        tests.env("RUNMESH_REQUIRE_LAB", "1");
    }
}

/// Runs tests, passes their output on, and adds up what they count.
fn counted(tests: &mut Command, counts: &mut Counts) -> Result<()> {
    let mut child = tests.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("read the output of cargo test")?;
        counts.read_line(&line);
        println!("{line}");
    }
    let status = child.wait().context("wait for cargo test")?;
    if !status.success() {
        bail!("cargo test: {status}");
    }
    Ok(())
}

/// The file in which tests that cannot run here say so.
struct Skipped {
    file: PathBuf,
}

impl Skipped {
    fn start() -> Result<Self> {
        let file = command::target_dir().join("skipped-tests");
        std::fs::write(&file, "").context("begin the list of skipped tests")?;
        Ok(Self { file })
    }

    fn add(&self, line: &str) -> Result<()> {
        eprintln!("SKIPPED {line}");
        let file = std::fs::OpenOptions::new().append(true).open(&self.file);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        written.context("add to the list of skipped tests")
    }

    fn lines(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.file).context("read the list of skipped tests")?;
        Ok(text.lines().map(|line| format!("{line}\n")).collect())
    }
}

/// The sums over all `test result:` lines.
#[derive(Default)]
struct Counts(BTreeMap<String, u32>);

impl Counts {
    fn read_line(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            if let Some((number, word)) = part.split_once(' ') {
                self.add(word, number.parse().unwrap_or(0));
            }
        }
    }

    fn add(&mut self, word: &str, number: u32) {
        *self.0.entry(word.to_owned()).or_default() += number;
    }

    fn of(&self, word: &str) -> u32 {
        self.0.get(word).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_all_test_programs_are_added_up() {
        let mut counts = Counts::default();
        counts.read_line("running 3 tests");
        counts.read_line(
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        counts.read_line("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!((counts.of("passed"), counts.of("failed")), (4, 2));
    }
}
