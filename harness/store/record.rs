//! The record of an entry: its result, and size and digest of every file. The record ends with its own digest.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{self, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tessera_models::files;

use super::lock::is_stale;

/// The record's name in the entry's folder.
pub(super) const RECORD: &str = "result.json";
/// Name of the file with the inputs of the key.
pub(super) const PROVENANCE: &str = "provenance.json";

/// One finished stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Stage and key. An entry that was moved to another key is damaged.
    pub stage: String,
    pub key: String,
    /// Wall time of the computation.
    pub seconds: f64,
    /// Peak of the process's resident memory during the computation, bytes.
    pub peak_bytes: Option<u64>,
    /// What the stage returned.
    pub result: Value,
    /// By path relative to the entry's folder.
    pub files: BTreeMap<String, FileRecord>,
}

/// Size, time and digest of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    bytes: u64,
    /// A look-up does not read a file whose time is unchanged; [`Record::check`] always compares the digest.
    modified_ns: i64,
    blake3: String,
}

/// How a file differs from its record.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub file: String,
    pub found: String,
    pub expected: String,
}

/// The content of an entry's folder.
pub(super) enum Found {
    /// There is no such folder.
    Absent,
    /// Whole, as far as a look-up reads it.
    Whole(Record),
    /// Written by a version without digests.
    Old,
    Damaged(Difference),
}

impl Record {
    /// Adds the files under `dir`, which are complete.
    pub fn add_files(&mut self, dir: &Path) -> io::Result<()> {
        for path in files(dir)? {
            let name = path.strip_prefix(dir).unwrap_or(&path);
            let about = fs::metadata(&path)?;
            let file = FileRecord {
                bytes: about.len(),
                modified_ns: modified_ns(&about),
                blake3: digest(&path)?,
            };
            self.files.insert(name.to_string_lossy().into_owned(), file);
        }
        Ok(())
    }

    /// The names of all files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// The record's text, with its digest as the last field.
    pub fn text(&self) -> String {
        sealed(&format!("{:#}", serde_json::json!(self)))
    }

    /// Whether the file `name` under `dir` has its digest. A process reads each state of a file once.
    pub fn check(&self, dir: &Path, name: &str) -> io::Result<Result<(), Difference>> {
        let Some(expected) = self.files.get(name) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let found = readable(digest(&dir.join(name)))?;
        Ok(match found {
            Ok(found) if found == expected.blake3 => Ok(()),
            Ok(found) | Err(found) => Err(difference(name, &found, &expected.blake3)),
        })
    }

    /// Whether the open file of `name` still has its digest and the time `modified`. Reads it if it may have changed or has at most `again` bytes.
    pub fn check_open(
        &self,
        (name, file): (&str, &File),
        modified: i64,
        again: u64,
    ) -> io::Result<bool> {
        let about = file.metadata()?;
        let expected = self.files.get(name).map(|file| &file.blake3);
        Ok(modified_ns(&about) == modified
            && Some(&digest_of(file, about.len() <= again)?) == expected)
    }

    /// Compares the sizes of all files and, if it `reads`, the digest of the provenance and of files with another time.
    fn check_all(&self, dir: &Path, reads: bool) -> io::Result<Result<(), Difference>> {
        for (name, expected) in &self.files {
            let about = match readable(fs::metadata(dir.join(name)))? {
                Ok(about) => about,
                Err(found) => return Ok(Err(difference(name, &found, &expected.blake3))),
            };
            if about.len() != expected.bytes {
                let [found, expected] = [about.len(), expected.bytes].map(|n| format!("{n} bytes"));
                return Ok(Err(difference(name, &found, &expected)));
            }
            if reads && (name == PROVENANCE || modified_ns(&about) != expected.modified_ns) {
                let checked = self.check(dir, name)?;
                if checked.is_err() {
                    return Ok(checked);
                }
            }
        }
        Ok(Ok(()))
    }

