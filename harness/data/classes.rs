//! The classes and their order: those of the train split, or of a list.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use tessera_models::{files, foreign};
use tessera_tokenizers::Fingerprint;
use unicode_normalization::UnicodeNormalization as _;

use super::error::DataError;

/// The classes that a dataset found in its splits, and words for error messages.
pub(super) struct Found<'a> {
    /// Class names of the train split in label order.
    pub train: &'a [String],
    /// Class names of the val split in label order.
    pub val: &'a [String],
    /// Names of the splits in errors: "shards/train and shards/val".
    pub places: String,
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
        let odd = a.iter().filter(|name| b.binary_search(name).is_err());
        odd.cloned().collect::<Vec<_>>()
    };
    if found.train != found.val {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            names
        };
        let (train, val) = (sorted(found.train), sorted(found.val));
        let (train, val) = (only(&train, &val), only(&val, &train));
        let sides = [("train", &train), ("val", &val)];
        let sides = sides.into_iter().filter(|(_, names)| !names.is_empty());
        let sides = sides.map(|(split, names)| format!("only in {split}: {}", first(names)));
        return Err(DataError::at(
            root,
            format!(
                "train and val have different classes ({}{}); they must be the same; correct the images or write a `classes:` list",
                sides.collect::<Vec<_>>().join("; "),
                alike(&train, &val)
            ),
        ));
    }
    Ok(found.train.to_vec())
}

/// Returns the first names, and the number of the others.
fn first(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let text = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => text,
        others => format!("{text} and {others} more"),
    }
}

/// Says how a name of train and another of val differ if they look alike.
fn alike(train: &[String], val: &[String]) -> String {
    let composed = |name: &str| name.nfc().collect::<String>();
    let pairs = || train.iter().flat_map(|a| val.iter().map(move |b| (a, b)));
    let by_form = pairs().find(|(a, b)| composed(a) == composed(b));
    if let Some((name, _)) = by_form {
        return format!(
            "; `{name}` is written in two Unicode forms, composed and decomposed (NFC and NFD): rename one of the folders"
        );
    }
    let by_look = pairs().find(|(a, b)| seen(a) == seen(b));
    if let Some((a, b)) = by_look {
        return format!("; {a:?} and {b:?} look the same: rename one of the folders");
    }
    let by_case = pairs().find(|(a, b)| a.to_lowercase() == b.to_lowercase());
    by_case.map_or_else(String::new, |(a, b)| {
        format!("; `{a}` and `{b}` differ in case: rename one of them")
    })
}

