//! Links in the documentation: each that points into this repository must lead to a file.

use super::Finding;

/// Finds relative links of a Markdown file that lead nowhere; `exists` is asked with paths from the repository's root.
pub(crate) fn check_links(path: &str, content: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !path.ends_with(".md") {
        return findings;
    }
    for (index, line) in content.lines().enumerate() {
        for target in targets(line) {
            let file = target.split('#').next().unwrap_or_default();
            let foreign = file.contains("://") || file.starts_with("mailto:");
            if file.is_empty() || foreign {
                continue;
            }
            if !exists(&joined(path, file)) {
                findings.push(Finding {
                    path: path.to_owned(),
                    line: index + 1,
                    rule: "link",
                    message: format!("`{target}` leads nowhere: repair the path, or drop the link"),
                });
            }
        }
    }
    findings
}

/// Returns what stands between `](` and `)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// Resolves a link against the file it stands in.
fn joined(path: &str, link: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &str, expected: &[usize]) {
        let known = |path: &str| ["README.md", "docs/start.md", "docs/adr"].contains(&path);
        let findings = check_links("docs/start.md", content, known);
        assert_eq!(
            findings.iter().map(|f| f.line).collect::<Vec<_>>(),
            expected,
            "{findings:?}"
        );
    }

    #[test]
    fn links_to_files_directories_headings_and_other_sites_pass() {
        check(
            "[a](start.md) [b](../README.md#status) [c](adr/) [d](https://example.com/x) [e](#here)",
            &[],
        );
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        check(
            "fine\n[a](missing.md)\n[b](../docs/start.md) [c](../start.md)",
            &[2, 3],
        );
    }
}
