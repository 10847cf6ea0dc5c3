//! One Rust file, parsed: its syntax tree and its tokens with their lines; comments and white space are gone.

use std::str::FromStr;

use proc_macro2::{TokenStream, TokenTree};

use super::Finding;

/// A word, a literal or a punctuation character of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// The text as it stands in the source; a documentation comment stands as its attribute.
    pub(crate) text: String,
    /// The line, from 1.
    pub(crate) line: usize,
}

/// A parsed file.
pub(crate) struct Source {
    /// The path from the root of the repository.
    pub(crate) path: String,
    /// Every token in order, brackets left out.
    pub(crate) tokens: Vec<Token>,
    /// The syntax tree; its spans know their lines.
    pub(crate) tree: syn::File,
}

impl Source {
    /// Parses a file; what is no Rust is a finding of its own.
    pub(crate) fn parse(path: &str, content: &str) -> Result<Self, Finding> {
        let unparsed = |line: usize, reason: String| Finding {
            path: path.to_owned(),
            line,
            rule: "syntax",
            message: format!("this is no Rust: {reason}"),
        };
        let stream =
            TokenStream::from_str(content).map_err(|e| unparsed(e.span().start().line, e.to_string()))?;
        let mut tokens = Vec::new();
        flatten(stream.clone(), &mut tokens);
        let tree = syn::parse2(stream).map_err(|e| unparsed(e.span().start().line, e.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            tokens,
            tree,
        })
    }

    /// Makes a finding at a line of this file.
    pub(crate) fn finding(&self, line: usize, rule: &'static str, message: String) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            rule,
            message,
        }
    }

    /// Returns the crate's directory name when the file is product source: `mesh` for `crates/mesh/src/…`.
    pub(crate) fn product_crate(&self) -> Option<&str> {
        let (name, rest) = self.path.strip_prefix("crates/")?.split_once('/')?;
        rest.starts_with("src/").then_some(name)
    }

    /// Returns the lines at which the path `words[0]::words[1]::…` begins, written out in one piece.
    pub(crate) fn lines_of_path(&self, words: &[&str]) -> Vec<usize> {
        let mut wanted: Vec<&str> = Vec::new();
        for word in words {
            if !wanted.is_empty() {
                wanted.extend([":", ":"]);
            }
            wanted.push(word);
        }
        let windows = self.tokens.windows(wanted.len());
        let found = windows.filter(|w| w.iter().zip(&wanted).all(|(token, word)| token.text == *word));
        found.map(|w| w[0].line).collect()
    }
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        let text = match tree {
            TokenTree::Group(group) => {
                flatten(group.stream(), tokens);
                continue;
            }
            TokenTree::Ident(word) => word.to_string(),
            TokenTree::Punct(mark) => mark.as_char().to_string(),
            TokenTree::Literal(literal) => literal.to_string(),
        };
        tokens.push(Token { text, line });
    }
}

#[cfg(test)]
pub(crate) fn parsed(path: &str, content: &str) -> Source {
    Source::parse(path, content).expect("the example is Rust")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_with_their_lines_and_not_in_comments_or_strings() {
        let source = parsed(
            "crates/mesh/src/a.rs",
            "// std::fs::read\nconst A: &str = \"std::fs\";\nfn f() { std::fs::read(A); }\n",
        );
        assert_eq!(source.lines_of_path(&["std", "fs"]), [3]);
        assert_eq!(source.product_crate(), Some("mesh"));
    }

    #[test]
    fn what_is_no_rust_is_a_finding() {
        let finding = Source::parse("a.rs", "fn (").err().expect("no Rust");
        assert_eq!(finding.rule, "syntax");
    }
}