/// Returns what the eye sees of a name: neither its Unicode form, nor the kind and number of its spaces, nor the kind of its hyphens, nor
/// characters of no width.
pub fn seen(name: &str) -> String {
    let of_no_width = |c: &char| {
        matches!(
            c,
            '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}'
        )
    };
    let hyphen = |c: char| {
        if ['\u{2010}', '\u{2011}'].contains(&c) {
            '-'
        } else {
            c
        }
    };
    let seen: String = name.nfc().filter(|c| !of_no_width(c)).map(hyphen).collect();
    // Markdown and HTML show any number of spaces as one.
    seen.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns two classes whose names are the same to the eye.
pub(super) fn look_alike(names: &[String]) -> Option<(&str, &str)> {
    let mut known: HashMap<String, &str> = HashMap::new();
    names
        .iter()
        .find_map(|name| known.insert(seen(name), name).map(|other| (other, &**name)))
}

fn listed(found: &Found<'_>, list: &Path) -> Result<Vec<String>, DataError> {
    let (names, remarks) = parsed(list, false)?;
    let classes = [found.train, found.val].concat();
    if let Some(class) = remarks.iter().find(|remark| classes.contains(remark)) {
        let message = format!(
            "found `{class}`, which is a class, but a line that begins with # is a remark; rename the class"
        );
        return Err(DataError::at(list, message));
    }
    let known = |name: &str| {
        [found.train, found.val]
            .iter()
            .all(|all| all.iter().any(|n| n == name))
    };
    // A name may have spaces, so its first word is no class of its own.
    let chosen = names.iter().map(|line| {
        let mut words = line.split_whitespace();
        let first = words.next().filter(|word| known(word));
        let others: Vec<&str> = words.collect();
        // Of several classes, all words are known.
        let is_remark = others.iter().any(|word| !known(word) || Some(*word) == first);
        let message = match (first, others.first().filter(|_| !is_remark)) {
            _ if known(line) => return Ok(line.clone()),
            (Some(word), None) => format!(
                "class {} {} {}, but `{word}` has; write `{word}` alone or with a remark behind a tab, or correct the name",
                quoted(line),
                found.lacks,
                found.places
            ),
            (Some(word), Some(other)) => format!(
                "found the classes `{word}` and `{other}` in one line, expected one per line; write them on two lines, or a remark behind a tab"
            ),
            (None, _) => format!(
                "class {} {} {}; correct the list or add the images",
                quoted(line),
                found.lacks,
                found.places
            ),
        };
        Err(DataError::at(list, message))
    });
    let chosen = chosen.collect::<Result<Vec<_>, _>>()?;
    each_once(&chosen, list)?;
    Ok(chosen)
}

/// Returns the first characters of a name in quotes, with escapes if some are invisible.
fn quoted(name: &str) -> String {
    const SHOWN: usize = 100;
    let shown: String = name.chars().take(SHOWN).collect();
    let more = if shown.len() < name.len() { " ..." } else { "" };
    match seen(&shown) == shown.nfc().collect::<String>() {
        true => format!("`{shown}`{more}"),
        false => format!("{shown:?}{more}"),
    }
}

/// Most bytes of a list of classes: a million long names. A larger file is another one.
const MOST: u64 = 64 << 20;

/// Returns the bytes of a list of classes.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn read_list(list: &Path) -> Result<Vec<u8>, DataError> {
    let remedy = "expected a file with the name of a class per line; correct its path in `dataset`, which is relative to the suite";
    files::read_up_to(list, MOST).map_err(|e| DataError::at(list, format!("{e}; {remedy}")))
}

/// One name per line: what follows a tab or a WordNet id is ignored, and so are a byte order mark and, unless labels are numbers of lines
/// (`numbered`), lines that begin with `#`. Of equal names in a numbered list, the later ones get their number: ImageNet has two cranes.
///
/// # Errors
/// When the file cannot be read, names nothing, a name twice, or has a line without a name before its last name: a line that begins with
/// a tab, or, where labels are numbers of lines, a blank line or a line that begins with `#`.
pub(super) fn read_names(list: &Path, numbered: bool) -> Result<Vec<String>, DataError> {
    Ok(parsed(list, numbered)?.0)
}

