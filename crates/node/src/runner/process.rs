//! The program behind a runner: its own process group, a clean environment, pipes, and a sure end.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use types::RunId;

use super::ProgramExit;

/// The variable by which a program and all its descendants are known, even those that left its process group.
pub const RUN_ID_VARIABLE: &str = "RUNMESH_RUN_ID";

/// A running program and whatever it started.
#[derive(Debug)]
pub struct Program {
    child: Child,
    group: Option<Pid>,
    run_id: RunId,
}

/// The three pipes to a program.
#[derive(Debug)]
pub struct Pipes {
    /// Its standard input.
    pub stdin: ChildStdin,
    /// Its standard output.
    pub stdout: ChildStdout,
    /// Its standard error.
    pub stderr: ChildStderr,
}

impl Program {
    /// Starts a program in a process group of its own, with exactly this environment and the run's id.
    pub fn spawn(
        run_id: RunId,
        program: &Path,
        args: &[impl AsRef<OsStr>],
        folder: &Path,
        env: &BTreeMap<String, String>,
    ) -> io::Result<(Self, Pipes)> {
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .envs(env)
            .env(RUN_ID_VARIABLE, run_id.to_string())
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pipes = match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(stdin), Some(stdout), Some(stderr)) => Pipes {
                stdin,
                stdout,
                stderr,
            },
            _ => return Err(io::Error::other("the program has no pipes")),
        };
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let program = Self { child, group, run_id };
        Ok((program, pipes))
    }

    /// Waits until the program itself is gone; what it started may live on.
    pub async fn wait(&mut self) -> io::Result<ProgramExit> {
        self.child.wait().await.map(exit_of)
    }

    /// Asks the whole group to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends the whole group, and every descendant that left it, at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        kill_marked(self.run_id);
    }

    /// Tells whether anything of the group is left.
    #[must_use]
    pub fn is_group_alive(&self) -> bool {
        self.group
            .is_some_and(|group| test_kill_process_group(group).is_ok())
    }

    /// A group outlives its leader as long as it has members, and its number is not given anew before; so this reaches
    /// survivors after the leader was waited for. With no member left the call fails, which is what is wanted.
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

fn exit_of(status: ExitStatus) -> ProgramExit {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => ProgramExit::Code(code),
        (None, signal) => ProgramExit::Signal(signal.unwrap_or(0)),
    }
}

/// Kills every process of this user that carries the run's id in its environment: descendants that made a session of
/// their own, or that a crash of the daemon left behind. Returns how many. Does nothing where there is no `/proc`.
pub fn kill_marked(run_id: RunId) -> usize {
    let mark = format!("{RUN_ID_VARIABLE}={run_id}");
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let own = std::process::id();
    let mut killed = 0;
    for entry in entries.flatten() {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok());
        let Some(number) = number.filter(|&number| number != own) else {
            continue;
        };
        let carries = |environment: Vec<u8>| environment.split(|&b| b == 0).any(|v| v == mark.as_bytes());
        if std::fs::read(entry.path().join("environ")).is_ok_and(carries)
            && let Some(pid) = Pid::from_raw(number.cast_signed())
        {
            killed += usize::from(kill_process(pid, Signal::KILL).is_ok());
        }
    }
    killed
}
