//! Which classes there are, and in which order: those of the train split, or a list's.

use std::collections::HashSet;
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
    let names = read_names(list, false)?;
    let [train, val] = &found.places;
    let known = |name: &str| {
        [found.train, found.val]
            .iter()
            .all(|all| all.iter().any(|n| n == name))
    };
    // A name may have spaces; else what follows the first is a remark.
    let chosen = names
        .iter()
        .map(|line| match line.split_whitespace().next() {
            _ if known(line) => Ok(line.clone()),
            Some(word) if known(word) => Ok(word.to_owned()),
            _ => Err(DataError::at(
                list,
                format!("class `{line}` {} {train} and {val}", found.lacks),
            )),
        });
    let chosen = chosen.collect::<Result<Vec<_>, _>>()?;
    each_once(&chosen, list)?;
    Ok(chosen)
}

/// One name per line: what follows a tab or a WordNet id is ignored, and so are lines that begin with `#` and a byte order mark.
///
/// # Errors
/// When the file cannot be read, names nothing, a name twice, or, where labels are numbers of lines, has an empty line before its last
/// name.
pub(super) fn read_names(list: &Path, numbered: bool) -> Result<Vec<String>, DataError> {
    let text = fs::read_to_string(list).map_err(|e| DataError::at(list, e.to_string()))?;
    let text = text.trim_start_matches('\u{feff}').trim_end();
    let mut names = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let name = line.split('\t').next().unwrap_or_default().trim();
        if name.is_empty() && numbered {
            // The names after it would be those of other labels.
            let message = format!("line {} has no name; remove it, or name the class", at + 1);
            return Err(DataError::at(list, message));
        }
        let word = name.split(' ').next().unwrap_or_default();
        let name = if is_wordnet(word) { word } else { name };
        if !name.is_empty() && !name.starts_with('#') {
            names.push(name.to_owned());
        }
    }
    if names.is_empty() {
        let message = "no class names in it; expected one per line";
        return Err(DataError::at(list, message));
    }
    each_once(&names, list)?;
    Ok(names)
}

/// `n01440764`, as lists of ImageNet's classes name them before their words.
fn is_wordnet(word: &str) -> bool {
    let digits = word.strip_prefix('n').unwrap_or_default();
    digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit())
}

fn each_once(names: &[String], list: &Path) -> Result<(), DataError> {
    let mut seen = HashSet::new();
    match names.iter().find(|name| !seen.insert(*name)) {
        Some(name) => Err(DataError::at(
            list,
            format!("class `{name}` stands twice in it; expected each once"),
        )),
        None => Ok(()),
    }
}

/// 16 hex digits over the names in order.
pub(super) fn class_hash(classes: &[String]) -> String {
    let parts: Vec<&[u8]> = classes.iter().map(String::as_bytes).collect();
    Fingerprint::of(&parts).0[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_list_keep_their_spaces_and_labels_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("names.txt");
        let read = |text: &str, numbered| {
            fs::write(&list, text).unwrap();
            read_names(&list, numbered)
        };
        for (text, names) in [
            (
                "\u{feff}polar bear\npolar fox\n",
                ["polar bear", "polar fox"],
            ),
            ("# two\r\n  ant \r\nbee\tan insect\r\n\r\n", ["ant", "bee"]),
            (
                "n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
                ["n01440764", "n01443537"],
            ),
        ] {
            assert_eq!(read(text, true).unwrap(), names, "{text:?}");
        }
        assert_eq!(read("ant\n\nbee\n", false).unwrap(), ["ant", "bee"]);
        let shifted = read("ant\n\nbee\n", true).unwrap_err().to_string();
        assert!(
            shifted.contains("names.txt: line 2 has no name"),
            "{shifted}"
        );
        let classes = ["ant", "polar bear"].map(String::from);
        let found = Found {
            train: &classes,
            val: &classes,
            places: ["train".into(), "val".into()],
            lacks: "has no folder in",
        };
        fs::write(&list, "polar bear\nant, an insect\n").unwrap();
        assert!(
            listed(&found, &list)
                .unwrap_err()
                .to_string()
                .contains("class `ant, an insect`")
        );
        fs::write(&list, "polar bear\nant (an insect)\n").unwrap();
        assert_eq!(listed(&found, &list).unwrap(), ["polar bear", "ant"]);
    }
}
