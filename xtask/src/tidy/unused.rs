//! Dependencies that no source of their package names: each costs time to build and a licence to check.
//!
//! A dependency is named where its name, with `_` for `-`, begins a path: `serde_json::json!`, `use tokio;`. A module of
//! the same name hides one that is not used; one that is used is never reported.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::edges::{Report, dependencies};
use super::source::Source;

/// The names that begin a path somewhere in one file, by the file's path.
pub(crate) type Named = BTreeMap<String, BTreeSet<String>>;

/// Returns the names that begin a path in a file.
pub(crate) fn named(source: &Source) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, token) in source.tokens.iter().enumerate() {
        let text = |at: usize| source.tokens.get(at).map(|token| token.text.as_str());
        let before = index.checked_sub(1).and_then(text);
        let begins_path = before != Some(":") && text(index + 1) == Some(":") && text(index + 2) == Some(":");
        if begins_path || before == Some("use") || before == Some("crate") {
            names.insert(token.text.clone());
        }
    }
    names
}

/// Checks all `Cargo.toml`s (path and content) against the names of all files.
pub(crate) fn check_unused(manifests: &[(String, String)], named: &Named) -> Vec<Finding> {
    let parsed = manifests
        .iter()
        // What is no TOML is a finding of another rule.
        .filter_map(|(path, content)| Some((path, content, content.parse::<toml::Table>().ok()?)));
    let parsed: Vec<_> = parsed.collect();
    let declared: BTreeSet<String> = parsed
        .iter()
        .filter(|(_, _, manifest)| manifest.contains_key("package"))
        .flat_map(|(_, _, manifest)| TABLES.iter().flat_map(|table| dependencies(manifest, table)))
        .collect();
    let mut findings = Vec::new();
    for (path, content, manifest) in &parsed {
        let mut report = Report::new(path, content);
        if manifest.contains_key("package") {
            check_package(path, manifest, named, &mut report);
        }
        if let Some(workspace) = manifest.get("workspace").and_then(toml::Value::as_table) {
            for name in dependencies(workspace, "dependencies") {
                // Our own crates are listed whether anyone needs them yet or not.
                let is_ours = workspace["dependencies"][&name].get("path").is_some();
                if !is_ours && !declared.contains(&name) {
                    let message = format!("no package inherits `{name}`: remove it");
                    report.add(&name, RULE, message);
                }
            }
        }
        findings.extend(report.findings);
    }
    findings
}

const RULE: &str = "unused-dependency";

const TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

fn check_package(path: &str, manifest: &toml::Table, named: &Named, report: &mut Report<'_>) {
    let dir = path.strip_suffix("Cargo.toml").unwrap_or(path);
    let names: BTreeSet<&str> = named
        .iter()
        .filter(|(file, _)| file.starts_with(dir))
        .flat_map(|(_, names)| names.iter().map(String::as_str))
        .collect();
    for table in TABLES {
        for dependency in dependencies(manifest, table) {
            if !names.contains(dependency.replace('-', "_").as_str()) {
                let message = format!("no source below {dir} names `{dependency}`: remove it");
                report.add(&dependency, RULE, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::parsed;

    fn check(manifest: &str, source: &str, expected: &[usize]) {
        let named = Named::from([("a/src/lib.rs".to_owned(), named(&parsed("a/src/lib.rs", source)))]);
        let manifests = [("a/Cargo.toml".to_owned(), manifest.to_owned())];
        let findings = check_unused(&manifests, &named);
        let lines: Vec<_> = findings.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, expected, "{findings:?}");
    }

    #[test]
    fn a_dependency_is_used_where_its_name_begins_a_path() {
        let manifest = "[package]\nname = \"a\"\n[dependencies]\nserde-json = \"1\"\n";
        check(manifest, "fn f() { serde_json::json!(1); }", &[]);
        check(manifest, "use serde_json as json;", &[]);
        check(manifest, "extern crate serde_json;", &[]);
        check(manifest, "use serde_json::{Value, json};", &[]);
    }

    #[test]
    fn a_word_is_no_use() {
        let manifest = "[package]\nname = \"a\"\n[dependencies]\nbytes = \"1\"\n";
        check(manifest, "fn f(bytes: u8) -> u8 { bytes }", &[4]);
        check(manifest, "// bytes::Bytes\nfn f() { a::bytes::b() }", &[4]);
    }

    #[test]
    fn the_sources_of_another_package_do_not_count() {
        let manifest = "[package]\nname = \"b\"\n[dev-dependencies]\nserde = \"1\"\n";
        let named = Named::from([("a/src/lib.rs".to_owned(), BTreeSet::from(["serde".to_owned()]))]);
        let findings = check_unused(&[("b/Cargo.toml".to_owned(), manifest.to_owned())], &named);
        assert_eq!(findings.len(), 1, "{findings:?}");
    }

    #[test]
    fn what_no_package_inherits_is_found_in_the_workspace() {
        let root = "[workspace]\nmembers = []\n[workspace.dependencies]\nserde = \"1\"\ntoml = \"1\"\nb = { path = \"b\" }\n";
        let member = "[package]\nname = \"a\"\n[dependencies]\nserde.workspace = true\n";
        let manifests = [("Cargo.toml", root), ("a/Cargo.toml", member)];
        let manifests = manifests.map(|(path, content)| (path.to_owned(), content.to_owned()));
        let named = Named::from([("a/src/lib.rs".to_owned(), BTreeSet::from(["serde".to_owned()]))]);
        let findings = check_unused(&manifests, &named);
        assert_eq!((findings.len(), findings[0].line), (1, 5), "{findings:?}");
    }
}
