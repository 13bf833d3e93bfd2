//! The Rust sources as syntax trees, with the module of each file.

use std::path::{Path, PathBuf};

/// Every crate of the workspace: name and folder of `lib.rs`.
pub const CRATES: &[(&str, &str)] = &[
    ("tessera", "harness"),
    ("_native", "python"),
    ("tessera_tokenizers", "tokenizers"),
    ("tessera_models", "models"),
    ("tessera_kernels", "models/kernels"),
    ("tessera_testing", "models/kernels/testing"),
    ("tessera_reports", "reports"),
    ("tokenizers", "models/absent/tokenizers"),
];

/// Files and folders of a crate that are targets of Cargo besides the library.
const TARGETS: &[&str] = &["tests", "benches", "examples", "build.rs", "main.rs"];

/// A source file.
pub struct Source {
    /// Path relative to the repository.
    pub path: PathBuf,
    /// Crate and module path: `["tessera", "run", "cell"]`.
    pub module: Vec<String>,
    /// The text.
    pub text: String,
    /// The syntax tree.
    pub tree: syn::File,
}

/// Returns the root folder of the repository.
pub fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// Returns all files under `folder` with one of the `extensions`, relative to the repository, sorted.
pub fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    collect(&root.join(folder), &mut found);
    found.retain(|path| {
        extensions
            .iter()
            .any(|kind| path.extension().is_some_and(|e| e == *kind))
    });
    found.sort();
    found
        .into_iter()
        .map(|path| path.strip_prefix(&root).unwrap().to_owned())
        .collect()
}

/// Returns the files of every crate, with the modules of its tests, without Cargo's other targets.
pub fn crates() -> Vec<Source> {
    let mut all = Vec::new();
    for (name, folder) in CRATES {
        for path in files(folder, &["rs"]) {
            let deepest = CRATES
                .iter()
                .filter(|(_, f)| path.starts_with(f))
                .max_by_key(|(_, f)| f.len());
            let inside = path.strip_prefix(folder).unwrap().to_owned();
            let is_target = TARGETS.iter().any(|target| inside.starts_with(target));
            if deepest.is_none_or(|(deepest, _)| deepest != name) || is_target {
                continue;
            }
            all.push(source(path.clone(), module(name, &inside)));
        }
    }
    all
}

/// Returns the files of every crate's library, without tests.
pub fn library() -> Vec<Source> {
    let mut all = crates();
    let is_test = |source: &Source| source.module.iter().any(|name| name == "tests");
    all.retain(|source| !is_test(source));
    let tests: Vec<Vec<String>> = all.iter().flat_map(test_modules).collect();
    all.retain(|source| !tests.iter().any(|test| source.module.starts_with(test)));
    all
}

/// Returns the modules that a file declares only for tests.
fn test_modules(source: &Source) -> Vec<Vec<String>> {
    let modules = source.tree.items.iter().filter_map(|item| match item {
        syn::Item::Mod(node) if is_test(&node.attrs) => Some(node.ident.to_string()),
        _ => None,
    });
    modules
        .map(|name| source.module.iter().cloned().chain([name]).collect())
        .collect()
}

/// Returns whether an item is compiled only for tests.
pub fn is_test(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|attr| match &attr.meta {
        syn::Meta::List(list) if attr.path().is_ident("cfg") => {
            let text = list.tokens.to_string();
            text.split(|c: char| !c.is_alphanumeric())
                .any(|word| word == "test")
        }
        _ => false,
    })
}

/// Parses a file.
pub fn source(path: PathBuf, module: Vec<String>) -> Source {
    let text = std::fs::read_to_string(root().join(&path)).unwrap();
    let tree = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Source {
        path,
        module,
        text,
        tree,
    }
}

/// Returns the module of a file: `run` for `run/mod.rs` and `run.rs`, the crate for `lib.rs`.
fn module(name: &str, inside: &Path) -> Vec<String> {
    let mut module = vec![name.to_owned()];
    module.extend(
        inside
            .with_extension("")
            .iter()
            .map(|part| part.to_str().unwrap().to_owned()),
    );
    if module
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        module.pop();
    }
    module
}
