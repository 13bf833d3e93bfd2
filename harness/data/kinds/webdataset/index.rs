//! Indexes a shard: positions and labels of its images, without reading an image.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::decode::is_image;
use crate::data::digest::Digest;
use crate::data::error::DataError;
use crate::data::scan::Place;

/// Bytes of a block of a tar archive.
const BLOCK: u64 = 512;
/// Maximum bytes of a label file.
const LABEL_BYTES: u64 = 1 << 20;
/// First bytes of compressed files, their format, and the tool that unpacks them.
const COMPRESSED: &[(&[u8], &str, &str)] = &[
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
];

/// An image of a shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its path in the archive.
    pub path: String,
    /// Label in its `.cls` or `.json`: a number or the name of a class.
    pub label: String,
    /// Name of its class.
    #[serde(skip)]
    pub class: String,
    /// Offset in the shard, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub bytes: u64,
    /// Digest of the image, after it has been decoded.
    pub digest: Option<Digest>,
}

impl Member {
    fn unlabelled(path: String, offset: u64, bytes: u64) -> Self {
        Self {
            path,
            label: String::new(),
            class: String::new(),
            offset,
            bytes,
            digest: None,
        }
    }

    /// Returns its position, in shard number `shard`.
    pub fn place(&self, shard: u32) -> Place {
        Place {
            shard,
            offset: self.offset,
            bytes: self.bytes,
        }
    }
}

/// The files of one key.
#[derive(Default)]
struct Sample {
    image: Option<Member>,
    cls: Option<String>,
    json: Option<String>,
    /// Other extensions, for error messages.
    others: Vec<String>,
}

/// Returns all images of the shard at `path`, in the order of their keys.
///
/// # Errors
/// If it is compressed, truncated or not an archive, or a key has no label, two images, or a file twice.
pub fn index(path: &Path) -> Result<Vec<Member>, DataError> {
    let refuse = |message: String| DataError::at(path, message);
    let mut samples: BTreeMap<String, Sample> = BTreeMap::new();
    let length = opened(path)?;
    let file = File::open(path).map_err(|e| refuse(e.to_string()))?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    let no_archive = |e: io::Error| {
        refuse(format!(
            "is not a complete tar archive ({e}); expected a .tar of images and labels; write or copy it again"
        ))
    };
    let mut end = 0;
    for entry in archive.entries_with_seek().map_err(no_archive)? {
        let mut entry = entry.map_err(no_archive)?;
        let name = name(&entry).map_err(refuse)?;
        let (offset, bytes) = (entry.raw_file_position(), entry.size());
        end = offset + bytes;
        if end > length {
            return Err(truncated(
                path,
                &format!("`{name}` ends at byte {end}, the file has {length}"),
            ));
        }
        let kind = entry.header().entry_type();
        let Some((key, extension)) = split(&name).filter(|_| !kind.is_dir()) else {
            continue;
        };
        if !kind.is_file() {
            return Err(refuse(format!(
                "`{name}` is a link or a sparse file, expected a plain file; write the archive again with `tar --dereference`"
            )));
        }
        let sample = samples.entry(key.to_owned()).or_default();
        let twice = match extension.as_str() {
            "cls" => sample
                .cls
                .replace(text(&mut entry, &name).map_err(refuse)?)
                .is_some(),
            "json" => sample
                .json
                .replace(text(&mut entry, &name).map_err(refuse)?)
                .is_some(),
            other if !other.contains('.') && is_image(Path::new(&format!("x.{other}"))) => {
                let member = Member::unlabelled(name.clone(), offset, bytes);
                sample.image.replace(member).is_some()
            }
            other => {
                sample.others.push(other.to_owned());
                false
            }
        };
        if twice {
            return Err(refuse(format!(
                "key `{key}` has a second image or label, `{name}`; expected one image and one label for each key; \
                 give every sample its own key"
            )));
        }
    }
    ends(path, end)?;
    let members = samples
        .into_iter()
        .filter_map(|(key, sample)| member(path, &key, sample));
    members.collect()
}

