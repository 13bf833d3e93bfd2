//! Which classes there are, and in which order: those of the train split, or a list's.

use std::fs;
use std::path::Path;

use tessera_tokenizers::Fingerprint;

use super::error::DataError;

/// How a dataset speaks of the classes of one of its splits.
pub(super) struct Found<'a> {
    /// Class names, in label order.
    pub train: &'a [String],
    /// The same of the val split.
    pub val: &'a [String],
    /// "train", "val" as errors name them.
    pub places: [String; 2],
    /// "has no folder in": what a class of the list lacks there.
    pub lacks: &'static str,
}

/// The classes of `list`, which both splits must have, or without one those of train, which val must have too.
///
/// # Errors
/// Which classes are only in one, at `root`, or what is wrong with the list.
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
                "train and val have different classes (only in train: {}; only in val: {}); they must be the same, or give a `classes:` list",
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

/// One name per line: what follows a space or tab is ignored, and so are lines that begin with `#`.
///
/// # Errors
/// When the file cannot be read, names nothing, or a name twice.
pub(super) fn read_names(list: &Path) -> Result<Vec<String>, DataError> {
    let text = fs::read_to_string(list).map_err(|e| DataError::at(list, e.to_string()))?;
    let words = text.lines().filter_map(|l| l.split_whitespace().next());
    let names: Vec<String> = words
        .filter(|n| !n.starts_with('#'))
        .map(String::from)
        .collect();
    if names.is_empty() {
        let message = "no class names in it; expected one per line";
        return Err(DataError::at(list, message));
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(DataError::at(
            list,
            format!("class `{}` stands twice in it; expected each once", pair[0]),
        )),
        None => Ok(names),
    }
}

/// 16 hex digits over the names in order.
pub(super) fn class_hash(classes: &[String]) -> String {
    let parts: Vec<&[u8]> = classes.iter().map(String::as_bytes).collect();
    Fingerprint::of(&parts).0[..16].to_owned()
}
