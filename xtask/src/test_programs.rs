//! The test programs of the workspace: built by cargo, and run several at a time, since most of them wait for most of their time.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How many programs run at a time; each runs as many tests at a time as there are processors.
const WORKERS: usize = 2;

/// How much is repeated at the end of what a program said of its failures.
const FAILURE_LINES_MAX: usize = 100;

/// One program, and where cargo would run it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TestProgram {
    name: String,
    executable: PathBuf,
    package: PathBuf,
}

impl TestProgram {
    /// Runs it to its end. What it says goes into files, for a process that it left behind would keep a pipe open.
    fn output(&self, prepare: impl Fn(&mut Command)) -> std::io::Result<Output> {
        let [out, err] = ["out", "err"].map(|kind| self.executable.with_extension(kind));
        let mut command = Command::new(&self.executable);
        prepare(command.current_dir(&self.package).stdin(Stdio::null()));
        let status = command
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .status()?;
        let output = Output {
            status,
            stdout: std::fs::read(&out)?,
            stderr: std::fs::read(&err)?,
        };
        std::fs::remove_file(out)?;
        std::fs::remove_file(err)?;
        Ok(output)
    }
}

/// Has cargo build all test programs, by a command that would run them, and returns them: those of real processes first, for
/// among them are those that take longest.
pub(crate) fn build(tests: &mut Command) -> Result<Vec<TestProgram>> {
    tests.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let output = tests
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo test")?;
    if !output.status.success() {
        bail!("cargo test --no-run: {}", output.status);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let mut programs: Vec<_> = said.lines().filter_map(test_program).collect();
    programs.sort_by_key(|program| !program.package.ends_with("tests"));
    if programs.is_empty() {
        bail!("cargo built no test program");
    }
    Ok(programs)
}

/// Reads one message of cargo's.
fn test_program(line: &str) -> Option<TestProgram> {
    let message: Value = serde_json::from_str(line).ok()?;
    message["profile"]["test"].as_bool().filter(|is_test| *is_test)?;
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    Some(TestProgram {
        name: message["target"]["name"].as_str()?.to_owned(),
        executable: message["executable"].as_str()?.into(),
        package: manifest.parent()?.to_owned(),
    })
}

/// Runs programs; `prepare` gives each its environment, and `read` gets every line of what they say, program by program.
/// Fails, with their names, when some do, after all of them.
pub(crate) fn run(
    programs: Vec<TestProgram>,
    prepare: impl Fn(&mut Command) + Sync,
    read: impl FnMut(&str) + Send,
) -> Result<()> {
    let waiting = Mutex::new(VecDeque::from(programs));
    let done = Mutex::new((read, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                while let Some(program) = next() {
                    let start = Instant::now();
                    let output = program.output(&prepare);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    let (read, failed) = &mut *done;
                    if let Err(failures) = tell(&program, start, output, read) {
                        failed.push((program.name, failures));
                    }
                }
            });
        }
    });
    let (_, failed) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.is_empty() {
        return Ok(());
    }
    // Among thousands of lines nobody finds them again.
    for (name, failures) in &failed {
        println!("\nwhat failed of {name}:\n{failures}");
    }
    let names: Vec<_> = failed.into_iter().map(|(name, _)| name).collect();
    bail!("tests of {} failed", names.join(", "))
}

/// Shows what a program said; returns what it said of its failures when there are any.
fn tell(
    program: &TestProgram,
    start: Instant,
    output: std::io::Result<Output>,
    read: &mut impl FnMut(&str),
) -> Result<(), String> {
    let package = program.package.file_name().unwrap_or_default().to_string_lossy();
    let seconds = start.elapsed().as_secs();
    println!("     Ran {} of {package} in {seconds} s", program.name);
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            println!("it could not be started: {error}");
            return Err(error.to_string());
        }
    };
    // A reader of both must not take the one for the other's.
    let _ = std::io::stderr().write_all(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    for line in said.lines() {
        read(line);
        println!("{line}");
    }
    if output.status.success() {
        return Ok(());
    }
    println!("it ended with {}", output.status);
    Err(failures(&said))
}

