//! A small real git checkout for an agent to look into.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::processes::in_search_path;

/// The commits: a file, its content, and the message.
const COMMITS: [(&str, &str, &str); 3] = [
    (
        "README.md",
        "# Tide tables\n\nWhen the water comes.\n",
        "Say what this is",
    ),
    (
        "tide.sh",
        "#!/bin/sh\necho \"high at 04:12\"\n",
        "Tell the next high tide",
    ),
    (
        "NOTES.md",
        "Check the harbour's own table.\n",
        "Note where the figures come from",
    ),
];

/// A checkout with a few commits.
#[derive(Debug)]
pub struct Repository {
    path: PathBuf,
}

impl Repository {
    /// Makes the checkout.
    pub fn create(path: &Path) -> Result<Self> {
        if !in_search_path("git") {
            bail!("git is not installed; the demo needs a checkout to look into");
        }
        fs::create_dir_all(path).context("make the demo's checkout")?;
        let repository = Self {
            path: path.to_owned(),
        };
        repository.git(&["init", "--quiet"])?;
        for (file, content, message) in COMMITS {
            fs::write(path.join(file), content).with_context(|| format!("write {file}"))?;
            repository.git(&["add", file])?;
            repository.git(&["commit", "--quiet", "--message", message])?;
        }
        Ok(repository)
    }

    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a text that only somebody who looked into the checkout can know: its newest commit.
    pub fn newest_commit(&self) -> Result<String> {
        let log = self
            .command(&["log", "-1", "--format=%h"])
            .output()
            .context("start git")?;
        Ok(String::from_utf8_lossy(&log.stdout).trim().to_owned())
    }

    fn git(&self, arguments: &[&str]) -> Result<()> {
        let output = self.command(arguments).output().context("start git")?;
        if !output.status.success() {
            bail!(
                "git {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.path);
        git.args([
            "-c",
            "user.name=Demo",
            "-c",
            "user.email=demo@example.com",
            "-c",
            "commit.gpgsign=false",
        ]);
        git.args(arguments);
        git
    }
}
