//! `policy.toml`: reading, checking and first writing. Unknown keys are errors with their line, so that a misspelt
//! restriction is never silently none.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::builtin;
use super::folder;
use super::template;
use super::{AcceptFrom, Permissions, Policy, RunnerPolicy, RunnerType};
use crate::config::PolicySeed;
use crate::state_dir::{OpenTo, open_to, write_atomically};

/// The largest policy file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The most runs at once that a policy may allow.
const CONCURRENT_RUNS_MAX: usize = 64;

/// The longest run that a policy may allow: a week.
const RUN_TIME_S_MAX: u32 = 7 * 24 * 3600;

/// Why a policy file is not in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no TOML, or a key is unknown or of the wrong type.
    #[error("{path}, line {line}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// It can be read, but asks for something impossible.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    #[serde(default)]
    accept_from: AcceptFrom,
    #[serde(default)]
    allowed_folders: Vec<PathBuf>,
    default_folder: Option<PathBuf>,
    default_runner: Option<String>,
    #[serde(default = "concurrent_runs_default")]
    max_concurrent_runs: usize,
    #[serde(default = "run_time_default")]
    run_time_limit_s: u32,
    #[serde(default)]
    env: EnvFile,
    #[serde(default)]
    runners: BTreeMap<String, RunnerFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvFile {
    #[serde(default = "env_pass_default")]
    pass: Vec<String>,
    #[serde(default)]
    from_orders: Vec<String>,
}

impl Default for EnvFile {
    fn default() -> Self {
        Self {
            pass: env_pass_default(),
            from_orders: Vec::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunnerFile {
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(rename = "type")]
    runner_type: Option<RunnerType>,
    program: Option<String>,
    args: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    env_pass: Option<Vec<String>>,
    #[serde(default)]
    permissions: Permissions,
}

fn yes() -> bool {
    true
}

fn concurrent_runs_default() -> usize {
    2
}

fn run_time_default() -> u32 {
    3600
}

fn env_pass_default() -> Vec<String> {
    let names = [
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TERM", "TMPDIR", "TZ",
    ];
    names.map(str::to_owned).to_vec()
}

/// Reads the policy file; writes one from `seed` if there is none.
pub fn load_or_create(path: &Path, seed: &PolicySeed) -> Result<Policy, PolicyError> {
    if !path.exists() {
        check_seed(path, seed)?;
        write_atomically(path, template::render(seed).as_bytes()).map_err(|source| PolicyError::Io {
            path: path.to_owned(),
            source,
        })?;
    }
    load(path)
}

/// Reads and checks the policy file, which nobody but its owner, this user or root, may be able to write. Folders are resolved now: one that is missing is an error, not a hole.
pub fn load(path: &Path) -> Result<Policy, PolicyError> {
    let at = |source| PolicyError::Io {
        path: path.to_owned(),
        source,
    };
    let meta = fs::metadata(path).map_err(at)?;
    // It decides what others may do here, so their word in it is worth nothing.
    if let Some(open) = open_to(&meta) {
        let remedy = match open {
            OpenTo::Owner(_) => "give it to the user of the daemon",
            OpenTo::Others(_) => "look whether it says what you mean, then `chmod go-w` it",
        };
        return Err(invalid(path, format!("{open}; {remedy}")));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(invalid(path, "it is larger than 1 MiB"));
    }
    let text = fs::read_to_string(path).map_err(at)?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Policy, PolicyError> {
    let file: PolicyFile = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
        PolicyError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            message: error.message().to_owned(),
        }
    })?;
    check(file).map_err(|message| invalid(path, message))
}

fn invalid(path: &Path, message: impl Into<String>) -> PolicyError {
    PolicyError::Invalid {
        path: path.to_owned(),
        message: message.into(),
    }
}

fn check_seed(path: &Path, seed: &PolicySeed) -> Result<(), PolicyError> {
    for folder in &seed.allowed_folders {
        canonical_folder(folder).map_err(|message| invalid(path, message))?;
    }
    for name in &seed.runners {
        if builtin::find(name).is_none() {
            let known: Vec<_> = builtin::BUILTINS.iter().map(|builtin| builtin.name).collect();
            let message = format!("runner {name:?} is not built in (known: {})", known.join(", "));
            return Err(invalid(path, message));
        }
    }
    Ok(())
}

