//! The documentation: its links lead somewhere, its suites are accepted, and its commands exist.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{Bench, HEAD, RECIPE, error};
use tessera_reports::{MetricRow, Record, from_csv, summary};

/// Rows for suites of the documentation that have none.
const ROWS: &str =
    "tokenizers: [{name: Identity, kind: continuous, with: {features: {kind: pixels}}}]\n";
/// Words of examples that need files, which the test does not make, or that are no suites.
const NEEDS_FILES: [&str; 9] = [
    "model:",
    "{train:",
    "row:",
    "kind: python",
    "kind: command",
    "webdataset",
    "cifar-binary",
    "steps:",
    "apiVersion:",
];

/// A page: prose without code blocks, and the code blocks with their language.
struct Page {
    path: PathBuf,
    prose: String,
    blocks: Vec<(String, String)>,
}

impl Page {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let (mut prose, mut blocks) = (String::new(), Vec::new());
        for (at, part) in text.split("\n```").enumerate() {
            match part.split_once('\n') {
                Some((language, body)) if at % 2 == 1 => {
                    blocks.push((language.to_owned(), format!("{body}\n")));
                }
                _ => prose.push_str(part),
            }
        }
        let path = path.to_owned();
        Self {
            path,
            prose,
            blocks,
        }
    }

    /// Returns the names of its headings in links, as GitHub writes them.
    fn anchors(&self) -> Vec<String> {
        let titles = self.prose.lines().filter(|line| line.starts_with('#'));
        let is_kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        let name = |title: &str| -> String {
            let title = title.trim_start_matches('#').trim().to_lowercase();
            title.chars().filter(is_kept).collect()
        };
        titles.map(|title| name(title).replace(' ', "-")).collect()
    }

    /// Returns the links that lead nowhere.
    fn broken(&self) -> Vec<String> {
        let folder = self.path.parent().unwrap();
        let is_broken = |link: &&str| {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = match file {
                "" => self.path.clone(),
                file => folder.join(file),
            };
            !path.exists()
                || (!anchor.is_empty() && !Self::read(&path).anchors().contains(&anchor.to_owned()))
        };
        let links = self
            .prose
            .split("](")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once(')')?.0));
        let links = links.filter(|link| !link.contains("://")).filter(is_broken);
        links
            .map(|link| format!("{}: {link}", self.path.display()))
            .collect()
    }

    /// Returns its code: words in backticks, and lines of blocks without a language.
    fn code(&self) -> Vec<String> {
        let spans = self
            .prose
            .split("\n\n")
            .flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
        let blocks = self
            .blocks
            .iter()
            .filter(|(language, _)| language.is_empty());
        let lines = blocks.flat_map(|(_, body)| body.lines());
        spans
            .map(|span| span.replace('\n', " "))
            .chain(lines.map(str::to_owned))
            .collect()
    }
}

/// Returns the pages: those of the root, of `docs/`, and of the exporters.
fn pages() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [
        root.to_owned(),
        root.join("docs"),
        root.join("tokenizers/export"),
        root.join("tokenizers/program"),
    ];
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let paths = files.map(|file| file.unwrap().path());
    let pages = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.map(|path| Page::read(&path)).collect()
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    assert!(pages.len() > 15, "found {} pages", pages.len());
    let broken: Vec<String> = pages.iter().flat_map(Page::broken).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_missing_file_and_a_missing_heading_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.md");
    let text = "# Why is it 0.81?\n[a](#why-is-it-081) [b](page.md) [c](https://example.org/x)\n[d](absent.md) [e](page.md#why)\n```\n# No heading\n[f](code.md)\n```\n";
    std::fs::write(&page, text).unwrap();
    let broken = Page::read(&page).broken();
    assert_eq!(broken.len(), 2, "{broken:?}");
    assert!(broken[0].ends_with("absent.md") && broken[1].ends_with("page.md#why"));
}

/// Makes a suite of a part of one: rows, or some fields. Fields that it lacks are those of a small suite.
fn completed(part: &str) -> String {
    let part = match part.trim_start().starts_with("- ") {
        true => format!("tokenizers:\n{part}"),
        false => part.to_owned(),
    };
    let has = |field: &str| part.lines().any(|line| line.starts_with(field));
    if has("dataset:") && has("tokenizers:") {
        return part;
    }
    let lines = HEAD.lines().chain(ROWS.lines()).chain(RECIPE.lines());
    let missing: Vec<&str> = lines
        .filter(|line| !has(&line[..=line.find(':').unwrap()]))
        .collect();
    format!("{}\n{part}", missing.join("\n"))
}

/// Validates suites in a folder that has the images of the examples, `path/to/images`.
struct Examples(Bench);

impl Examples {
    fn new() -> Self {
        let bench = Bench::new("");
        for split in ["train", "val"] {
            for class in ["a", "b"] {
                let folder = bench.path("path/to/images").join(split).join(class);
                std::fs::create_dir_all(&folder).unwrap();
                for name in ["x.png", "y.png", "z.png"] {
                    let image = image::RgbImage::new(40, 40);
                    image.save(folder.join(name)).unwrap();
                }
            }
        }
        Self(bench)
    }

