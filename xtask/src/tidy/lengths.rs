//! The length of functions. The length of files is checked with the other rules on plain text.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::source::Source;

/// The most lines a function may have, signature and closing brace included.
///
/// Good Rust has a median of 6 to 9 lines and a 90th percentile near 37, whoever writes it; 70 is where a function no
/// longer fits on a screen.
const FUNCTION_LINES_MAX: usize = 70;

/// Finds functions that are longer than the limit.
pub(crate) fn check_functions(source: &Source) -> Vec<Finding> {
    let mut visitor = FunctionVisitor { lengths: Vec::new() };
    visitor.visit_file(&source.tree);
    let too_long = visitor
        .lengths
        .into_iter()
        .filter(|f| f.lines > FUNCTION_LINES_MAX);
    too_long
        .map(|f| {
            let message = format!(
                "`{}` has {} lines; {FUNCTION_LINES_MAX} is the limit: give a part of it its own name",
                f.name, f.lines
            );
            source.finding(f.line, "function-length", message)
        })
        .collect()
}

struct FunctionLength {
    name: String,
    line: usize,
    lines: usize,
}

struct FunctionVisitor {
    lengths: Vec<FunctionLength>,
}

impl FunctionVisitor {
    fn record(&mut self, signature: &syn::Signature, end: Span) {
        let line = signature.span().start().line;
        self.lengths.push(FunctionLength {
            name: signature.ident.to_string(),
            line,
            lines: end.end().line + 1 - line,
        });
    }
}

impl<'a> Visit<'a> for FunctionVisitor {
    fn visit_item_fn(&mut self, function: &'a syn::ItemFn) {
        self.record(&function.sig, function.block.span());
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        self.record(&function.sig, function.block.span());
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'a syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.record(&function.sig, block.span());
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::parsed;

    fn function_of(lines: usize) -> String {
        let body = "    work();\n".repeat(lines - 2);
        format!("impl Thing {{\nfn act() {{\n{body}}}\n}}\n")
    }

    #[test]
    fn a_function_at_the_limit_passes() {
        assert_eq!(check_functions(&parsed("a.rs", &function_of(70))), []);
    }

    #[test]
    fn a_longer_function_is_found_with_its_name_and_line() {
        let findings = check_functions(&parsed("a.rs", &function_of(71)));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 2);
        assert!(findings[0].message.contains("`act` has 71 lines"));
    }
}