/// Returns the length of a file; a compressed file is an error.
fn opened(path: &Path) -> Result<u64, DataError> {
    let refuse = |e: io::Error| DataError::at(path, e.to_string());
    let file = File::open(path).map_err(refuse)?;
    let length = file.metadata().map_err(refuse)?.len();
    let mut first = Vec::new();
    file.take(8).read_to_end(&mut first).map_err(refuse)?;
    match COMPRESSED
        .iter()
        .find(|(magic, ..)| first.starts_with(magic))
    {
        Some((_, kind, tool)) => Err(DataError::at(
            path,
            format!(
                "is compressed ({kind}), expected a plain .tar, because images are read from any position; unpack it with `{tool}`"
            ),
        )),
        None => Ok(length),
    }
}

/// Checks that the archive ends with a block of zeros; otherwise it is truncated.
fn ends(path: &Path, end: u64) -> Result<(), DataError> {
    let at = end.next_multiple_of(BLOCK);
    let mut block = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(at))?;
        file.take(BLOCK).read_to_end(&mut block)
    });
    read.map_err(|e| DataError::at(path, e.to_string()))?;
    if block.len() as u64 == BLOCK && block.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(truncated(
        path,
        &format!("it has no end-of-archive mark at byte {at}"),
    ))
}

fn truncated(path: &Path, why: &str) -> DataError {
    DataError::at(path, format!("is truncated: {why}; write or copy it again"))
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

/// Returns the image of a key with its label; `None` for a key without both.
fn member(path: &Path, key: &str, sample: Sample) -> Option<Result<Member, DataError>> {
    let refuse = |message: String| Some(Err(DataError::at(path, message)));
    let label = match (&sample.cls, &sample.json) {
        (Some(cls), _) => of_cls(cls).map_err(|e| format!("`{key}.cls` {e}")),
        (None, Some(json)) => of_json(json).map_err(|e| format!("`{key}.json` {e}")),
        (None, None) => match sample.image {
            Some(image) => {
                return refuse(format!(
                    "`{}` has no label; expected `{key}.cls` (a class's number or name) or `{key}.json` ({{\"label\": n}}) beside it",
                    image.path
                ));
            }
            None => return None,
        },
    };
    let Some(image) = sample.image else {
        let found = match sample.others.join(", ") {
            none if none.is_empty() => "nothing else".to_owned(),
            others => format!("`.{others}`"),
        };
        return refuse(format!(
            "key `{key}` has a label and no image: found {found}, expected `.jpg`, `.jpeg`, `.png` or `.webp` (a key ends at the \
             first dot of the file's name); rename the image"
        ));
    };
    match label {
        Ok(label) => Some(Ok(Member { label, ..image })),
        Err(message) => refuse(message),
    }
}

fn of_cls(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("is empty, expected a class's number or name".into()),
        label if label.contains(char::is_whitespace) => Err(format!(
            "contains {label:?}, expected one word: a class's number or name"
        )),
        label => Ok(label.to_owned()),
    }
}

fn of_json(text: &str) -> Result<String, String> {
    use serde_json::Value;
    let value: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}"))?;
    match &value["label"] {
        Value::Number(number) if number.is_u64() => Ok(number.to_string()),
        Value::String(name) => of_cls(name),
        Value::Null => {
            let keys = value
                .as_object()
                .map(|map| map.keys().cloned().collect::<Vec<_>>());
            Err(format!(
                "has no `label` (found {}), expected {{\"label\": n}}, a class's number or name",
                keys.unwrap_or_default().join(", ")
            ))
        }
        other => Err(format!(
            "has label {other}, expected a class's number or name"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (wrong, part) in [
            (r#"{"class": 1, "id": 2}"#, "found class, id"),
            (r#"{"label": -1}"#, "label -1"),
            (r#"{"label": 1.5}"#, "label 1.5"),
            ("{", "not JSON"),
            ("[1]", "no `label`"),
        ] {
            let error = of_json(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
        assert!(of_cls("").is_err() && of_cls("1 2").is_err());
    }
}
