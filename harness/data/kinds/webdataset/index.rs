//! Indexes a shard: positions and labels of its images, without reading an image.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::archive::{self, Ends, ends, truncated};
use crate::data::decode::is_image;
use crate::data::digest::Digest;
use crate::data::error::DataError;
use crate::data::foreign::{HIDDEN, foreign, is_hidden};
use crate::data::left_out::{Omitted, USED};
use crate::data::names::Names;
use crate::data::scan::Place;

/// Maximum bytes of a label file.
const LABEL_BYTES: u64 = 1 << 20;
/// Maximum kept pairs of number and name. Names that are so many are captions of images, not classes.
const MOST_NAMED: usize = 1 << 16;

/// The images of a shard, in the order of their keys.
#[derive(Default, Serialize, Deserialize)]
pub struct Index {
    /// Path of each image in the archive.
    pub paths: Names,
    /// The images.
    pub members: Vec<Member>,
    /// Labels that occur in `.cls` and `.json`: numbers or names of classes.
    pub labels: Vec<String>,
    /// The numbers of classes that have names in the other label file of a key: number, name, and the first key.
    pub named: BTreeMap<(String, String), String>,
    /// Files that are left out.
    pub omitted: Omitted,
}

/// An image of a shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Index in the shard's labels.
    pub label: u32,
    /// Offset in the shard, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub bytes: u64,
    /// Digest of the image, after it has been decoded.
    pub digest: Option<Digest>,
}

impl Member {
    /// Returns its position, in shard number `shard`.
    pub fn place(&self, shard: u32) -> Place {
        Place {
            shard,
            offset: self.offset,
            bytes: self.bytes,
        }
    }
}

/// An image without its label.
struct Image {
    path: String,
    offset: u64,
    bytes: u64,
}

/// The files of one key.
#[derive(Default)]
struct Sample {
    image: Option<Image>,
    cls: Option<String>,
    json: Option<String>,
    /// Paths and extensions of other files.
    others: Vec<(String, String)>,
}

/// Returns all images of the shard at `path`.
///
/// # Errors
/// If it is compressed, truncated or not an archive, or a key has no label, two images, or a file twice.
pub fn index(path: &Path) -> Result<Index, DataError> {
    let mut index = Index::default();
    let mut numbers = HashMap::new();
    let (samples, ends) = samples(path, &mut index.omitted)?;
    for (key, sample) in samples {
        let found = labelled(path, &key, sample, &mut index);
        let found = found.map_err(|error| match ends {
            true => error,
            false => truncated(path, &format!("it has no end-of-archive mark, and {error}")),
        });
        let Some((image, label)) = found? else {
            continue;
        };
        let next = index.labels.len() as u32;
        let number = *numbers.entry(label.clone()).or_insert(next);
        if number == next {
            index.labels.push(label);
        }
        index.paths.push(&image.path);
        index.members.push(Member {
            label: number,
            offset: image.offset,
            bytes: image.bytes,
            digest: None,
        });
    }
    Ok(index)
}

/// The type of the volume's name, which `tar --label` writes.
const VOLUME: u8 = b'V';

