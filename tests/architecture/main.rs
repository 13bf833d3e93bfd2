//! Checks the structure of the sources: imports between folders and files, lengths, dead files, leftovers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod imports;
mod opens;
mod sources;
mod style;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sources::Source;

/// Words and the only folders that may contain them.
const WORDS: &[(&str, &[&str])] = &[
    // Only the command line uses arguments, exit statuses and the terminal.
    ("clap::", &["harness/cli"]),
    ("indicatif::", &["harness/cli"]),
    // `print!(` is a part of `eprint!(`, and `println!(` of `eprintln!(`.
    ("print!(", &["harness/cli"]),
    ("println!(", &["harness/cli"]),
    ("io::stdout", &["harness/cli"]),
    ("io::stderr", &["harness/cli", "models/kernels/testing"]),
    ("env::args", &["harness/cli"]),
    ("ExitCode", &["harness/cli"]),
    // Suites and manifests are YAML, and a run writes its suite.
    (
        "serde_yaml::",
        &["harness/suite", "harness/run", "tokenizers/onnx"],
    ),
];

/// Returns the allowed imports of each folder, from the block `imports` of ARCHITECTURE.md.
fn drawn() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(sources::root().join("ARCHITECTURE.md")).unwrap();
    let (_, rest) = text
        .split_once("```imports\n")
        .expect("ARCHITECTURE.md has a block `imports`");
    let (block, _) = rest.split_once("```").unwrap();
    let lines = block
        .lines()
        .map(|line| line.split_once("->").unwrap_or((line, "")));
    let words = |list: &str| {
        list.split(',')
            .map(|w| w.trim().to_owned())
            .filter(|w| !w.is_empty())
            .collect()
    };
    lines
        .map(|(from, to)| (from.trim().to_owned(), words(to)))
        .collect()
}

/// Returns the deepest folder of the diagram that contains a file. `harness` itself stands only for the files directly in it.
fn folder<'a>(drawn: &'a BTreeMap<String, BTreeSet<String>>, path: &Path) -> &'a str {
    let above = drawn.keys().filter(|folder| {
        path.starts_with(folder)
            && (*folder != "harness" || path.parent() == Some("harness".as_ref()))
    });
    above
        .max_by_key(|folder| folder.len())
        .unwrap_or_else(|| panic!("{}: ARCHITECTURE.md draws no folder of it", path.display()))
}

#[test]
fn folder_imports_equal_those_of_architecture_md() {
    let (sources, drawn) = (sources::library(), drawn());
    let mut found: BTreeMap<&str, BTreeSet<&str>> = drawn
        .keys()
        .map(|folder| (&folder[..], BTreeSet::new()))
        .collect();
    for (source, imports) in sources.iter().zip(imports::Graph::new(&sources).edges()) {
        let from = folder(&drawn, &source.path);
        let to = imports.iter().map(|to| folder(&drawn, &sources[*to].path));
        found
            .entry(from)
            .or_default()
            .extend(to.filter(|to| *to != from));
    }
    let line = |(from, to): (&&str, &BTreeSet<&str>)| {
        format!(
            "{from} -> {}",
            Vec::from_iter(to.iter().copied()).join(", ")
        )
    };
    let block =
        |all: &BTreeMap<&str, BTreeSet<&str>>| Vec::from_iter(all.iter().map(line)).join("\n");
    let drawn = drawn
        .iter()
        .map(|(from, to)| (&from[..], to.iter().map(|to| &to[..]).collect()))
        .collect();
    let (found, drawn) = (block(&found), block(&drawn));
    assert!(
        found == drawn,
        "the sources import:\n{found}\n\nARCHITECTURE.md draws:\n{drawn}"
    );
}

#[test]
fn no_folder_imports_itself_through_others() {
    let drawn = drawn();
    let at = |name: &String| {
        drawn
            .keys()
            .position(|folder| folder == name)
            .unwrap_or_else(|| panic!("ARCHITECTURE.md draws no {name}"))
    };
    let edges: Vec<BTreeSet<usize>> = drawn
        .values()
        .map(|to| to.iter().map(at).collect())
        .collect();
    let circles = imports::circles(&edges);
    assert!(
        circles.is_empty(),
        "circles among {:#?}: {circles:?}",
        drawn.keys()
    );
}

#[test]
fn no_file_imports_itself_through_others() {
    let sources = sources::library();
    let edges = imports::Graph::new(&sources).edges();
    let name = |at: &usize| sources[*at].path.display().to_string();
    let mut found = String::new();
    for circle in imports::circles(&edges) {
        found.push('\n');
        for at in &circle {
            let within = edges[*at].iter().filter(|to| circle.contains(to));
            let list: Vec<String> = within.map(name).collect();
            found.push_str(&format!("{} imports {}\n", name(at), list.join(", ")));
        }
    }
    assert!(
        found.is_empty(),
        "files import one another:\n{found}\nmove what they share to a file of its own"
    );
}

#[test]
fn words_stay_in_their_folders() {
    for Source { path, text, .. } in sources::library() {
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code = Vec::from_iter(code).join("\n");
        for (word, folders) in WORDS {
            let may = folders.iter().any(|folder| path.starts_with(folder));
            assert!(
                may || !code.contains(word),
                "{} contains `{word}`; only {folders:?} may",
                path.display()
            );
        }
    }
}
