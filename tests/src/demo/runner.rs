//! Who executes the demo's run: goose with a real model, goose with the stand-in model, or a plain command.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Say;
use crate::device::Setup;
use crate::processes::{Process, STEP_TIMEOUT};
use crate::stand_in_model::{INSPECT_COMMAND, goose_environment};

/// A runner of the device, and what keeps it going.
pub(super) struct Runner {
    /// What stands in the report.
    pub(super) description: &'static str,
    /// `acp` or `command`.
    pub(super) kind: &'static str,
    /// The device's policy and environment for it.
    pub(super) setup: Setup,
    /// The stand-in model lives as long as the runner.
    _model: Option<Process>,
}

impl Runner {
    /// Takes the best runner that can be had here, and says which.
    pub(super) fn choose(folder: &Path, dir: &Path, say: &Say) -> Result<Self> {
        let Some(goose) = std::env::var_os("RUNMESH_GOOSE").map(PathBuf::from) else {
            say.line("runner: a plain command, since goose cannot be had here");
            return Ok(Self {
                description: "command",
                kind: "command",
                setup: Setup::with_command(folder, INSPECT_COMMAND),
                _model: None,
            });
        };
        let home = dir.join("home");
        fs::create_dir_all(&home).context("make the agent's home")?;
        let mut environment = vec![path_with(&goose), ("HOME".into(), home.into())];
        let (description, model) = if std::env::var_os("OPENAI_API_KEY").is_some() {
            environment.extend(real_model());
            ("goose, real model", None)
        } else {
            let model = Process::start("the stand-in model", &mut Command::new(stand_in_model()?))?;
            let variables = goose_environment(&model.line(STEP_TIMEOUT)?);
            environment.extend(
                variables
                    .into_iter()
                    .map(|(name, value)| (name.into(), value.into())),
            );
            ("goose, stand-in model", Some(model))
        };
        say.line(&format!("runner: {description}"));
        Ok(Self {
            description,
            kind: "acp",
            setup: Setup {
                folder: folder.to_owned(),
                runner: "goose".to_owned(),
                runner_policy: "permissions = \"allow\"\n".to_owned(),
                environment,
            },
            _model: model,
        })
    }
}

/// The environment of goose with a real model; the key itself is in ours already.
fn real_model() -> Vec<(OsString, OsString)> {
    let model = std::env::var_os("GOOSE_MODEL").unwrap_or_else(|| "gpt-4o".into());
    let pairs = [
        ("GOOSE_PROVIDER", "openai".into()),
        ("GOOSE_MODEL", model),
        ("GOOSE_DISABLE_KEYRING", "1".into()),
        ("GOOSE_MODE", "approve".into()),
    ];
    pairs.map(|(name, value)| (name.into(), value)).to_vec()
}

/// The stand-in model is built beside this program.
fn stand_in_model() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    Ok(this.with_file_name("stand-in-model"))
}

/// The search path with the agent's directory in front.
fn path_with(program: &Path) -> (OsString, OsString) {
    let own = program.parent().map(PathBuf::from).unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(own).chain(std::env::split_paths(&path));
    ("PATH".into(), std::env::join_paths(all).unwrap_or(path))
}
