//! `bench store ls` and `gc`, and the removal of dead processes' files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tessera_models::files;

use super::error::{StoreError, at, make_dir};
use super::left::{age, dirs_or_files, file_name, is_left, listed, sweep};
use super::lock::{Attempt, Lock, is_stale};
use super::record::{self, Found};
use super::{failed, used};

/// One entry as `bench store ls` shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The stage.
    pub stage: String,
    /// The key.
    pub key: String,
    /// Its label.
    pub label: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Seconds it took; `None` if its record cannot be used.
    pub seconds: Option<f64>,
    /// Why the next run computes it again; empty for a whole entry. Contents of files are not compared here.
    pub fault: String,
    /// Time since it was finished.
    pub age: Duration,
    /// Its folder.
    pub dir: PathBuf,
}

/// All finished entries, by stage and key.
///
/// # Errors
/// When the store cannot be read, or the folder is no store.
pub fn list(root: &Path) -> Result<Vec<Listed>, StoreError> {
    let mut found = Vec::new();
    for Place { stage, key, dir } in entries(root)? {
        let about = read_json(&dir.join(record::PROVENANCE));
        let (seconds, fault) = match record::inspected(&dir, (&stage, &key), false) {
            Ok(Found::Whole(record)) => (Some(record.seconds), String::new()),
            Ok(Found::Old) => (None, "of an earlier version, without digests".into()),
            Ok(Found::Damaged(d)) => (
                None,
                format!(
                    "damaged: {}: found {}, expected {}",
                    d.file, d.found, d.expected
                ),
            ),
            // Another process has just removed it.
            Ok(Found::Absent) => continue,
            Err(error) => (None, format!("{UNREADABLE}: {error}")),
        };
        found.push(Listed {
            stage,
            key,
            label: about["label"].as_str().unwrap_or("?").to_owned(),
            bytes: bytes(&dir),
            seconds,
            fault,
            age: age(&dir),
            dir,
        });
    }
    Ok(found)
}

/// A folder of an entry, or of its resume state.
pub(super) struct Place {
    pub stage: String,
    pub key: String,
    pub dir: PathBuf,
}

/// The folders of entries, by stage and key.
///
/// # Errors
/// When the store cannot be read, or the folder is no store.
pub(super) fn entries(root: &Path) -> Result<Vec<Place>, StoreError> {
    check_store(root)?;
    let mut all = places(visible(root)?)?;
    all.retain(|entry| has_record(&entry.dir));
    Ok(all)
}

/// What has the name of an entry and none of its files, or is no folder: a look-up takes it for a damaged entry.
pub(super) fn lost(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut all = Vec::new();
    for stage in visible(root)? {
        let is_lost = |path: &PathBuf| is_key(&file_name(path)) && !has_record(path);
        all.extend(listed(&stage)?.into_iter().filter(is_lost));
    }
    Ok(all)
}

/// Whether a folder has the parts of a store beside its entries.
pub(super) fn is_marked(root: &Path) -> bool {
    let marks = [root.join(".locks"), used::folder(root)];
    marks.iter().any(|mark| mark.exists())
}

/// The folders of resume state, by stage and key.
pub(super) fn states(root: &Path) -> Result<Vec<Place>, StoreError> {
    places(sorted_dirs(&root.join(".state"))?)
}

/// The folders of keys in `stages`.
fn places(stages: Vec<PathBuf>) -> Result<Vec<Place>, StoreError> {
    let mut all = Vec::new();
    for folder in stages {
        let place = |dir: PathBuf| Place {
            stage: file_name(&folder),
            key: file_name(&dir),
            dir,
        };
        all.extend(keys(&folder)?.into_iter().map(place));
    }
    Ok(all)
}

/// Refuses a folder of other things, whose folders look like damaged entries.
fn check_store(root: &Path) -> Result<(), StoreError> {
    if is_marked(root) {
        return Ok(());
    }
    for folder in visible(root)? {
        if !sorted_dirs(&folder)?.is_empty() && !keys(&folder)?.iter().any(|dir| has_record(dir)) {
            return Err(StoreError::Stage(anyhow::anyhow!(
                "{}: found {}, expected a store, whose folders are stages of runs; check --store and TESSERA_STORE",
                root.display(),
                file_name(&folder)
            )));
        }
    }
    Ok(())
}

/// The folders of stages.
fn visible(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut folders = sorted_dirs(root)?;
    folders.retain(|folder| !file_name(folder).starts_with('.'));
    Ok(folders)
}

/// The folders in `stage` whose names are keys.
fn keys(stage: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut folders = sorted_dirs(stage)?;
    folders.retain(|folder| is_key(&file_name(folder)));
    Ok(folders)
}

/// Whether a folder has a file of an entry: others have folders with names of digests, too.
fn has_record(dir: &Path) -> bool {
    let names = [record::RECORD, record::PROVENANCE];
    // A file that cannot be looked at exists.
    let is_there = |name| match fs::symlink_metadata(dir.join(name)) {
        Ok(_) => true,
        Err(error) => !files::says_absent(&error) && !is_stale(&error),
    };
    names.into_iter().any(is_there)
}