/// Returns the names of [`read_names`], and the names that stand in remarks, with their `#`.
fn parsed(list: &Path, numbered: bool) -> Result<(Vec<String>, Vec<String>), DataError> {
    let bytes = read_list(list)?;
    let refuse = |found: &str| {
        let message = format!("found {found}, expected UTF-8; save it again in that encoding");
        DataError::at(list, message)
    };
    if let Some(what) = foreign::told(&bytes).filter(|_| !bytes.is_empty()) {
        return Err(DataError::at(list, what));
    }
    if let Some(encoding) = foreign::encoding(&bytes) {
        return Err(refuse(encoding));
    }
    let text = String::from_utf8(bytes).map_err(|_| refuse("other bytes (Latin-1?)"))?;
    let text = text.trim_start_matches('\u{feff}').trim_end();
    // Other ends of lines would join two names.
    let ends = ['\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'];
    if let Some(end) = text
        .lines()
        .find_map(|line| line.chars().find(|c| ends.contains(c)))
    {
        let message = format!(
            "found {end:?}, expected lines that end with \\n or \\r\\n; save it again with such ends"
        );
        return Err(DataError::at(list, message));
    }
    let (mut names, mut remarks) = (Vec::new(), Vec::new());
    for (at, line) in text.lines().enumerate() {
        let name = line.split('\t').next().unwrap_or_default().trim();
        let found = match name.chars().next() {
            None => "has no name",
            Some('#') => "begins with #",
            Some(_) => "",
        };
        // With numbers of lines as labels, a name would be lost, and those after it would get wrong labels.
        if numbered && !found.is_empty() {
            let line = at + 1;
            let message = format!(
                "line {line} {found}, but it stands for label {at} (labels count from 0); write the class of label {at} there, or remove \
                 the line if the next one names that class"
            );
            return Err(DataError::at(list, message));
        }
        if name.is_empty() && !line.trim().is_empty() {
            let message = format!(
                "line {} has no name before its tab; write one, or remove the line",
                at + 1
            );
            return Err(DataError::at(list, message));
        }
        let word = name.split(' ').next().unwrap_or_default();
        let name = if is_wordnet(word) { word } else { name };
        match name.starts_with('#') {
            true => remarks.push(name.to_owned()),
            false if name.is_empty() => {}
            false => names.push(name.to_owned()),
        }
    }
    if numbered && let Some(message) = no_lines(text) {
        return Err(DataError::at(list, message));
    }
    if names.is_empty() {
        let message = "contains no class names; expected one per line";
        return Err(DataError::at(list, message));
    }
    match numbered {
        true => number_repeated(&mut names),
        false => each_once(&names, list)?,
    }
    Ok((names, remarks))
}

/// Says why the lines of a list do not name labels 0, 1 and so on, if the list is JSON, begins with the header of a table or numbers its lines in
/// another order.
fn no_lines(text: &str) -> Option<&'static str> {
    const HEADERS: &str = "class classes label labels name names id index category categories";
    let json = serde_json::from_str::<serde_json::Value>(text);
    if json.is_ok_and(|json| json.is_array() || json.is_object()) {
        return Some(
            "found JSON, expected the name of a class per line; write the names on lines of their own",
        );
    }
    let first = text.lines().next().unwrap_or_default().to_lowercase();
    let words = first.split(|c: char| !c.is_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let is_of_header = |word: &&str| HEADERS.split(' ').any(|header| header == *word);
    if !words.is_empty() && words.iter().all(is_of_header) {
        return Some(
            "line 1 looks like the header of a table, but it stands for label 0 (labels count from 0); remove it if it is one, otherwise \
             rename the class",
        );
    }
    let number = |line: &str| -> Option<usize> {
        let (number, _) = line.trim().split_once([' ', '\t', ',', ':', ';'])?;
        number.parse().ok()
    };
    let numbers: Vec<usize> = text.lines().map(number).collect::<Option<_>>()?;
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    let counts = |from: usize| sorted.iter().copied().eq(from..from + sorted.len());
    (sorted != numbers && (counts(0) || counts(1))).then_some(
        "found lines that begin with their numbers in another order, expected the class of label 0 first, then that of label 1, and so on; sort the lines",
    )
}

/// Adds its label to a name that an earlier label has, as often as another line has that name too.
fn number_repeated(names: &mut [String]) {
    let mut taken: HashSet<String> = names.iter().cloned().collect();
    let mut seen = HashSet::new();
    for (label, name) in names.iter_mut().enumerate() {
        if seen.insert(name.clone()) {
            continue;
        }
        while !taken.insert(name.clone()) {
            *name = format!("{name} ({label})");
        }
    }
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
            format!("contains class `{name}` twice; expected each class once"),
        )),
        None => Ok(()),
    }
}

/// Returns a digest of the names in order, 16 hex digits.
pub(super) fn class_hash(classes: &[String]) -> String {
    let parts: Vec<&[u8]> = classes.iter().map(String::as_bytes).collect();
    Fingerprint::of(&parts).0[..16].to_owned()
}

#[cfg(test)]
mod tests;
