//! Starting other programs: one place that says what was started and what came of it.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(PathBuf::from).unwrap_or(manifest)
}

/// Returns the directory that cargo builds into: `target`, unless the environment says otherwise.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Makes a command that runs cargo in the repository's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs a command to its end, its output on the terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    eprintln!("$ {shown}");
    let status = command.status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs a command like [`run`], but ends it, and whatever it started, when it takes longer than `time_max`.
pub(crate) fn run_within(command: &mut Command, time_max: Duration) -> Result<()> {
    let shown = shown(command);
    eprintln!("$ {shown}");
    let child = command.process_group(0).spawn();
    let mut child = child.with_context(|| format!("start {shown}"))?;
    let deadline = Instant::now() + time_max;
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("wait for {shown}"))? {
            if !status.success() {
                bail!("{shown}: {status}");
            }
            return Ok(());
        }
        if Instant::now() >= deadline {
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ = child.wait();
            bail!("{shown}: not done after {} s", time_max.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Tells whether a program stands in the search path.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Tells whether this process is root's.
pub(crate) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|o| o.stdout.trim_ascii() == b"0")
}

fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or(&program).to_owned();
    let words = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(program)
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_takes_too_long_is_ended_with_what_it_started() {
        let dir = std::env::temp_dir().join(format!("xtask-within-{}", std::process::id()));
        let script = format!("(sleep 1; touch {0}) & echo; sleep 60", dir.display());
        let started = Instant::now();
        let error = run_within(
            Command::new("sh").args(["-c", &script]),
            Duration::from_millis(200),
        );
        assert!(
            error
                .expect_err("too long")
                .to_string()
                .contains("not done after")
        );
        assert!(started.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(1200));
        assert!(!dir.exists(), "its child went on");
        run_within(&mut Command::new("true"), Duration::from_secs(60)).expect("in time");
        run_within(&mut Command::new("false"), Duration::from_secs(60)).expect_err("failed");
    }
}
