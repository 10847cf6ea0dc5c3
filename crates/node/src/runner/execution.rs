//! One run while it is executed: the loop between pipes, runner, sink and timers that [`super::executor`] starts.

use std::collections::VecDeque;
use std::time::Duration;

use net::clock::Clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use types::RunStatus;

use super::acp::AcpRunner;
use super::coalescer::Coalescer;
use super::command::CommandRunner;
use super::event_queue::EventQueue;
use super::executor::{Job, Outcome, Sink, SinkError, Stop};
use super::process::{Pipes, Program};
use super::{Ending, Output, Phase, Produced, ProgramExit, Runner};
use crate::policy::{Permissions, RunnerType};

/// So many bytes may wait for the program to read them.
const STDIN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What is read from a pipe at once, in bytes.
const READ_BYTES: usize = 32 * 1024;

/// From SIGKILL until pipes that are still held open are given up.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// No timer waits longer than this: a program that is silent for an hour costs one wake-up.
const TIMER_MAX: Duration = Duration::from_secs(3600);

/// What is being done to end the program; each stage but the first has a time at which the next begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Running,
    /// Its protocol's cancel was said.
    Asked,
    /// Its work is done, or it is gone itself: the rest should go by itself.
    Closing,
    /// SIGTERM was sent.
    Terminated,
    /// SIGKILL was sent.
    Killed,
}

pub(super) struct Execution<'a> {
    job: Job,
    runner: Box<dyn Runner>,
    program: Program,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    to_stdin: VecDeque<u8>,
    close_stdin: bool,
    sink: &'a dyn Sink,
    events: EventQueue<'a>,
    coalescer: Coalescer,
    clock: Clock,
    started: Instant,
    /// When the program last wrote something.
    last_read: Instant,
    stage: Stage,
    stage_due: Option<Instant>,
    exit: Option<ProgramExit>,
    output_bytes: u64,
    event_count: u64,
    /// What the run ends with unless the program ends it well before that takes effect.
    stopped_with: Option<Ending>,
    ending: Option<Ending>,
    session: Option<String>,
}

impl<'a> Execution<'a> {
    pub(super) fn new(job: Job, program: Program, pipes: Pipes, sink: &'a dyn Sink) -> Self {
        Self {
            runner: runner_for(&job),
            job,
            program,
            stdin: Some(pipes.stdin),
            stdout: Some(pipes.stdout),
            stderr: Some(pipes.stderr),
            to_stdin: VecDeque::new(),
            close_stdin: false,
            sink,
            events: EventQueue::new(sink),
            coalescer: Coalescer::default(),
            clock: Clock::new(),
            started: Instant::now(),
            last_read: Instant::now(),
            stage: Stage::Running,
            stage_due: None,
            exit: None,
            output_bytes: 0,
            event_count: 0,
            stopped_with: None,
            ending: None,
            session: None,
        }
    }

    pub(super) async fn run(mut self, mut stop: watch::Receiver<Option<Stop>>) -> Outcome {
        self.begin();
        let mut stdout_buffer = vec![0; READ_BYTES];
        let mut stderr_buffer = vec![0; READ_BYTES];
        let mut stop_open = true;
        while !self.is_over() {
            let reading = self.events.has_room();
            let writing = self.stdin.is_some() && (self.close_stdin || !self.to_stdin.is_empty());
            let due = self.next_due();
            tokio::select! {
                said = next_stop(&mut stop), if stop_open => match said {
                    Some(said) => self.stop(said),
                    None => stop_open = false,
                },
                result = self.events.appended(), if self.events.is_appending() => self.appended(result),
                written = write_some(&mut self.stdin, &self.to_stdin), if writing => self.wrote(written),
                read = read_some(&mut self.stdout, &mut stdout_buffer), if reading && self.stdout.is_some() => {
                    self.read(&stdout_buffer[..read], false);
                }
                read = read_some(&mut self.stderr, &mut stderr_buffer), if reading && self.stderr.is_some() => {
                    self.read(&stderr_buffer[..read], true);
                }
                exit = self.program.wait(), if self.exit.is_none() => self.exited(exit.ok()),
                () = sleep_until(due) => self.on_timer(),
            }
        }
        drop((stdout_buffer, stderr_buffer));
        self.finish(stop).await
    }

    fn begin(&mut self) {
        if let Some(session) = self.job.resume.take() {
            self.runner.resume(&session);
        }
        let prompt = std::mem::take(&mut self.job.prompt);
        self.with_runner(|runner, out| {
            runner.prompt(&prompt, out);
            runner.start(out);
        });
    }

    /// Over means that the program is gone, its last words were read, and how it ended is known.
    fn is_over(&self) -> bool {
        let given_up = self.stage == Stage::Killed && self.stage_due.is_some_and(|due| Instant::now() >= due);
        self.ending.is_some() && ((self.exit.is_some() && self.is_silent()) || given_up)
    }