    fn validate(&self, suite: &str) -> Output {
        std::fs::write(self.0.path("suite.yaml"), suite).unwrap();
        self.0.bench(&["validate", "suite.yaml"])
    }
}

#[test]
fn suites_are_accepted() {
    let (examples, mut checked) = (Examples::new(), 0);
    for page in pages() {
        for (language, body) in &page.blocks {
            let is_whole = body.lines().any(|line| line.starts_with("tokenizers:"));
            let needs_files = NEEDS_FILES.iter().any(|word| body.contains(word));
            let is_outside = body.contains("product-quantization") || body.contains("gradients");
            if language != "yaml" || is_outside || (needs_files && !is_whole) {
                continue;
            }
            let output = examples.validate(&completed(body));
            let said = error(&output);
            assert!(
                output.status.success(),
                "{}: {said}\n{body}",
                page.path.display()
            );
            checked += 1;
        }
    }
    assert!(checked >= 6, "only {checked} suites were found");
}

#[test]
fn a_misspelt_field_of_an_example_is_found() {
    let examples = Examples::new();
    let row = "- {name: T, kind: kmeans, with: {features: {kind: hog}, epochs: 1, K: 50}}\n";
    assert!(!examples.validate(&completed(row)).status.success());
    assert!(
        examples
            .validate(&completed(&row.replace("K:", "k:")))
            .status
            .success()
    );
}

/// The help texts of the program's verbs.
struct Verbs(HashMap<String, String>);

impl Verbs {
    fn read() -> Self {
        let bench = Bench::new("");
        let help = |words: &[&str]| bench.fine(&[words, &["--help"]].concat());
        let all = named(&help(&[])).into_iter().map(|verb| {
            let own = help(&[&verb]);
            let parts = named(&own).into_iter();
            let parts: String = parts.map(|part| help(&[&verb, &part])).collect();
            (verb, own + &parts)
        });
        Self(all.collect())
    }

    /// Returns what `code` asks of `bench` that does not exist: verbs and options.
    fn unknown(&self, code: &str) -> Vec<String> {
        let mut unknown = Vec::new();
        for (at, _) in code.match_indices("bench ") {
            let (before, command) = code.split_at(at);
            if before.ends_with(['-', '"']) || before.ends_with("cargo ") {
                continue;
            }
            let mut words = command.split_whitespace().skip(1);
            let verb = words.next().unwrap_or_default();
            if !verb.starts_with(|c: char| c.is_ascii_lowercase()) {
                continue;
            }
            let verb = verb.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let Some(help) = self.0.get(verb) else {
                unknown.push(format!("bench {verb}"));
                continue;
            };
            let own = words.take_while(|word| !["--", "|", "&&", "#", ">"].contains(word));
            let options = own.filter(|word| word.starts_with("--"));
            let names = options.map(|word| word.split('=').next().unwrap_or_default());
            let names =
                names.map(|name| name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()));
            let absent = names.filter(|name| !help.split_whitespace().any(|word| word == *name));
            unknown.extend(absent.map(|name| format!("bench {verb} {name}")));
        }
        unknown
    }
}

/// Returns the commands that a help text lists, without `help`.
fn named(help: &str) -> Vec<String> {
    let (_, list) = help.split_once("Commands:\n").unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let first = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    first
        .filter(|name| !["", "help"].contains(name))
        .map(str::to_owned)
        .collect()
}

#[test]
fn commands_exist() {
    let verbs = Verbs::read();
    assert!(verbs.0.len() > 10, "{:?}", verbs.0.keys());
    let (mut unknown, mut commands) = (Vec::new(), 0);
    for page in pages() {
        for code in page.code() {
            commands += code.matches("bench ").count();
            let found = verbs.unknown(&code);
            unknown.extend(
                found
                    .into_iter()
                    .map(|found| format!("{}: {found}", page.path.display())),
            );
        }
    }
    assert!(commands > 50, "only {commands} commands were found");
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn a_verb_or_an_option_that_does_not_exist_is_found() {
    let verbs = Verbs::read();
    let code = "target/release/bench run S --dry-run --fast -- --other && bench rum | bench store gc --keep-days=3, bench VERB";
    assert_eq!(verbs.unknown(code), ["bench run --fast", "bench rum"]);
}

/// The first table that a newcomer compares with their own.
#[test]
fn the_quickstarts_table_is_that_of_its_baseline() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let read = |name: &str| text(&format!("reports/baseline/quickstart/{name}"));
    let records: Vec<Record> = from_csv(&read("results.csv"), "results.csv").unwrap();
    let metrics: Vec<MetricRow> = from_csv(&read("metrics.csv"), "metrics.csv").unwrap();
    let of = |r: &Record| {
        let rows = metrics
            .iter()
            .filter(|m| m.tokenizer == r.tokenizer && m.seed == r.seed);
        rows.cloned().collect::<Vec<_>>()
    };
    let table = summary(&records, &records.iter().map(|r| (r, of(r))).collect());
    let page = text("docs/first-result.md");
    let blocks: Vec<&str> = page.split("```\n").collect();
    assert!(
        blocks.contains(&table.as_str()),
        "expected in docs/first-result.md:\n{table}"
    );
}