/// Returns the part of what a test program said that is about its failures, without the ways there.
fn failures(said: &str) -> String {
    let part = said.lines().skip_while(|line| *line != "failures:");
    let is_of_a_backtrace = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("at ")
            || line
                .split_once(": ")
                .is_some_and(|(number, _)| number.parse::<u16>().is_ok())
    };
    let part: Vec<_> = part
        .filter(|line| !is_of_a_backtrace(line))
        .take(FAILURE_LINES_MAX)
        .collect();
    part.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> TestProgram {
        let dir = std::env::temp_dir().join(format!("xtask-programs-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let executable = dir.join("program");
        std::fs::write(&executable, format!("#!/bin/sh\n{script}\n")).expect("a program");
        let mut words = Command::new("chmod");
        assert!(
            words
                .arg("+x")
                .arg(&executable)
                .status()
                .expect("chmod")
                .success()
        );
        TestProgram {
            name: name.to_owned(),
            executable,
            package: dir,
        }
    }

    #[test]
    fn only_test_programs_are_taken_from_what_cargo_says() {
        let artifact = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/r/tests/Cargo.toml","target":{{"name":"lab"}},
                "profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let taken = test_program(&artifact(true, r#""/t/lab-1""#)).expect("a test program");
        assert_eq!((taken.name.as_str(), taken.package), ("lab", "/r/tests".into()));
        assert_eq!(test_program(&artifact(false, r#""/t/lab""#)), None);
        assert_eq!(test_program(&artifact(true, "null")), None);
        assert_eq!(test_program("warning: not JSON"), None);
    }

    #[test]
    fn what_failed_is_said_again_without_the_ways_there() {
        let said = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nleft: 1\n   0: core::panic\n             at lib.rs:16:9\n\nfailures:\n    a";
        assert_eq!(
            failures(said),
            "failures:\n\n---- a stdout ----\nleft: 1\n\nfailures:\n    a"
        );
        assert_eq!(failures("test a ... ok"), "");
        let many = format!("failures:\n{}", "a\n".repeat(1000));
        assert_eq!(failures(&many).lines().count(), FAILURE_LINES_MAX);
    }

    #[test]
    fn programs_run_at_the_same_time_where_they_belong_and_each_failure_is_named() {
        // Each waits for the other one to have begun, so that one at a time would never end.
        let meet = |own: &str, other: &str| {
            let both = format!(
                "touch ../xtask-met-$ID-{own}; while [ ! -e ../xtask-met-$ID-{other} ]; do sleep 0.05; done"
            );
            format!("{both}; echo \"$PWD $ID\"")
        };
        let failing = shell("c", "echo bad; exit 3");
        let programs = vec![shell("a", &meet("a", "b")), shell("b", &meet("b", "a")), failing];
        let dirs: Vec<_> = programs.iter().map(|program| program.package.clone()).collect();
        let id = std::process::id().to_string();
        let mut lines = Vec::new();
        let ran = run(
            programs,
            |command| {
                command.env("ID", &id);
            },
            |line| lines.push(line.to_owned()),
        );
        let error = ran.expect_err("one failed").to_string();
        assert_eq!(error, "tests of c failed");
        lines.sort();
        let mut expected: Vec<_> = dirs[..2]
            .iter()
            .map(|dir| format!("{} {id}", dir.display()))
            .collect();
        expected.push("bad".to_owned());
        expected.sort();
        assert_eq!(lines, expected);
        for dir in dirs {
            std::fs::remove_dir_all(dir).expect("removed");
        }
        for name in ["a", "b"] {
            let met = std::env::temp_dir().join(format!("xtask-met-{id}-{name}"));
            std::fs::remove_file(met).expect("removed");
        }
    }
}
