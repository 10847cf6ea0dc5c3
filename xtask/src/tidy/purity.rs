//! The pure crates stay pure: no clock, no randomness, no runtime, no sockets, no threads, no files, no hash-map order.
//!
//! Source is scanned by token, so a name that only appears in a comment or a string is no finding.

use super::Finding;
use super::source::Source;

/// The crates whose behaviour is decided by their arguments alone.
const PURE_CRATES: [&str; 3] = ["types", "mesh", "runs"];

const CLOCK: &str = "time comes in as `types::Now`";
const RANDOM: &str = "random bytes come in as seeds";
const RUNTIME: &str = "return what is to be done; a shell in `net`, `node` or `control` does it";
const ORDER: &str = "use BTreeMap or BTreeSet: hash order differs from run to run";

/// Names that betray an impure crate wherever they stand.
const BANNED_NAMES: [(&str, &str); 15] = [
    ("Instant", CLOCK),
    ("SystemTime", CLOCK),
    ("OsRng", RANDOM),
    ("SysRng", RANDOM),
    ("ThreadRng", RANDOM),
    ("thread_rng", RANDOM),
    ("getrandom", RANDOM),
    ("tokio", RUNTIME),
    ("async", RUNTIME),
    ("TcpStream", RUNTIME),
    ("TcpListener", RUNTIME),
    ("UdpSocket", RUNTIME),
    ("ToSocketAddrs", RUNTIME),
    ("HashMap", ORDER),
    ("HashSet", ORDER),
];

/// Modules of the standard library that a pure crate may not name.
const BANNED_MODULES: [&str; 5] = ["thread", "fs", "env", "process", "os"];

/// Finds what a pure crate may not use.
pub(crate) fn check_purity(source: &Source) -> Vec<Finding> {
    if !source
        .product_crate()
        .is_some_and(|name| PURE_CRATES.contains(&name))
    {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for token in &source.tokens {
        let banned = BANNED_NAMES.iter().find(|(name, _)| token.text == *name);
        if let Some((name, instead)) = banned {
            let message = format!("`{name}` in a pure crate: {instead}");
            findings.push(source.finding(token.line, "purity", message));
        }
    }
    for module in BANNED_MODULES {
        for line in module_lines(source, module) {
            let message = format!("`std::{module}` in a pure crate: {RUNTIME}");
            findings.push(source.finding(line, "purity", message));
        }
    }
    findings
}

fn module_lines(source: &Source, module: &str) -> Vec<usize> {
    let mut lines = source.lines_of_path(&["std", module]);
    for item in &source.tree.items {
        if let syn::Item::Use(item) = item {
            let mut found = Vec::new();
            collect_std_groups(&item.tree, &mut found);
            lines.extend(
                found
                    .iter()
                    .filter(|i| *i == module)
                    .map(|i| i.span().start().line),
            );
        }
    }
    lines
}

/// Collects the names directly under `std::{…}`; `std::name` written in one piece is found by its tokens.
fn collect_std_groups(tree: &syn::UseTree, found: &mut Vec<proc_macro2::Ident>) {
    let syn::UseTree::Path(path) = tree else {
        return;
    };
    let syn::UseTree::Group(group) = path.tree.as_ref() else {
        return;
    };
    if path.ident != "std" {
        return;
    }
    for item in &group.items {
        match item {
            syn::UseTree::Path(inner) => found.push(inner.ident.clone()),
            syn::UseTree::Name(inner) => found.push(inner.ident.clone()),
            syn::UseTree::Rename(inner) => found.push(inner.ident.clone()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::parsed;

    fn check(path: &str, content: &str, expected_lines: &[usize]) {
        let findings = check_purity(&parsed(path, content));
        let lines: Vec<usize> = findings.iter().map(|f| f.line).collect();
        assert_eq!(lines, expected_lines, "{content}: {findings:?}");
    }

    #[test]
    fn pure_code_passes() {
        let good =
            "//! No Instant here.\nuse std::net::{IpAddr, SocketAddr};\nuse std::collections::BTreeMap;\n";
        check("crates/mesh/src/a.rs", good, &[]);
    }

    #[test]
    fn clocks_sockets_hash_order_and_runtimes_are_found() {
        check(
            "crates/mesh/src/a.rs",
            "fn f() { let t = std::time::Instant::now(); }",
            &[1],
        );
        check(
            "crates/types/src/a.rs",
            "use std::time::{Duration,\nSystemTime};",
            &[2],
        );
        check("crates/runs/src/a.rs", "use std::net::{IpAddr, UdpSocket};", &[1]);
        check("crates/runs/src/a.rs", "use std::collections::HashMap;", &[1]);
        check("crates/mesh/src/a.rs", "fn f() { tokio::spawn(g()); }", &[1]);
        check("crates/mesh/src/a.rs", "async fn f() {}", &[1]);
    }

    #[test]
    fn banned_modules_are_found_alone_and_in_groups() {
        check(
            "crates/mesh/src/a.rs",
            "fn f() { std::thread::yield_now(); }",
            &[1],
        );
        check("crates/mesh/src/a.rs", "use std::{fmt,\nfs};", &[2]);
        check("crates/mesh/src/a.rs", "use std::{fmt,\nenv::var};", &[2]);
    }

    #[test]
    fn other_crates_may_do_all_of_this() {
        check("crates/net/src/a.rs", "use std::time::Instant;", &[]);
        check("crates/mesh/tests/a.rs", "use std::time::Instant;", &[]);
    }
}
