//! `bench store ls` and `gc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{StoreError, at};

/// One entry as `bench store ls` shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The stage.
    pub stage: String,
    /// The key.
    pub key: String,
    /// What it is.
    pub label: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Time since it was finished.
    pub age: Duration,
    /// Its folder.
    pub dir: PathBuf,
}

/// All finished entries, by stage and key.
///
/// # Errors
/// When the store cannot be read.
pub fn list(root: &Path) -> Result<Vec<Listed>, StoreError> {
    let mut found = Vec::new();
    for stage in sorted_dirs(root)? {
        let name = file_name(&stage);
        if name.starts_with('.') {
            continue;
        }
        for dir in sorted_dirs(&stage)? {
            let about = read_json(&dir.join("provenance.json"));
            let result = read_json(&dir.join("result.json"));
            found.push(Listed {
                stage: name.clone(),
                key: file_name(&dir),
                label: about["label"].as_str().unwrap_or("?").to_owned(),
                bytes: bytes(&dir)?,
                seconds: result["seconds"].as_f64().unwrap_or(0.0),
                age: age(&dir),
                dir,
            });
        }
    }
    Ok(found)
}

/// Removes entries older than `keep`, and what killed processes left (temporary folders, resume state) older than a day.
/// Returns what was removed (or would be, when `dry_run`), with its bytes.
///
/// # Errors
/// When something cannot be removed.
pub fn gc(root: &Path, keep: Duration, dry_run: bool) -> Result<Vec<(PathBuf, u64)>, StoreError> {
    let day = Duration::from_secs(24 * 3600);
    let mut doomed: Vec<PathBuf> = list(root)?
        .into_iter()
        .filter(|e| e.age > keep)
        .map(|e| e.dir)
        .collect();
    let mut left = sorted_dirs(&root.join(".tmp"))?;
    for stage in sorted_dirs(&root.join(".state"))? {
        left.extend(sorted_dirs(&stage)?);
    }
    doomed.extend(left.into_iter().filter(|dir| age(dir) > day.min(keep)));
    let mut removed = Vec::new();
    for dir in doomed {
        let size = bytes(&dir)?;
        if !dry_run {
            fs::remove_dir_all(&dir).map_err(at(&dir))?;
        }
        removed.push((dir, size));
    }
    Ok(removed)
}

/// Bytes that the disk of `here` has room for, where the system tells.
pub fn free_bytes(here: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(here).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn sorted_dirs(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(path).map_err(at(path))?;
    let mut dirs: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir())
        .collect();
    dirs.sort();
    Ok(dirs)
}

fn bytes(dir: &Path) -> Result<u64, StoreError> {
    let files = fs::read_dir(dir).map_err(at(dir))?;
    Ok(files
        .flatten()
        .filter_map(|f| f.metadata().ok())
        .map(|m| m.len())
        .sum())
}

fn age(dir: &Path) -> Duration {
    let modified = fs::metadata(dir).and_then(|m| m.modified());
    modified
        .ok()
        .and_then(|m| SystemTime::now().duration_since(m).ok())
        .unwrap_or_default()
}

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
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
        assert_eq!(list(dir.path()).unwrap()[0].label, "HOG");
        assert!(
            gc(dir.path(), Duration::from_secs(3600), false)
                .unwrap()
                .is_empty()
        );
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(gc(dir.path(), Duration::ZERO, true).unwrap().len(), 1);
        assert_eq!(
            list(dir.path()).unwrap().len(),
            1,
            "a dry run removes nothing"
        );
        gc(dir.path(), Duration::ZERO, false).unwrap();
        assert!(store.lookup(&about).is_none());
    }
}
