//! The allowed edges between the crates of the house, and the lints each crate must inherit.
//!
//! Adding an edge here is the most reviewed kind of change: it goes with a page in `docs/adr/`.

use super::Finding;

/// Each crate of the house and what it may import.
const EDGES: [(&str, &[&str]); 10] = [
    ("types", &[]),
    ("mesh", &["types"]),
    ("runs", &["types"]),
    ("api", &["types"]),
    ("net", &["types", "mesh"]),
    ("sim", &["types", "mesh", "runs"]),
    ("relay", &["types", "mesh", "net"]),
    ("node", &["types", "mesh", "runs", "net", "api"]),
    ("control", &["types", "mesh", "runs", "api", "net"]),
    ("runmesh", &["control", "node", "relay", "api"]),
];
/// The simulator is for development only: no crate may ship it.
const DEV_ONLY: &str = "sim";
/// Libraries that a crate may not have because its rules forbid what they do.
const FORBIDDEN_LIBRARIES: [(&str, &[&str]); 3] = [
    ("types", PURE_FORBIDDEN),
    ("mesh", PURE_FORBIDDEN),
    ("runs", PURE_FORBIDDEN),
];
const PURE_FORBIDDEN: &[&str] = &[
    "tokio",
    "getrandom",
    "rand",
    "socket2",
    "rustix",
    "libc",
    "reqwest",
    "axum",
];

/// Checks one `Cargo.toml`: known crate, allowed edges, inherited lints.
pub(crate) fn check_manifest(path: &str, content: &str) -> Vec<Finding> {
    let mut report = Report::new(path, content);
    let manifest: toml::Table = match content.parse() {
        Ok(manifest) => manifest,
        Err(error) => {
            report.add("", "manifest", format!("this is no TOML: {error}"));
            return report.findings;
        }
    };
    if !manifest.contains_key("package") {
        return report.findings;
    }
    // A package that is a workspace of its own has no workspace to inherit from.
    if !manifest.contains_key("workspace") {
        check_lints(&manifest, &mut report);
    }
    if let Some(name) = path
        .strip_prefix("crates/")
        .and_then(|rest| rest.strip_suffix("/Cargo.toml"))
    {
        check_edges(name, &manifest, &mut report);
    }
    report.findings
}

/// What is found in one `Cargo.toml`.
pub(super) struct Report<'a> {
    path: &'a str,
    content: &'a str,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    pub(super) fn new(path: &'a str, content: &'a str) -> Self {
        Self {
            path,
            content,
            findings: Vec::new(),
        }
    }

    /// Adds a finding at the first line that begins with `at`.
    pub(super) fn add(&mut self, at: &str, rule: &'static str, message: String) {
        let line = self
            .content
            .lines()
            .position(|line| !at.is_empty() && line.starts_with(at));
        self.findings.push(Finding {
            path: self.path.to_owned(),
            line: line.map_or(1, |index| index + 1),
            rule,
            message,
        });
    }
}

fn check_lints(manifest: &toml::Table, report: &mut Report<'_>) {
    let lints = manifest
        .get("lints")
        .and_then(|l| l.get("workspace"))
        .and_then(toml::Value::as_bool);
    if lints != Some(true) {
        let message = "add `[lints] workspace = true`: every crate obeys the same lints";
        report.add("[lints]", "lints", message.to_owned());
    }
}

fn check_edges(name: &str, manifest: &toml::Table, report: &mut Report<'_>) {
    let Some((_, allowed)) = EDGES.iter().find(|(crate_name, _)| *crate_name == name) else {
        let message = format!("`{name}` is no crate of the house: put the code where its noun lives");
        report.add("[package]", "edges", message);
        return;
    };
    for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for dependency in dependencies(manifest, table) {
            let ours = EDGES.iter().any(|(crate_name, _)| *crate_name == dependency);
            let as_dev = dependency == DEV_ONLY && table == "dev-dependencies";
            if ours && !as_dev && !allowed.contains(&dependency.as_str()) {
                let message = format!(
                    "`{name}` may not import `{dependency}`; it may import: {}",
                    if allowed.is_empty() {
                        "none of ours".to_owned()
                    } else {
                        allowed.join(", ")
                    }
                );
                report.add(&dependency, "edges", message);
            }
            let forbidden = FORBIDDEN_LIBRARIES
                .iter()
                .find(|(crate_name, _)| *crate_name == name);
            if forbidden.is_some_and(|(_, libraries)| libraries.contains(&dependency.as_str())) {
                let message =
                    format!("`{name}` is pure and may not have `{dependency}`: a shell does the I/O");
                report.add(&dependency, "purity", message);
            }
        }
    }
}

/// Returns the names in one dependency table, those for one target system included.
pub(super) fn dependencies(manifest: &toml::Table, table: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut collect = |tables: &toml::Table| {
        if let Some(found) = tables.get(table).and_then(toml::Value::as_table) {
            names.extend(found.keys().cloned());
        }
    };
    collect(manifest);
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        targets
            .values()
            .filter_map(toml::Value::as_table)
            .for_each(&mut collect);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[package]\nname = \"x\"\n[lints]\nworkspace = true\n";

    fn check(path: &str, tail: &str, expected: &[(usize, &str)]) {
        let findings = check_manifest(path, &format!("{HEAD}{tail}"));
        let found: Vec<_> = findings.iter().map(|f| (f.line, f.rule)).collect();
        assert_eq!(found, expected, "{findings:?}");
    }

    #[test]
    fn allowed_edges_pass() {
        check(
            "crates/mesh/Cargo.toml",
            "[dependencies]\ntypes.workspace = true\nsnow = \"1\"\n",
            &[],
        );
        check(
            "xtask/Cargo.toml",
            "[dependencies]\ncontrol.workspace = true\n",
            &[],
        );
    }

    #[test]
    fn a_forbidden_edge_is_found_at_its_line() {
        check(
            "crates/mesh/Cargo.toml",
            "[dependencies]\nnet.workspace = true\n",
            &[(6, "edges")],
        );
        check(
            "crates/api/Cargo.toml",
            "[dev-dependencies]\ncontrol = {}\n",
            &[(6, "edges")],
        );
        check(
            "crates/net/Cargo.toml",
            "[target.'cfg(unix)'.dependencies]\nnode = {}\n",
            &[(6, "edges")],
        );
    }

    #[test]
    fn the_simulator_is_for_development_only() {
        check(
            "crates/mesh/Cargo.toml",
            "[dev-dependencies]\nsim.workspace = true\n",
            &[],
        );
        check(
            "crates/mesh/Cargo.toml",
            "[dependencies]\nsim.workspace = true\n",
            &[(6, "edges")],
        );
    }

    #[test]
    fn an_unknown_crate_and_an_impure_library_are_found() {
        check("crates/helpers/Cargo.toml", "", &[(1, "edges")]);
        check(
            "crates/runs/Cargo.toml",
            "[dependencies]\ntokio = \"1\"\n",
            &[(6, "purity")],
        );
    }

    #[test]
    fn a_crate_that_does_not_inherit_the_lints_is_found() {
        let findings = check_manifest("crates/api/Cargo.toml", "[package]\nname = \"api\"\n");
        assert_eq!(findings[0].rule, "lints");
        assert_eq!(check_manifest("Cargo.toml", "[workspace]\n"), []);
    }
}
