//! The real agents that tests and the demo start, as `cargo xtask test` has installed them: where each program is, and how
//! each is pointed to a model server of ours. What they may do is the policy's matter.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::device::Setup;
use crate::stand_in_model::MODEL;

/// Whatever a developer's own environment says to agents must not reach those of a test.
const FOREIGN: [&str; 8] = [
    "ANTHROPIC_",
    "CLAUDE_",
    "CODEX_",
    "GEMINI_",
    "GOOGLE_",
    "GOOSE_",
    "OPENAI_",
    "OPENCODE_",
];

/// A key that is none; the stand-in model takes any.
const KEY: &str = "stand-in-key";

/// An agent that is installed here.
#[derive(Debug, Clone)]
pub struct Agent {
    name: &'static str,
    program: PathBuf,
}

/// Names and values of environment variables.
type Variables = Vec<(&'static str, OsString)>;

impl Agent {
    /// Finds an agent by the name of its built-in runner, in `RUNMESH_AGENTS` or `target/agents`; the error says what is missing.
    pub fn find(name: &'static str) -> Result<Self> {
        let dir = match std::env::var_os("RUNMESH_AGENTS") {
            Some(dir) => PathBuf::from(dir),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/agents"),
        };
        let dir = dir.join(name);
        if !dir.join("installed").is_file() {
            bail!("{name} is not installed (cargo xtask test installs it)");
        }
        let dir = dir.canonicalize().context("find the agent")?;
        let program = dir.join("node_modules/.bin").join(name);
        Ok(Self { name, program })
    }

    /// Takes goose at a place of its own.
    #[must_use]
    pub fn goose_at(program: PathBuf) -> Self {
        Self {
            name: "goose",
            program,
        }
    }

    /// Returns its program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Describes a device whose only runner is this agent with an empty home, talking to the model at `base_url`
    /// (`http://HOST:PORT`). `permissions` is the policy's word: `allow` or `reject`.
    pub fn setup(&self, folder: &Path, home: &Path, base_url: &str, permissions: &str) -> Result<Setup> {
        fs::create_dir_all(home).context("make the agent's home")?;
        let variables = match self.name {
            "goose" => goose(base_url),
            "codex-acp" => codex(home, base_url)?,
            "claude-agent-acp" => claude(base_url),
            "opencode" => opencode(home, base_url)?,
            "gemini" => gemini(home, base_url)?,
            other => bail!("no one has written how {other} is pointed to a model"),
        };
        let mut environment = vec![self.search_path(), ("HOME".into(), home.into())];
        environment.extend(variables.into_iter().map(|(name, value)| (name.into(), value)));
        let is_foreign = |name: &OsString| {
            let name = name.to_string_lossy();
            FOREIGN.iter().any(|begin| name.starts_with(begin))
        };
        Ok(Setup {
            folder: folder.to_owned(),
            kind: "acp",
            runner: self.name.to_owned(),
            runner_policy: format!("permissions = \"{permissions}\"\n"),
            environment,
            removed: std::env::vars_os()
                .map(|(name, _)| name)
                .filter(is_foreign)
                .collect(),
        })
    }

    /// The search path with the agent's directory in front.
    fn search_path(&self) -> (OsString, OsString) {
        let own = self.program.parent().map(PathBuf::from).unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(own).chain(std::env::split_paths(&path));
        ("PATH".into(), std::env::join_paths(all).unwrap_or(path))
    }
}

fn goose(base_url: &str) -> Variables {
    vec![
        ("GOOSE_PROVIDER", "openai".into()),
        ("GOOSE_MODEL", MODEL.into()),
        ("GOOSE_DISABLE_KEYRING", "1".into()),
        ("OPENAI_HOST", base_url.into()),
        ("OPENAI_API_KEY", KEY.into()),
    ]
}

/// Codex makes programs of its own below its home, and refuses to below the system's directory for temporary files.
fn codex(home: &Path, base_url: &str) -> Result<Variables> {
    let codex_home = home.join(".codex");
    let config = format!(
        "model = \"{MODEL}\"\nmodel_provider = \"stand-in\"\n\n\
         [model_providers.stand-in]\nname = \"stand-in\"\nbase_url = \"{base_url}/v1\"\nwire_api = \"responses\"\n\
         env_key = \"OPENAI_API_KEY\"\n"
    );
    write(&codex_home.join("config.toml"), &config)?;
    Ok(vec![
        ("CODEX_HOME", codex_home.into()),
        ("OPENAI_API_KEY", KEY.into()),
    ])
}

fn claude(base_url: &str) -> Variables {
    vec![
        ("ANTHROPIC_BASE_URL", base_url.into()),
        ("ANTHROPIC_API_KEY", KEY.into()),
        ("ANTHROPIC_MODEL", MODEL.into()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".into()),
    ]
}

fn opencode(home: &Path, base_url: &str) -> Result<Variables> {
    let options = json!({"baseURL": format!("{base_url}/v1"), "apiKey": KEY});
    let config = json!({
        "model": format!("stand-in/{MODEL}"),
        "provider": {"stand-in": {"npm": "@ai-sdk/openai-compatible", "name": "stand-in", "options": options, "models": {MODEL: {}}}},
    });
    write(&home.join(".config/opencode/opencode.json"), &config.to_string())?;
    Ok(vec![
        ("OPENCODE_DISABLE_MODELS_FETCH", "1".into()),
        ("OPENCODE_DISABLE_AUTOUPDATE", "1".into()),
    ])
}

fn gemini(home: &Path, base_url: &str) -> Result<Variables> {
    let settings = json!({
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "privacy": {"usageStatisticsEnabled": false},
        "general": {"enableAutoUpdate": false},
    });
    write(&home.join(".gemini/settings.json"), &settings.to_string())?;
    Ok(vec![
        ("GOOGLE_GEMINI_BASE_URL", base_url.into()),
        ("GEMINI_API_KEY", KEY.into()),
        ("GEMINI_MODEL", MODEL.into()),
    ])
}

fn write(file: &Path, text: &str) -> Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).context("make a directory in the agent's home")?;
    }
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}
