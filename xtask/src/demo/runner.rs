//! Who executes the demo's run: goose with a real model, goose with the stand-in model, or a plain command.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::process::Process;
use super::{Binaries, STEP_TIMEOUT, Say};
use crate::tools;

/// A runner of the node, and what keeps it going.
pub(super) struct Runner {
    kind: &'static str,
    name: &'static str,
    description: &'static str,
    environment: Vec<(OsString, OsString)>,
    /// The stand-in model lives as long as the runner.
    _model: Option<Process>,
}

impl Runner {
    /// Takes the best runner that can be had here, and says which.
    pub(super) fn choose(binaries: &Binaries, dir: &Path, say: &Say) -> Result<Self> {
        let goose = match tools::install_goose() {
            Ok(goose) => goose,
            Err(error) => {
                say.line(&format!(
                    "goose cannot be had here ({error:#}); a plain command inspects the repository"
                ));
                return Ok(Self::command());
            }
        };
        let home = dir.join("home");
        fs::create_dir_all(&home).context("make the agent's home")?;
        let mut environment = vec![path_with(&goose), ("HOME".into(), home.into())];
        let variables = |pairs: &[(&str, &str)]| -> Vec<(OsString, OsString)> {
            pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect()
        };
        environment.extend(variables(&[
            ("GOOSE_PROVIDER", "openai"),
            ("GOOSE_DISABLE_KEYRING", "1"),
            ("GOOSE_MODE", "approve"),
        ]));
        if std::env::var_os("OPENAI_API_KEY").is_some() {
            say.line("runner: goose with a real model, since OPENAI_API_KEY is set");
            let model = std::env::var("GOOSE_MODEL").unwrap_or_else(|_| "gpt-4o".to_owned());
            environment.extend(variables(&[("GOOSE_MODEL", &model)]));
            return Ok(Self::goose("goose, real model", environment, None));
        }
        say.line("runner: goose with the stand-in model on 127.0.0.1");
        let model = Process::start("the stand-in model", &mut Command::new(&binaries.stand_in_model))?;
        let url = model.line(STEP_TIMEOUT)?;
        environment.extend(variables(&[
            ("OPENAI_HOST", &url),
            ("OPENAI_API_KEY", "stand-in"),
            ("GOOSE_MODEL", "stand-in"),
        ]));
        Ok(Self::goose("goose, stand-in model", environment, Some(model)))
    }

    fn goose(
        description: &'static str,
        environment: Vec<(OsString, OsString)>,
        model: Option<Process>,
    ) -> Self {
        Self {
            kind: "acp",
            name: "goose",
            description,
            environment,
            _model: model,
        }
    }

    fn command() -> Self {
        Self {
            kind: "command",
            name: "inspect",
            description: "command",
            environment: Vec::new(),
            _model: None,
        }
    }

    /// Returns `acp` or `command`.
    pub(super) fn kind(&self) -> &str {
        self.kind
    }

    /// Returns the name in the node's policy.
    pub(super) fn name(&self) -> &str {
        self.name
    }

    /// Returns what stands in the report.
    pub(super) fn describe(&self) -> &str {
        self.description
    }

    /// Returns what the node's environment must have.
    pub(super) fn environment(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
        self.environment.iter().map(|(name, value)| (name, value))
    }

    /// Writes the device owner's policy: one folder, one runner.
    pub(super) fn write_policy(&self, state_dir: &Path, folder: &Path) -> Result<()> {
        let folder = toml::Value::String(folder.to_string_lossy().into_owned());
        let runner = if self.kind == "acp" {
            "permissions = \"allow\"\n"
        } else {
            "type = \"command\"\nprogram = \"sh\"\nargs = [\"-c\", \"git log --oneline -5 && ls\"]\n"
        };
        let policy = format!(
            "# What this device lets RunMesh do.\nallowed_folders = [{folder}]\ndefault_folder = {folder}\n\
             default_runner = \"{name}\"\n\n[runners.{name}]\n{runner}",
            name = self.name
        );
        make_private(state_dir)?;
        fs::write(state_dir.join("policy.toml"), policy).context("write the node's policy")
    }
}

fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .context("make the node's state directory")
}

/// The search path with the agent's directory in front.
fn path_with(program: &Path) -> (OsString, OsString) {
    let own = program.parent().map(PathBuf::from).unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(own).chain(std::env::split_paths(&path));
    ("PATH".into(), std::env::join_paths(all).unwrap_or(path))
}