    fn is_silent(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    async fn finish(mut self, mut stop: watch::Receiver<Option<Stop>>) -> Outcome {
        self.program.kill();
        self.with_runner(|runner, out| runner.flush(out));
        self.show();
        let drain = self.job.limits.drain;
        let stopped = async {
            while !matches!(*stop.borrow_and_update(), Some(Stop::Shutdown | Stop::TakenAway)) {
                if stop.changed().await.is_err() {
                    break;
                }
            }
            sleep(drain).await;
        };
        tokio::select! {
            () = self.events.drain() => {}
            () = stopped => {}
        }
        let mut ending = self
            .ending
            .take()
            .unwrap_or_else(|| Ending::failed("unknown", "The run ended."));
        if !self.events.is_empty() {
            ending = ending.with("eventsLost", self.events.len());
        }
        Outcome {
            ending,
            session: self.session.take(),
        }
    }

    fn with_runner(&mut self, act: impl FnOnce(&mut dyn Runner, &mut Output)) {
        let mut out = Output::default();
        act(self.runner.as_mut(), &mut out);
        self.absorb(out);
    }

    fn absorb(&mut self, out: Output) {
        self.to_stdin.extend(out.stdin);
        self.close_stdin |= out.close_stdin;
        self.session = out.session.or(self.session.take());
        for produced in out.produced {
            self.produced(produced);
        }
        self.events.append_more();
        if let Some(ending) = out.ending {
            self.ended(ending);
        }
        if self.to_stdin.len() > STDIN_BYTES_MAX {
            self.abort(Ending::failed(
                "agent_stuck",
                "The program does not read what it is sent.",
            ));
        }
    }

    fn produced(&mut self, produced: Produced) {
        match produced {
            Produced::Event(draft) => {
                self.show();
                self.event_count += 1;
                if self.event_count <= self.job.limits.events {
                    self.events.push(draft);
                } else {
                    self.abort(Ending::failed(
                        "output_limit",
                        "The run made more events than it may.",
                    ));
                }
            }
            Produced::Live(live_type, payload) => {
                self.show();
                self.sink.live(live_type, payload);
            }
            Produced::Delta {
                live_type,
                tool_call_id,
                text,
            } => {
                let now = self.clock.mono();
                for (live_type, payload) in self.coalescer.push(live_type, tool_call_id, &text, now) {
                    self.sink.live(live_type, payload);
                }
            }
            Produced::Permission { request, title } => {
                let allow = self.job.permit.runner.permissions == Permissions::Allow;
                tracing::debug!(run_id = %self.job.run_id, allow, title, "policy answers a permission request");
                self.with_runner(|runner, out| runner.permission(request, allow, out));
            }
        }
    }

    fn show(&mut self) {
        if let Some((live_type, payload)) = self.coalescer.flush() {
            self.sink.live(live_type, payload);
        }
    }

    fn appended(&mut self, result: Result<(), SinkError>) {
        if let Err(error) = result {
            self.abort(Ending::failed(
                "journal_full",
                format!("The run was stopped: {error}."),
            ));
        }
    }

    fn read(&mut self, bytes: &[u8], is_stderr: bool) {
        if bytes.is_empty() {
            if is_stderr {
                self.stderr = None;
            } else {
                self.stdout = None;
            }
            self.last_word();
            return;
        }
        self.last_read = Instant::now();
        self.output_bytes += bytes.len() as u64;
        if self.output_bytes > self.job.limits.output_bytes {
            let max = self.job.limits.output_bytes;
            self.give_up_reading();
            let text = format!("The program wrote more than {max} bytes.");
            self.abort(Ending::failed("output_limit", text));
            return;
        }
        self.with_runner(|runner, out| {
            if is_stderr {
                runner.stderr(bytes, out);
            } else {
                runner.stdout(bytes, out);
            }
        });
    }

    /// Closing our ends ends most writers by SIGPIPE, and nobody waits for the others.
    fn give_up_reading(&mut self) {
        self.stdout = None;
        self.stderr = None;
    }

    fn wrote(&mut self, written: std::io::Result<usize>) {
        match written {
            Ok(len) if len > 0 => drop(self.to_stdin.drain(..len)),
            // Closed as wanted, or the program closed its end; what it does then says more than this error.
            _ => {
                self.stdin = None;
                self.to_stdin.clear();
            }
        }
    }

    fn exited(&mut self, exit: Option<ProgramExit>) {
        self.exit = Some(exit.unwrap_or(ProgramExit::Signal(0)));
        self.stdin = None;
        self.to_stdin.clear();
        // What it started may hold its pipes open, and gets the grace of a program whose work is done.
        if matches!(self.stage, Stage::Running | Stage::Asked) {
            self.enter(Stage::Closing, self.job.limits.exit_grace);
        }
        self.last_word();
    }

    /// The runner learns of the exit only after everything that the program wrote was read.
    fn last_word(&mut self) {
        if let Some(exit) = self.exit
            && self.is_silent()
            && self.ending.is_none()
        {
            self.with_runner(|runner, out| runner.exited(exit, out));
        }
    }

    fn ended(&mut self, ending: Ending) {
        if self.ending.is_some() {
            return;
        }
        self.ending = match self.stopped_with.take() {
            // The end of the turn and the request to stop may cross: both outcomes are legal.
            Some(stopped) if ending.status != RunStatus::Completed => Some(stopped),
            _ => Some(ending),
        };
        if matches!(self.stage, Stage::Running | Stage::Asked) {
            self.enter(Stage::Closing, self.job.limits.exit_grace);
        }
    }

    fn stop(&mut self, stop: Stop) {
        let (ending, may_ask) = match stop {
            Stop::Cancelled => (Ending::cancelled(), true),
            Stop::Shutdown => {
                let text = "The node was stopped while the run was under way.";
                (Ending::failed("node_stopped", text), false)
            }
            Stop::TakenAway => (
                Ending::failed("taken_away", "The run is no longer this node's."),
                false,
            ),
        };
        self.stop_with(ending, may_ask);
    }

    fn stop_with(&mut self, ending: Ending, may_ask: bool) {
        if self.ending.is_some() {
            return;
        }
        if may_ask && self.stage == Stage::Running && self.runner.capabilities().cancel {
            self.stopped_with = Some(ending);
            self.enter(Stage::Asked, self.job.limits.cancel_grace);
            self.with_runner(|runner, out| runner.cancel(out));
        } else {
            self.abort(ending);
        }
    }

    /// Ends the run for a reason of ours, whatever the program thinks.
    fn abort(&mut self, ending: Ending) {
        let stopped = self.stopped_with.take();
        self.ending.get_or_insert_with(|| stopped.unwrap_or(ending));
        if matches!(self.stage, Stage::Running | Stage::Asked | Stage::Closing) {
            self.terminate();
        }
    }

    fn terminate(&mut self) {
        self.program.terminate();
        self.enter(Stage::Terminated, self.job.limits.term_grace);
    }

    fn enter(&mut self, stage: Stage, time: Duration) {
        self.stage = stage;
        self.stage_due = Some(Instant::now() + time);
    }

    fn next_due(&self) -> Instant {
        let limits = &self.job.limits;
        let mut due = Instant::now() + TIMER_MAX;
        if self.stage == Stage::Running {
            due = due.min(self.started + limits.run_time);
            if self.runner.phase() == Phase::Opening {
                due = due.min(self.started + limits.opening);
            }
        }
        if let Some(silence) = self.runner.wants_silence() {
            due = due.min(self.last_read + silence);
        }
        if let Some(show) = self.coalescer.due() {
            due = due.min(Instant::now() + show.since(self.clock.mono()));
        }
        self.stage_due.map_or(due, |stage| due.min(stage))
    }

    fn on_timer(&mut self) {
        if self.coalescer.due().is_some_and(|due| due <= self.clock.mono()) {
            self.show();
        }
        let now = Instant::now();
        let limits = self.job.limits;
        let is_silent_enough = |silence| now >= self.last_read + silence;
        if self.runner.wants_silence().is_some_and(is_silent_enough) {
            self.with_runner(|runner, out| runner.silence(out));
        }
        if self.stage == Stage::Running {
            if now >= self.started + limits.run_time {
                let text = format!("The run took longer than {} s.", limits.run_time.as_secs());
                self.stop_with(Ending::failed("time_limit", text), true);
            } else if self.runner.phase() == Phase::Opening && now >= self.started + limits.opening {
                let text = format!("The agent did not answer within {} s.", limits.opening.as_secs());
                self.abort(Ending::failed("no_answer", text));
            }
        }
        if self.stage_due.is_some_and(|due| now >= due) {
            self.next_stage();
        }
    }

    fn next_stage(&mut self) {
        match self.stage {
            Stage::Running => {}
            Stage::Asked => self.abort(Ending::cancelled()),
            Stage::Closing => self.terminate(),
            Stage::Terminated => {
                self.program.kill();
                self.enter(Stage::Killed, KILL_GRACE);
            }
            Stage::Killed => {
                self.give_up_reading();
                self.last_word();
            }
        }
    }
}

fn runner_for(job: &Job) -> Box<dyn Runner> {
    let permit = &job.permit;
    match permit.runner.runner_type {
        RunnerType::Acp => {
            let runner = AcpRunner::new(&permit.folder, job.system_prompt.clone());
            Box::new(runner.asked(job.asked.clone()))
        }
        RunnerType::Command => Box::new(CommandRunner::new(&permit.runner.program, &permit.runner.args)),
    }
}

/// Waits for something new to be said; `None` when nobody is left to say it.
async fn next_stop(stop: &mut watch::Receiver<Option<Stop>>) -> Option<Stop> {
    loop {
        if stop.has_changed().is_ok_and(|changed| !changed) {
            stop.changed().await.ok()?;
        }
        if let Some(said) = *stop.borrow_and_update() {
            return Some(said);
        }
        if stop.has_changed().is_err() {
            return None;
        }
    }
}

/// Writes what fits; 0 means that everything was written and the input can be closed.
async fn write_some(stdin: &mut Option<ChildStdin>, bytes: &VecDeque<u8>) -> std::io::Result<usize> {
    match stdin {
        Some(stdin) if !bytes.is_empty() => stdin.write(bytes.as_slices().0).await,
        _ => Ok(0),
    }
}

/// Reads what is there; 0 at the end, and on an error, which for a pipe means the same.
async fn read_some(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}
