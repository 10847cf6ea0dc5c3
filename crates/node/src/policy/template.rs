//! The policy file of a first start: every key with its meaning, so that the owner need not look elsewhere.

use std::path::Path;

use super::builtin::BUILTINS;
use crate::config::PolicySeed;

/// Writes the file for a seed; an empty seed gives a file that allows nothing.
pub(super) fn render(seed: &PolicySeed) -> String {
    let folders: Vec<_> = seed.allowed_folders.iter().map(|folder| quoted(folder)).collect();
    let default_folder = match folders.first() {
        Some(folder) => format!("default_folder = {folder}"),
        None => "# default_folder = \"/home/me/code\"".to_owned(),
    };
    let default_runner = match seed.runners.first() {
        Some(name) => format!("default_runner = {name:?}"),
        None => "# default_runner = \"goose\"".to_owned(),
    };
    let mut text = format!(
        "\
# What this device lets RunMesh do. This file always wins over what the org asks for.
# It is read at start and whenever it changes; an unknown key or a missing folder is an error,
# and while there is an error no run is accepted. `runmesh status` shows it.

# Which runs are accepted: \"org\" (whatever the org's orchestrator sends) or \"device\" (only those started on
# this device itself).
accept_from = \"org\"

# Folders in which runs may work. A run outside them is refused; symlinks are resolved first. Empty: no run at all.
# This bounds where an agent starts and what it is refused for, it is not a sandbox: a program that you enable below
# runs as you, with your rights.
allowed_folders = [{folders}]

# Where a run works that names no folder. Must be inside an allowed folder.
{default_folder}

# What executes a run that names no runner. Must be enabled below.
{default_runner}

# Runs at once, and the longest time one may take, in seconds.
max_concurrent_runs = 2
run_time_limit_s = 3600

[env]
# The daemon's variables that every runner sees; a final * stands for any ending.
pass = [\"PATH\", \"HOME\", \"USER\", \"LOGNAME\", \"SHELL\", \"LANG\", \"LC_*\", \"TERM\", \"TMPDIR\", \"TZ\"]
# Variables that an agent's own definition may set. One that is not listed: the run is refused.
from_orders = []

# Runners. Built in are {names}; enabling one is enough.
# permissions: what an agent is answered when it asks to use a tool: \"reject\" (default) or \"allow\" (this one use).
",
        folders = folders.join(", "),
        names = names(),
    );
    for builtin in BUILTINS {
        let chosen = seed.runners.iter().any(|name| name == builtin.name);
        let mark = if chosen { "" } else { "# " };
        let name = builtin.name;
        text.push_str(&format!(
            "{mark}[runners.{name}]\n{mark}enabled = true\n{mark}permissions = \"allow\"\n\n"
        ));
    }
    text.push_str(
        "\
# Any program: the prompt comes on stdin, or where {prompt} stands in args; its exit code decides.
# [runners.lint]
# type = \"command\"
# program = \"/usr/local/bin/lint\"
# args = [\"--explain\", \"{prompt}\"]
# env = { LINT_COLOR = \"never\" }
# env_pass = [\"LINT_*\"]
",
    );
    text
}

fn names() -> String {
    let names: Vec<_> = BUILTINS.iter().map(|builtin| builtin.name).collect();
    names.join(", ")
}

fn quoted(folder: &Path) -> String {
    toml::Value::String(folder.display().to_string()).to_string()
}
