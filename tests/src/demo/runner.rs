//! Who executes the demo's run: goose with a real model, goose with the stand-in model, or a plain command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Say;
use crate::agents::Agent;
use crate::device::Setup;
use crate::processes::{Process, STEP_TIMEOUT};
use crate::stand_in_model::INSPECT_COMMAND;

/// Where the real model is unless `OPENAI_HOST` or `OPENAI_BASE_URL` says otherwise.
const OPENAI: &str = "https://api.openai.com";

/// A runner of the device, and what keeps it going.
pub(super) struct Runner {
    /// What stands in the report.
    pub(super) description: &'static str,
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
                setup: Setup::with_command(folder, INSPECT_COMMAND),
                _model: None,
            });
        };
        let goose = Agent::goose_at(goose);
        let set_up = |base_url: &str| goose.setup(folder, &dir.join("home"), base_url, "allow");
        let (description, setup, model) = if let Some(key) = std::env::var_os("OPENAI_API_KEY") {
            let mut setup = set_up(&model_host())?;
            setup.environment.extend(real_model(key));
            ("goose, real model", setup, None)
        } else {
            let model = Process::start("the stand-in model", &mut Command::new(stand_in_model()?))?;
            let setup = set_up(&model.line(STEP_TIMEOUT)?)?;
            ("goose, stand-in model", setup, Some(model))
        };
        say.line(&format!("runner: {description}"));
        Ok(Self {
            description,
            setup,
            _model: model,
        })
    }
}

/// The host of the real model, as goose wants it: without the `/v1` that `OPENAI_BASE_URL` has elsewhere.
fn model_host() -> String {
    let said = ["OPENAI_HOST", "OPENAI_BASE_URL"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    host_of(said.as_deref().unwrap_or(OPENAI))
}

fn host_of(url: &str) -> String {
    let url = url.trim_end_matches('/');
    url.strip_suffix("/v1").unwrap_or(url).to_owned()
}

/// What is different with a real model; later entries win.
fn real_model(key: OsString) -> Vec<(OsString, OsString)> {
    let model = std::env::var_os("GOOSE_MODEL").unwrap_or_else(|| "gpt-4o".into());
    vec![("OPENAI_API_KEY".into(), key), ("GOOSE_MODEL".into(), model)]
}

/// The stand-in model is built beside this program.
fn stand_in_model() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    Ok(this.with_file_name("stand-in-model"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_becomes_the_host_that_goose_wants() {
        assert_eq!(host_of("http://127.0.0.1:8999/v1/"), "http://127.0.0.1:8999");
        assert_eq!(host_of("http://127.0.0.1:8999"), "http://127.0.0.1:8999");
    }
}
