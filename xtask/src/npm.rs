//! Packages of npm, each in a directory of its own. Every version, those of dependencies included, stands in the
//! `package-lock.json` of the source it is installed from.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;

/// How long npm may take for one package: on two busy cores the largest took half a minute.
const INSTALL_TIME_MAX: Duration = Duration::from_secs(300);

/// Installs what is locked in `source` into `dir` unless it is there; it counts once `finish` has passed.
pub(crate) fn install(source: &Path, dir: &Path, finish: impl FnOnce() -> Result<()>) -> Result<()> {
    let lock = fs::read_to_string(source.join("package-lock.json")).context("read a lock file of npm")?;
    let stamp = dir.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == lock) && dir.join("node_modules").exists() {
        return Ok(());
    }
    if !command::exists("npm") || !command::exists("node") {
        bail!("npm is not installed");
    }
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    // An older one must not pass for this one when npm fails half-way.
    if stamp.exists() {
        fs::remove_file(&stamp).context("forget what was installed")?;
    }
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source.join(file), dir.join(file)).with_context(|| format!("copy {file}"))?;
    }
    // Not `npm ci`: it wants programs for other systems in the lock file, which npm leaves out where it writes one.
    let mut npm = Command::new("npm");
    npm.args([
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel=error",
        "--prefix",
    ]);
    command::run_within(npm.arg(dir).stdout(Stdio::null()), INSTALL_TIME_MAX)?;
    finish()?;
    fs::write(&stamp, lock).context("remember what is installed")
}

/// Fails unless a source wants one exact version, and its lock file has a checksum of everything and names no host.
#[cfg(test)]
pub(crate) fn check_lock(source: &Path) {
    let read = |file: &str| -> serde_json::Value {
        let text = fs::read_to_string(source.join(file)).expect("there");
        serde_json::from_str(&text).expect("JSON")
    };
    let wanted = read("package.json");
    let wanted = wanted["dependencies"].as_object().expect("one dependency");
    let is_exact = |version: &serde_json::Value| {
        let version = version.as_str().unwrap_or_default();
        version.starts_with(|c: char| c.is_ascii_digit()) && !version.contains(['x', '*', ' ', '|'])
    };
    assert!(wanted.len() == 1 && wanted.values().all(is_exact), "{wanted:?}");
    let lock = read("package-lock.json");
    let packages = lock["packages"].as_object().expect("packages");
    for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
        let place = format!("{}: {name}", source.display());
        assert!(package["integrity"].is_string(), "{place} has no checksum");
        assert!(package.get("resolved").is_none(), "{place} names a host");
    }
}
