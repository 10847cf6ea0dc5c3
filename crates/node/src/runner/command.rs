//! The command runner: any program. The prompt goes to its standard input or into its arguments, what it writes is
//! shown and kept within limits, and its exit code decides.

use serde_json::json;
use types::{EventType, LiveType};

use super::bounded::{HeadTail, TextStream, printable};
use super::{Capabilities, Ending, Output, Phase, ProgramExit, Runner};

/// What stands in an argument for the prompt.
pub const PROMPT_MARK: &str = "{prompt}";

/// The one tool call that a command run is.
const TOOL_CALL_ID: &str = "command";

/// Puts the prompt into the arguments that ask for it. Each argument stays one argument: no shell reads them.
#[must_use]
pub fn arguments(args: &[String], prompt: &str) -> Vec<String> {
    args.iter().map(|arg| arg.replace(PROMPT_MARK, prompt)).collect()
}

/// One run of a program.
#[derive(Debug)]
pub struct CommandRunner {
    title: String,
    prompt_in_args: bool,
    stdout: TextStream,
    stderr: TextStream,
    /// Both streams in the order they came.
    both: HeadTail,
    answer: HeadTail,
    flushed: bool,
}

impl CommandRunner {
    /// Makes a runner for a program with these arguments, as the policy has them.
    #[must_use]
    pub fn new(program: &str, args: &[String]) -> Self {
        Self {
            title: printable(&format!("{program} {}", args.join(" ")), 200),
            prompt_in_args: args.iter().any(|arg| arg.contains(PROMPT_MARK)),
            stdout: TextStream::default(),
            stderr: TextStream::default(),
            both: HeadTail::default(),
            answer: HeadTail::default(),
            flushed: false,
        }
    }

    fn wrote(&mut self, text: &str, out: &mut Output) {
        self.both.push(text);
        out.delta(LiveType::ToolOutputDelta, Some(TOOL_CALL_ID), text);
    }

    fn result(&mut self, status: &str, out: &mut Output) {
        if std::mem::replace(&mut self.flushed, true) {
            return;
        }
        let payload = json!({
            "toolCallId": TOOL_CALL_ID,
            "status": status,
            "content": self.both.text(),
            "truncated": self.both.is_truncated(),
            "bytes": self.both.total(),
        });
        out.event(EventType::ToolResult, payload);
        let completed = json!({ "toolCallId": TOOL_CALL_ID, "status": status });
        out.produced
            .push(super::Produced::Live(LiveType::ToolCallCompleted, completed));
    }
}

impl Runner for CommandRunner {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn phase(&self) -> Phase {
        Phase::Working
    }

    fn resume(&mut self, _session: &str) {}

    fn start(&mut self, out: &mut Output) {
        let call = json!({ "toolCallId": TOOL_CALL_ID, "title": self.title, "kind": "execute" });
        out.produced
            .push(super::Produced::Live(LiveType::ToolCallStarted, call.clone()));
        out.event(EventType::ToolCall, call);
    }

    fn prompt(&mut self, prompt: &str, out: &mut Output) {
        if !self.prompt_in_args {
            out.stdin.extend_from_slice(prompt.as_bytes());
        }
        out.close_stdin = true;
    }

    fn cancel(&mut self, _out: &mut Output) {}

    fn permission(&mut self, _request: u64, _allow: bool, _out: &mut Output) {}

    fn stdout(&mut self, bytes: &[u8], out: &mut Output) {
        let text = self.stdout.push(bytes);
        self.answer.push(&text);
        self.wrote(&text, out);
    }

    fn stderr(&mut self, bytes: &[u8], out: &mut Output) {
        let text = self.stderr.push(bytes);
        self.wrote(&text, out);
    }

    fn exited(&mut self, exit: ProgramExit, out: &mut Output) {
        let ending = if exit == ProgramExit::Code(0) {
            self.result("completed", out);
            Ending::completed()
        } else {
            self.result("failed", out);
            Ending::failed("exit_code", format!("The program ended with {exit}."))
        };
        let answer = self.answer.text();
        let answer = answer.trim_end();
        let ending = match exit {
            ProgramExit::Code(code) => ending.with("exitCode", code),
            ProgramExit::Signal(signal) => ending.with("signal", signal),
        };
        if exit == ProgramExit::Code(0) && !answer.is_empty() {
            out.event(EventType::AssistantMessage, json!({ "text": answer }));
            out.end(ending.with("result", answer));
        } else {
            out.end(ending);
        }
    }

    fn flush(&mut self, out: &mut Output) {
        self.result("interrupted", out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Produced;
    use super::*;

    fn events(out: &Output) -> Vec<EventType> {
        let event = |produced: &Produced| match produced {
            Produced::Event(draft) => Some(draft.event_type),
            _ => None,
        };
        out.produced.iter().filter_map(event).collect()
    }

    #[test]
    fn the_prompt_goes_to_stdin_unless_an_argument_asks_for_it() {
        let mut out = Output::default();
        CommandRunner::new("cat", &[]).prompt("hello", &mut out);
        assert_eq!(
            (out.stdin.as_slice(), out.close_stdin),
            (b"hello".as_slice(), true)
        );
        let args = ["--ask={prompt}".to_owned(), "x".to_owned()];
        let mut out = Output::default();
        CommandRunner::new("echo", &args).prompt("a b; rm", &mut out);
        assert_eq!((out.stdin.len(), out.close_stdin), (0, true));
        assert_eq!(arguments(&args, "a b; rm"), ["--ask=a b; rm", "x"]);
    }

    #[test]
    fn exit_zero_completes_with_what_was_written() {
        let mut runner = CommandRunner::new("prog", &[]);
        let mut out = Output::default();
        runner.start(&mut out);
        runner.stderr(b"note\n", &mut out);
        runner.stdout(b"answer\n", &mut out);
        runner.exited(ProgramExit::Code(0), &mut out);
        use EventType::{AssistantMessage, ToolCall, ToolResult};
        assert_eq!(events(&out), [ToolCall, ToolResult, AssistantMessage]);
        let ending = out.ending.expect("ended").payload();
        assert_eq!(
            ending,
            json!({ "status": "completed", "exitCode": 0, "result": "answer" })
        );
    }

    #[test]
    fn any_other_exit_fails_with_a_reason() {
        for (exit, key) in [
            (ProgramExit::Code(3), "exitCode"),
            (ProgramExit::Signal(9), "signal"),
        ] {
            let mut runner = CommandRunner::new("prog", &[]);
            let mut out = Output::default();
            runner.exited(exit, &mut out);
            let ending = out.ending.expect("ended");
            assert_eq!(
                (ending.status, ending.reason),
                (types::RunStatus::Failed, Some("exit_code"))
            );
            assert!(ending.details.contains_key(key));
        }
    }
}