fn check(file: PolicyFile) -> Result<Policy, String> {
    let allowed_folders = file
        .allowed_folders
        .iter()
        .map(|folder| canonical_folder(folder))
        .collect::<Result<Vec<_>, _>>()?;
    let default_folder = file.default_folder.as_deref().map(canonical_folder).transpose()?;
    if let Some(default) = &default_folder
        && !folder::is_inside(&allowed_folders, default)
    {
        return Err(format!(
            "default_folder {} is in no allowed folder",
            default.display()
        ));
    }
    if !(1..=CONCURRENT_RUNS_MAX).contains(&file.max_concurrent_runs) {
        return Err(format!("max_concurrent_runs must be 1 to {CONCURRENT_RUNS_MAX}"));
    }
    if !(1..=RUN_TIME_S_MAX).contains(&file.run_time_limit_s) {
        return Err(format!("run_time_limit_s must be 1 to {RUN_TIME_S_MAX}"));
    }
    let mut runners = BTreeMap::new();
    for (name, runner) in file.runners {
        if let Some(runner) = check_runner(&name, runner)? {
            runners.insert(name, runner);
        }
    }
    if let Some(name) = &file.default_runner
        && !runners.contains_key(name)
    {
        return Err(format!("default_runner {name:?} is not an enabled runner"));
    }
    Ok(Policy {
        accept_from: file.accept_from,
        allowed_folders,
        default_folder,
        default_runner: file.default_runner,
        concurrent_runs_max: file.max_concurrent_runs,
        run_time_max: Duration::from_secs(file.run_time_limit_s.into()),
        env_pass: file.env.pass,
        env_from_orders: file.env.from_orders,
        runners,
    })
}

fn check_runner(name: &str, file: RunnerFile) -> Result<Option<RunnerPolicy>, String> {
    if !file.enabled {
        return Ok(None);
    }
    let known = builtin::find(name).map(|builtin| builtin.runner(file.permissions));
    let runner_type = file.runner_type.or(known.as_ref().map(|known| known.runner_type));
    let program = file.program.or(known.as_ref().map(|known| known.program.clone()));
    let missing = |key| format!("runners.{name}: {key} is missing ({name} is not built in)");
    let mut env = known.as_ref().map(|known| known.env.clone()).unwrap_or_default();
    env.extend(file.env);
    let runner = RunnerPolicy {
        name: name.to_owned(),
        runner_type: runner_type.ok_or_else(|| missing("type"))?,
        program: program.ok_or_else(|| missing("program"))?,
        args: file
            .args
            .or(known.as_ref().map(|known| known.args.clone()))
            .unwrap_or_default(),
        env,
        env_pass: file
            .env_pass
            .or(known.map(|known| known.env_pass))
            .unwrap_or_default(),
        permissions: file.permissions,
    };
    if runner.program.contains('/') && !Path::new(&runner.program).is_absolute() {
        return Err(format!(
            "runners.{name}: program must be a bare name or an absolute path"
        ));
    }
    if runner.runner_type == RunnerType::Acp && runner.args.iter().any(|arg| arg.contains("{prompt}")) {
        return Err(format!("runners.{name}: {{prompt}} belongs to command runners"));
    }
    Ok(Some(runner))
}