/// Returns the files of every key of an archive, and whether it ends with a mark. Reads also behind an end-of-archive mark, where `cat` appends another archive.
fn samples(
    path: &Path,
    omitted: &mut Omitted,
) -> Result<(BTreeMap<String, Sample>, bool), DataError> {
    let refuse = |message: String| DataError::at(path, message);
    let mut samples: BTreeMap<String, Sample> = BTreeMap::new();
    let (mut archive, begin) = archive::open(path)?;
    let (length, no_archive) = (begin.length, |e| begin.refuse(path, &e));
    let (mut end, mut inner) = (0, Ends::default());
    for entry in archive.entries_with_seek().map_err(no_archive)? {
        let mut entry = entry.map_err(no_archive)?;
        let name = name(&entry).map_err(refuse)?;
        inner.check(path, end, entry.raw_header_position())?;
        end = entry.raw_file_position() + entry.size();
        if end > length {
            return Err(truncated(
                path,
                &format!("`{name}` ends at byte {end}, the file has {length}"),
            ));
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.as_byte() == VOLUME {
            continue;
        }
        if is_in_hidden(&name) {
            omitted.other(&*name, HIDDEN);
            continue;
        }
        let Some((key, extension)) = split(&name) else {
            omitted.other(&*name, "no images");
            continue;
        };
        if !kind.is_file() {
            return Err(refuse(format!(
                "`{name}` is a link, a sparse file or no file at all, expected a plain file; write the archive again with `tar --dereference`"
            )));
        }
        let sample = samples.entry(key.to_owned()).or_default();
        if sample.add(&name, extension, &mut entry).map_err(refuse)? {
            return Err(refuse(format!(
                "key `{key}` has a second image or label, `{name}`; expected one image and one label for each key; \
                 give every sample its own key"
            )));
        }
    }
    let ends = ends(path, end, length)?;
    if !ends {
        omitted.other(
            "",
            &format!(
                "{USED}without an end-of-archive mark; if one was cut between two files, images are missing"
            ),
        );
    }
    Ok((samples, ends))
}

impl Sample {
    /// Adds a file; returns whether it is the second of its kind.
    fn add<R: Read>(
        &mut self,
        name: &str,
        extension: String,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<bool, String> {
        Ok(match extension.as_str() {
            "cls" => self.cls.replace(text(entry, name)?).is_some(),
            "json" => self.json.replace(text(entry, name)?).is_some(),
            other if !other.contains('.') && is_image(Path::new(&format!("x.{other}"))) => {
                let image = Image {
                    path: name.to_owned(),
                    offset: entry.raw_file_position(),
                    bytes: entry.size(),
                };
                self.image.replace(image).is_some()
            }
            _ => {
                self.others.push((name.to_owned(), extension));
                false
            }
        })
    }
}

/// Returns whether a file or one of its folders is hidden.
fn is_in_hidden(name: &str) -> bool {
    let mut parts = name.split('/').filter(|part| ![".", ".."].contains(part));
    parts.any(|part| is_hidden(part.as_bytes()))
}

fn name<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String, String> {
    let name = entry.path_bytes();
    match std::str::from_utf8(&name) {
        Ok(name) => Ok(name.strip_prefix("./").unwrap_or(name).to_owned()),
        Err(_) => Err(format!(
            "`{}` is not UTF-8; rename it",
            String::from_utf8_lossy(&name)
        )),
    }
}

/// Splits a path into key and extension like webdataset's `base_plus_ext`: the path up to the first dot of the base name, and the
/// rest in lower case. `None` for a file without a dot, a hidden file, and webdataset's own `__...__`.
fn split(name: &str) -> Option<(&str, String)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    let own = name.starts_with("__") && name.ends_with("__");
    (dot > base && !own).then(|| (&name[..dot], name[dot + 1..].to_lowercase()))
}

fn text<R: Read>(entry: &mut tar::Entry<'_, R>, name: &str) -> Result<String, String> {
    let mut text = String::new();
    let read = entry.take(LABEL_BYTES).read_to_string(&mut text);
    read.map_err(|e| format!("`{name}` is not text ({e}), expected a label"))?;
    Ok(text)
}

/// Enters the number and the name that the label files of a key have: they may mean the same class.
fn named(
    all: &mut BTreeMap<(String, String), String>,
    key: &str,
    cls: String,
    json: String,
) -> Result<(), String> {
    let pair = match [&cls, &json].map(|label| is_number(label)) {
        [true, false] => (cls, json),
        [false, true] => (json, cls),
        _ => {
            return Err(format!(
                "`{key}.cls` has the label {cls:?} and `{key}.json` {json:?}, expected one label; leave one of the files out"
            ));
        }
    };
    if all.len() < MOST_NAMED {
        all.entry(pair).or_insert_with(|| key.to_owned());
    }
    Ok(())
}

/// Returns whether a label is the number of a class.
pub fn is_number(label: &str) -> bool {
    label.parse::<u32>().is_ok()
}

/// Returns the image of a key with its label; `None` for a key without both, whose files are left out.
fn labelled(
    path: &Path,
    key: &str,
    sample: Sample,
    index: &mut Index,
) -> Result<Option<(Image, String)>, DataError> {
    let omitted = &mut index.omitted;
    let refuse = |message: String| Err(DataError::at(path, message));
    let label = match (&sample.cls, &sample.json) {
        (Some(cls), _) => Some(of_cls(cls).map_err(|e| format!("`{key}.cls` {e}"))),
        (None, Some(json)) => Some(of_json(json).map_err(|e| format!("`{key}.json` {e}"))),
        (None, None) => None,
    };
    if let (Some(Ok(label)), Some(json)) = (&label, &sample.json)
        && let Ok(other) = of_json(json)
        && other != *label
    {
        named(&mut index.named, key, label.clone(), other).map_err(|e| DataError::at(path, e))?;
    }
    match (sample.image, label) {
        (Some(image), Some(Ok(label))) => {
            for (name, extension) in sample.others {
                omitted.other(name, &beside(&extension));
            }
            Ok(Some((image, label)))
        }
        (None, None) => {
            sample
                .others
                .into_iter()
                .for_each(|(name, extension)| unkeyed(omitted, key, name, &extension));
            Ok(None)
        }
        (None, Some(_)) => {
            let others = sample
                .others
                .iter()
                .map(|(_, extension)| format!("`.{extension}`"));
            let found = match Vec::from_iter(others).join(", ") {
                none if none.is_empty() => "nothing else".to_owned(),
                others => others,
            };
            refuse(format!(
                "key `{key}` has a label and no image: found {found}, expected `.jpg`, `.jpeg`, `.png` or `.webp` (a key ends at the \
                 first dot of the file's name); rename the image"
            ))
        }
        (Some(_), Some(Err(message))) => refuse(message),
        (Some(image), None) => {
            let others = sample
                .others
                .iter()
                .map(|(_, extension)| format!("`.{extension}`"));
            let found = Vec::from_iter(others).join(", ");
            let found = if found.is_empty() {
                found
            } else {
                format!("found {found}, ")
            };
            refuse(format!(
                "`{}` has no label; {found}expected `{key}.cls` (a class's number or name) or `{key}.json` ({{\"label\": n}}) beside it",
                image.path
            ))
        }
    }
}

/// Adds a file of a key without image and label.
fn unkeyed(omitted: &mut Omitted, key: &str, name: String, extension: &str) {
    let last = extension.rsplit('.').next().unwrap_or_default();
    let reason = match is_image(Path::new(&name)) {
        true => Some(format!(
            "its key ends at the first dot (`{key}`), and `{key}.cls` is absent; rename it"
        )),
        false => foreign(last, &[]),
    };
    match reason {
        Some(reason) => omitted.image(name, reason),
        None => omitted.other(name, &beside(extension)),
    }
}

/// The reason for a file that is neither image nor label.
fn beside(extension: &str) -> String {
    let last = extension.rsplit('.').next().unwrap_or_default();
    format!("`.{last}` that is neither image nor label of a key")
}

/// Returns a label: a number without sign and leading zeros, or a name.
fn of_cls(text: &str) -> Result<String, String> {
    let label = text.trim_start_matches('\u{feff}').trim();
    if label.is_empty() {
        return Err("is empty, expected a class's number or name".into());
    }
    if label.contains(char::is_control) {
        return Err(format!(
            "contains {label:?}, expected one line: a class's number or name"
        ));
    }
    let looks = label.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    match label.parse::<f64>() {
        Ok(_) if looks => {
            let number = label.parse::<u32>();
            number.map(|number| number.to_string()).map_err(|_| {
                format!(
                    "contains {label}, expected a class's whole number in 0..{}, or its name",
                    u32::MAX
                )
            })
        }
        _ => Ok(label.to_owned()),
    }
}

/// The JSON of an image. A second `label` is an error, because which of the two counts depends on the reader.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct About {
    #[serde(default, deserialize_with = "also_null")]
    label: Option<Value>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Reads a value that is there. Serde takes `null` for an absent one.
fn also_null<'a, D: Deserializer<'a>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

fn of_json(text: &str) -> Result<String, String> {
    let expected = "expected {\"label\": n}, a class's number or name";
    let about: About = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|e| format!("cannot be read: {e}; {expected}"))?;
    match about.label {
        Some(Value::Number(number)) if number.is_u64() => of_cls(&number.to_string()),
        Some(Value::String(name)) => of_cls(&name),
        None => {
            let keys: Vec<String> = about.others.into_iter().map(|(key, _)| key).collect();
            Err(format!(
                "has no `label` (found {}), {expected}",
                keys.join(", ")
            ))
        }
        Some(other) => Err(format!("has label {other}, {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_folders_hide_their_files_and_relative_ones_do_not() {
        for name in [".a.png", "ant/.b/c.png", "__MACOSX/ant/1.png", "./.git/x"] {
            assert!(is_in_hidden(name), "{name}");
        }
        for name in ["a.png", "././ant/1.png", "../ant/1.png", "ant.b/1.png"] {
            assert!(!is_in_hidden(name), "{name}");
        }
    }

    #[test]
    fn keys_equal_those_of_webdataset() {
        for (name, key, extension) in [
            ("a/b.c/0001.jpg", "a/b.c/0001", "jpg"),
            ("0001.seg.PNG", "0001", "seg.png"),
            ("n01/x_1.JPEG", "n01/x_1", "jpeg"),
        ] {
            assert_eq!(split(name), Some((key, extension.to_owned())));
        }
        for none in [
            "README",
            ".hidden.jpg",
            "a/.DS_Store",
            "__key.index__",
            "a.b/README",
        ] {
            assert_eq!(split(none), None, "{none}");
        }
    }

    #[test]
    fn labels_are_numbers_or_names() {
        assert_eq!(of_cls(" 12\n").unwrap(), "12");
        assert_eq!(of_json(r#"{"label": 7, "file": "x"}"#).unwrap(), "7");
        assert_eq!(of_json(r#"{"label": "n01440764"}"#).unwrap(), "n01440764");
        assert_eq!(of_json("\u{feff}{\"label\": 7}").unwrap(), "7");
        for (wrong, part) in [
            (r#"{"class": 1, "id": 2}"#, "found class, id"),
            (r#"{"label": -1}"#, "label -1"),
            (r#"{"label": 1.5}"#, "label 1.5"),
            (r#"{"label": null}"#, "label null"),
            ("{", "EOF"),
            ("[1]", "expected {\"label\": n}"),
            (r#"{"label": 1, "label": 2}"#, "duplicate field `label`"),
        ] {
            let error = of_json(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
        for (text, label) in [
            ("great white shark\r\n", "great white shark"),
            ("\u{feff}1", "1"),
            ("+1", "1"),
            ("001", "1"),
            ("3d", "3d"),
            ("inf", "inf"),
        ] {
            assert_eq!(of_cls(text).unwrap(), label, "{text:?}");
        }
        for wrong in [
            "",
            "-1",
            "1.0",
            "1e3",
            "1000000000000",
            "1\n2",
            "\u{1}\0\0\0",
        ] {
            assert!(of_cls(wrong).is_err(), "{wrong:?}");
        }
    }
}
