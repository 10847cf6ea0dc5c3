//! Agents known by name: how each is started as an ACP agent, which of the daemon's variables it may see, and what makes it
//! ask before it uses a tool. Left alone some of them ask nobody, and the answer in the policy file would mean nothing.

use super::{Permissions, RunnerPolicy, RunnerType};

/// An agent that needs no description in the policy file, only leave.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// Its name in orders and in the policy file.
    pub name: &'static str,
    /// The program, looked up in `PATH`.
    pub program: &'static str,
    /// Its arguments.
    pub args: &'static [&'static str],
    /// The variables that configure it, passed on from the daemon's environment when it is enabled.
    pub env_pass: &'static [&'static str],
    /// Set for it unless the policy file sets the same: what makes it ask.
    pub env: &'static [(&'static str, &'static str)],
}

/// Every known agent.
pub const BUILTINS: &[Builtin] = &[
    Builtin {
        name: "goose",
        program: "goose",
        args: &["acp", "--with-builtin", "developer"],
        env_pass: &["GOOSE_*", "OPENAI_*", "ANTHROPIC_*", "GOOGLE_*", "OLLAMA_*"],
        env: &[("GOOSE_MODE", "approve")],
    },
    Builtin {
        name: "codex-acp",
        program: "codex-acp",
        args: &[],
        env_pass: &["CODEX_*", "OPENAI_*"],
        env: &[("INITIAL_AGENT_MODE", "read-only")],
    },
    Builtin {
        name: "claude-agent-acp",
        program: "claude-agent-acp",
        args: &[],
        env_pass: &["ANTHROPIC_*", "CLAUDE_*"],
        env: &[],
    },
    Builtin {
        name: "opencode",
        program: "opencode",
        args: &["acp"],
        env_pass: &["OPENCODE_*", "OPENAI_*", "ANTHROPIC_*"],
        env: &[("OPENCODE_PERMISSION", "{\"*\":\"ask\"}")],
    },
    Builtin {
        name: "gemini",
        program: "gemini",
        args: &["--acp"],
        env_pass: &["GEMINI_*", "GOOGLE_*"],
        env: &[],
    },
];

/// Finds a known agent.
#[must_use]
pub fn find(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|builtin| builtin.name == name)
}

impl Builtin {
    /// Turns it into a runner with the given answer to permission requests.
    #[must_use]
    pub fn runner(&self, permissions: Permissions) -> RunnerPolicy {
        RunnerPolicy {
            name: self.name.to_owned(),
            runner_type: RunnerType::Acp,
            program: self.program.to_owned(),
            args: self.args.iter().map(|&arg| arg.to_owned()).collect(),
            env: self
                .env
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            env_pass: self.env_pass.iter().map(|&name| name.to_owned()).collect(),
            permissions,
        }
    }
}
