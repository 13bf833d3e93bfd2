//! The entries that a live process uses, in a file in `STORE/.used/` for `bench store gc`, one per line.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tessera_models::files;

use super::error::{StoreError, at};
use super::left::{is_left, listed};
use super::lock::is_stale;

/// The list of this process, created with its first entry. Best effort: a run computes an entry again if it was removed.
pub(super) struct Used {
    path: PathBuf,
    noted: Mutex<(BTreeSet<String>, Option<File>)>,
}

impl Used {
    pub fn new(root: &Path) -> Self {
        Self {
            path: folder(root).join(files::temporary("")),
            noted: Mutex::default(),
        }
    }

    pub fn note(&self, stage: &str, key: &str) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let (names, list) = &mut *noted;
        let line = format!("{stage}/{key}\n");
        if !names.insert(line.clone()) {
            return;
        }
        let mut text = line;
        if list.is_none() {
            let folder = self.path.parent().unwrap_or(&self.path);
            let created = files::make_dir(folder).and_then(|()| File::create(&self.path));
            *list = created.ok();
            // Earlier attempts to create the list may have failed.
            text = names.iter().map(String::as_str).collect();
        }
        if let Some(list) = list {
            let _ = list.write_all(text.as_bytes());
        }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Every entry that a live process uses: "stage/key".
///
/// # Errors
/// When a list cannot be read: an entry that is in it must not be removed.
pub(super) fn all(root: &Path) -> Result<BTreeSet<String>, StoreError> {
    let mut all = BTreeSet::new();
    for list in listed(&folder(root))? {
        if is_left(&list) {
            continue;
        }
        match files::read_to_string(&list) {
            Ok(text) => all.extend(text.lines().map(str::to_owned)),
            // Its process has ended.
            Err(error) if files::says_absent(&error) || is_stale(&error) => {}
            Err(error) => return Err(at(&list)(error)),
        }
    }
    Ok(all)
}

pub(super) fn folder(root: &Path) -> PathBuf {
    root.join(".used")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_created_late_has_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        fs::write(&root, "a file, so no folder can be created").unwrap();
        let used = Used::new(&root);
        used.note("fit", "1");
        fs::remove_file(&root).unwrap();
        used.note("fit", "2");
        let expected = ["fit/1", "fit/2"].map(String::from);
        assert_eq!(all(&root).unwrap(), BTreeSet::from(expected));
    }
}
