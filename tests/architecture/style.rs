//! Tests of style: lengths, dead files, leftovers, and words or calls that have a replacement.

use std::collections::BTreeSet;
use std::path::Path;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::sources::{Source, crates, files, library, root};

/// Maximum lines of a file, including tests.
const FILE_LINES: usize = 500;
/// Maximum lines of a function, from its signature to its closing brace.
const FUNCTION_LINES: usize = 70;
/// Maximum lines of nine out of ten functions.
const FUNCTION_LINES_P90: usize = 30;

/// Folders of sources.
const FOLDERS: &[&str] = &[
    "harness",
    "tokenizers",
    "models",
    "reports",
    "tests",
    "examples",
];

/// Text that library code may not contain, its replacement, and the files that may contain it.
const BANNED: &[(&str, &str, &[&str])] = &[
    ("todo!(", "finish it or leave it out", &[]),
    ("unimplemented!(", "finish it or leave it out", &[]),
    ("TODO", "an issue", &[]),
    ("FIXME", "an issue", &[]),
    (
        ".partial_cmp(",
        "`total_cmp`: a NaN has a place in the order",
        &[],
    ),
    // A second signal ends the program immediately, from the handler's own thread.
    (
        "process::exit(",
        "return an exit status to `main`",
        &["harness/cli/mod.rs"],
    ),
];

/// Lengths of the functions of a file.
#[derive(Default)]
struct Lengths(Vec<(String, usize)>);

impl Lengths {
    fn take(&mut self, name: &syn::Ident, whole: proc_macro2::Span) {
        self.0
            .push((name.to_string(), whole.end().line - whole.start().line + 1));
    }
}

impl<'ast> Visit<'ast> for Lengths {
    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        if node.ident != "tests" {
            visit::visit_item_mod(self, node);
        }
    }

    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.take(
            &node.sig.ident,
            node.sig.span().join(node.block.span()).unwrap(),
        );
        visit::visit_item_fn(self, node);
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.take(
            &node.sig.ident,
            node.sig.span().join(node.block.span()).unwrap(),
        );
        visit::visit_impl_item_fn(self, node);
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        if let Some(block) = &node.default {
            self.take(&node.sig.ident, node.sig.span().join(block.span()).unwrap());
        }
        visit::visit_trait_item_fn(self, node);
    }
}

#[test]
fn functions_are_short() {
    let mut all = Vec::new();
    for Source { path, tree, .. } in library() {
        let mut lengths = Lengths::default();
        lengths.visit_file(&tree);
        all.extend(
            lengths
                .0
                .into_iter()
                .map(|(name, lines)| (lines, format!("{}: {name}", path.display()))),
        );
    }
    all.sort();
    let too_long: Vec<_> = all
        .iter()
        .filter(|(lines, _)| *lines > FUNCTION_LINES)
        .collect();
    assert!(
        too_long.is_empty(),
        "functions of more than {FUNCTION_LINES} lines: {too_long:#?}"
    );
    let (p90, _) = &all[all.len() * 9 / 10];
    assert!(
        *p90 <= FUNCTION_LINES_P90,
        "a tenth of the functions have more than {FUNCTION_LINES_P90} lines: {p90}"
    );
}

#[test]
fn files_are_short() {
    for path in FOLDERS
        .iter()
        .flat_map(|folder| files(folder, &["rs", "cu", "cuh", "h", "py", "sh"]))
    {
        let lines = std::fs::read_to_string(root().join(&path))
            .unwrap()
            .lines()
            .count();
        assert!(
            lines <= FILE_LINES,
            "{}: {lines} lines, at most {FILE_LINES}",
            path.display()
        );
    }
}

/// A file that no module declares is not compiled.
#[test]
fn every_source_file_is_part_of_a_crate() {
    let sources = crates();
    let modules: BTreeSet<&[String]> = sources.iter().map(|s| &s.module[..]).collect();
    for source in sources.iter().filter(|source| source.module.len() > 1) {
        let (name, parent) = source.module.split_last().unwrap();
        assert!(
            modules.contains(parent),
            "{}: there is no module {}",
            source.path.display(),
            parent.join("::")
        );
        let above = sources.iter().find(|s| s.module == parent).unwrap();
        let declares = above
            .tree
            .items
            .iter()
            .any(|item| matches!(item, syn::Item::Mod(node) if node.ident == name));
        assert!(
            declares,
            "{} is dead: {} has no `mod {name};`",
            source.path.display(),
            above.path.display()
        );
    }
}

#[test]
fn library_code_has_no_leftovers() {
    for Source { path, text, .. } in library() {
        for (banned, instead, allowed) in BANNED {
            let may = allowed.iter().any(|file| path == Path::new(file));
            assert!(
                may || !text.contains(banned),
                "{} has `{banned}`: {instead}",
                path.display()
            );
        }
    }
}