    /// Whether the file at `path` is a copy of `name`.
    pub fn is_copied(&self, name: &str, path: &Path) -> bool {
        let Some(expected) = self.files.get(name) else {
            return false;
        };
        fs::metadata(path).is_ok_and(|about| {
            about.len() == expected.bytes
                && (modified_ns(&about) == expected.modified_ns
                    || digest(path).is_ok_and(|found| found == expected.blake3))
        })
    }
}

/// Reads the entry of `stage` and `key` in `dir`.
///
/// # Errors
/// An error of the file system that is no damage.
pub(super) fn inspect(dir: &Path, stage: &str, key: &str) -> io::Result<Found> {
    inspected(dir, (stage, key), true)
}

/// As [`inspect`]; contents of files are only compared if `reads`.
pub(super) fn inspected(dir: &Path, of: (&str, &str), reads: bool) -> io::Result<Found> {
    let mut before = identity(dir);
    loop {
        let found = match read(dir, of, reads) {
            Err(error) if is_stale(&error) => return Ok(Found::Absent),
            found => found?,
        };
        let after = identity(dir);
        match found {
            // There was none, or another process removed it during the inspection.
            Found::Damaged(_) if after.is_none() => return Ok(Found::Absent),
            // Another process published or replaced it during the inspection.
            Found::Damaged(_) if after != before => before = after,
            found => return Ok(found),
        }
    }
}

/// Returns device and inode of a folder; `None` if it does not exist.
fn identity(dir: &Path) -> Option<(u64, u64)> {
    let about = fs::symlink_metadata(dir).ok()?;
    Some((about.dev(), about.ino()))
}

fn read(dir: &Path, (stage, key): (&str, &str), reads: bool) -> io::Result<Found> {
    let bytes = match readable(files::read(&dir.join(RECORD)))? {
        Ok(bytes) => bytes,
        Err(found) => return Ok(Found::Damaged(difference(RECORD, &found, "a record"))),
    };
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let Some(body) = unsealed(text) else {
        return Ok(match is_old(text) {
            true => Found::Old,
            false => Found::Damaged(difference(
                RECORD,
                "another text than its digest says",
                "the digest at its end",
            )),
        });
    };
    let record: Record = match serde_json::from_str(&body) {
        Ok(record) => record,
        Err(error) => {
            return Ok(Found::Damaged(difference(
                RECORD,
                &error.to_string(),
                "a record",
            )));
        }
    };
    if (record.stage.as_str(), record.key.as_str()) != (stage, key) {
        let found = format!("that of {} {}", record.stage, record.key);
        return Ok(Found::Damaged(difference(
            RECORD,
            &found,
            &format!("that of {stage} {key}"),
        )));
    }
    Ok(match record.check_all(dir, reads)? {
        Ok(()) => Found::Whole(record),
        Err(difference) => Found::Damaged(difference),
    })
}

/// The files under `dir`, in a fixed order.
pub(super) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => found.extend(files(&entry.path())?),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    Ok(found)
}

fn difference(file: &str, found: &str, expected: &str) -> Difference {
    let [file, found, expected] = [file, found, expected].map(str::to_owned);
    Difference {
        file,
        found,
        expected,
    }
}

