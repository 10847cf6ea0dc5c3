//! Agents known by name: how each is started as an ACP agent, and which of the daemon's variables it may see.

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
}

/// Every known agent.
pub const BUILTINS: &[Builtin] = &[
    Builtin {
        name: "goose",
        program: "goose",
        args: &["acp", "--with-builtin", "developer"],
        env_pass: &["GOOSE_*", "OPENAI_*", "ANTHROPIC_*", "GOOGLE_*", "OLLAMA_*"],
    },
    Builtin {
        name: "codex-acp",
        program: "codex-acp",
        args: &[],
        env_pass: &["CODEX_*", "OPENAI_*"],
    },
    Builtin {
        name: "claude-agent-acp",
        program: "claude-agent-acp",
        args: &[],
        env_pass: &["ANTHROPIC_*", "CLAUDE_*"],
    },
    Builtin {
        name: "opencode",
        program: "opencode",
        args: &["acp"],
        env_pass: &["OPENCODE_*", "OPENAI_*", "ANTHROPIC_*"],
    },
    Builtin {
        name: "gemini",
        program: "gemini",
        args: &["--acp"],
        env_pass: &["GEMINI_*", "GOOGLE_*"],
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
            env: std::collections::BTreeMap::new(),
            env_pass: self.env_pass.iter().map(|&name| name.to_owned()).collect(),
            permissions,
        }
    }
}
