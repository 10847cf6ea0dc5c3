//! `cargo xtask tidy`: the rules of `ARCHITECTURE.md` and `STYLE.md` that a machine can check.
//!
//! Each rule is a function from a file to findings, tested with a good and a bad example. A finding says where, which rule,
//! and what to do instead. What needs the compiler stands in the workspace's lints, not here.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command;

mod edges;
mod lengths;
mod links;
mod purity;
mod source;
mod text;
mod tokens;
mod unused;

use source::Source;

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Where: the path from the root of the repository.
    pub(crate) path: String,
    /// Where: the line, from 1.
    pub(crate) line: usize,
    /// The rule's short name.
    pub(crate) rule: &'static str,
    /// What is wrong and what to do instead.
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.message)
    }
}

/// Checks the whole repository; fails when there is any finding.
pub(crate) fn run() -> Result<()> {
    let root = command::root();
    let mut files = Vec::new();
    collect_files(&root, &root, &mut files)?;
    files.sort();
    let mut findings = Vec::new();
    let mut named = unused::Named::new();
    let mut manifests = Vec::new();
    for path in &files {
        let content = fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))?;
        if path.ends_with("Cargo.toml") {
            findings.extend(edges::check_manifest(path, &content));
            manifests.push((path.clone(), content.clone()));
        } else if path.ends_with(".rs") {
            findings.extend(check_source(path, &content, &mut named));
        }
        findings.extend(text::check_text(path, &content));
        findings.extend(links::check_links(path, &content, |target| {
            root.join(target).exists()
        }));
    }
    findings.extend(unused::check_unused(&manifests, &named));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    eprintln!(
        "tidy: {} files, {} of them Rust, nothing found",
        files.len(),
        named.len()
    );
    Ok(())
}

fn check_source(path: &str, content: &str, named: &mut unused::Named) -> Vec<Finding> {
    let mut findings = text::check_rust_text(path, content);
    match Source::parse(path, content) {
        Ok(source) => {
            findings.extend(lengths::check_functions(&source));
            findings.extend(purity::check_purity(&source));
            findings.extend(tokens::check_tokens(&source));
            named.insert(path.to_owned(), unused::named(&source));
        }
        Err(finding) => findings.push(finding),
    }
    findings
}

/// Directories that hold nothing of ours.
const SKIPPED_DIRS: [&str; 5] = ["target", "node_modules", "dist", "corpus", "artifacts"];
/// What is read: everything people write here.
const READ_EXTENSIONS: [&str; 12] = [
    "rs", "toml", "md", "yml", "yaml", "ts", "svelte", "js", "sh", "sql", "css", "html",
];

fn collect_files(root: &Path, dir: &Path, files: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path: PathBuf = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
            if !hidden && !SKIPPED_DIRS.contains(&name.as_str()) {
                collect_files(root, &path, files)?;
            }
            continue;
        }
        let known = path
            .extension()
            .is_some_and(|e| READ_EXTENSIONS.iter().any(|x| e == *x));
        if kind.is_file() && (known || dir == root.join(".ci")) {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            files.push(relative.to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(())
}