/// Separates damage from other errors of reading: an absent file and an error of the disk are damage.
fn readable<T>(read: io::Result<T>) -> io::Result<Result<T, String>> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err("no file".into())),
        // In place of a file: a folder, a pipe or a device.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            // "found a folder, expected a regular file", of which the caller says more.
            let text = error.to_string();
            let found = text.split(", expected").next().unwrap_or(&text);
            Ok(Err(found.trim_start_matches("found ").to_owned()))
        }
        Err(error)
            // A link to itself is no file either.
            if [libc::EIO, libc::EISDIR, libc::ENOTDIR, libc::ELOOP]
                .map(Some)
                .contains(&error.raw_os_error()) =>
        {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

const SEAL: &str = ",\n  \"blake3\": \"";

/// Appends the digest of a JSON object's text as its last field. The object has several lines.
fn sealed(object: &str) -> String {
    let body = object.trim_end();
    let body = body.strip_suffix('}').unwrap_or(body).trim_end();
    format!(
        "{body}{SEAL}{}\"\n}}\n",
        blake3::hash(body.as_bytes()).to_hex()
    )
}

/// Returns the argument of [`sealed`]; `None` for any other text.
fn unsealed(text: &str) -> Option<String> {
    let object = format!("{}\n}}", &text[..text.rfind(SEAL)?]);
    (sealed(&object) == text).then_some(object)
}

/// Whether the text is a record of a version without digests.
fn is_old(text: &str) -> bool {
    let old: Option<Value> = serde_json::from_str(text).ok();
    old.is_some_and(|old| {
        let has = |field| old.get(field).is_some();
        has("result") && has("seconds") && !has("files") && !has("blake3")
    })
}

pub(super) fn modified_ns(about: &Metadata) -> i64 {
    about
        .mtime()
        .wrapping_mul(1_000_000_000)
        .wrapping_add(about.mtime_nsec())
}

/// Size, device, inode, change and modification time. The content is unchanged while they are, even if the file is renamed.
type Stamp = (u64, u64, u64, i64, i64, i64);

/// BLAKE3 of a file, in hex. A process reads a file once while its stamp is unchanged, and each time for [`TICK`] seconds after a change.
fn digest(path: &Path) -> io::Result<String> {
    digest_of(&files::open(path)?, false)
}

/// As [`digest`], of an open file. `again` reads it in any case: writing through a mapping moves no time on some file systems.
fn digest_of(mut file: &File, again: bool) -> io::Result<String> {
    static READ: Mutex<Option<HashMap<Stamp, String>>> = Mutex::new(None);
    let about = file.metadata()?;
    let stamp = (
        about.len(),
        about.dev(),
        about.ino(),
        about.ctime(),
        about.ctime_nsec(),
        modified_ns(&about),
    );
    let read = || READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(digest) = read()
        .get_or_insert_default()
        .get(&stamp)
        .filter(|_| !again)
    {
        return Ok(digest.clone());
    }
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    let digest = hasher.finalize().to_hex().to_string();
    if has_settled(about.ctime()) {
        read().get_or_insert_default().insert(stamp, digest.clone());
    }
    Ok(digest)
}

/// Seconds in which two states of a file, or two files with the same inode, can have the same stamp: times have the grain of a clock tick,
/// or of a second on some file systems.
const TICK: i64 = 2;

/// Whether a later change of a file that was changed at `ctime` has another time.
fn has_settled(ctime: i64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.is_ok_and(|now| now.as_secs() as i64 - ctime >= TICK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The inode of a removed file is used again at once. Its size is that of the removed file, and where times have a coarse grain, its
    /// times too: such a digest must not be cached.
    #[test]
    fn files_that_change_within_a_tick_have_their_own_digests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for content in 0..500_u32 {
            fs::write(&path, content.to_le_bytes()).unwrap();
            let expected = blake3::hash(&content.to_le_bytes());
            assert_eq!(digest(&path).unwrap(), expected.to_hex().as_str());
            assert!(!has_settled(fs::metadata(&path).unwrap().ctime()));
            fs::remove_file(&path).unwrap();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(has_settled(now.as_secs() as i64 - TICK));
    }

    #[test]
    fn every_changed_byte_of_a_record_is_detected() {
        let text = sealed(&format!(
            "{:#}",
            json!({"result": {"top1": 15.0}, "seconds": 1.5})
        ));
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["result"]["top1"], 15.0, "it stays JSON");
        assert!(unsealed(&text).is_some());
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap_or_default();
            assert!(unsealed(&changed).is_none(), "byte {at}");
            assert!(unsealed(&text[..at]).is_none(), "cut at {at}");
        }
    }
}
