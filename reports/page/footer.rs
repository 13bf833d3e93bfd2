//! The end of the page: notes, when and where the run was computed and what it cost, its files, how to cite it. Nothing here depends on when
//! the page is written.

use std::fmt::Write;

use serde_json::Value;

use crate::columns::CostRow;
use crate::figure::escaped;

/// Files of a run folder that may be beside the page, and what they hold.
const FILES: &[(&str, &str)] = &[
    ("results.csv", "a row per tokenizer and seed"),
    ("metrics.csv", "training-free metrics with errors"),
    ("comparisons.csv", "every row against the baseline"),
    ("costs.csv", "seconds and memory of every stage"),
    ("tables/", "tables as CSV, Markdown and LaTeX"),
    ("figures/", "figures as SVG and PNG"),
];

const PAPER: &str = "@inproceedings{du2024role,
  title     = {On the Role of Discrete Tokenization in Visual Representation Learning},
  author    = {Du, Tianqi and Wang, Yifei and Wang, Yisen},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}";

/// Content of the footer.
pub struct Footer<'a> {
    /// Notes on the numbers.
    pub notes: &'a [String],
    /// `environment.json`.
    pub environment: &'a Value,
    /// `costs.csv`.
    pub costs: &'a [CostRow],
    /// The resolved suite, as YAML.
    pub suite: &'a str,
    /// Files beside the page.
    pub files: &'a [&'static str],
}

/// Returns the names of files that may be beside the page; those of folders end with `/`.
pub fn files() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(file, _)| *file)
}

/// Returns the HTML.
pub fn footer(page: &Footer<'_>) -> String {
    let notes = page.notes.iter();
    let notes: String = notes
        .map(|note| format!("<li>{}</li>", escaped(note)))
        .collect();
    let files = FILES.iter().filter(|(file, _)| page.files.contains(file));
    let files =
        files.map(|(file, about)| format!("<li><a href=\"{file}\">{file}</a>: {about}</li>"));
    format!(
        "<ul>{notes}</ul><p>{}</p><p>Files beside this page:</p><ul>{}</ul>\
         <details><summary>How to cite</summary><p>State the suite, and cite the program that computed this run and the paper whose metric \
         and method it implements:</p><pre>{}\n\n{PAPER}</pre></details>\
         <details><summary>Program and machine</summary><pre>{}</pre></details>\
         <details><summary>The suite</summary><pre>{}</pre></details>",
        escaped(&computed(page)),
        files.collect::<String>(),
        escaped(&program(page.environment)),
        escaped(&format!("{:#}", page.environment)),
        escaped(page.suite)
    )
}

/// Returns the BibTeX entry of the program, which CITATION.cff has too.
fn program(environment: &Value) -> String {
    let said = |key: &str| environment[key].as_str().unwrap_or("unknown");
    let year = environment["date"].as_str().and_then(|date| date.get(..4));
    format!(
        "@software{{tessera,
  title     = {{Tessera: a benchmark harness for the visual tokenizers of masked image modeling}},
  author    = {{{{The Tessera authors}}}},
  version   = {{{}, commit {}}},
  year      = {{{}}}
}}",
        said("tessera"),
        said("commit"),
        year.unwrap_or("unknown")
    )
}

/// Says where and at what cost the run was computed.
fn computed(page: &Footer<'_>) -> String {
    let mut text = String::new();
    let said = |key: &str| page.environment[key].as_str();
    let day = said("date").map_or_else(String::new, |day| format!(", on {day},"));
    if let Some(place) = said("gpu").or(said("cpu")) {
        let _ = write!(text, "The last run into this folder{day} used: {place}. ");
    }
    // Rows share stages: an entry of the store counts once.
    let mut costs: Vec<(&str, f64)> = page
        .costs
        .iter()
        .map(|c| (c.key.as_str(), c.seconds))
        .collect();
    costs.sort_by(|a, b| a.0.cmp(b.0));
    costs.dedup_by(|a, b| a.0 == b.0);
    let seconds: f64 = costs.iter().map(|(_, seconds)| seconds).sum();
    if seconds > 0.0 {
        let (amount, unit) = match seconds {
            ..120.0 => (seconds, "seconds"),
            ..7200.0 => (seconds / 60.0, "minutes"),
            _ => (seconds / 3600.0, "hours"),
        };
        let _ = write!(
            text,
            "Its stages took {amount:.1} {unit} in all, on any machine and in any earlier run that stored them."
        );
    }
    text
}
