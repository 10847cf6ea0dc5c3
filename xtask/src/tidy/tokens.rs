//! Rules on single words of the source: where SQL, HTTP shapes, unsafe code and printing may stand.

use syn::spanned::Spanned as _;
use syn::visit::Visit;

use super::Finding;
use super::source::Source;

/// Where SQL lives.
const STORE: [&str; 2] = ["crates/control/src/store/", "crates/control/src/store.rs"];
/// Who may print: programs, the simulator and tests, not libraries.
const PRINTERS: [&str; 6] = [
    "crates/runmesh/",
    "crates/sim/",
    "xtask/",
    "tests/",
    "bench/",
    "fuzz/",
];
/// Words that begin an SQL statement in a string.
const STATEMENTS: [&str; 9] = [
    "SELECT ",
    "INSERT INTO ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "CREATE UNIQUE INDEX ",
    "BEGIN IMMEDIATE",
    "PRAGMA ",
];

/// Runs every rule of this module.
pub(crate) fn check_tokens(source: &Source) -> Vec<Finding> {
    let mut findings = check_sql(source);
    findings.extend(check_shapes(source));
    findings.extend(check_unsafe(source));
    findings.extend(check_macros(source));
    findings
}

/// SQL stands in `control::store` only.
fn check_sql(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("crates/") || within(source, &STORE) {
        return Vec::new();
    }
    let is_sql = |text: &str| {
        let inner = text.trim_start_matches(['r', '#', '"']);
        let inner = inner.strip_prefix('\n').map_or(inner, str::trim_start);
        text.contains('"') && STATEMENTS.iter().any(|s| inner.starts_with(s))
    };
    let found = source
        .tokens
        .iter()
        .filter(|t| t.text == "sqlx" || is_sql(&t.text));
    found
        .map(|t| {
            let message = "SQL outside control::store: give the store a function named after what is wanted";
            source.finding(t.line, "sql", message.to_owned())
        })
        .collect()
}

/// Shapes of HTTP bodies are declared in `api` only; to put them together into a document is another matter.
fn check_shapes(source: &Source) -> Vec<Finding> {
    if source.product_crate().is_none_or(|name| name == "api") {
        return Vec::new();
    }
    let mut derives = Derives { lines: Vec::new() };
    derives.visit_file(&source.tree);
    let message = "a shape of the HTTP contract outside `api`: declare it there, convert here";
    let findings = derives
        .lines
        .iter()
        .map(|line| source.finding(*line, "http-shape", message.to_owned()));
    findings.collect()
}

/// The lines at which a schema is derived.
struct Derives {
    lines: Vec<usize>,
}

impl<'a> Visit<'a> for Derives {
    fn visit_attribute(&mut self, attribute: &'a syn::Attribute) {
        let derived = attribute.meta.require_list().map(|list| list.tokens.to_string());
        if attribute.path().is_ident("derive") && derived.is_ok_and(|names| names.contains("ToSchema")) {
            self.lines.push(attribute.span().start().line);
        }
    }
}

/// Unsafe code stands in `net` only.
fn check_unsafe(source: &Source) -> Vec<Finding> {
    let allowed = source.path.starts_with("crates/net/");
    let found = source.tokens.iter().filter(|t| !allowed && t.text == "unsafe");
    found
        .map(|t| {
            let message = "unsafe code outside `net`: wrap the system call there";
            source.finding(t.line, "unsafe", message.to_owned())
        })
        .collect()
}

/// Libraries do not print, and nobody leaves a debugging macro behind.
fn check_macros(source: &Source) -> Vec<Finding> {
    let is_test = source.path.contains("/tests/") || source.path.ends_with("/tests.rs");
    let may_print = is_test || within(source, &PRINTERS);
    let mut findings = Vec::new();
    for pair in source.tokens.windows(2).filter(|pair| pair[1].text == "!") {
        let name = pair[0].text.as_str();
        let (rule, instead) = match name {
            "println" | "eprintln" | "print" | "eprint" if !may_print => (
                "print",
                "return the text, or log it with `tracing`; only the programs print",
            ),
            "dbg" | "todo" | "unimplemented" => ("leftover", "finish it before it lands"),
            _ => continue,
        };
        findings.push(source.finding(pair[0].line, rule, format!("`{name}!`: {instead}")));
    }
    findings
}

fn within(source: &Source, places: &[&str]) -> bool {
    places.iter().any(|place| source.path.starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::parsed;

    fn check(path: &str, content: &str, expected: Option<&str>) {
        let findings = check_tokens(&parsed(path, content));
        assert_eq!(findings.first().map(|f| f.rule), expected, "{path}: {content}");
    }

    #[test]
    fn sql_stands_in_the_store_only() {
        let sql = "fn f() { sqlx::query(\"SELECT 1\"); }";
        check("crates/control/src/store/nodes.rs", sql, None);
        check("crates/control/src/app/nodes.rs", sql, Some("sql"));
        check(
            "crates/node/src/a.rs",
            "const Q: &str = \"DELETE FROM runs\";",
            Some("sql"),
        );
        check(
            "crates/node/src/a.rs",
            "const Q: &str = \"Select a folder\";",
            None,
        );
        check(
            "crates/node/src/a.rs",
            "/// SELECT is a word.\nconst Q: &str = \"update it\";",
            None,
        );
    }

    #[test]
    fn http_shapes_stand_in_the_api_only() {
        let shape = "#[derive(ToSchema)] struct A;";
        check("crates/api/src/a.rs", shape, None);
        check("crates/control/src/http/a.rs", "use utoipa::ToSchema as _;", None);
        check("crates/control/src/http/a.rs", shape, Some("http-shape"));
    }

    #[test]
    fn unsafe_code_stands_in_net_only() {
        let code = "fn f() { unsafe { g() } }";
        check("crates/net/src/a.rs", code, None);
        check("crates/mesh/src/a.rs", code, Some("unsafe"));
        check("crates/mesh/src/a.rs", "#![allow(unsafe_code)]", None);
    }

    #[test]
    fn only_programs_print() {
        let code = "fn f() { println!(\"a\"); }";
        check("crates/runmesh/src/a.rs", code, None);
        check("crates/node/tests/a.rs", code, None);
        check("crates/node/src/a.rs", code, Some("print"));
    }

    #[test]
    fn nobody_leaves_a_debugging_macro_behind() {
        check("xtask/src/a.rs", "fn f() { dbg!(1); }", Some("leftover"));
        check("crates/node/src/a.rs", "fn f() { todo!() }", Some("leftover"));
        check("crates/node/src/a.rs", "fn f() { let todo = 1; }", None);
    }
}