fn canonical_folder(folder: &Path) -> Result<PathBuf, String> {
    if !folder.is_absolute() {
        return Err(format!("folder {} is not an absolute path", folder.display()));
    }
    let canonical =
        fs::canonicalize(folder).map_err(|error| format!("folder {}: {error}", folder.display()))?;
    if canonical.is_dir() {
        Ok(canonical)
    } else {
        Err(format!("{} is not a folder", folder.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Policy, String> {
        parse(Path::new("policy.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_allows_nothing() {
        let policy = parsed("").expect("valid");
        assert!(policy.allowed_folders.is_empty());
        assert!(policy.runners.is_empty());
        assert_eq!(policy.env_from_orders, Vec::<String>::new());
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_its_line() {
        let error =
            parsed("accept_from = \"org\"\n\nallowed_folder = [\"/tmp\"]\n").expect_err("unknown key");
        assert!(
            error.starts_with("policy.toml, line 3: unknown field `allowed_folder`"),
            "{error}"
        );
        let error =
            parsed("[runners.goose]\nenabled = true\npermission = \"allow\"\n").expect_err("unknown key");
        assert!(
            error.starts_with("policy.toml, line 3: unknown field `permission`"),
            "{error}"
        );
        let error = parsed("accept_from = \"everyone\"").expect_err("unknown word");
        assert!(error.starts_with("policy.toml, line 1: "), "{error}");
        let error = parsed("x = \n").expect_err("no TOML");
        assert!(error.starts_with("policy.toml, line 1: "), "{error}");
    }

    #[test]
    fn folders_must_exist_be_absolute_and_hold_the_default() {
        let error = parsed("allowed_folders = [\"code\"]").expect_err("relative");
        assert!(error.contains("is not an absolute path"), "{error}");
        let error = parsed("allowed_folders = [\"/no/such/folder\"]").expect_err("missing");
        assert!(error.contains("/no/such/folder"), "{error}");
        let error = parsed("allowed_folders = [\"/usr\"]\ndefault_folder = \"/etc\"").expect_err("outside");
        assert!(error.contains("is in no allowed folder"), "{error}");
    }

    #[test]
    fn limits_are_limited() {
        for bad in [
            "max_concurrent_runs = 0",
            "max_concurrent_runs = 65",
            "run_time_limit_s = 0",
        ] {
            parsed(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_built_in_runner_needs_only_leave_and_others_a_description() {
        let policy = parsed("default_runner = \"goose\"\n[runners.goose]").expect("valid");
        let goose = &policy.runners["goose"];
        assert_eq!(goose.args, ["acp", "--with-builtin", "developer"]);
        assert_eq!(goose.permissions, Permissions::Reject);
        assert!(
            parsed("[runners.goose]\nenabled = false")
                .expect("valid")
                .runners
                .is_empty()
        );
        assert_eq!(
            goose.env["GOOSE_MODE"], "approve",
            "it asks before it uses a tool"
        );
        let policy = parsed("[runners.goose]\nenv = { GOOSE_MODE = \"chat\", X = \"1\" }").expect("valid");
        let env = &policy.runners["goose"].env;
        assert_eq!(
            (env["GOOSE_MODE"].as_str(), env["X"].as_str()),
            ("chat", "1"),
            "the owner's word wins"
        );
        let error = parsed("[runners.mine]\ntype = \"command\"").expect_err("no program");
        assert!(error.contains("program is missing"), "{error}");
        let error = parsed("[runners.mine]\ntype = \"command\"\nprogram = \"bin/x\"").expect_err("relative");
        assert!(error.contains("absolute path"), "{error}");
        parsed("default_runner = \"goose\"").expect_err("not enabled");
    }

    #[test]
    fn the_first_file_is_valid_and_says_what_the_seed_says() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("policy.toml");
        let policy = load_or_create(&path, &PolicySeed::default()).expect("written");
        assert!(policy.allowed_folders.is_empty() && policy.runners.is_empty());
        fs::remove_file(&path).expect("there");
        let folder = dir.path().join("a \"quoted\" folder");
        fs::create_dir(&folder).expect("made");
        let seed = PolicySeed {
            allowed_folders: vec![folder.clone()],
            runners: vec!["goose".to_owned()],
        };
        let policy = load_or_create(&path, &seed).expect("written");
        let folder = fs::canonicalize(folder).expect("there");
        assert_eq!(policy.allowed_folders, std::slice::from_ref(&folder));
        assert_eq!(policy.default_folder, Some(folder));
        assert_eq!(policy.default_runner.as_deref(), Some("goose"));
        assert_eq!(policy.runners["goose"].permissions, Permissions::Allow);
        let unseeded = load_or_create(&path, &PolicySeed::default()).expect("kept");
        assert_eq!(unseeded, policy, "an existing file is not overwritten");
    }

    #[test]
    fn a_seed_that_cannot_work_writes_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("policy.toml");
        let seed = PolicySeed {
            allowed_folders: vec![dir.path().join("missing")],
            runners: Vec::new(),
        };
        load_or_create(&path, &seed).expect_err("no such folder");
        let seed = PolicySeed {
            allowed_folders: Vec::new(),
            runners: vec!["nonesuch".to_owned()],
        };
        load_or_create(&path, &seed).expect_err("no such runner");
        assert!(!path.exists());
    }
}
