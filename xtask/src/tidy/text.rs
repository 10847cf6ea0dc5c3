//! Rules that need no parser: module documentation, file length, words that must not be left behind.

use super::Finding;

/// The most lines a Rust file may have.
///
/// About 200 is what reads well; every project grows one god file unless something stops it.
const FILE_LINES_MAX: usize = 600;

/// Words that must not stand in any file, and what to do instead. Each is cut in two so as not to find itself.
const FORBIDDEN: [(&str, &str); 5] = [
    (
        concat!("FIX", "ME"),
        "do it, or write an issue and say the limit in the documentation",
    ),
    (
        concat!("TO", "DO"),
        "do it, or write an issue and say the limit in the documentation",
    ),
    (concat!("XX", "X:"), "say what is wrong, or repair it"),
    (concat!("/wo", "rk/"), "write a path that exists on every machine"),
    (concat!("<<<<", "<<<"), "resolve the conflict"),
];

/// Checks any text file.
pub(crate) fn check_text(path: &str, content: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in content.lines().enumerate() {
        for (word, instead) in FORBIDDEN {
            if line.contains(word) {
                findings.push(finding(
                    path,
                    index + 1,
                    "forbidden-word",
                    format!("`{word}`: {instead}"),
                ));
            }
        }
        let conflict = line.starts_with("\t") && path.ends_with(".rs");
        if conflict {
            findings.push(finding(
                path,
                index + 1,
                "tabs",
                "indent with spaces: run cargo fmt".to_owned(),
            ));
        }
    }
    findings
}

/// Checks a Rust file's first line and its length.
pub(crate) fn check_rust_text(path: &str, content: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !content.starts_with("//!") {
        let message = "the first line must be `//!`: what this module is, and what it is not";
        findings.push(finding(path, 1, "module-doc", message.to_owned()));
    }
    let lines = content.lines().count();
    if lines > FILE_LINES_MAX {
        let message =
            format!("{lines} lines; {FILE_LINES_MAX} is the limit: give a part its own type and file");
        findings.push(finding(path, lines, "file-length", message));
    }
    findings
}

fn finding(path: &str, line: usize, rule: &'static str, message: String) -> Finding {
    Finding {
        path: path.to_owned(),
        line,
        rule,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_documented_file_of_600_lines_passes() {
        let content = format!("//! A thing.\n{}", "\n".repeat(599));
        assert_eq!(check_rust_text("a.rs", &content), []);
    }

    #[test]
    fn a_file_without_module_documentation_is_found() {
        assert_eq!(check_rust_text("a.rs", "use std::fmt;\n")[0].rule, "module-doc");
    }

    #[test]
    fn a_longer_file_is_found() {
        let content = format!("//! A thing.\n{}", "\n".repeat(600));
        assert_eq!(check_rust_text("a.rs", &content)[0].rule, "file-length");
    }

    #[test]
    fn plain_words_pass_and_forbidden_ones_are_found_with_their_line() {
        assert_eq!(check_text("a.md", "All is done.\n"), []);
        let bad = format!("fine\nhere {}\n", FORBIDDEN[0].0);
        let findings = check_text("a.md", &bad);
        assert_eq!((findings[0].line, findings[0].rule), (2, "forbidden-word"));
    }
}