/// Whether a folder may be called so by a [`Provenance`](super::Provenance).
fn is_key(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// How the fault of an entry begins whose files cannot be read.
const UNREADABLE: &str = "unreadable";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Removes entries, resume state, damaged entries and records of failures older than `keep`, and temporary folders of dead processes. Entries that a
/// live process computes or uses stay. Returns the removed folders (with `dry_run`, those that would be removed) with their bytes.
///
/// # Errors
/// When something cannot be removed.
pub fn gc(root: &Path, keep: Duration, dry_run: bool) -> Result<Vec<(PathBuf, u64)>, StoreError> {
    let mut removed = Vec::new();
    let mut remove =
        |dir: PathBuf, least: Duration, lock: Option<String>| -> Result<(), StoreError> {
            // A key that a process has locked is being computed.
            let _lock = match lock.map(|name| attempt(root, &name)) {
                Some(Ok(None)) => return Ok(()),
                Some(Err(error)) if !dry_run => return Err(error),
                lock => lock,
            };
            // Another process may have replaced it before the lock was taken.
            if age(&dir) < least {
                return Ok(());
            }
            let size = bytes(&dir);
            if dry_run || remove_at_once(root, &dir, || is_used(root, &dir).unwrap_or(true))? {
                removed.push((dir, size));
            }
            Ok(())
        };
    for entry in list(root)?.into_iter().filter(|e| e.age > keep) {
        // Another user's, perhaps.
        let is_unreadable = entry.fault.starts_with(UNREADABLE);
        if !is_unreadable && !is_used(root, &entry.dir)? {
            let lock = format!("{}-{}", entry.stage, entry.key);
            remove(entry.dir, keep, Some(lock))?;
        }
    }
    for Place { stage, key, dir } in states(root)? {
        if age(&dir) > keep {
            remove(dir, keep, Some(format!("{stage}-{key}")))?;
        }
    }
    for scratch in sorted_dirs(&root.join(".tmp"))? {
        let name = file_name(&scratch);
        // Versions before 0.2 named them by stage and key alone.
        let old = name.rsplit('-').next().is_some_and(is_key) && age(&scratch) > DAY;
        if old || is_left(&scratch) {
            let lock = files::prefix(&name).to_owned();
            remove(scratch, Duration::ZERO, Some(lock))?;
        }
    }
    for damaged in sorted_dirs(&root.join(".damaged"))? {
        if age(&damaged) > keep && file_name(&damaged).split('-').any(is_key) {
            remove(damaged, keep, None)?;
        }
    }
    for record in failed::records(root) {
        let is_own = file_name(&record).strip_suffix(".json").is_some_and(is_key);
        if is_own && age(&record) > keep {
            let size = fs::metadata(&record).map_or(0, |about| about.len());
            if !dry_run {
                fs::remove_file(&record).map_err(at(&record))?;
            }
            removed.push((record, size));
        }
    }
    if !dry_run {
        sweep_store(root);
    }
    Ok(removed)
}

/// The lock of that name; `None` if another process holds it.
fn attempt(root: &Path, name: &str) -> Result<Option<Lock>, StoreError> {
    let folder = root.join(".locks");
    make_dir(&folder)?;
    let path = folder.join(name);
    Ok(match Lock::attempt(&path).map_err(at(&path))? {
        Attempt::Taken(lock) => Some(lock),
        Attempt::Busy => None,
    })
}

/// Whether `dir` is an entry that a live process uses.
fn is_used(root: &Path, dir: &Path) -> Result<bool, StoreError> {
    let name = dir.strip_prefix(root).unwrap_or(dir);
    Ok(used::all(root)?.contains(&*name.to_string_lossy()))
}

/// Renames the folder before it removes it, so that nobody finds a part of it. Returns false if it was gone or is used.
fn remove_at_once(root: &Path, dir: &Path, is_used: impl Fn() -> bool) -> Result<bool, StoreError> {
    let folder = root.join(".tmp");
    make_dir(&folder)?;
    let doomed = folder.join(files::temporary("removed"));
    match fs::rename(dir, &doomed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        renamed => renamed.map_err(at(dir))?,
    }
    // A look-up notes the use before it reads: one that found the entry before the rename is in the list now.
    if is_used() && fs::rename(&doomed, dir).is_ok() {
        return Ok(false);
    }
    // Not renamed back: another process has computed the entry again.
    fs::remove_dir_all(&doomed).map_err(at(&doomed))?;
    Ok(true)
}

/// Removes from a store the temporary files of dead processes, and locks that nobody holds. Best effort.
pub(super) fn sweep_store(root: &Path) {
    sweep(&root.join(".tmp"));
    sweep(&used::folder(root));
    sweep(&root.join("scan"));
    dirs_or_files(&root.join(failed::FOLDER))
        .iter()
        .for_each(|stage| sweep(stage));
    for lock in dirs_or_files(&root.join(".locks")) {
        // Taking it and letting go removes its file.
        drop(Lock::attempt(&lock));
    }
}

/// Free bytes on the disk of `here`; `None` if the system does not report them.
pub fn free_bytes(here: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(here).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The folders in a folder, sorted, also through links; none if there is no such folder.
fn sorted_dirs(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut dirs = Vec::new();
    for path in listed(path)? {
        match fs::metadata(&path) {
            Ok(about) if about.is_dir() => dirs.push(path),
            Ok(_) => {}
            // Another process has just removed it, or a link leads nowhere.
            Err(error) if files::says_absent(&error) || is_stale(&error) => {}
            Err(error) => return Err(at(&path)(error)),
        }
    }
    Ok(dirs)
}

/// Bytes of the files under a folder, as far as they can be read.
fn bytes(dir: &Path) -> u64 {
    let files = record::files(dir).unwrap_or_default();
    let about = files.iter().filter_map(|file| fs::metadata(file).ok());
    about.map(|about| about.len()).sum()
}

fn read_json(path: &Path) -> Value {
    let bytes = files::read(path).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{Provenance, Store};
    use super::*;
    use serde_json::json;

    #[test]
    fn gc_removes_only_what_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let about = Provenance {
            stage: "count",
            label: "HOG".into(),
            inputs: json!(1),
        };
        store.get_or(&about, &|| false, |_| Ok(json!(2))).unwrap();
        let listed = list(dir.path()).unwrap().remove(0);
        assert_eq!((listed.label.as_str(), listed.fault.as_str()), ("HOG", ""));
        assert!(listed.seconds.is_some());
        assert!(
            gc(dir.path(), Duration::from_secs(3600), false)
                .unwrap()
                .is_empty()
        );
        std::thread::sleep(Duration::from_millis(20));
        let all = || gc(dir.path(), Duration::ZERO, false).unwrap();
        assert!(all().is_empty(), "a live process uses it");
        drop(store);
        // A store that cannot be written: "removed 0 folders" was said of it.
        let locks = dir.path().join(".locks");
        let _ = fs::remove_dir_all(&locks);
        fs::write(&locks, "").unwrap();
        assert!(gc(dir.path(), Duration::ZERO, false).is_err());
        fs::remove_file(&locks).unwrap();
        let planned = gc(dir.path(), Duration::ZERO, true).unwrap();
        assert_eq!((planned.len(), list(dir.path()).unwrap().len()), (1, 1));
        assert_eq!(all(), planned);
        assert!(list(dir.path()).unwrap().is_empty());
    }

    /// Every folder in a folder was taken for a damaged entry.
    #[test]
    fn a_folder_that_is_no_store_is_refused_and_other_folders_stay() {
        let dir = tempfile::tempdir().unwrap();
        let photos = dir.path().join("photos/2019");
        fs::create_dir_all(&photos).unwrap();
        let gc = || gc(dir.path(), Duration::ZERO, false);
        for error in [gc().err(), list(dir.path()).err()] {
            let said = error.unwrap().to_string();
            assert!(said.contains("found photos, expected a store"), "{said}");
        }
        let digest = "0123456789abcdef0123456789abcdef";
        let of_digest = dir.path().join("photos").join(digest);
        fs::create_dir_all(&of_digest).unwrap();
        assert!(gc().is_err());
        for own in [".locks", ".tmp/mine", ".state/photos/mine", ".failed/app"] {
            fs::create_dir_all(dir.path().join(own)).unwrap();
        }
        let reasons = dir.path().join(".failed/app/reasons.json");
        fs::write(&reasons, "{}").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(gc().unwrap().is_empty());
        assert!(photos.exists() && of_digest.exists() && reasons.exists());
    }

    /// Both were listed with 0.0 seconds, as if they were finished.
    #[test]
    fn damaged_entries_are_listed_as_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let keep = |input: u32| {
            let about = Provenance {
                stage: "count",
                label: "HOG".into(),
                inputs: json!(input),
            };
            store.get_or(&about, &|| false, |_| Ok(json!(2))).unwrap();
            dir.path().join("count").join(about.key())
        };
        fs::write(keep(1).join(record::RECORD), "").unwrap();
        fs::remove_file(keep(2).join(record::PROVENANCE)).unwrap();
        for entry in list(dir.path()).unwrap() {
            assert_eq!(entry.seconds, None);
            assert!(entry.fault.starts_with("damaged: "), "{}", entry.fault);
        }
    }

    #[test]
    fn a_folder_that_is_gone_or_used_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let entry = dir.path().join("count/1");
        let remove = |used: bool| remove_at_once(dir.path(), &entry, || used).unwrap();
        assert!(!remove(false), "it was never there");
        fs::create_dir_all(&entry).unwrap();
        fs::write(entry.join("file"), b"x").unwrap();
        assert!(!remove(true));
        assert_eq!(fs::read(entry.join("file")).unwrap(), b"x");
        assert!(remove(false) && !entry.exists());
        assert_eq!(fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
    }
}
