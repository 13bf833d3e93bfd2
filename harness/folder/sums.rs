//! `SHA256SUMS`: digests of the files that a finished run has written and [`read`](super::read) reads. `sha256sum --check SHA256SUMS`
//! compares them, too.
//!
//! A run removes the list before it writes files, and writes it at its end, so a run that was killed has none.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::path::{Component, Path};

use anyhow::{Context as _, anyhow, bail};
use tessera_models::{files, foreign};
use tessera_reports::Record;
use tessera_reports::evaluations::Evaluation;

use super::layout::{
    CELLS, CLASSES, COSTS, ENVIRONMENT, LABELS, METRICS, RESULTS, SHOWN, SKIPPED, SUITE, SUMS,
    cell_folders,
};
use crate::sha256::sha256;

/// Most bytes of a list: a few lines for each of 100,000 rows. Only a damaged one is larger.
const MOST: u64 = 64 << 20;

/// Most characters of a damaged line that a message shows.
const QUOTED: usize = 100;

/// What to do about a damaged file.
pub(super) const RESTORE: &str = "copy the file from a backup, or write the folder again by `bench run` or `bench score`, which use stored results";

/// What is found in a CSV file that is empty or cut to its header.
pub(super) const NO_ROWS: &str = "no rows";

/// Returns the message about a file whose content is lost.
pub(super) fn lost(path: &Path, found: &str, expected: &str) -> String {
    let path = path.display();
    format!("{path}: found {found}, expected {expected}; {RESTORE}")
}

/// Returns the error of a file that is not as the run wrote it.
fn other(path: &Path, found: &str) -> anyhow::Error {
    let path = path.display();
    anyhow!(
        "{path}: {found}; {RESTORE}; remove {SUMS} if you have changed files of the folder yourself"
    )
}

/// Returns the names of the files that are read, of which the folder of a run may lack some.
fn names(records: &[Record]) -> Vec<String> {
    let mut names = [SUITE, ENVIRONMENT, CLASSES, LABELS, SKIPPED]
        .map(String::from)
        .to_vec();
    let predictions = Evaluation::compared().filter_map(|evaluation| evaluation.predictions);
    let of_cells: Vec<&str> = SHOWN.into_iter().chain(predictions).collect();
    for cell in cell_folders(records) {
        names.extend(of_cells.iter().map(|name| format!("{CELLS}/{cell}/{name}")));
    }
    names.extend([COSTS, METRICS, RESULTS].map(String::from));
    names
}

/// Returns the list of the run in `folder`, whose results are `records`.
///
/// # Errors
/// If a file cannot be read.
pub fn of(folder: &Path, records: &[Record]) -> anyhow::Result<String> {
    let mut text = String::new();
    for name in names(records) {
        let path = folder.join(&name);
        if files::is_absent(&path) {
            continue;
        }
        let digest = sha256(&path, || Ok(())).with_context(|| path.display().to_string())?;
        text.push_str(&format!("{digest}  {name}\n"));
    }
    Ok(text)
}

/// Returns whether the file `name` differs from the list in `folder`; without a list or its line it does not.
pub fn has_changed(folder: &Path, name: &str) -> bool {
    let list = text(&folder.join(SUMS)).unwrap_or_default();
    let mut lines = list.lines().filter_map(|line| line.split_once("  "));
    let line = lines.find(|(_, listed)| *listed == name);
    let found = || sha256(&folder.join(name), || Ok(()));
    line.is_some_and(|(expected, _)| found().is_ok_and(|found| found != expected))
}

/// Compares the files in `folder` with its list, and returns the list's names; `None` without a list.
///
/// # Errors
/// If the list is damaged, one of its files cannot be read or has another digest, or one outside of cells is absent.
pub fn check(folder: &Path) -> anyhow::Result<Option<HashSet<String>>> {
    let list = folder.join(SUMS);
    if files::is_absent(&list) {
        return Ok(None);
    }
    let unread = |path: &Path, error: &dyn std::fmt::Display| other(path, &error.to_string());
    let text = text(&list).map_err(|e| unread(&list, &e))?;
    let mut names = HashSet::new();
    for line in text.lines() {
        let Some((expected, name)) = line.split_once("  ").filter(|(_, name)| is_inside(name))
        else {
            let found = format!(
                "found the line {:?}, expected a digest and a file of the folder",
                cut(line)
            );
            return Err(other(&list, &found));
        };
        names.insert(name.to_owned());
        let path = folder.join(name);
        if files::is_absent(&path) {
            // Pictures and predictions are large, so a copy may leave them out.
            if name.starts_with(CELLS) {
                continue;
            }
            return Err(other(&path, &format!("no such file, but {SUMS} has it")));
        }
        let found = sha256(&path, || Ok(())).map_err(|e| unread(&path, &e))?;
        if found == expected {
            continue;
        }
        // A run that begins removes the list first.
        if self::text(&list).ok().as_ref() != Some(&text) {
            bail!(
                "{}: a run is writing into this folder; try again when it has ended",
                folder.display()
            );
        }
        let found = format!(
            "found SHA-256 {found}, expected {} of {SUMS}: the file has changed since the run",
            cut(expected)
        );
        return Err(other(&path, &found));
    }
    Ok(Some(names))
}

/// Checks that the list, whose names are `listed`, has every file of the run: lines may be lost, and names damaged.
///
/// # Errors
/// If it lacks one.
pub fn check_all_listed(
    folder: &Path,
    listed: &HashSet<String>,
    records: &[Record],
) -> anyhow::Result<()> {
    let lacks = |name: &String| !listed.contains(name) && !files::is_absent(&folder.join(name));
    match names(records).into_iter().find(lacks) {
        None => Ok(()),
        Some(name) => {
            let found = format!("found no line of {name}, expected one for every file of the run");
            Err(other(&folder.join(SUMS), &found))
        }
    }
}

/// Reads the list at `path`.
fn text(path: &Path) -> io::Result<String> {
    let bytes = files::read_up_to(path, MOST)?;
    foreign::utf8(bytes).map_err(|found| {
        let message = format!("found {found}, expected UTF-8");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// Returns the beginning of a text: a damaged line may be as long as the file.
fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => Cow::Owned(format!("{}...", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Returns whether a name is that of a file inside of a folder.
fn is_inside(name: &str) -> bool {
    // No name of a run's file is as long, and a message would show it.
    const LONGEST: usize = 1024;
    let mut parts = Path::new(name).components();
    name.len() <= LONGEST && parts.all(|part| matches!(part, Component::Normal(_)))
}
