//! The classes and their order: those of the train split, or of a list.

use std::fs;
use std::path::Path;

use tessera_tokenizers::Fingerprint;

use super::error::DataError;

/// The classes that a dataset found in its splits, and words for error messages.
pub(super) struct Found<'a> {
    /// Class names of the train split in label order.
    pub train: &'a [String],
    /// Class names of the val split in label order.
    pub val: &'a [String],
    /// Names of both splits in errors.
    pub places: [String; 2],
    /// Words for a class of the list that is missing from a split: "has no folder in".
    pub lacks: &'static str,
}

/// Returns the classes of `list`, or those of the train split without one. Both splits must contain them.
///
/// # Errors
/// The classes that only one split has, at `root`, or the reason why the list is invalid.
pub(super) fn choose(
    found: &Found<'_>,
    list: Option<&Path>,
    root: &Path,
) -> Result<Vec<String>, DataError> {
    if let Some(list) = list {
        return listed(found, list);
    }
    let only = |a: &[String], b: &[String]| {
        let odd = a.iter().filter(|name| !b.contains(name));
        odd.take(3).cloned().collect::<Vec<_>>().join(", ")
    };
    if found.train != found.val {
        return Err(DataError::at(
            root,
            format!(
                "train and val have different classes (only in train: {}; only in val: {}); they must be the same; correct the images or write a `classes:` list",
                only(found.train, found.val),
                only(found.val, found.train)
            ),
        ));
    }
    Ok(found.train.to_vec())
}

fn listed(found: &Found<'_>, list: &Path) -> Result<Vec<String>, DataError> {
    let names = read_names(list)?;
    let [train, val] = &found.places;
    let known = |name: &&String| found.train.contains(name) && found.val.contains(name);
    match names.iter().find(|name| !known(name)) {
        Some(name) => Err(DataError::at(
            list,
            format!("class `{name}` {} {train} and {val}", found.lacks),
        )),
        None => Ok(names),
    }
}

/// Reads one name per line. Text after a space or tab and lines that begin with `#` are ignored.
///
/// # Errors
/// If the file cannot be read, contains no name, or a name twice.
pub(super) fn read_names(list: &Path) -> Result<Vec<String>, DataError> {
    let text = fs::read_to_string(list).map_err(|e| DataError::at(list, e.to_string()))?;
    let words = text.lines().filter_map(|l| l.split_whitespace().next());
    let names: Vec<String> = words
        .filter(|n| !n.starts_with('#'))
        .map(String::from)
        .collect();
    if names.is_empty() {
        let message = "contains no class names; expected one per line";
        return Err(DataError::at(list, message));
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(DataError::at(
            list,
            format!(
                "contains class `{}` twice; expected each class once",
                pair[0]
            ),
        )),
        None => Ok(names),
    }
}

/// Returns a digest of the names in order, 16 hex digits.
pub(super) fn class_hash(classes: &[String]) -> String {
    let parts: Vec<&[u8]> = classes.iter().map(String::as_bytes).collect();
    Fingerprint::of(&parts).0[..16].to_owned()
}
