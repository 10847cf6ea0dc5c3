//! What the owner of this device allows, and the decision on one order. The file is `policy.toml` ([`mod@file`]); the
//! runners known without being described there are in [`builtin`]. Local policy always wins over the orchestrator.

pub mod builtin;
pub mod file;
mod folder;
pub mod store;
mod template;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use runs::protocol::OfferRefusal;
use serde::Deserialize;
use types::{RunOrder, RunnerSpec};

pub use file::{PolicyError, load, load_or_create};

/// How a runner is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunnerType {
    /// The Agent Client Protocol over stdio.
    Acp,
    /// Prompt in, output out, the exit code decides.
    Command,
}

impl RunnerType {
    /// Returns the word that stands in the policy file and in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acp => "acp",
            Self::Command => "command",
        }
    }
}

/// What an agent is answered when it asks whether it may use a tool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permissions {
    /// No, every time.
    #[default]
    Reject,
    /// Yes, every time, for this one use.
    Allow,
}

/// Which runs this device accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceptFrom {
    /// Only those started on this device itself.
    Device,
    /// Those, and whatever the org's orchestrator sends: anyone in the org who may run the agent.
    #[default]
    Org,
}

/// Who started a run, as far as an order can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// An app on this device, over the local socket.
    Device,
    /// Anyone else, through the orchestrator.
    Org,
}

/// One runner that may run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunnerPolicy {
    /// Its name in orders.
    pub name: String,
    /// How it is spoken to.
    pub runner_type: RunnerType,
    /// The program: a name looked up in `PATH`, or an absolute path.
    pub program: String,
    /// Its arguments; `{prompt}` in one is replaced by the prompt (command runners only).
    pub args: Vec<String>,
    /// Environment set for it.
    pub env: BTreeMap<String, String>,
    /// Names passed on from the daemon's environment beside the general list; a final `*` stands for any ending.
    pub env_pass: Vec<String>,
    /// What it is answered when it asks for a tool.
    pub permissions: Permissions,
}

/// The policy in force: a checked `policy.toml`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Which runs are accepted.
    pub accept_from: AcceptFrom,
    /// Folders in which runs may work, canonical. Empty: none.
    pub allowed_folders: Vec<PathBuf>,
    /// Where a run works that names no folder; inside an allowed one.
    pub default_folder: Option<PathBuf>,
    /// What executes a run that names no runner.
    pub default_runner: Option<String>,
    /// The most runs at once.
    pub concurrent_runs_max: usize,
    /// The longest time one run may take.
    pub run_time_max: Duration,
    /// Names passed on from the daemon's environment to every runner.
    pub env_pass: Vec<String>,
    /// Names that an order may set.
    pub env_from_orders: Vec<String>,
    /// The runners that may run, by name.
    pub runners: BTreeMap<String, RunnerPolicy>,
}

/// Leave to execute one order, with everything about it decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permit {
    /// What executes it.
    pub runner: RunnerPolicy,
    /// The program's absolute path.
    pub program: PathBuf,
    /// Where it works: canonical, inside an allowed folder.
    pub folder: PathBuf,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// How long it may take.
    pub run_time_max: Duration,
}

/// A no, for the orchestrator and for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The kind of no.
    pub reason: OfferRefusal,
    /// Why, and what the owner can change.
    pub message: String,
}

impl Refusal {
    fn policy(message: String) -> Self {
        Self {
            reason: OfferRefusal::Policy,
            message,
        }
    }
}

/// The daemon's own environment, from which runners get a part.
pub type Environment = BTreeMap<String, String>;

impl Policy {
    /// Decides whether `order` may run here and now, while `running` others do. Looks at the file system.
    pub fn permit(
        &self,
        order: &RunOrder,
        origin: Origin,
        running: usize,
        own_env: &Environment,
    ) -> Result<Permit, Refusal> {
        if origin == Origin::Org && self.accept_from == AcceptFrom::Device {
            return Err(Refusal::policy(
                "this device accepts only runs started on itself (accept_from in policy.toml)".to_owned(),
            ));
        }
        let runner = self.choose_runner(order)?;
        check_prompt(runner, &order.prompt)?;
        let folder = self.choose_folder(order.folder_hint.as_deref())?;
        let env = self.environment(runner, order, own_env)?;
        let program =
            find_program(&runner.program, env.get("PATH").map(String::as_str)).ok_or_else(|| Refusal {
                reason: OfferRefusal::RunnerMissing,
                message: format!(
                    "runner {}: program {} is not on this device",
                    runner.name, runner.program
                ),
            })?;
        if running >= self.concurrent_runs_max {
            return Err(Refusal {
                reason: OfferRefusal::Busy,
                message: format!("{running} runs are under way, as many as this device allows"),
            });
        }
        let asked = order.limits.duration_s_max.map(|s| Duration::from_secs(s.into()));
        Ok(Permit {
            runner: runner.clone(),
            program,
            folder,
            env,
            run_time_max: asked.map_or(self.run_time_max, |asked| asked.min(self.run_time_max)),
        })
    }

    fn choose_runner(&self, order: &RunOrder) -> Result<&RunnerPolicy, Refusal> {
        let name = match (&order.runner, &self.default_runner) {
            (Some(spec), _) => spec.name(),
            (None, Some(name)) => name,
            (None, None) => {
                return Err(Refusal::policy(
                    "the agent names no runner and policy.toml has no default_runner".to_owned(),
                ));
            }
        };
        let runner = self.runners.get(name).ok_or_else(|| {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            Refusal::policy(format!(
                "runner \"{shown}\" is not enabled on this device (policy.toml enables: {})",
                self.runner_names()
            ))
        })?;
        let wanted = match &order.runner {
            Some(RunnerSpec::Acp { .. }) => RunnerType::Acp,
            Some(RunnerSpec::Command { .. }) => RunnerType::Command,
            None => runner.runner_type,
        };
        if wanted != runner.runner_type {
            return Err(Refusal::policy(format!(
                "runner {name} is of type {} here, the agent asks for {}",
                runner.runner_type.as_str(),
                wanted.as_str()
            )));
        }
        Ok(runner)
    }

    fn runner_names(&self) -> String {
        if self.runners.is_empty() {
            return "none".to_owned();
        }
        let names: Vec<_> = self.runners.keys().map(String::as_str).collect();
        names.join(", ")
    }

    fn choose_folder(&self, hint: Option<&str>) -> Result<PathBuf, Refusal> {
        folder::choose(&self.allowed_folders, self.default_folder.as_deref(), hint).map_err(Refusal::policy)
    }

    fn environment(
        &self,
        runner: &RunnerPolicy,
        order: &RunOrder,
        own_env: &Environment,
    ) -> Result<Environment, Refusal> {
        let passed = |name: &str| {
            let mut lists = self.env_pass.iter().chain(&runner.env_pass);
            lists.any(|pattern| name_matches(pattern, name))
        };
        let mut env: Environment = own_env
            .iter()
            .filter(|(name, _)| passed(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        for (name, value) in &order.env {
            if !self
                .env_from_orders
                .iter()
                .any(|pattern| may_be_set(pattern, name))
            {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
                return Err(Refusal::policy(format!(
                    "the agent sets the environment variable {shown}, which policy.toml does not allow \
                     (env.from_orders)"
                )));
            }
            if value.contains('\0') {
                return Err(Refusal::policy(format!("the value of {name} holds a zero byte")));
            }
            env.insert(name.clone(), value.clone());
        }
        env.extend(runner.env.clone());
        Ok(env)
    }
}

/// Refuses a prompt that its program would take for an option, such as one that switches its questions off.
fn check_prompt(runner: &RunnerPolicy, prompt: &str) -> Result<(), Refusal> {
    let before_end_of_options = runner.args.iter().take_while(|arg| *arg != "--");
    let is_bare = before_end_of_options
        .into_iter()
        .any(|arg| arg.starts_with("{prompt}"));
    if is_bare && prompt.starts_with('-') {
        return Err(Refusal::policy(format!(
            "the prompt begins with - and runner {} would take it for an option; put \"--\" before \"{{prompt}}\" in \
             its args (policy.toml), or begin the prompt otherwise",
            runner.name
        )));
    }
    Ok(())
}

/// Tells whether a pattern lets an order set a name. What decides which code runs must be named in full: a pattern with
/// `*` was hardly meant for it.
fn may_be_set(pattern: &str, name: &str) -> bool {
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty();
    let decides = ["LD_", "DYLD_", "GCONV_", "GIT_"]
        .iter()
        .any(|begin| name.starts_with(begin))
        || ["PATH", "HOME", "IFS", "ENV", "BASH_ENV", "SHELL", "NODE_OPTIONS"].contains(&name)
        || ["PYTHON", "PERL", "RUBY", "JAVA"]
            .iter()
            .any(|begin| name.starts_with(begin));
    is_name && name_matches(pattern, name) && (pattern == name || !decides)
}

/// Tells whether an environment name fits a pattern: the same text, or with a final `*` the same beginning.
fn name_matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

/// Finds an executable file: an absolute path as it is, a bare name in `path`'s folders.
#[must_use]
pub fn find_program(program: &str, path: Option<&str>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |candidate: &PathBuf| {
        std::fs::metadata(candidate)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return Some(PathBuf::from(program))
            .filter(|p| p.is_absolute())
            .filter(executable);
    }
    std::env::split_paths(path?)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(executable)
}

#[cfg(test)]
mod tests;
